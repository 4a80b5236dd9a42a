//! `gantry events`: what happened, oldest first.

use std::process::ExitCode;

use anyhow::Result;
use futures_util::StreamExt as _;
use gantry_client::{Client, DynamicApi, ListParams, WatchParams};
use serde_json::Value;

use crate::duration::age;
use crate::get::follow::{Form, follow};
use crate::output::{
    self, Format, Printer,
    table::{Table, clean},
};
use crate::resources;
use crate::session::{Global, Session};

/// Events a page.
const PAGE: u32 = 500;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this object, as KIND/NAME
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
    /// Only of these types: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// No line of headings
    #[arg(long)]
    no_headers: bool,
    /// Form of the output: table, json, yaml, name, jsonpath=…
    #[arg(short, long, value_name = "FORM", default_value = "table", hide_default_value = true)]
    output: Format,
}

/// Access to the events of a namespace, or of all.
pub(crate) fn api(client: &Client, namespace: Option<&str>) -> DynamicApi {
    let resource = gantry_client::Resource { group: String::new(), version: "v1".into(), plural: "events".into(), namespaced: true };
    DynamicApi::new(client, resource, namespace)
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let fields = match &args.about {
        Some(word) => Some(selector(&session, word).await?),
        None => None,
    };
    let api = api(&session.client, (!args.all_namespaces).then_some(session.namespace.as_str()));
    let (events, version) = list(&api, args, fields.clone()).await?;
    if events.is_empty() && !args.watch {
        output::tell("No events found.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = Shown::new(args);
    output::print(&shown.first(events, args)?)?;
    if args.watch {
        let params = WatchParams { fields, resource_version: Some(version), bookmarks: true, ..WatchParams::default() };
        let mut events = follow(api, params, Form::Objects);
        while let Some(event) = events.next().await {
            let (what, event) = event?;
            if what != "DELETED" && is_wanted(args, &event) {
                output::print(&shown.next(&event)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All events that are wanted, oldest first, and the version to watch from.
async fn list(api: &DynamicApi, args: &Args, fields: Option<String>) -> Result<(Vec<Value>, String)> {
    let mut params = ListParams { fields, limit: Some(PAGE), ..ListParams::default() };
    let mut events = Vec::new();
    loop {
        let page = api.list(&params).await?;
        events.extend(page.items.into_iter().filter(|event| is_wanted(args, event)));
        params.continue_token = page.continue_token;
        if params.continue_token.is_none() {
            events.sort_by_cached_key(|event| time_of(event).to_owned());
            return Ok((events, page.resource_version));
        }
    }
}

fn is_wanted(args: &Args, event: &Value) -> bool {
    args.types.is_empty() || args.types.iter().any(|type_| event["type"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(type_)))
}

async fn selector(session: &Session, word: &str) -> Result<String> {
    let (kind, name) = resources::one(&session.kinds, &[word.to_owned()]).await?;
    let (api_version, kind) = (kind.api_version(), &kind.kind);
    Ok(format!("involvedObject.kind={kind},involvedObject.apiVersion={api_version},involvedObject.name={name}"))
}

/// Events in the printing: a table of ours, or their data.
enum Shown<'a> {
    Table { table: Table, namespaces: bool },
    Data(Printer<'a>),
}

impl<'a> Shown<'a> {
    fn new(args: &'a Args) -> Self {
        if !args.output.is_table() {
            return Self::Data(Printer::new(&args.output, !args.no_headers).without_managed_fields());
        }
        let headings = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
        let namespaces = args.all_namespaces;
        Self::Table { table: Table::new(&headings[usize::from(!namespaces)..]), namespaces }
    }

    fn first(&mut self, events: Vec<Value>, args: &Args) -> Result<String> {
        match self {
            Self::Table { table, namespaces } => {
                events.iter().for_each(|event| table.row(row(event, *namespaces)));
                Ok(table.flush(!args.no_headers))
            }
            Self::Data(printer) if args.watch => events.iter().map(|event| printer.text(event)).collect(),
            Self::Data(printer) => printer.text(&output::list(events)),
        }
    }

    fn next(&mut self, event: &Value) -> Result<String> {
        match self {
            Self::Table { table, namespaces } => {
                table.row(row(event, *namespaces));
                Ok(table.flush(false))
            }
            Self::Data(printer) => printer.text(event),
        }
    }
}

/// When the event last happened.
pub(crate) fn time_of(event: &Value) -> &str {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}

/// How long ago a time was.
pub(crate) fn since(time: &str) -> String {
    let Ok(time) = time.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    age(jiff::Timestamp::now().as_second() - time.as_second())
}

fn row(event: &Value, namespaces: bool) -> Vec<String> {
    let text = |value: &Value| clean(value.as_str().unwrap_or_default().trim());
    let about = &event["involvedObject"];
    let object = format!("{}/{}", text(&about["kind"]), text(&about["name"]));
    let namespace = namespaces.then(|| text(&event["metadata"]["namespace"]));
    namespace.into_iter().chain([seen(event), text(&event["type"]), text(&event["reason"]), object, text(&event["message"])]).collect()
}

/// When it was last seen, and, if that was often, how often and since when.
fn seen(event: &Value) -> String {
    let first = [&event["eventTime"], &event["firstTimestamp"]].into_iter().find_map(Value::as_str).map_or("<unknown>".to_owned(), since);
    let (count, last) = match &event["series"] {
        Value::Null => (event["count"].as_i64().unwrap_or_default(), &event["lastTimestamp"]),
        series => (series["count"].as_i64().unwrap_or_default(), &series["lastObservedTime"]),
    };
    match count {
        2.. => format!("{} (x{count} over {first})", last.as_str().map_or("<unknown>".to_owned(), since)),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_row() {
        let ago = |seconds: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string();
        let event = json!({"metadata": {"namespace": "a"}, "type": "Warning", "reason": "BackOff", "message": "it\nended ",
            "involvedObject": {"kind": "Container", "name": "web"}, "count": 3, "firstTimestamp": ago(600), "lastTimestamp": ago(60)});
        assert_eq!(row(&event, true), ["a", "60s (x3 over 10m)", "Warning", "BackOff", "Container/web", "it ended"]);
        let once = json!({"count": 1, "firstTimestamp": ago(60)});
        assert_eq!(seen(&once), "60s");
    }
}
