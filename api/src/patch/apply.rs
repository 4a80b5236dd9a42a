//! Server-side apply, and the record of ownership that it needs of all other writes.
//!
//! Source of the rules: `sigs.k8s.io/structured-merge-diff`. What an applier wishes is merged into the object; what it wished before
//! and wishes no longer goes, unless somebody else owns it; what somebody else owns and has another value is a conflict.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{Conflict, FieldSet, Shape, changed, items, keyed, member, shape};
use super::{PatchError, bounded};

/// Most entries of `Update` writers before the oldest are joined.
const MAX_UPDATERS: usize = 10;
const UNOWNED: [&str; 8] = ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "selfLink"];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// `apiVersion` in which the fields are written.
    pub api_version: &'a str,
    /// `status` or another subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Now.
    pub time: Timestamp,
    /// For an apply: take fields from other managers instead of a conflict.
    pub force: bool,
}

/// The object after `config` is applied to `live` (`None`: there is none yet), with `metadata.managedFields`.
///
/// Entries whose fields did not change keep their time, so that an apply that changes nothing gives the same object.
///
/// # Errors
/// [`PatchError::Conflicts`] unless forced; list items without their keys or twice; too deep.
pub fn apply(live: Option<&Value>, config: &Value, schema: &Value, writer: &Writer<'_>) -> Result<Value, PatchError> {
    bounded(config)?;
    let empty = json!({});
    let live = live.unwrap_or(&empty);
    bounded(live)?;
    let mut config = config.clone();
    if !config.is_object() {
        return Err(PatchError::Malformed("an apply patch is an object".to_owned()));
    }
    drop_nulls(&mut config);
    restrict_value(&mut config, writer.subresource);
    check_lists(schema, &config, "", true)?;

    let mut entries = read(live);
    let wished = owned(schema, None, &config, writer.subresource);
    let at = entries.iter().position(|entry| entry.is(writer, "Apply"));
    let before = at.map(|at| entries.remove(at));
    let mut merged = live.clone();
    merge(schema, &mut merged, &config, true);

    let mut kept = wished.clone();
    entries.iter().for_each(|entry| kept.union(&entry.set));
    if let Some(before) = &before {
        remove(schema, &mut merged, &before.set, &kept, true);
    }
    let touched = owned(schema, Some(live), &merged, writer.subresource);
    let conflicts = conflicts(&entries, &touched);
    if !conflicts.is_empty() && !writer.force {
        return Err(PatchError::Conflicts(conflicts));
    }
    let mut gone = owned(schema, None, live, "*");
    gone.subtract(&owned(schema, None, &merged, "*"));
    for entry in &mut entries {
        entry.set.subtract(&touched);
        entry.set.subtract(&gone);
    }
    let time = before.filter(|before| before.set == wished).map_or_else(|| written(writer.time), |before| before.time);
    entries.push(Entry::new(writer, "Apply", time, wished));
    store(&mut merged, entries);
    Ok(merged)
}

/// Records in `new.metadata.managedFields` what a write other than an apply changed since `old` (`None`: a creation).
///
/// The writer takes what it changed from all others. When `new` says nothing of managed fields, those of `old` go on.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Value, writer: &Writer<'_>) {
    if bounded(new).is_err() || old.is_some_and(|old| bounded(old).is_err()) {
        return;
    }
    let given = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    // An empty list, or one empty entry, is how a user clears the record.
    let cleared = given.is_some_and(|given| given.is_empty() || given.iter().all(|entry| *entry == json!({})));
    let mut entries = if cleared { Vec::new() } else { read(old.unwrap_or(new)) };
    let changed = owned(schema, old, new, writer.subresource);
    let mut gone = old.map(|old| owned(schema, None, old, "*")).unwrap_or_default();
    gone.subtract(&owned(schema, None, new, "*"));
    let mut mine = None;
    for entry in &mut entries {
        entry.set.subtract(&gone);
        if entry.is(writer, "Update") {
            mine = Some(entry);
        } else {
            entry.set.subtract(&changed);
        }
    }
    match mine {
        Some(_) if changed.is_empty() => {}
        Some(entry) => {
            entry.set.union(&changed);
            entry.time = written(writer.time);
        }
        None => entries.push(Entry::new(writer, "Update", written(writer.time), changed)),
    }
    cap(&mut entries, writer);
    store(new, entries);
}

/// One writer's fields.
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn new(writer: &Writer<'_>, operation: &str, time: String, set: FieldSet) -> Self {
        let [manager, operation, api_version, subresource] =
            [writer.manager, operation, writer.api_version, writer.subresource].map(str::to_owned);
        Self { manager, operation, api_version, subresource, time, set }
    }

    fn is(&self, writer: &Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.api_version == writer.api_version
            && self.subresource == writer.subresource
    }

    /// As messages of conflicts name it.
    fn title(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {} at {}", self.api_version, self.time));
        }
        text
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.set.to_value()});
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let read = |entry: &Value| Entry {
        manager: text(entry, "manager"),
        operation: text(entry, "operation"),
        api_version: text(entry, "apiVersion"),
        subresource: text(entry, "subresource"),
        time: text(entry, "time"),
        set: FieldSet::parse(entry.get("fieldsV1").unwrap_or(&Value::Null)),
    };
    entries.into_iter().flatten().map(read).collect()
}

fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    let key = |entry: &Entry| {
        let Entry { operation, time, manager, api_version, subresource, .. } = entry;
        [operation, time, manager, api_version, subresource].map(Clone::clone)
    };
    entries.sort_by_key(key);
    let Some(fields) = object.as_object_mut() else { return };
    let Some(metadata) = fields.entry("metadata").or_insert_with(|| json!({})).as_object_mut() else { return };
    metadata.remove("managedFields");
    if !entries.is_empty() {
        metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::to_value).collect());
    }
}

