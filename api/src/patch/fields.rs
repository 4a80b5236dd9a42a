//! Sets of fields, written as `FieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::root_property;

/// A field that another manager owns and that an apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as messages name it, such as `"kubectl" using gantry.dev/v1 at 2026-01-31T12:00:00Z`.
    pub manager: String,
    /// Path such as `.spec.ports[containerPort=80,protocol="TCP"].hostPort`.
    pub field: String,
}

/// What Kubernetes says of conflicts.
pub(super) fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut text = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            text.push_str(&format!(" conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        text.push_str(&format!("\n- {}", conflict.field));
    }
    text
}

/// A tree of fields; the keys are FieldsV1's: `f:name`, `k:{keys}`, `v:value`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FieldSet {
    /// The node itself is in the set.
    pub(super) own: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    pub(super) fn parse(fields: &Value) -> Self {
        let Some(fields) = fields.as_object() else { return Self::default() };
        let mut set = Self { own: fields.is_empty() || fields.contains_key("."), children: BTreeMap::new() };
        for (key, child) in fields.iter().filter(|(key, _)| *key != ".") {
            set.children.insert(key.clone(), Self::parse(child));
        }
        set
    }

    pub(super) fn to_value(&self) -> Value {
        let mut fields: Map<String, Value> = self.children.iter().map(|(key, child)| (key.clone(), child.to_value())).collect();
        if self.own && !fields.is_empty() {
            fields.insert(".".to_owned(), json!({}));
        }
        Value::Object(fields)
    }

    pub(super) fn insert(&mut self, key: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(key, child);
        }
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.own |= other.own;
        for (key, child) in &other.children {
            self.children.entry(key.clone()).or_default().union(child);
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        self.own &= !other.own;
        for (key, child) in &other.children {
            if let Some(mine) = self.children.get_mut(key) {
                mine.subtract(child);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { own: self.own && other.own, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(theirs) = other.children.get(key) {
                both.insert(key.clone(), child.intersection(theirs));
            }
        }
        both
    }

    /// Paths as messages print them.
    pub(super) fn paths(&self, prefix: &str, found: &mut Vec<String>) {
        if self.own {
            found.push(prefix.to_owned());
        }
        for (key, child) in &self.children {
            child.paths(&format!("{prefix}{}", printed(key)), found);
        }
    }
}

fn printed(key: &str) -> String {
    if let Some(name) = key.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = key.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys: Map<String, Value> = key.strip_prefix("k:").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let pairs: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", pairs.join(","))
}

/// How a node merges.
pub(super) enum Shape<'a> {
    Object,
    Map(Vec<&'a str>),
    Set,
    Atomic,
}

pub(super) fn shape<'a>(schema: &'a Value, value: &Value) -> Shape<'a> {
    let is = |key: &str, wanted: &str| schema.get(key).and_then(Value::as_str) == Some(wanted);
    match value {
        Value::Object(_) if is("x-kubernetes-map-type", "atomic") => Shape::Atomic,
        Value::Object(_) => Shape::Object,
        Value::Array(_) if is("x-kubernetes-list-type", "set") => Shape::Set,
        Value::Array(_) if is("x-kubernetes-list-type", "map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            Shape::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
        }
        _ => Shape::Atomic,
    }
}

static NO_SCHEMA: Value = Value::Null;

/// The schema of a member; `root` stands for the object itself, whose metadata has a schema of its own.
pub(super) fn member<'a>(schema: &'a Value, name: &str, root: bool) -> &'a Value {
    let known = if root { root_property(schema, name) } else { schema.get("properties").and_then(|all| all.get(name)) };
    known.or_else(|| schema.get("additionalProperties")).unwrap_or(&NO_SCHEMA)
}

pub(super) fn items(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(&NO_SCHEMA)
}

/// The `k:` of an item, defaults of keys included; `None` when a key is missing.
pub(super) fn item_key(schema: &Value, keys: &[&str], item: &Value) -> Option<String> {
    let mut found = BTreeMap::new();
    for key in keys {
        let default = items(schema).get("properties").and_then(|all| all.get(*key)).and_then(|field| field.get("default"));
        found.insert(*key, item.get(*key).filter(|value| !value.is_null()).or(default)?);
    }
    serde_json::to_string(&found).ok().map(|text| format!("k:{text}"))
}

/// The key of each item of a list that merges; items without all keys get a key by position that matches nothing.
pub(super) fn keyed<'a>(schema: &Value, shape: &Shape<'_>, list: &'a [Value]) -> Vec<(String, &'a Value)> {
    let key = |index: usize, item: &Value| match shape {
        Shape::Map(keys) => item_key(schema, keys, item).unwrap_or_else(|| format!("i:{index}")),
        _ => format!("v:{item}"),
    };
    list.iter().enumerate().map(|(index, item)| (key(index, item), item)).collect()
}

/// The fields of `new` whose values `old` does not have.
pub(super) fn changed(schema: &Value, old: Option<&Value>, new: &Value, root: bool) -> FieldSet {
    let mut set = FieldSet::default();
    match (new, shape(schema, new)) {
        (Value::Object(fields), Shape::Object) => {
            let before = old.and_then(Value::as_object);
            set.own = !root && fields.is_empty() && before.is_none_or(|before| !before.is_empty());
            for (name, value) in fields {
                let child = changed(member(schema, name, root), before.and_then(|before| before.get(name)), value, false);
                set.insert(format!("f:{name}"), child);
            }
        }
        (Value::Array(list), kind @ (Shape::Map(_) | Shape::Set)) => {
            let before = keyed(schema, &kind, old.and_then(Value::as_array).map_or(&[], Vec::as_slice));
            let before: BTreeMap<&str, &Value> = before.iter().map(|(key, item)| (key.as_str(), *item)).collect();
            set.own = list.is_empty() && old.is_none();
            for (key, item) in keyed(schema, &kind, list) {
                let known = before.get(key.as_str()).copied();
                let mut child = if matches!(kind, Shape::Set) { FieldSet::default() } else { changed(items(schema), known, item, false) };
                child.own |= known.is_none();
                set.insert(key, child);
            }
        }
        _ => set.own = old != Some(new),
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_and_read_as_fields_v1() {
        let text = json!({"f:spec": {"f:image": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:hostPort": {}}}},
            "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}}});
        let set = FieldSet::parse(&text);
        assert_eq!(set.to_value(), text);
        let mut paths = Vec::new();
        set.paths("", &mut paths);
        assert_eq!(
            paths,
            [
                ".metadata.finalizers[=\"a/b\"]",
                ".spec.image",
                ".spec.ports",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].hostPort"
            ]
        );
    }
}
