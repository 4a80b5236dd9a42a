//! `gantry events`: what happened, oldest first.

use std::process::ExitCode;

use anyhow::Result;
use futures_util::StreamExt as _;
use gantry_client::{Client, DynamicApi, ListParams, WatchEvent, WatchParams};
use serde_json::Value;

use crate::duration::age;
use crate::output::{
    self,
    table::{Table, clean},
};
use crate::resources;
use crate::session::{Global, Session};

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
}

/// Access to the events of a namespace, or of all.
pub(crate) fn api(client: &Client, namespace: Option<&str>) -> DynamicApi {
    let resource = gantry_client::Resource { group: String::new(), version: "v1".into(), plural: "events".into(), namespaced: true };
    DynamicApi::new(client, resource, namespace)
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let fields = args.about.as_deref().map(selector).transpose()?;
    let session = Session::open(global)?;
    let api = api(&session.client, (!args.all_namespaces).then_some(session.namespace.as_str()));
    let mut list = api.list(&ListParams { fields: fields.clone(), ..ListParams::default() }).await?;
    list.items.sort_by_cached_key(|event| time_of(event).to_owned());
    let mut table = Table::new(&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    list.items.iter().for_each(|event| table.row(row(event)));
    if list.items.is_empty() && !args.watch {
        output::tell("No events found.");
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&table.flush(true))?;
    if args.watch {
        let params = WatchParams { fields, resource_version: Some(list.resource_version), ..WatchParams::default() };
        let mut events = api.watch(&params).await?;
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(event) | WatchEvent::Modified(event) = event? {
                table.row(row(&event));
                output::print(&table.flush(false))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn selector(word: &str) -> Result<String> {
    let targets = resources::parse(&[word.to_owned()])?;
    match targets.as_slice() {
        [target] if target.names.len() == 1 => {
            Ok(format!("involvedObject.kind={},involvedObject.name={}", target.kind.kind, target.names[0]))
        }
        _ => Err(crate::failure::usage("write the object as KIND/NAME, as in container/web")),
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

fn row(event: &Value) -> Vec<String> {
    let text = |value: &Value| clean(value.as_str().unwrap_or_default());
    let seen = match event["count"].as_i64() {
        Some(count) if count > 1 => format!("{} (x{count})", since(time_of(event))),
        _ => since(time_of(event)),
    };
    let about = &event["involvedObject"];
    let object = format!("{}/{}", text(&about["kind"]).to_lowercase(), text(&about["name"]));
    vec![seen, text(&event["type"]), text(&event["reason"]), object, text(&event["message"])]
}