/// Joins the oldest `Update` entries when there are too many.
fn cap(entries: &mut Vec<Entry>, writer: &Writer<'_>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    while entries.iter().filter(|entry| entry.operation == "Update" && entry.subresource.is_empty()).count() > MAX_UPDATERS {
        let old = |entry: &Entry| entry.operation == "Update" && entry.subresource.is_empty() && !entry.is(writer, "Update");
        let Some(first) = entries.iter().position(old) else { return };
        let oldest = entries.remove(first);
        let Some(next) = entries.iter_mut().find(|entry| old(entry)) else { return };
        next.set.union(&oldest.set);
        next.manager = "ancient-changes".to_owned();
    }
}

fn conflicts(entries: &[Entry], touched: &FieldSet) -> Vec<Conflict> {
    let mut found = Vec::new();
    for entry in entries {
        let mut paths = Vec::new();
        entry.set.intersection(touched).paths("", &mut paths);
        found.extend(paths.into_iter().map(|field| Conflict { manager: entry.title(), field }));
    }
    found
}

fn written(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// What changed, without what is never recorded: of the object itself without status, of a subresource its part only, of `*` all.
fn owned(schema: &Value, old: Option<&Value>, new: &Value, subresource: &str) -> FieldSet {
    let mut set = changed(schema, old, new, true);
    set.own = false;
    for name in ["f:apiVersion", "f:kind"] {
        set.children.remove(name);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.own = false;
        UNOWNED.iter().for_each(|name| drop(metadata.children.remove(&format!("f:{name}"))));
    }
    match subresource {
        "" => drop(set.children.remove("f:status")),
        "status" => set.children.retain(|key, _| key == "f:status"),
        _ => {}
    }
    set.children.retain(|_, child| !child.is_empty());
    set
}

/// A write of one part says nothing of the other.
fn restrict_value(config: &mut Value, subresource: &str) {
    let Some(fields) = config.as_object_mut() else { return };
    match subresource {
        "" => drop(fields.remove("status")),
        "status" => fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ => {}
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn check_lists(schema: &Value, value: &Value, path: &str, root: bool) -> Result<(), PatchError> {
    let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (value, shape(schema, value)) {
        (Value::Object(fields), Shape::Object) => {
            fields.iter().try_for_each(|(name, field)| check_lists(member(schema, name, root), field, &child(name), false))
        }
        (Value::Array(list), kind @ (Shape::Map(_) | Shape::Set)) => {
            let mut seen = std::collections::BTreeSet::new();
            for (index, (key, item)) in keyed(schema, &kind, list).into_iter().enumerate() {
                let path = format!("{path}[{index}]");
                if key.starts_with("i:") {
                    return Err(PatchError::Invalid { path, message: "item must have all the keys by which the list merges".to_owned() });
                }
                check_lists(items(schema), item, &path, false)?;
                if !seen.insert(key) {
                    return Err(PatchError::Invalid { path, message: "item is there twice".to_owned() });
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn merge(schema: &Value, live: &mut Value, config: &Value, root: bool) {
    match (config, shape(schema, config)) {
        (Value::Object(fields), Shape::Object) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Some(target) = live.as_object_mut() else { return };
            for (name, value) in fields {
                merge(member(schema, name, root), target.entry(name.clone()).or_insert(Value::Null), value, false);
            }
        }
        (Value::Array(list), kind @ (Shape::Map(_) | Shape::Set)) => {
            let known: Vec<String> =
                keyed(schema, &kind, live.as_array().map_or(&[], Vec::as_slice)).into_iter().map(|pair| pair.0).collect();
            if !live.is_array() {
                *live = Value::Array(Vec::new());
            }
            let Some(target) = live.as_array_mut() else { return };
            let places: std::collections::BTreeMap<&str, usize> = known.iter().enumerate().map(|(at, key)| (key.as_str(), at)).collect();
            for (key, item) in keyed(schema, &kind, list) {
                match places.get(key.as_str()).and_then(|at| target.get_mut(*at)) {
                    Some(place) => merge(items(schema), place, item, false),
                    None => target.push(item.clone()),
                }
            }
        }
        _ => *live = config.clone(),
    }
}

/// Takes the fields of `before` that are not in `kept` out of the value.
fn remove(schema: &Value, value: &mut Value, before: &FieldSet, kept: &FieldSet, root: bool) {
    static NOBODY: FieldSet = FieldSet { own: false, children: std::collections::BTreeMap::new() };
    let kind = shape(schema, value);
    match value {
        Value::Object(fields) => {
            for (key, child) in &before.children {
                let Some(name) = key.strip_prefix("f:") else { continue };
                let Some(field) = fields.get_mut(name) else { continue };
                let keep = kept.children.get(key);
                if keep.is_none() && child.own && child.children.is_empty() {
                    fields.remove(name);
                    continue;
                }
                remove(member(schema, name, root), field, child, keep.unwrap_or(&NOBODY), false);
                let hollow = field.as_object().is_some_and(Map::is_empty) || field.as_array().is_some_and(Vec::is_empty);
                if keep.is_none() && hollow {
                    fields.remove(name);
                }
            }
        }
        Value::Array(list) => {
            let keys: Vec<String> = keyed(schema, &kind, list).into_iter().map(|pair| pair.0).collect();
            let mut keys = keys.into_iter();
            list.retain_mut(|item| {
                let Some(key) = keys.next() else { return true };
                match (before.children.get(&key), kept.children.get(&key)) {
                    (Some(child), None) if child.own => false,
                    (Some(child), keep) => {
                        remove(items(schema), item, child, keep.unwrap_or(&NOBODY), false);
                        true
                    }
                    (None, _) => true,
                }
            });
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
