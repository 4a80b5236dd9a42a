//! What a change of an object does to processes and data.

use gantry_api::effects::{self, Effect};
use serde_json::Value;

use super::plan::Step;
use crate::strategy::Change;
use crate::strategy::object::meta_text;

/// The effect in a word, and in words.
pub(super) fn effect(step: &Step) -> (&'static str, String) {
    let new = &step.prepared.object;
    let name = meta_text(new, "name");
    if step.pruned || step.prepared.change == Change::Delete {
        return removal(step, name);
    }
    if !(step.kind.ours && step.kind.kind == "Container") || step.prepared.change == Change::None {
        return ("None", String::new());
    }
    let (word, mut text) = container(step.old.as_ref(), new, name);
    let opened = opened(step.old.as_ref(), new);
    if word != "None" && !opened.is_empty() {
        let list = opened.join(", ");
        text.push_str(&format!("; opens port{} {list} to every network", if opened.len() == 1 { "" } else { "s" }));
    }
    (word, text)
}

/// What goes with an object.
fn removal(step: &Step, name: &str) -> (&'static str, String) {
    let kept = step.old.as_ref().is_none_or(|old| old["spec"]["reclaimPolicy"] != "Delete");
    let text = match (step.kind.ours, step.kind.built_in()) {
        (true, "Container") => format!("stops and removes {name}; discards its writable layer"),
        (true, "Volume") if kept => format!("removes {name}; its data is kept aside"),
        (true, "Volume") => format!("removes {name} and its data"),
        (false, "Namespace") => format!("removes {name} and everything in it"),
        _ => format!("removes {name}"),
    };
    ("Remove", text)
}

/// The worst of all changed fields.
fn container(old: Option<&Value>, new: &Value, name: &str) -> (&'static str, String) {
    let state = |object: &Value| object["spec"]["desiredState"].as_str().unwrap_or("Running").to_owned();
    let Some(old) = old else {
        return if state(new) == "Stopped" { ("None", String::new()) } else { ("Start", format!("starts {name}")) };
    };
    match (state(old).as_str(), state(new).as_str()) {
        (before, "Stopped") if before != "Stopped" => return ("Stop", format!("stops {name}")),
        ("Stopped", after) if after != "Stopped" => return ("Start", format!("starts {name}")),
        _ => {}
    }
    let known: Vec<String> = effects::known_paths().iter().map(|path| (*path).to_owned()).collect();
    let changes = effects::changes(&old["spec"], &new["spec"], &known);
    let Some(worst) = changes.iter().map(|c| c.effect).max() else { return ("None", String::new()) };
    let fields = changes.iter().filter(|c| c.effect == worst).map(|c| c.path.as_str()).collect::<Vec<_>>().join(", ");
    match worst {
        Effect::None => ("None", String::new()),
        Effect::Live => ("Live", format!("changes {name} while it runs: {fields}")),
        Effect::Restart => ("Restart", format!("restarts {name}: {fields}; its writable layer stays")),
        Effect::Replace => ("Replace", format!("replaces {name}: {fields}; discards its writable layer")),
    }
}

/// Ports of the node that anybody can reach, and could not before.
fn opened(old: Option<&Value>, new: &Value) -> Vec<String> {
    let open = |object: Option<&Value>| -> Vec<String> {
        let ports = object.and_then(|object| object["spec"]["ports"].as_array()).into_iter().flatten();
        let everywhere = |port: &&Value| match port["hostIP"].as_str() {
            Some(address) => matches!(address, "0.0.0.0" | "::"),
            None => port["exposure"] == "Public",
        };
        let shown = |port: &Value| port["hostPort"].as_u64().map(|port| if port == 0 { "(chosen)".to_owned() } else { port.to_string() });
        ports.filter(everywhere).filter_map(shown).collect()
    };
    let before = open(old);
    open(Some(new)).into_iter().filter(|port| !before.contains(port)).collect()
}
