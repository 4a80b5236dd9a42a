//! Merging a configuration into an object, and taking out of it what nobody wishes any more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::super::shape::{Shape, item_key, items, keyed, member, named, shape};
use super::fields::FieldSet;

/// Merges `config` into `live`; `null` in it is absent.
pub(super) fn merge(schema: &Value, live: &mut Value, config: &Value, root: bool) {
    match (config, shape(schema, config)) {
        (Value::Object(fields), Shape::Object) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Some(target) = live.as_object_mut() else { return };
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                match target.get_mut(name) {
                    Some(field) => merge(member(schema, name, root), field, value, false),
                    None => drop(target.insert(name.clone(), without_nulls(value))),
                }
            }
        }
        (Value::Array(_), kind @ (Shape::Map(_) | Shape::Set)) => {
            let old = match live.take() {
                Value::Array(list) => list,
                _ => Vec::new(),
            };
            *live = Value::Array(merge_list(schema, kind, old, &keyed(schema, kind, Some(config))));
        }
        _ => *live = without_nulls(config),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(_, field)| !field.is_null()).map(|(name, field)| (name.clone(), without_nulls(field))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        scalar => scalar.clone(),
    }
}

/// Items of the configuration keep its order among themselves; the others keep their places between their old neighbours.
fn merge_list(schema: &Value, kind: Shape<'_>, old: Vec<Value>, config: &[(String, &Value)]) -> Vec<Value> {
    let wished: BTreeSet<&str> = config.iter().map(|(key, _)| key.as_str()).collect();
    let mut live: Vec<(Option<String>, Option<Value>)> = old.into_iter().map(|item| (item_key(schema, kind, &item), Some(item))).collect();
    // The place of each item that both have. An item that stands there twice is not merged with, but replaced.
    let mut places: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (at, (key, _)) in live.iter().enumerate() {
        if let Some(key) = key.as_deref().filter(|key| wished.contains(key)) {
            places.entry(key.to_owned()).and_modify(|place| *place = None).or_insert(Some(at));
        }
    }
    let mut shared = config.iter().map(|(key, _)| key.as_str()).filter(|key| places.contains_key(*key)).peekable();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let (mut left, mut right) = (0, 0);
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    while left < live.len() || right < config.len() {
        let next = config.get(right).map(|(key, item)| (key.as_str(), *item));
        if let Some((key, item)) = live.get_mut(left) {
            let common = key.as_deref().filter(|key| wished.contains(key));
            match (common, next) {
                (None, _) => {
                    merged.extend(item.take());
                    left += 1;
                    continue;
                }
                // Its turn comes when the configuration names it.
                (Some(key), Some((wanted, _))) if key != wanted && shared.peek().is_some_and(|shared| *shared != key) => {
                    left += 1;
                    continue;
                }
                (Some(key), Some((wanted, _))) if key == wanted => left += 1,
                (Some(key), _) if done.contains(key) => left += 1,
                _ if next.is_none() => left += 1,
                _ => {}
            }
        }
        if let Some((key, item)) = next {
            let place = places.get(key).copied().flatten();
            let known = place.and_then(|at| live.get_mut(at)).and_then(|(_, item)| item.take());
            merged.push(merged_item(items(schema), known, item));
            done.insert(key);
            shared.next_if(|shared| *shared == key);
            right += 1;
        }
    }
    merged
}

fn merged_item(schema: &Value, known: Option<Value>, config: &Value) -> Value {
    match known {
        Some(mut item) => {
            merge(schema, &mut item, config, false);
            item
        }
        None => without_nulls(config),
    }
}

/// Takes out of the value what `given_up` names and nobody owns (`owned`), with all that is below it.
///
/// A named container counts as named when anything in it is.
pub(super) fn prune(schema: &Value, value: &mut Value, given_up: &FieldSet, owned: &FieldSet, root: bool) {
    let kind = shape(schema, value);
    match value {
        Value::Object(fields) if kind == Shape::Object => {
            for (key, gone) in &given_up.children {
                let Some(name) = key.strip_prefix("f:") else { continue };
                let Some(field) = fields.get_mut(name) else { continue };
                let keep = owned.child(key);
                let counts = |set: &FieldSet| set.own || (!set.children.is_empty() && named(schema, name, root).is_some());
                if counts(gone) && !counts(keep) {
                    fields.remove(name);
                } else {
                    prune(member(schema, name, root), field, gone, keep, false);
                }
            }
        }
        Value::Array(list) if kind != Shape::Atomic => list.retain_mut(|item| {
            let Some(key) = item_key(schema, kind, item) else { return true };
            let Some(gone) = given_up.children.get(&key) else { return true };
            let keep = owned.child(&key);
            if gone.own && !keep.own {
                return false;
            }
            prune(items(schema), item, gone, keep, false);
            true
        }),
        _ => {}
    }
}

/// The set as today's schema has it: what has become one value is owned as a whole.
pub(super) fn reconcile(schema: &Value, set: &mut FieldSet, root: bool) {
    let is = |key: &str, value: &str| schema.get(key).and_then(Value::as_str) == Some(value);
    let list = is("type", "array") && !is("x-kubernetes-list-type", "map") && !is("x-kubernetes-list-type", "set");
    if (list || is("x-kubernetes-map-type", "atomic")) && !set.is_empty() {
        *set = FieldSet { own: true, ..FieldSet::default() };
        return;
    }
    for (key, child) in &mut set.children {
        match key.strip_prefix("f:") {
            Some(name) => reconcile(member(schema, name, root), child, false),
            None => reconcile(items(schema), child, false),
        }
    }
}
