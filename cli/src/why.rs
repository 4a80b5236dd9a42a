//! `gantry why`: the chain of causes behind an object's state, from the conditions that name another object's.

use std::process::ExitCode;

use anyhow::Result;
use gantry_client::{ClientError, DynamicApi, ListParams};
use serde_json::Value;

use crate::events::{self, since, time_of};
use crate::output::{self, table::clean};
use crate::resources::{self, qualified_name};
use crate::session::{Global, Session};
use crate::wait::condition;

/// Causes that are followed.
const STEPS: usize = 10;
/// Warnings that are shown of the last object of the chain.
const WARNINGS: usize = 3;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The object, as KIND/NAME or KIND NAME
    #[arg(value_name = "KIND/NAME", required = true, num_args = 1..=2)]
    what: Vec<String>,
}

/// The condition of another object that explains one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cause {
    kind: String,
    name: String,
    condition: String,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let (kind, name) = resources::one(&session.kinds, &args.what).await?;
    let mut next = Some((kind, name, "Ready".to_owned()));
    let mut seen = Vec::new();
    let mut text = String::new();
    while let Some((kind, name, aspect)) = next.take() {
        let depth = seen.len();
        let shown = qualified_name(&kind, &name);
        if seen.contains(&shown) || depth >= STEPS {
            text.push_str(&format!("{}{shown}, and so on\n", indent(depth)));
            break;
        }
        seen.push(shown.clone());
        let api = DynamicApi::new(&session.client, kind.resource(), Some(&session.namespace));
        let object = match api.get(&name).await {
            Ok(object) => object,
            Err(ClientError::Api(status)) if status.code == 404 && depth > 0 => {
                text.push_str(&format!("{}{shown} does not exist\n", indent(depth)));
                break;
            }
            Err(error) => return Err(error.into()),
        };
        text.push_str(&told(&shown, &object, &aspect, depth));
        match cause(&object, &aspect) {
            Some(cause) => next = Some((session.kinds.named(&cause.kind).await?, cause.name, cause.condition)),
            None => text.push_str(&warnings(&session, &object, depth).await),
        }
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn indent(depth: usize) -> String {
    if depth == 0 { String::new() } else { format!("{}because ", "  ".repeat(depth)) }
}

/// What is said of an object: the condition in question, that it is going, and what of it holds no longer.
fn told(shown: &str, object: &Value, aspect: &str, depth: usize) -> String {
    let below = "  ".repeat(depth + 1);
    let text = |value: &Value| clean(value.as_str().unwrap_or_default());
    let mut lines = match condition(object, aspect) {
        Some(found) => {
            let (status, reason) = (text(&found["status"]), text(&found["reason"]));
            let age = since(found["lastTransitionTime"].as_str().unwrap_or_default());
            let message = text(&found["message"]);
            let message = if message.is_empty() { String::new() } else { format!("{below}{message}\n") };
            format!("{}{shown}: {aspect} is {status} for {age}: {reason}\n{message}", indent(depth))
        }
        None => format!("{}{shown}: nothing is said of {aspect}\n", indent(depth)),
    };
    if let Some(time) = object["metadata"]["deletionTimestamp"].as_str() {
        let waits: Vec<String> = object["metadata"]["finalizers"].as_array().into_iter().flatten().map(text).collect();
        lines.push_str(&format!("{below}it is being deleted since {}, and waits for: {}\n", since(time), waits.join(", ")));
    }
    let (observed, generation) = (object["status"]["observedGeneration"].as_i64(), object["metadata"]["generation"].as_i64());
    if let (Some(observed), Some(generation)) = (observed, generation)
        && observed < generation
    {
        lines.push_str(&format!("{below}this is of generation {observed}; generation {generation} has not been looked at yet\n"));
    }
    lines
}

/// Where the cause is: what the condition names, else what another names that does not hold either.
fn cause(object: &Value, aspect: &str) -> Option<Cause> {
    let named = |condition: &Value| {
        let text = |field: &str| condition["causedBy"][field].as_str().map(str::to_owned);
        Some(Cause { kind: text("kind")?, name: text("name")?, condition: text("condition").unwrap_or_else(|| "Ready".to_owned()) })
    };
    let holds = |condition: &Value| condition["status"] == "True";
    let asked = condition(object, aspect)?;
    if holds(asked) {
        return None;
    }
    let others = object["status"]["conditions"].as_array().into_iter().flatten().filter(|condition| !holds(condition));
    named(asked).or_else(|| others.into_iter().find_map(named))
}

/// The last warnings about an object; none when they cannot be had.
async fn warnings(session: &Session, object: &Value, depth: usize) -> String {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let api = events::api(&session.client, object["metadata"]["namespace"].as_str());
    let params = ListParams { fields: Some(format!("involvedObject.uid={uid},type=Warning")), limit: Some(500), ..ListParams::default() };
    let mut events = api.list(&params).await.map(|list| list.items).unwrap_or_default();
    events.sort_by_cached_key(|event| std::cmp::Reverse(time_of(event).to_owned()));
    let line = |event: &Value| {
        let text = |field: &str| clean(event[field].as_str().unwrap_or_default());
        format!("{}{} ago: {}: {}\n", "  ".repeat(depth + 1), since(time_of(event)), text("reason"), text("message"))
    };
    events.iter().take(WARNINGS).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(ready: &str, caused_by: &Value, more: &Value) -> Value {
        let ready = json!({"type": "Ready", "status": ready, "reason": "ImageNotReady", "message": "image x is not ready", "causedBy": caused_by,
            "lastTransitionTime": "?"});
        json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [more, ready]}})
    }

    #[test]
    fn the_cause_is_what_a_condition_names() {
        let image = json!({"kind": "Image", "name": "x", "condition": "Resolved"});
        let expected = Some(Cause { kind: "Image".into(), name: "x".into(), condition: "Resolved".into() });
        assert_eq!(cause(&object("False", &image, &json!({})), "Ready"), expected);
        let other = json!({"type": "ImageReady", "status": "False", "causedBy": image});
        assert_eq!(cause(&object("Unknown", &Value::Null, &other), "Ready"), expected);
        assert_eq!(cause(&object("True", &Value::Null, &other), "Ready"), None);
    }

    #[test]
    fn a_step_says_what_holds_and_what_is_out_of_date() {
        let text = told("container.gantry.dev/web", &object("False", &Value::Null, &json!({})), "Ready", 1);
        let expected = "  because container.gantry.dev/web: Ready is False for <unknown>: ImageNotReady\n    image x is not ready\n    \
            this is of generation 1; generation 2 has not been looked at yet\n";
        assert_eq!(text, expected);
        assert!(told("x", &json!({}), "Ready", 0).contains("nothing is said of Ready"));
    }
}
