//! `gantry wait`: until a condition holds, a value is there, or objects are gone.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use gantry_client::DynamicApi;
use serde_json::Value;

use crate::duration;
use crate::failure::usage;
use crate::output::jsonpath::Template;
use crate::output::{self, table::clean};
use crate::resources::qualified_name;
use crate::selection::Selection;
use crate::session::{Global, Session};

/// What to wait for.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// A condition has a status, for the newest generation.
    Condition { type_: String, status: String },
    /// The object is gone.
    Delete,
    /// The object is there.
    Create,
    /// A path leads to a value (`None`: to any).
    JsonPath { template: Template, value: Option<String> },
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "delete" => Ok(Self::Delete),
            None if text == "create" => Ok(Self::Create),
            Some(("condition", rest)) if !rest.is_empty() => {
                let (type_, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self::Condition { type_: type_.to_owned(), status: status.to_owned() })
            }
            Some(("jsonpath", rest)) => {
                // The value comes after the closing brace; inside it, `==` belongs to a filter.
                let (template, value) = match rest.rfind('}') {
                    Some(at) => (&rest[..=at], rest[at + 1..].strip_prefix('=')),
                    None => rest.split_once('=').map_or((rest, None), |(template, value)| (template, Some(value))),
                };
                Ok(Self::JsonPath { template: Template::parse(template.trim_matches('\''))?, value: value.map(str::to_owned) })
            }
            _ => Err(format!("{text:?} is none of condition=NAME[=STATUS], jsonpath='{{PATH}}'=VALUE, create, delete")),
        }
    }
}

impl Goal {
    /// Whether the object has reached it; `None`: there is no object.
    pub(crate) fn is_reached(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Delete, object) => object.is_none(),
            (_, None) => false,
            (Self::Create, Some(_)) => true,
            (Self::Condition { type_, status }, Some(object)) => condition(object, type_).is_some_and(|condition| {
                let text = condition["status"].as_str().unwrap_or_default();
                text.eq_ignore_ascii_case(status) && is_current(object, condition)
            }),
            (Self::JsonPath { template, value }, Some(object)) => match value {
                None => !template.values(object).is_empty(),
                Some(value) => template.render(object).is_ok_and(|found| found == *value),
            },
        }
    }
}

/// The condition of that type, without regard to case.
pub(crate) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(type_)))
}

/// Whether the condition speaks of the newest generation: what was true of an older wish says nothing of this one.
fn is_current(object: &Value, condition: &Value) -> bool {
    let observed = condition["observedGeneration"].as_i64().or_else(|| object["status"]["observedGeneration"].as_i64());
    match (observed, object["metadata"]["generation"].as_i64()) {
        (Some(observed), Some(generation)) => observed >= generation,
        _ => true,
    }
}

/// The last word of an object on why it is not ready.
pub(crate) fn why(object: Option<&Value>) -> String {
    let Some(object) = object else { return "it does not exist".to_owned() };
    let Some(ready) = condition(object, "Ready") else { return "nothing has been said of it yet".to_owned() };
    let text = |field: &str| clean(ready[field].as_str().unwrap_or_default());
    format!("Ready is {}: {}: {}", text("status"), text("reason"), text("message"))
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// All objects of the kind, as it is when none is named
    #[arg(long)]
    all: bool,
    /// condition=NAME[=STATUS], jsonpath='{PATH}'=VALUE, create or delete
    #[arg(long = "for", value_name = "GOAL", default_value = "condition=Ready")]
    goal: Goal,
    /// How long at most; 0: look once
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let targets = args.selection.targets(&session).await?;
    if args.all && targets.iter().any(|target| !target.names.is_empty()) {
        return Err(usage("give names or --all, not both"));
    }
    let mut waits = Vec::new();
    for target in &targets {
        let mut objects: Vec<(Option<String>, String)> = target.names.iter().map(|name| (None, name.clone())).collect();
        if target.names.is_empty() {
            let list = target.api(&session.client, args.selection.namespace(&session)).list(&args.selection.list_params()).await?;
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let parts = |object: &Value| Some((text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"])?));
            objects = list.items.iter().filter_map(parts).collect();
        }
        for (namespace, name) in objects {
            let api = target.api(&session.client, namespace.as_deref().or(Some(&session.namespace)));
            waits.push(one(api, qualified_name(&target.kind, &name), name, args));
        }
    }
    if waits.is_empty() && !matches!(args.goal, Goal::Delete) {
        bail!("nothing matches, so there is nothing to wait for");
    }
    let mut failed = false;
    for result in join_all(waits).await {
        if let Err(error) = result {
            crate::failure::report(&error);
            failed = true;
        }
    }
    Ok(ExitCode::from(if failed { crate::failure::FAILED } else { 0 }))
}

async fn one(api: DynamicApi, shown: String, name: String, args: &Args) -> Result<()> {
    if !matches!(args.goal, Goal::Create | Goal::Delete) {
        // A name that does not exist is more likely a slip than something to wait for.
        api.get(&name).await?;
    }
    until(&api, &name, &args.goal, args.timeout, |_| {}).await.map_err(|error| error.context(shown.clone()))?;
    let done = match args.goal {
        Goal::Delete => "deleted",
        Goal::Create | Goal::Condition { .. } | Goal::JsonPath { .. } => "condition met",
    };
    output::print(&format!("{shown} {done}\n"))
}

/// Waits for `goal` of one object; `seen` hears of each state. A time-out tells the last state seen.
pub(crate) async fn until(
    api: &DynamicApi,
    name: &str,
    goal: &Goal,
    timeout: Duration,
    mut seen: impl FnMut(Option<&Value>),
) -> Result<()> {
    let mut last = None;
    let wait = api.wait_for(name, |object| {
        seen(object);
        last = Some(why(object));
        goal.is_reached(object)
    });
    // Also a wait of no length gets one look.
    let result = tokio::time::timeout(timeout.max(Duration::from_millis(1000)), wait).await;
    match result {
        Ok(done) => {
            done?;
            Ok(())
        }
        Err(_) => bail!("not done after {} s; {}", timeout.as_secs(), last.unwrap_or_else(|| "the server gave no answer".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reached(goal: &str, object: &Value) -> bool {
        goal.parse::<Goal>().unwrap().is_reached(Some(object))
    }

    #[test]
    fn a_condition_counts_for_the_newest_generation_only() {
        let object = |observed: i64| json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "observedGeneration": observed}]}});
        assert!(reached("condition=ready", &object(2)));
        assert!(!reached("condition=Ready", &object(1)));
        assert!(!reached("condition=Ready=False", &object(2)));
        assert!(reached("jsonpath={.status.phase}=Running", &object(1)));
        assert!(reached("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", &object(1)));
        assert!(!reached("jsonpath={.status.absent}", &object(1)));
    }

    #[test]
    fn being_gone_is_a_goal() {
        assert!("delete".parse::<Goal>().unwrap().is_reached(None));
        assert!(!"create".parse::<Goal>().unwrap().is_reached(None));
        assert!("ready".parse::<Goal>().is_err());
    }
}
