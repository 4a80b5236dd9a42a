//! What an object holds, and what differs between two, as sets of fields.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::shape::{Shape, is_hollow, item_key, items, keyed, member, named, shape};
use super::fields::{FieldSet, field_key};

/// The fields that a configuration speaks of: its leaves, items of lists and members of free maps. A named container is there by
/// what is in it, unless it is empty. `null` is absent.
///
/// An empty list is owned as an empty object is. Kubernetes' own library forgets who wished an empty list, and so keeps it for good.
pub(super) fn fields_of(schema: &Value, value: &Value, root: bool) -> FieldSet {
    let mut set = FieldSet::default();
    match (value, shape(schema, value)) {
        (Value::Object(fields), Shape::Object) => {
            for (name, field) in fields.iter().filter(|(_, field)| !field.is_null()) {
                let mut child = fields_of(member(schema, name, root), field, false);
                child.own |= is_hollow(field) || named(schema, name, root).is_none();
                set.insert(|| field_key(name), child);
            }
        }
        (Value::Array(_), kind @ (Shape::Map(_) | Shape::Set)) => {
            for (key, item) in keyed(schema, kind, Some(value)) {
                let mut child = fields_of(items(schema), item, false);
                child.own = true;
                set.insert(|| key, child);
            }
        }
        _ => set.own = true,
    }
    set
}

/// What differs between two states of an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// New fields, and those with another value.
    pub(super) changed: FieldSet,
    /// Fields that are gone.
    pub(super) removed: FieldSet,
}

/// Which absent fields of the old state count as if they were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// None.
    IsAbsent,
    /// Those with a default: stored objects leave some out, and what is left out cannot be in anybody's way.
    IsDefault,
}

impl Difference {
    /// From `old` to `new`.
    pub(super) fn between(schema: &Value, old: &Value, new: &Value, absent: Absent) -> Self {
        differ(schema, Some(old), Some(new), absent, true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    fn insert(&mut self, key: &str, child: Self) {
        self.changed.insert(|| key.to_owned(), child.changed);
        self.removed.insert(|| key.to_owned(), child.removed);
    }
}

fn differ(schema: &Value, old: Option<&Value>, new: Option<&Value>, absent: Absent, root: bool) -> Difference {
    let kinds = (old.map(|value| shape(schema, value)), new.map(|value| shape(schema, value)));
    let hollow = old.is_none_or(is_hollow) && new.is_none_or(is_hollow);
    let mut found = match kinds {
        (Some(Shape::Object), Some(Shape::Object) | None) | (None, Some(Shape::Object)) if !hollow => {
            objects(schema, old, new, absent, root)
        }
        (Some(kind @ (Shape::Map(_) | Shape::Set)), Some(_) | None) | (None, Some(kind @ (Shape::Map(_) | Shape::Set)))
            if !hollow && both_lists(old, new) =>
        {
            lists(schema, kind, old, new, absent)
        }
        _ => return leaf(schema, old, new, absent),
    };
    found.changed.own |= !root && old.is_none();
    found.removed.own |= !root && new.is_none();
    found
}

fn both_lists(old: Option<&Value>, new: Option<&Value>) -> bool {
    old.is_none_or(Value::is_array) && new.is_none_or(Value::is_array)
}

fn leaf(schema: &Value, old: Option<&Value>, new: Option<&Value>, absent: Absent) -> Difference {
    let mut found = Difference::default();
    match (old, new) {
        (None, Some(new)) => {
            let stands = absent == Absent::IsDefault && (is_hollow(new) || schema.get("default") == Some(new));
            found.changed.own = !stands;
        }
        (Some(_), None) => found.removed.own = true,
        (Some(old), Some(new)) => found.changed.own = !same(old, new),
        (None, None) => {}
    }
    found
}

/// Equality by value: `1` is `1.0`.
fn same(old: &Value, new: &Value) -> bool {
    old == new || (old.is_number() && new.is_number() && old.as_f64() == new.as_f64())
}

fn objects(schema: &Value, old: Option<&Value>, new: Option<&Value>, absent: Absent, root: bool) -> Difference {
    let mut found = Difference::default();
    let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let mut look = |name: &String, old: Option<&Value>, new: Option<&Value>| {
        let child = differ(member(schema, name, root), old, new, absent, false);
        if !child.is_empty() {
            found.insert(&field_key(name), child);
        }
    };
    for (name, value) in after.into_iter().flatten() {
        look(name, before.and_then(|fields| fields.get(name)), Some(value));
    }
    for (name, value) in before.into_iter().flatten().filter(|(name, _)| after.is_none_or(|fields| !fields.contains_key(*name))) {
        look(name, Some(value), None);
    }
    found
}

/// Items are compared by key. Several with one key, which only careless updates make, are compared as one value.
fn lists(schema: &Value, kind: Shape<'_>, old: Option<&Value>, new: Option<&Value>, absent: Absent) -> Difference {
    let mut pairs: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (key, item) in keyed(schema, kind, old) {
        pairs.entry(key).or_default().0.push(item);
    }
    for (key, item) in keyed(schema, kind, new) {
        pairs.entry(key).or_default().1.push(item);
    }
    let mut found = Difference::default();
    for (key, (before, after)) in &pairs {
        let single = |item: Option<&&Value>, other: bool| {
            let item = item.copied();
            let (old, new) = if other { (None, item) } else { (item, None) };
            differ(items(schema), old, new, absent, false)
        };
        let mut child = match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => differ(items(schema), before.first().copied(), after.first().copied(), absent, false),
            ([_, _, ..], [_, _, ..]) => {
                Difference { changed: FieldSet { own: before != after, ..FieldSet::default() }, ..Difference::default() }
            }
            ([_, _, ..], _) => Difference { removed: FieldSet { own: true, ..FieldSet::default() }, ..single(after.first(), true) },
            (_, _) => Difference { removed: single(before.first(), false).removed, ..Difference::default() },
        };
        child.changed.own |= after.len() > 1 && before.len() < 2;
        if !child.is_empty() {
            found.insert(key, child);
        }
    }
    found
}

/// What is wrong with the lists of a configuration: path and message.
pub(super) fn wrong_list(schema: &Value, value: &Value, path: &str, root: bool) -> Option<(String, &'static str)> {
    match (value, shape(schema, value)) {
        (Value::Object(fields), Shape::Object) => fields.iter().find_map(|(name, field)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            wrong_list(member(schema, name, root), field, &path, false)
        }),
        (Value::Array(list), kind @ (Shape::Map(_) | Shape::Set)) => {
            let mut seen = std::collections::BTreeSet::new();
            list.iter().enumerate().find_map(|(index, item)| {
                let path = format!("{path}[{index}]");
                match item_key(schema, kind, item).map(|key| seen.insert(key)) {
                    None if kind == Shape::Set => Some((path, "an item of a set must be a string, a number or a boolean")),
                    None => Some((path, "item must have a key by which the list merges")),
                    Some(false) => Some((path, "item is there twice")),
                    Some(true) => wrong_list(items(schema), item, &path, false),
                }
            })
        }
        _ => None,
    }
}
