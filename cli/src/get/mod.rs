//! `gantry get`: objects as the server's tables, or as data.

mod data;
pub(crate) mod follow;
mod order;
mod tables;

use std::process::ExitCode;

use anyhow::Result;
use gantry_client::{DynamicApi, ListParams, WatchParams, body};
use http::Method;
use http_body_util::BodyExt as _;

use crate::failure::{self, usage};
use crate::output::Format;
use crate::resources::Target;
use crate::selection::Selection;
use crate::session::{Global, Session};
use order::Order;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Form of the output: table, wide, json, yaml, name, jsonpath=…, custom-columns=…, and both from files
    #[arg(short, long, value_name = "FORM", default_value = "table", hide_default_value = true)]
    output: Format,
    /// Go on with the changes as they happen
    #[arg(short, long)]
    watch: bool,
    /// The changes as they happen, without what is there now
    #[arg(long)]
    watch_only: bool,
    /// Say of each line what happened: ADDED, MODIFIED or DELETED
    #[arg(long)]
    output_watch_events: bool,
    /// Order by the value at a path, such as .metadata.name
    #[arg(long, value_name = "PATH", conflicts_with_all = ["watch", "watch_only"])]
    sort_by: Option<Order>,
    /// A column for each of these labels
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Show labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Put the kind before each name
    #[arg(long)]
    show_kind: bool,
    /// Show who owns which field, in JSON and YAML
    #[arg(long)]
    show_managed_fields: bool,
    /// No line of headings
    #[arg(long)]
    no_headers: bool,
    /// No error when an object is absent
    #[arg(long)]
    ignore_not_found: bool,
    /// Objects asked for at a time; 0: all at once
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    chunk_size: u32,
    /// What the server answers to a path, as it is
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    if let Some(path) = &args.raw {
        return raw(&session, path, &args).await;
    }
    let targets = args.selection.targets(&session).await?;
    let get = Get { args, session };
    let absent = if get.args.output.is_table() { get.tables(&targets).await? } else { get.data(&targets).await? };
    Ok(ExitCode::from(if absent { failure::FAILED } else { 0 }))
}

/// Prints the bytes of an answer.
async fn raw(session: &Session, path: &str, args: &Args) -> Result<ExitCode> {
    if !path.starts_with('/') || !args.selection.what.is_empty() || args.selection.files.are_given() {
        return Err(usage("--raw takes a path that begins with /, and nothing else"));
    }
    let mut answer = session.client.request_raw(Method::GET, path, None, body::empty()).await?.into_body();
    let mut out = tokio::io::stdout();
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|error| anyhow::anyhow!("read {path}: {error}"))?;
        if let Ok(data) = frame.into_data() {
            tokio::io::AsyncWriteExt::write_all(&mut out, &data).await?;
        }
    }
    tokio::io::AsyncWriteExt::flush(&mut out).await?;
    Ok(ExitCode::SUCCESS)
}

struct Get {
    args: Args,
    session: Session,
}

impl Get {
    fn api(&self, target: &Target) -> DynamicApi {
        target.api(&self.session.client, self.args.selection.namespace(&self.session))
    }

    fn is_watch(&self) -> bool {
        self.args.watch || self.args.watch_only
    }

    /// Parameters of the first page.
    fn page(&self) -> ListParams {
        let limit = Some(self.args.chunk_size).filter(|size| *size > 0);
        ListParams { limit, ..self.args.selection.list_params() }
    }

    /// Tells of an object that is absent, unless that is no error. Whether it is.
    fn is_error(&self, error: gantry_client::ClientError) -> Result<bool> {
        if !error.is_not_found() {
            return Err(error.into());
        }
        if self.args.ignore_not_found {
            return Ok(false);
        }
        failure::report(&error.into());
        Ok(true)
    }

    fn watch_params(&self, target: &Target, version: Option<String>) -> Result<WatchParams> {
        let by_name = match target.names.as_slice() {
            [] => None,
            [name] => Some(format!("metadata.name={name}")),
            _ => return Err(usage("watch one object of a kind, or all")),
        };
        let fields = by_name.or_else(|| self.args.selection.field_selector.clone());
        let labels = self.args.selection.selector.clone();
        Ok(WatchParams { labels, fields, resource_version: version, bookmarks: true, ..WatchParams::default() })
    }
}
