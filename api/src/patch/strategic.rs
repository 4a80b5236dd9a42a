//! Strategic merge patch, for Kubernetes' own kinds: lists merge as their schema's patch strategy says.

use serde_json::{Map, Value};

use super::shape::{items, member};
use super::{PatchError, bounded};

/// The object with the patch merged in.
///
/// # Errors
/// Unknown directives, items without the key by which their list merges, too deep.
pub fn strategic_merge(object: &Value, patch: &Value, schema: &Value) -> Result<Value, PatchError> {
    bounded(object)?;
    bounded(patch)?;
    let Value::Object(changes) = patch else { return Err(PatchError::Malformed("a strategic merge patch is an object".to_owned())) };
    let mut result = object.clone();
    merge_object(&mut result, changes, schema, true)?;
    Ok(result)
}

fn merge_object(target: &mut Value, changes: &Map<String, Value>, schema: &Value, root: bool) -> Result<(), PatchError> {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return Ok(()) };
    match changes.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some(directive @ ("replace" | "delete")) => {
            fields.clear();
            if directive == "replace" {
                fields.extend(changes.iter().filter(|(name, _)| !name.starts_with('$')).map(|(name, value)| (name.clone(), value.clone())));
            }
            return Ok(());
        }
        Some(other) => return Err(PatchError::Malformed(format!("unknown $patch: {other}"))),
    }
    if let Some(kept) = changes.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|name, _| kept.iter().any(|keep| keep == name));
    }
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(values) = fields.get_mut(list).and_then(Value::as_array_mut) {
                values.retain(|value| !gone.contains(value));
            }
        } else if !name.starts_with('$') {
            merge_field(fields, name, change, member(schema, name, root))?;
        }
    }
    for (name, order) in changes {
        let Some(list) = name.strip_prefix("$setElementOrder/") else { continue };
        let Some(values) = fields.get_mut(list).and_then(Value::as_array_mut) else { continue };
        sort(values, order.as_array().map_or(&[], Vec::as_slice), merge_key(member(schema, list, root)));
    }
    Ok(())
}

fn merge_field(fields: &mut Map<String, Value>, name: &str, change: &Value, schema: &Value) -> Result<(), PatchError> {
    match change {
        Value::Null => drop(fields.remove(name)),
        Value::Object(changes) => merge_object(fields.entry(name).or_insert(Value::Null), changes, schema, false)?,
        Value::Array(list) if schema.get("x-kubernetes-patch-strategy").is_some_and(|strategy| strategy == "merge") => {
            let target = fields.entry(name).or_insert(Value::Null);
            if !target.is_array() {
                *target = Value::Array(Vec::new());
            }
            if let Some(target) = target.as_array_mut() {
                merge_list(target, list, schema, name)?;
            }
        }
        other => drop(fields.insert(name.to_owned(), other.clone())),
    }
    Ok(())
}

fn merge_key(schema: &Value) -> Option<&str> {
    schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str)
}

fn merge_list(target: &mut Vec<Value>, list: &[Value], schema: &Value, name: &str) -> Result<(), PatchError> {
    let Some(key) = merge_key(schema) else {
        for value in list {
            if !target.contains(value) {
                target.push(value.clone());
            }
        }
        return Ok(());
    };
    if list.iter().any(|item| item.get("$patch").is_some_and(|directive| directive == "replace")) {
        *target = list.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
        return Ok(());
    }
    for item in list {
        let missing = || PatchError::Invalid { path: name.to_owned(), message: format!("item must have the merge key {key}") };
        let wanted = item.get(key).ok_or_else(missing)?;
        let place = target.iter().position(|old| old.get(key) == Some(wanted));
        if item.get("$patch").is_some_and(|directive| directive == "delete") {
            target.retain(|old| old.get(key) != Some(wanted));
            continue;
        }
        let Value::Object(changes) = item else { continue };
        let at = place.unwrap_or_else(|| {
            target.push(Value::Object(Map::new()));
            target.len() - 1
        });
        if let Some(place) = target.get_mut(at) {
            merge_object(place, changes, items(schema), false)?;
        }
    }
    Ok(())
}

/// Items that the order names stand as it says; the others keep their places after them.
fn sort(values: &mut [Value], order: &[Value], key: Option<&str>) {
    let place = |value: &Value| {
        let same = |wanted: &Value| key.map_or(wanted == value, |key| wanted.get(key).is_some() && wanted.get(key) == value.get(key));
        order.iter().position(same).unwrap_or(usize::MAX)
    };
    values.sort_by_cached_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_merge_by_their_keys_and_directives_hold() {
        let schema = (crate::registry::find_word("node").unwrap().schema)();
        let node = json!({"metadata": {"finalizers": ["a/a", "b/b"], "labels": {"x": "1"}},
            "status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}, "spec": {"taints": [{"key": "t"}]}});
        for (patch, pointer, result) in [
            (json!({"status": {"conditions": [{"type": "B", "status": "False"}]}}), "/status/conditions/1/status", json!("False")),
            (
                json!({"status": {"conditions": [{"type": "A", "$patch": "delete"}]}}),
                "/status/conditions",
                json!([{"type": "B", "status": "True"}]),
            ),
            (json!({"status": {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}]}}), "/status/conditions/0/type", json!("B")),
            (json!({"metadata": {"finalizers": ["c/c", "a/a"]}}), "/metadata/finalizers", json!(["a/a", "b/b", "c/c"])),
            (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"]}}), "/metadata/finalizers", json!(["b/b"])),
            (json!({"metadata": {"labels": {"x": null, "y": "2"}}}), "/metadata/labels", json!({"y": "2"})),
            (json!({"metadata": {"labels": {"$patch": "replace", "z": "3"}}}), "/metadata/labels", json!({"z": "3"})),
            (json!({"metadata": {"$retainKeys": ["labels"]}}), "/metadata", json!({"labels": {"x": "1"}})),
            (json!({"spec": {"taints": [{"key": "u"}]}}), "/spec/taints", json!([{"key": "u"}])),
        ] {
            assert_eq!(strategic_merge(&node, &patch, schema).unwrap().pointer(pointer), Some(&result), "{patch}");
        }
        let keyless = json!({"status": {"conditions": [{"status": "True"}]}});
        assert!(matches!(strategic_merge(&node, &keyless, schema), Err(PatchError::Invalid { .. })));
        assert!(matches!(strategic_merge(&node, &json!({"spec": {"$patch": "jump"}}), schema), Err(PatchError::Malformed(_))));
    }
}
