//! What is said of each object: what becomes of it, which fields change, what that does.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::effect::effect;
use super::plan::Step;
use crate::strategy::Change;
use crate::strategy::object::meta_text;

/// The most changed fields that are listed of one object.
const MAX_CHANGES: usize = 200;

/// The result of an object that is taken.
pub(super) fn result(step: &Step) -> Value {
    let (new, change) = (&step.prepared.object, step.prepared.change);
    let action = match (&step.old, change) {
        _ if step.pruned => "Deleted",
        (None, _) => "Created",
        (Some(_), Change::None) => "Unchanged",
        (Some(_), Change::Put) => "Updated",
        (Some(_), Change::Delete) => "Deleted",
    };
    let mut changes = Vec::new();
    if let Some(old) = step.old.as_ref().filter(|_| action == "Updated") {
        differences("", Some(old), Some(new), step.kind.kind == "Secret", &mut changes);
    }
    let (effect, message) = effect(step);
    let mut result = json!({
        "apiVersion": step.kind.api_version(), "kind": step.kind.kind, "namespace": meta_text(new, "namespace"),
        "name": meta_text(new, "name"), "action": action, "changes": changes, "effect": effect, "effectMessage": message,
    });
    if !step.warnings.is_empty() {
        result["warnings"] = json!(step.warnings);
    }
    result
}

/// Fields that differ, by path; what the server keeps by itself and secrets are left out.
fn differences(path: &str, old: Option<&Value>, new: Option<&Value>, secret: bool, found: &mut Vec<Value>) {
    const OWN: [&str; 3] = ["metadata.managedFields", "metadata.generation", "metadata.resourceVersion"];
    if old == new || OWN.contains(&path) || found.len() >= MAX_CHANGES {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (old, new) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            differences(&below, a.get(name), b.get(name), secret, found);
        }
        return;
    }
    let hidden = secret && (path.starts_with("data") || path.starts_with("stringData"));
    let shown =
        |value: Option<&Value>| if hidden { value.map_or(Value::Null, |_| "(hidden)".into()) } else { value.cloned().unwrap_or_default() };
    found.push(json!({"path": path, "old": shown(old), "new": shown(new)}));
}

/// The result of an object that is refused.
pub(super) fn refusal(object: &Value, error: &ApiError) -> Value {
    let action = if error.code == StatusCode::CONFLICT { "Conflict" } else { "Invalid" };
    json!({
        "apiVersion": object.get("apiVersion"), "kind": object.get("kind"), "namespace": meta_text(object, "namespace"),
        "name": meta_text(object, "name"), "action": action, "changes": [], "effect": "None", "effectMessage": "", "message": error.message,
    })
}

/// The refusal of the whole request: one cause for each error of each object, and all results.
pub(super) fn refused(errors: &[(usize, ApiError)], results: Vec<Value>) -> ApiError {
    let conflict = errors.iter().all(|(_, error)| error.code == StatusCode::CONFLICT);
    let denied = errors.iter().find(|(_, error)| matches!(error.code, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED));
    let (code, reason) = match denied {
        Some((_, error)) => (error.code, error.reason),
        None if conflict => (StatusCode::CONFLICT, "Conflict"),
        None => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
    };
    let messages = errors.iter().map(|(_, error)| error.message.as_str()).collect::<Vec<_>>().join("; ");
    let mut causes = Vec::new();
    for (at, error) in errors {
        let own = error.details.get("causes").and_then(Value::as_array).filter(|own| !own.is_empty());
        match own {
            None => causes.push(json!({"reason": error.reason, "message": error.message, "field": format!("spec.objects[{at}]")})),
            Some(own) => causes.extend(own.iter().map(|cause| {
                let mut cause = cause.clone();
                let field = cause["field"].as_str().unwrap_or_default().trim_start_matches('.').to_owned();
                cause["field"] = format!("spec.objects[{at}].{field}").into();
                cause
            })),
        }
    }
    let mut error = ApiError::new(code, reason, format!("nothing was applied: {messages}"));
    error.details.insert("group".into(), "gantry.dev".into());
    error.details.insert("kind".into(), "ApplyRequest".into());
    error.details.insert("causes".into(), causes.into());
    error.details.insert("results".into(), results.into());
    error
}
