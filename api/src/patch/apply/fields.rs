//! Sets of fields, written as `FieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::shape::plain;

/// A tree of fields; the keys are FieldsV1's: `f:name`, `k:{keys}`, `v:value`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FieldSet {
    /// The node itself is in the set.
    pub(super) own: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

/// The set of nothing, for look-ups that find none.
pub(super) static NOTHING: FieldSet = FieldSet { own: false, children: BTreeMap::new() };

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    pub(super) fn parse(fields: &Value) -> Self {
        let Some(fields) = fields.as_object() else { return Self::default() };
        let mut set = Self { own: fields.is_empty() || fields.contains_key("."), children: BTreeMap::new() };
        for (key, child) in fields.iter().filter(|(key, _)| *key != ".") {
            set.children.insert(canonical(key), Self::parse(child));
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

    /// The part of the set below a key.
    pub(super) fn child(&self, key: &str) -> &Self {
        self.children.get(key).unwrap_or(&NOTHING)
    }

    /// Adds what is below a key; nothing adds no key.
    pub(super) fn insert(&mut self, key: impl FnOnce() -> String, child: Self) {
        if !child.is_empty() {
            self.children.insert(key(), child);
        }
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.own |= other.own;
        for (key, child) in &other.children {
            match self.children.get_mut(key) {
                Some(mine) => mine.union(child),
                None => drop(self.children.insert(key.clone(), child.clone())),
            }
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        self.own &= !other.own;
        for (key, child) in &other.children {
            if let Some(mine) = self.children.get_mut(key) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { own: self.own && other.own, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(theirs) = other.children.get(key) {
                both.insert(|| key.clone(), child.intersection(theirs));
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

/// The key of a member of an object.
pub(super) fn field_key(name: &str) -> String {
    format!("f:{name}")
}

/// Other writers may escape more, space differently or order the keys of an item otherwise.
fn canonical(key: &str) -> String {
    let Some((kind @ ("k" | "v"), text)) = key.split_once(':') else { return key.to_owned() };
    // One key or value, plainly written, is what most are, and what they all have in common.
    if !text.contains(['\\', ' ', '.', ',']) {
        return key.to_owned();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => format!("{kind}:{}", Value::Object(fields.into_iter().map(|(k, v)| (k, plain(&v))).collect())),
        Ok(value) => format!("{kind}:{}", plain(&value)),
        Err(_) => key.to_owned(),
    }
}

fn printed(key: &str) -> String {
    match key.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", text)) => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some((_, index)) => format!("[{index}]"),
        None => key.to_owned(),
    }
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

    #[test]
    fn keys_of_other_writers_are_the_same_keys() {
        let theirs =
            FieldSet::parse(&json!({"k:{\"protocol\": \"TCP\", \"containerPort\": 80.0}": {}, "v:\"a\\u003cb\"": {}, "v:2.0": {}}));
        let ours = FieldSet::parse(&json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}, "v:\"a<b\"": {}, "v:2": {}}));
        assert_eq!(theirs, ours);
    }
}
