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
    if let Some(kept) = changes.get("$retainKeys") {
        retain(fields, changes, kept)?;
    }
    let before = orders(changes).map(|(list, order)| (list, order, fields.get(list).cloned().unwrap_or_default())).collect::<Vec<_>>();
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
    for (list, order, before) in before {
        let key = merge_key(member(schema, list, root));
        let order = order.as_array().ok_or_else(|| PatchError::Malformed(format!("$setElementOrder/{list} is not a list")))?;
        check_order(changes.get(list), order, list, key)?;
        let Some(values) = fields.get_mut(list).and_then(Value::as_array_mut) else { continue };
        *values = sorted(std::mem::take(values), order, before.as_array().map_or(&[], Vec::as_slice), key);
    }
    Ok(())
}

/// The lists whose order the patch gives.
fn orders(changes: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    changes.iter().filter_map(|(name, order)| Some((name.strip_prefix("$setElementOrder/")?, order)))
}

/// Drops all fields but those named; what the patch sets must be among them.
fn retain(fields: &mut Map<String, Value>, changes: &Map<String, Value>, kept: &Value) -> Result<(), PatchError> {
    let kept = kept.as_array().ok_or_else(|| PatchError::Malformed("$retainKeys is not a list".to_owned()))?;
    let stays = |name: &str| kept.iter().any(|keep| keep == name);
    if let Some(name) = changes.keys().find(|name| !name.starts_with('$') && !stays(name)) {
        return Err(PatchError::Malformed(format!("{name:?} is set, but is not in $retainKeys")));
    }
    fields.retain(|name, _| stays(name));
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

/// Whether two items of a list are the same one.
fn same_item(one: &Value, other: &Value, key: Option<&str>) -> bool {
    key.map_or_else(|| one == other, |key| one.get(key).is_some() && one.get(key) == other.get(key))
}

fn place(value: &Value, list: &[Value], key: Option<&str>) -> Option<usize> {
    list.iter().position(|item| same_item(item, value, key))
}

/// The items that a patch merges must be in the order that it gives.
fn check_order(change: Option<&Value>, order: &[Value], list: &str, key: Option<&str>) -> Result<(), PatchError> {
    let mut last = 0;
    let items = change.and_then(Value::as_array).into_iter().flatten();
    for item in items.filter(|item| item.get("$patch").is_none()) {
        match place(item, order, key) {
            Some(at) if at >= last => last = at,
            _ => return Err(PatchError::Malformed(format!("the order of {list} is not that of $setElementOrder/{list}"))),
        }
    }
    Ok(())
}

/// Items that the order names stand as it says. The others keep their order, each before the first of those that it stood before.
fn sorted(values: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut named, others): (Vec<Value>, Vec<Value>) = values.into_iter().partition(|value| place(value, order, key).is_some());
    named.sort_by_cached_key(|value| place(value, order, key));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut merged = Vec::new();
    loop {
        let first = match (named.peek(), others.peek()) {
            (Some(a), Some(b)) => matches!((place(a, before, key), place(b, before, key)), (Some(a), Some(b)) if a < b),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return merged,
        };
        merged.extend(if first { named.next() } else { others.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_merge_by_their_keys_and_directives_hold() {
        let schema = crate::registry::find_word("node").unwrap().schema();
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
            (json!({"metadata": {"labels": {"$patch": "delete"}}}), "/metadata/labels", json!({})),
            (json!({"metadata": {"labels": {"$patch": "merge", "y": "2"}}}), "/metadata/labels", json!({"x": "1", "y": "2"})),
            (json!({"status": {"conditions": [{"$patch": "replace"}, {"type": "C"}]}}), "/status/conditions", json!([{"type": "C"}])),
            (
                json!({"status": {"$setElementOrder/conditions": [{"type": "C"}, {"type": "A"}], "conditions": [{"type": "C"}]}}),
                "/status/conditions",
                json!([{"type": "B", "status": "True"}, {"type": "C"}, {"type": "A", "status": "True"}]),
            ),
            (json!({"metadata": {"$setElementOrder/finalizers": ["b/b", "a/a"]}}), "/metadata/finalizers", json!(["b/b", "a/a"])),
            (json!({"spec": {"taints": [{"key": "u"}]}}), "/spec/taints", json!([{"key": "u"}])),
        ] {
            assert_eq!(strategic_merge(&node, &patch, schema).unwrap().pointer(pointer), Some(&result), "{patch}");
        }
        let keyless = json!({"status": {"conditions": [{"status": "True"}]}});
        assert!(matches!(strategic_merge(&node, &keyless, schema), Err(PatchError::Invalid { .. })));
        for bad in [
            json!({"spec": {"$patch": "jump"}}),
            json!({"metadata": {"$retainKeys": ["labels"], "name": "n"}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b/b"], "finalizers": ["c/c"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b/b", "c/c"], "finalizers": ["c/c", "b/b"]}}),
            json!([]),
        ] {
            assert!(matches!(strategic_merge(&node, &bad, schema), Err(PatchError::Malformed(_))), "{bad}");
        }
    }
}
