//! `gantry get`: objects as the server's tables, or as data.

use std::process::ExitCode;

use anyhow::Result;
use futures_util::{StreamExt, stream::select_all};
use gantry_client::{ListParams, WatchEvent, WatchParams};
use serde_json::Value;

use crate::failure::usage;
use crate::output::table::{ServerTable, View};
use crate::output::{self, Format};
use crate::resources::{self, Target, qualified_name};
use crate::session::{Global, Session};

/// Objects a page.
const PAGE: u32 = 500;

/// Which objects a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// KIND[,KIND…] [NAME…], KIND/NAME…, or `all`
    #[arg(required = true, value_name = "WHAT")]
    pub(crate) what: Vec<String>,
    /// Label selector, such as app=web,tier!=db
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Field selector, such as status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

impl Selection {
    /// The namespace to look in, `None` for all.
    pub(crate) fn namespace<'a>(&self, session: &'a Session) -> Option<&'a str> {
        (!self.all_namespaces).then_some(session.namespace.as_str())
    }
    /// What the selectors say, for a list.
    pub(crate) fn list_params(&self) -> ListParams {
        ListParams { labels: self.selector.clone(), fields: self.field_selector.clone(), ..ListParams::default() }
    }
    /// The targets; names go with neither selectors nor all namespaces.
    pub(crate) fn targets(&self) -> Result<Vec<Target>> {
        let targets = resources::parse(&self.what)?;
        let named = targets.iter().any(|target| !target.names.is_empty());
        if named && (self.selector.is_some() || self.field_selector.is_some() || self.all_namespaces) {
            return Err(usage("give names or a selector or --all-namespaces, not both"));
        }
        Ok(targets)
    }
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Form of the output: table, wide, json, yaml, name, jsonpath=…, custom-columns=…
    #[arg(short, long, value_name = "FORM", default_value = "table", hide_default_value = true)]
    output: Format,
    /// Go on with the changes as they happen
    #[arg(short, long)]
    watch: bool,
    /// No line of headings
    #[arg(long)]
    no_headers: bool,
    /// Show labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// No error when an object is absent
    #[arg(long)]
    ignore_not_found: bool,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    let targets = args.selection.targets()?;
    let session = Session::open(global)?;
    let get = Get { args, session };
    if get.args.output.is_table() { get.tables(&targets).await } else { get.data(&targets).await }
}

struct Get {
    args: Args,
    session: Session,
}

impl Get {
    fn api(&self, target: &Target) -> gantry_client::DynamicApi {
        target.api(&self.session.client, self.args.selection.namespace(&self.session))
    }

