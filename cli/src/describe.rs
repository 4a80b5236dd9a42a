//! `gantry describe`: all about objects, for people.

use std::process::ExitCode;

use anyhow::Result;
use gantry_client::ListParams;
use serde_json::Value;

use crate::events::{self, since, time_of};
use crate::failure;
use crate::output::{
    self,
    table::{Table, clean},
};
use crate::selection::Selection;
use crate::session::{Global, Session};

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let targets = args.selection.targets(&session).await?;
    let (mut texts, mut absent) = (Vec::new(), false);
    for target in &targets {
        let api = target.api(&session.client, args.selection.namespace(&session));
        let mut objects = Vec::new();
        for name in &target.names {
            match api.get(name).await {
                Ok(object) => objects.push(object),
                Err(error) if error.is_not_found() => {
                    failure::report(&error.into());
                    absent = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if target.names.is_empty() {
            objects = api.list(&args.selection.list_params()).await?.items;
        }
        for object in objects {
            let events = events_of(&session, &object).await;
            texts.push(describe(&object, &events));
        }
    }
    if texts.is_empty() && !absent {
        output::tell("No objects found.");
    }
    output::print(&texts.join("\n\n"))?;
    Ok(ExitCode::from(if absent { failure::FAILED } else { 0 }))
}

/// The object's events, oldest first; none when they cannot be had, for the rest is worth showing.
async fn events_of(session: &Session, object: &Value) -> Vec<Value> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let api = events::api(&session.client, object["metadata"]["namespace"].as_str());
    let params = ListParams { fields: Some(format!("involvedObject.uid={uid}")), limit: Some(500), ..ListParams::default() };
    let mut events = api.list(&params).await.map(|list| list.items).unwrap_or_default();
    events.sort_by_cached_key(|event| time_of(event).to_owned());
    events
}

fn describe(object: &Value, events: &[Value]) -> String {
    let metadata = &object["metadata"];
    let mut text = String::new();
    for (label, field) in [("Name", "name"), ("Namespace", "namespace")] {
        if let Some(value) = metadata[field].as_str() {
            text.push_str(&format!("{:<14}{}\n", format!("{label}:"), clean(value)));
        }
    }
    text.push_str(&format!("{:<14}{} ({})\n", "Kind:", scalar(&object["kind"]), scalar(&object["apiVersion"])));
    for (label, field) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let pairs: Vec<String> =
            metadata[field].as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", scalar(value))).collect();
        text.push_str(&format!(
            "{:<14}{}\n",
            format!("{label}:"),
            if pairs.is_empty() { "<none>".to_owned() } else { pairs.join("\n              ") }
        ));
    }
    if let Some(created) = metadata["creationTimestamp"].as_str() {
        text.push_str(&format!("{:<14}{created} ({} ago)\n", "Created:", since(created)));
    }
    if let Some(time) = metadata["deletionTimestamp"].as_str() {
        let waits: Vec<String> = metadata["finalizers"].as_array().into_iter().flatten().map(scalar).collect();
        text.push_str(&format!("{:<14}since {time}, waits for: {}\n", "Terminating:", waits.join(", ")));
    }
    for (name, section) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            text.push_str(&format!("{}:\n", title(name)));
            let secret = object["kind"] == "Secret" && matches!(name.as_str(), "data" | "stringData");
            if secret { sizes(section, &mut text) } else { fields(section, 1, &mut text) }
        }
    }
    conditions(&object["status"]["conditions"], &mut text);
    event_table(events, &mut text);
    text
}

/// A Secret's keys with the length of their values: the values themselves are not for the screen.
fn sizes(data: &Value, text: &mut String) {
    for (name, value) in data.as_object().into_iter().flatten() {
        text.push_str(&format!("  {}: {} characters, encoded\n", clean(name), value.as_str().unwrap_or_default().len()));
    }
}

fn fields(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(name, _)| !(depth == 1 && *name == "conditions")) {
                if is_scalar(value) {
                    text.push_str(&format!("{indent}{}: {}\n", title(name), scalar(value)));
                } else {
                    text.push_str(&format!("{indent}{}:\n", title(name)));
                    fields(value, depth + 1, text);
                }
            }
        }
        Value::Array(items) if items.iter().all(is_scalar) => {
            items.iter().for_each(|item| text.push_str(&format!("{indent}{}\n", scalar(item))));
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                fields(item, depth + 1, &mut inner);
                // The first field of each item carries the dash.
                text.push_str(&format!("{indent}- {}", inner.trim_start()));
            }
        }
        other => text.push_str(&format!("{indent}{}\n", scalar(other))),
    }
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null => "<none>".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `imageName` as `Image Name`.
fn title(name: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if words.is_empty() {
            words.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && before.is_lowercase() {
                words.push(' ');
            }
            words.push(c);
        }
        before = c;
    }
    clean(&words)
}

fn conditions(conditions: &Value, text: &mut String) {
    let Some(conditions) = conditions.as_array().filter(|all| !all.is_empty()) else { return };
    let mut table = Table::new(&["  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for condition in conditions {
        let since = since(condition["lastTransitionTime"].as_str().unwrap_or_default());
        let type_ = format!("  {}", scalar(&condition["type"]));
        let mut message = scalar(&condition["message"]);
        if let Some(kind) = condition["causedBy"]["kind"].as_str() {
            message.push_str(&format!(" (caused by {} {})", clean(kind), scalar(&condition["causedBy"]["name"])));
        }
        table.row(vec![type_, scalar(&condition["status"]), since, scalar(&condition["reason"]), message]);
    }
    text.push_str(&format!("Conditions:\n{}", table.flush(true)));
}

fn event_table(events: &[Value], text: &mut String) {
    if events.is_empty() {
        text.push_str("Events:       <none>\n");
        return;
    }
    let mut table = Table::new(&["  TYPE", "REASON", "LAST SEEN", "FROM", "MESSAGE"]);
    for event in events {
        let from =
            [&event["reportingComponent"], &event["source"]["component"]].into_iter().find_map(|v| v.as_str().filter(|s| !s.is_empty()));
        let type_ = format!("  {}", scalar(&event["type"]));
        table.row(vec![
            type_,
            scalar(&event["reason"]),
            since(time_of(event)),
            clean(from.unwrap_or("<unknown>")),
            scalar(&event["message"]),
        ]);
    }
    text.push_str(&format!("Events:\n{}", table.flush(true)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_reads_well() {
        let object = json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web", "namespace": "a", "labels": {"x": "1"}},
            "spec": {"args": ["-v"], "image": "nginx", "ports": [{"containerPort": 80, "hostPort": 8080}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "Started", "message": "it runs", "lastTransitionTime": "x"}]}});
        let expected = include_str!("../golden/describe.txt");
        assert_eq!(describe(&object, &[]), expected);
    }

    #[test]
    fn a_secret_keeps_its_values() {
        let text =
            describe(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}), &[]);
        assert!(text.contains("password: 12 characters") && !text.contains("aHVu"), "{text}");
    }
}
