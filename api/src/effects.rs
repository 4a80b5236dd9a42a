//! What an edit does to a running container: the table behind `plan` and the agent.

use std::sync::OnceLock;

use serde_json::Value;

use crate::kinds::container::ContainerSpec;

/// What a changed field does to the running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it matters at the next start, or never.
    None,
    /// Applied to the running container.
    Live,
    /// The process is restarted; the writable layer, addresses and ports stay.
    Restart,
    /// The container is made anew; its writable layer is discarded.
    Replace,
}

/// One field that differs between the spec that a container was started from and the spec that is wished.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Path such as `spec.resources.limits.cpu`.
    pub path: String,
    /// What it does.
    pub effect: Effect,
    /// The value it was started with; `Null` when absent.
    pub old: Value,
    /// The value that is wished; `Null` when absent.
    pub new: Value,
}

/// One row for every field of a container's spec; list items and free maps are one field.
///
/// `desiredState` has no effect here: the agent starts and stops by it, and what it starts is what was made. `updatePolicy`,
/// `nodeName` and `nodeSelector` are for the controllers; the scheduler unbinds when they demand it. The image is compared by what
/// is written: a new digest behind it is `updatePolicy`'s.
const TABLE: &[(&str, Effect)] = &[
    ("spec.args", Effect::Replace),
    ("spec.command", Effect::Replace),
    ("spec.desiredState", Effect::None),
    ("spec.env", Effect::Replace),
    ("spec.envFrom", Effect::Replace),
    ("spec.hostname", Effect::Replace),
    ("spec.image", Effect::Replace),
    ("spec.imageName", Effect::Replace),
    ("spec.init", Effect::Replace),
    ("spec.logs.maxFiles", Effect::Live),
    ("spec.logs.maxSizeBytes", Effect::Live),
    ("spec.mounts", Effect::Replace),
    ("spec.networkMode", Effect::Replace),
    ("spec.networks", Effect::Live),
    ("spec.nodeName", Effect::None),
    ("spec.nodeSelector", Effect::None),
    ("spec.ports", Effect::Live),
    ("spec.pullSecretName", Effect::None),
    ("spec.resources.limits.cpu", Effect::Live),
    ("spec.resources.limits.memory", Effect::Live),
    ("spec.resources.limits.pids", Effect::Live),
    ("spec.restartBackoff.initialSeconds", Effect::Live),
    ("spec.restartBackoff.maxRetries", Effect::Live),
    ("spec.restartBackoff.maxSeconds", Effect::Live),
    ("spec.restartBackoff.resetAfterSeconds", Effect::Live),
    ("spec.restartPolicy", Effect::Live),
    ("spec.restartedAt", Effect::Restart),
    ("spec.securityContext.allowPrivilegeEscalation", Effect::Replace),
    ("spec.securityContext.capabilities.add", Effect::Replace),
    ("spec.securityContext.capabilities.drop", Effect::Replace),
    ("spec.securityContext.privileged", Effect::Replace),
    ("spec.securityContext.readOnlyRootFilesystem", Effect::Replace),
    ("spec.securityContext.seccompProfile.type", Effect::Replace),
    ("spec.securityContext.userNamespace.mode", Effect::Replace),
    ("spec.securityContext.userNamespace.size", Effect::Replace),
    ("spec.stop.gracePeriodSeconds", Effect::Live),
    ("spec.stop.signal", Effect::Live),
    ("spec.supplementalGroups", Effect::Replace),
    ("spec.updatePolicy", Effect::None),
    ("spec.user", Effect::Replace),
    ("spec.workingDir", Effect::Replace),
];

/// Every field of a container's spec with what an edit of it does, in the order of the paths.
pub fn table() -> &'static [(&'static str, Effect)] {
    TABLE
}

/// Every field path of a container's spec that this program knows, as `spec.a.b`; list items are not descended into.
pub fn known_paths() -> &'static [&'static str] {
    static PATHS: OnceLock<Vec<&'static str>> = OnceLock::new();
    PATHS.get_or_init(|| TABLE.iter().map(|row| row.0).collect())
}