    async fn tables(&self, targets: &[Target]) -> Result<ExitCode> {
        let mut printed = Vec::new();
        let mut shown = 0;
        for target in targets {
            let view = View {
                wide: matches!(self.args.output, Format::Wide),
                namespaces: self.args.selection.all_namespaces && target.kind.namespaced,
                labels: self.args.show_labels,
            };
            let prefix = if targets.len() > 1 { qualified_name(target.kind, "") } else { String::new() };
            let mut table = ServerTable::new(view, prefix);
            let (rows, version) = self.fill(target, &mut table).await?;
            if rows > 0 || (self.args.watch && !self.args.no_headers) {
                let gap = if shown > 0 { "\n" } else { "" };
                output::print(&format!("{gap}{}", table.flush(!self.args.no_headers)))?;
                shown += 1;
            }
            printed.push((target, table, version));
        }
        if self.args.watch {
            return self.follow_tables(printed).await;
        }
        if shown == 0 && !self.args.ignore_not_found {
            let place = match self.args.selection.namespace(&self.session) {
                Some(namespace) if targets.iter().any(|t| t.kind.namespaced) => format!(" in namespace {namespace}"),
                _ => String::new(),
            };
            output::tell(&format!("No objects found{place}."));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Takes in all rows; how many there were, and the version to watch from.
    async fn fill(&self, target: &Target, table: &mut ServerTable) -> Result<(usize, String)> {
        let api = self.api(target);
        let version = |piece: &Value| piece["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let (mut rows, mut from) = (0, String::new());
        for name in &target.names {
            match api.get_table(name).await {
                Ok(piece) => {
                    rows += table.add(&piece);
                    from = version(&piece);
                }
                Err(error) if error.is_not_found() && self.args.ignore_not_found => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut params = ListParams { limit: Some(PAGE), ..self.args.selection.list_params() };
        while target.names.is_empty() {
            let piece = api.list_table(&params).await?;
            rows += table.add(&piece);
            from = version(&piece);
            match piece["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token.to_owned()),
                None => break,
            }
        }
        Ok((rows, from))
    }

    fn watch_params(&self, target: &Target, version: String) -> Result<WatchParams> {
        let by_name = match target.names.as_slice() {
            [] => None,
            [name] => Some(format!("metadata.name={name}")),
            _ => return Err(usage("watch one object, or all of a kind")),
        };
        let fields = by_name.or_else(|| self.args.selection.field_selector.clone());
        let labels = self.args.selection.selector.clone();
        Ok(WatchParams { labels, fields, resource_version: Some(version), ..WatchParams::default() })
    }

    async fn follow_tables(&self, printed: Vec<(&Target, ServerTable, String)>) -> Result<ExitCode> {
        let mut streams = Vec::new();
        let mut tables = Vec::new();
        for (index, (target, table, version)) in printed.into_iter().enumerate() {
            let events = self.api(target).watch_table(&self.watch_params(target, version)?).await?;
            streams.push(events.map(move |event| (index, event)));
            tables.push(table);
        }
        let mut events = select_all(streams);
        while let Some((index, event)) = events.next().await {
            let piece = match event? {
                WatchEvent::Added(piece) | WatchEvent::Modified(piece) | WatchEvent::Deleted(piece) => piece,
                WatchEvent::Bookmark(_) => continue,
            };
            tables[index].add(&piece);
            output::print(&tables[index].flush(false))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn data(&self, targets: &[Target]) -> Result<ExitCode> {
        let mut objects = Vec::new();
        let mut versions = Vec::new();
        for target in targets {
            versions.push(self.fetch(target, &mut objects).await?);
        }
        let single = matches!(targets, [target] if target.names.len() == 1);
        if self.args.watch {
            for object in &objects {
                output::print(&self.one(object)?)?;
            }
            return self.follow_data(targets, versions).await;
        }
        match objects.pop() {
            None if single => {}
            Some(object) if single => output::print(&output::render(&self.args.output, &object)?)?,
            last => {
                objects.extend(last);
                output::print(&output::render(&self.args.output, &output::list(objects))?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn fetch(&self, target: &Target, objects: &mut Vec<Value>) -> Result<String> {
        let api = self.api(target);
        let mut version = "0".to_owned();
        for name in &target.names {
            match api.get(name).await {
                Ok(object) => {
                    version = object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
                    objects.push(object);
                }
                Err(error) if error.is_not_found() && self.args.ignore_not_found => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut params = ListParams { limit: Some(PAGE), ..self.args.selection.list_params() };
        while target.names.is_empty() {
            let page = api.list(&params).await?;
            objects.extend(page.items);
            version = page.resource_version;
            params.continue_token = page.continue_token;
            if params.continue_token.is_none() {
                break;
            }
        }
        Ok(version)
    }

    /// One object of a stream of them.
    fn one(&self, object: &Value) -> Result<String> {
        let separator = if matches!(self.args.output, Format::Yaml) { "---\n" } else { "" };
        Ok(format!("{separator}{}", output::render(&self.args.output, object)?))
    }

    async fn follow_data(&self, targets: &[Target], versions: Vec<String>) -> Result<ExitCode> {
        let mut streams = Vec::new();
        for (target, version) in targets.iter().zip(versions) {
            streams.push(self.api(target).watch(&self.watch_params(target, version)?).await?);
        }
        let mut events = select_all(streams);
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    output::print(&self.one(&object)?)?;
                }
                WatchEvent::Bookmark(_) => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
