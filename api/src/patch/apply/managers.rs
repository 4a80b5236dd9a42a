//! `metadata.managedFields`: who owns what, as it is written in objects.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Writer;
use super::fields::FieldSet;
use super::merging::reconcile;

/// Most entries of `Update` writers before the oldest are joined.
const MAX_UPDATERS: usize = 10;
/// Who owns what the oldest updaters wrote, once there are too many.
const ANCIENT: &str = "ancient-changes";

/// How fields were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One writer's fields.
#[derive(Debug)]
pub(super) struct Entry {
    manager: String,
    pub(super) operation: Operation,
    api_version: String,
    subresource: String,
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Entry {
    pub(super) fn new(writer: &Writer<'_>, operation: Operation, time: String, set: FieldSet) -> Self {
        let [manager, api_version, subresource] = [writer.manager, writer.api_version, writer.subresource].map(str::to_owned);
        Self { manager, operation, api_version, subresource, time, set }
    }

    pub(super) fn is(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.manager == writer.manager && self.operation == operation && self.subresource == writer.subresource
    }

    /// As messages of conflicts name it.
    pub(super) fn title(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {} at {}", self.api_version, self.time));
        }
        text
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (entry.operation, entry.time.clone());
        let rest = |entry: &Self| (entry.manager.clone(), entry.api_version.clone(), entry.subresource.clone());
        key(self).cmp(&key(other)).then_with(|| rest(self).cmp(&rest(other)))
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({"manager": self.manager, "operation": self.operation.name(), "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.set.to_value()});
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let fields = value.get("fieldsV1").filter(|fields| fields.is_object())?;
        let set = FieldSet::parse(fields);
        let (manager, api_version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
        (!api_version.is_empty()).then(|| Self { manager, operation, api_version, subresource, time: text("time"), set })
    }
}

/// The record of an object. `None` when there is none, or none that can be read.
///
/// What was written in a version that is no longer served is nobody's.
pub(super) fn read(object: &Value, schema: &Value, api_version: &str) -> Option<Vec<Entry>> {
    let entries = listed(object).filter(|entries| !entries.is_empty())?;
    let mut entries: Vec<Entry> = entries.iter().map(Entry::parse).collect::<Option<_>>()?;
    entries.retain(|entry| entry.api_version == api_version);
    entries.iter_mut().for_each(|entry| reconcile(schema, &mut entry.set, true));
    Some(entries)
}

/// Whether the object asks for its record to be cleared: by an empty list, or by one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    listed(object).is_some_and(|entries| entries.iter().all(|entry| *entry == json!({})) && entries.len() <= 1)
}

fn listed(object: &Value) -> Option<&Vec<Value>> {
    object.get("metadata")?.get("managedFields")?.as_array()
}

/// Writes the record, without entries that own nothing.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(Entry::order);
    let Some(fields) = object.as_object_mut() else { return };
    let Some(metadata) = fields.entry("metadata").or_insert_with(|| json!({})).as_object_mut() else { return };
    metadata.remove("managedFields");
    if !entries.is_empty() {
        metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::to_value).collect());
    }
}

/// Joins the oldest `Update` entries when there are too many.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let joins = |entry: &Entry| entry.operation == Operation::Update && entry.subresource.is_empty();
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    while entries.iter().filter(|entry| joins(entry)).count() > MAX_UPDATERS {
        let Some(first) = entries.iter().position(joins) else { return };
        let oldest = entries.remove(first);
        let Some(next) = entries.iter_mut().find(|entry| joins(entry)) else { return };
        next.set.union(&oldest.set);
        ANCIENT.clone_into(&mut next.manager);
    }
}

/// A time as it stands in entries.
pub(super) fn written(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
