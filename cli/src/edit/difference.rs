//! Differences between objects as merge patches (RFC 7386).

use serde_json::{Map, Value};

/// The patch that makes `to` of `from`.
pub(super) fn between(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for (name, old) in from {
        match to.get(name) {
            None => {
                patch.insert(name.clone(), Value::Null);
            }
            Some(new) if new == old => {}
            Some(new) => {
                let inner = between(old, new);
                patch.insert(name.clone(), inner);
            }
        }
    }
    for (name, new) in to.iter().filter(|(name, _)| !from.contains_key(*name)) {
        patch.insert(name.clone(), new.clone());
    }
    Value::Object(patch)
}

/// `object` with a patch on it.
pub(super) fn merged(mut object: Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    if !object.is_object() {
        object = Value::Object(Map::new());
    }
    if let Value::Object(fields) = &mut object {
        for (name, change) in changes {
            if change.is_null() {
                fields.remove(name);
            } else {
                let old = fields.remove(name).unwrap_or_default();
                fields.insert(name.clone(), merged(old, change));
            }
        }
    }
    object
}

/// The paths that two patches of one object both change, and not to the same.
pub(super) fn both(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(ours, theirs, "", &mut found);
    found
}

fn walk(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (ours, theirs) if ours == theirs => {}
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, our) in ours {
                if let Some(their) = theirs.get(name) {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(our, their, &below, found);
                }
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_makes_the_one_of_the_other() {
        let from = json!({"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": true, "same": {"x": 1}});
        let to = json!({"a": 2, "b": {"c": [1], "d": "x"}, "new": {"e": {}}, "same": {"x": 1}});
        let patch = between(&from, &to);
        assert_eq!(patch, json!({"a": 2, "b": {"c": [1]}, "gone": null, "new": {"e": {}}}));
        assert_eq!(merged(from.clone(), &patch), to);
        assert_eq!(between(&from, &from), json!({}));
    }

    #[test]
    fn only_what_both_change_differently_conflicts() {
        let ours = json!({"spec": {"image": "b", "args": ["x"], "tty": true}, "metadata": {"labels": {"a": "1"}}});
        for (theirs, expected) in [
            (json!({"status": {"phase": "Running"}, "metadata": {"labels": {"b": "2"}}}), &[][..]),
            (json!({"spec": {"image": "b"}}), &[]),
            (json!({"spec": {"image": "c", "args": null}}), &["spec.args", "spec.image"]),
            (json!({"spec": null}), &["spec"]),
        ] {
            let mut found = both(&ours, &theirs);
            found.sort();
            assert_eq!(found, expected, "{theirs}");
        }
    }
}
