//! What differs between two states of an object, as paths that a rule can name.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Metadata that the server keeps by itself.
const KEPT_BY_SERVER: [&str; 4] = ["managedFields", "generation", "resourceVersion", "selfLink"];

/// The paths of all fields that differ, such as `spec.source.registry.pullSecretName`. Members of keyed lists have paths of their
/// own: `status.conditions[Ready]`, `status.nodes[here]`; a finalizer comes or goes: `metadata.finalizers[x]+`, `…[x]-`.
pub(super) fn changes(old: &Value, new: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    compare("", old, new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
    if old == new {
        return;
    }
    match path {
        "metadata.finalizers" => return finalizers(path, old, new, found),
        "status.conditions" => return keyed(path, "type", old, new, found),
        "status.nodes" => return keyed(path, "name", old, new, found),
        _ => {}
    }
    let empty = Map::new();
    let (old_members, new_members) = match (old, new) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (Value::Object(old), Value::Null) => (old, &empty),
        (Value::Null, Value::Object(new)) => (&empty, new),
        _ => {
            found.insert(path.to_owned());
            return;
        }
    };
    let names: BTreeSet<&String> = old_members.keys().chain(new_members.keys()).collect();
    for name in names {
        if path == "metadata" && KEPT_BY_SERVER.contains(&name.as_str()) {
            continue;
        }
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        compare(&below, old_members.get(name).unwrap_or(&Value::Null), new_members.get(name).unwrap_or(&Value::Null), found);
    }
}

fn finalizers(path: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
    };
    let (old, new) = (names(old), names(new));
    found.extend(new.difference(&old).map(|name| format!("{path}[{name}]+")));
    found.extend(old.difference(&new).map(|name| format!("{path}[{name}]-")));
}

/// A list whose order means nothing and whose members have a name.
fn keyed(path: &str, key: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
    let members = |list: &'_ Value| -> Vec<(String, Value)> {
        let members = list.as_array().into_iter().flatten();
        members.map(|member| (member.get(key).and_then(Value::as_str).unwrap_or_default().to_owned(), member.clone())).collect()
    };
    let (old, new) = (members(old), members(new));
    let differ = old.iter().filter(|member| !new.contains(member)).chain(new.iter().filter(|member| !old.contains(member)));
    found.extend(differ.map(|(name, _)| format!("{path}[{name}]")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_name_what_differs_and_nothing_else() {
        let old = json!({
            "metadata": {"name": "a", "generation": 1, "resourceVersion": "4", "finalizers": ["x", "y"]},
            "spec": {"same": [1], "list": [1], "deep": {"a": 1}},
            "status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B"}], "nodes": [{"name": "n"}]},
        });
        let new = json!({
            "metadata": {"name": "a", "generation": 2, "resourceVersion": "5", "finalizers": ["y", "z"], "labels": {"l": ""}},
            "spec": {"same": [1], "list": [2], "deep": {"b": {"c": 1}}},
            "status": {"conditions": [{"type": "B"}, {"type": "A", "status": "False"}], "nodes": [{"name": "n"}, {"name": "m"}]},
        });
        let found: Vec<String> = changes(&old, &new).into_iter().collect();
        let expected = [
            "metadata.finalizers[x]-",
            "metadata.finalizers[z]+",
            "metadata.labels.l",
            "spec.deep.a",
            "spec.deep.b.c",
            "spec.list",
            "status.conditions[A]",
            "status.nodes[m]",
        ];
        assert_eq!(found, expected);
        assert!(changes(&new, &new).is_empty());
    }

    #[test]
    fn a_name_that_stands_twice_is_seen() {
        let once = json!({"status": {"nodes": [{"name": "n", "phase": "Present"}]}});
        let twice = json!({"status": {"nodes": [{"name": "n", "phase": "Present"}, {"name": "n", "phase": "Failed"}]}});
        assert_eq!(changes(&once, &twice), BTreeSet::from(["status.nodes[n]".to_owned()]));
    }
}