/// The changes between two Container specs (both as JSON, defaults applied).
///
/// `starter_knew` are the [`known_paths`] of the program that started the container: a field that it did not know counts as
/// unchanged, so that an engine with one more default replaces nothing.
pub fn changes(started: &Value, wished: &Value, starter_knew: &[String]) -> Vec<Change> {
    // Through today's types, so that a member that list items gained since has its default on both sides.
    let today = |spec: &Value| {
        let typed = serde_json::from_value::<ContainerSpec>(spec.clone()).and_then(serde_json::to_value);
        typed.unwrap_or_else(|_| spec.clone())
    };
    let (started, wished) = (&today(started), &today(wished));
    let mut found = Vec::new();
    for (path, effect) in TABLE.iter().filter(|row| starter_knew.iter().any(|known| known == row.0)) {
        let (old, new) = (lookup(started, path), lookup(wished, path));
        if !same(path, old, new) {
            found.push(Change { path: (*path).to_owned(), effect: *effect, old: old.clone(), new: new.clone() });
        }
    }
    found
}

static ABSENT: Value = Value::Null;

fn lookup<'a>(spec: &'a Value, path: &str) -> &'a Value {
    path.split('.').skip(1).try_fold(spec, |at, name| at.get(name)).unwrap_or(&ABSENT)
}

/// Whether two values mean the same: absent is `false`, an empty list or map; limits are compared by amount,
/// images by their normal form.
fn same(path: &str, old: &Value, new: &Value) -> bool {
    if path.starts_with("spec.resources.limits.") {
        return amount(old) == amount(new);
    }
    if path == "spec.image"
        && let (Some(old), Some(new)) = (old.as_str(), new.as_str())
    {
        let normal = |text: &str| crate::reference::ImageReference::parse(text).ok();
        return old == new || (normal(old).is_some() && normal(old) == normal(new));
    }
    old == new || (is_empty(old) && is_empty(new))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Thousandths, or the text itself where it is no quantity.
fn amount(value: &Value) -> Option<Result<i64, String>> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(crate::quantity::Quantity(text.clone()).to_milli().ok_or(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
        match schema.get("properties").and_then(Value::as_object) {
            Some(fields) => fields.iter().for_each(|(name, child)| leaves(child, &format!("{path}.{name}"), found)),
            None => found.push(path.to_owned()),
        }
    }

    #[test]
    fn every_field_of_the_schema_has_one_row() {
        let schema = crate::registry::find_word("container").unwrap().schema();
        let mut fields = Vec::new();
        leaves(&schema["properties"]["spec"], "spec", &mut fields);
        fields.sort();
        let rows: Vec<String> = TABLE.iter().map(|row| row.0.to_owned()).collect();
        assert_eq!(fields, rows, "the schema and the table name the same fields in the same order");
    }

    fn knew() -> Vec<String> {
        known_paths().iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn changes_name_what_they_do() {
        let old = json!({"image": "nginx", "resources": {"limits": {"memory": "1Gi", "cpu": "1"}}, "stop": {"gracePeriodSeconds": 10}});
        let new = json!({"image": "nginx:1", "resources": {"limits": {"memory": "1024Mi", "cpu": "500m"}}, "restartedAt": "2026-01-01T00:00:00Z",
            "stop": {"gracePeriodSeconds": 10}, "init": false, "env": [], "updatePolicy": "OnImageChange"});
        let found: Vec<(String, Effect)> = changes(&old, &new, &knew()).into_iter().map(|change| (change.path, change.effect)).collect();
        let expected = [
            ("spec.image", Effect::Replace),
            ("spec.resources.limits.cpu", Effect::Live),
            ("spec.restartedAt", Effect::Restart),
            ("spec.updatePolicy", Effect::None),
        ];
        assert_eq!(found, expected.map(|(path, effect)| (path.to_owned(), effect)));
    }

    #[test]
    fn the_same_image_in_other_words_is_no_change() {
        let spec = |image: &str| json!({"image": image});
        assert_eq!(changes(&spec("nginx"), &spec("docker.io/library/nginx:latest"), &knew()), []);
    }

    #[test]
    fn a_field_that_the_starter_did_not_know_is_unchanged() {
        let mut older = knew();
        older.retain(|path| path != "spec.networkMode");
        assert_eq!(changes(&json!({}), &json!({"networkMode": "Host"}), &older), []);
        assert_eq!(changes(&json!({}), &json!({"networkMode": "Host"}), &knew()).len(), 1);
    }
}
