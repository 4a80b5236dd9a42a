//! Server-side apply, and the record of ownership that it needs of all other writes.
//!
//! Source of the rules: `sigs.k8s.io/structured-merge-diff` and `k8s.io/apimachinery`'s `managedfields`. What an applier wishes is
//! merged into the object; what it wished before and wishes no longer goes, unless somebody else owns it; what somebody else owns
//! and has another value is a conflict.

mod compare;
mod fields;
mod last_applied;
mod managers;
mod merging;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{PatchError, bounded};
use compare::{Absent, Difference, fields_of, wrong_list};
use fields::FieldSet;
use managers::{Entry, Operation, cap, is_reset, read, write, written};

/// Fields of the metadata that are never recorded.
const UNOWNED: [&str; 8] =
    ["f:name", "f:namespace", "f:uid", "f:creationTimestamp", "f:generation", "f:resourceVersion", "f:managedFields", "f:selfLink"];

/// A field that another manager owns and that an apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as messages name it, such as `"kubectl" using gantry.dev/v1 at 2026-01-31T12:00:00Z`.
    pub manager: String,
    /// Path such as `.spec.ports[containerPort=80,protocol="TCP"].hostPort`.
    pub field: String,
}

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
/// An apply that changes neither the object nor what its manager owns keeps the entry's time, so that it gives the same object.
///
/// # Errors
/// [`PatchError::Conflicts`] unless forced; list items without their keys or twice; too deep.
pub fn apply(live: Option<&Value>, config: &Value, schema: &Value, writer: &Writer<'_>) -> Result<Value, PatchError> {
    bounded(config)?;
    let empty = json!({});
    let live = live.unwrap_or(&empty);
    bounded(live)?;
    if !config.is_object() {
        return Err(PatchError::Malformed("an apply patch is an object".to_owned()));
    }
    if let Some((path, message)) = wrong_list(schema, config, "", true) {
        return Err(PatchError::Invalid { path, message: message.to_owned() });
    }
    let mut entries = read(live, schema, writer.api_version).unwrap_or_default();
    let before = entries.iter().position(|entry| entry.is(writer, Operation::Apply)).map(|at| entries.remove(at));
    let wished = recorded(fields_of(schema, config, true), writer.subresource);
    let mut merged = live.clone();
    merging::merge(schema, &mut merged, config, true);
    if let Some(before) = &before {
        let mut owned = wished.clone();
        entries.iter().for_each(|entry| owned.union(&entry.set));
        merging::prune(schema, &mut merged, &before.set, &owned, true);
    }
    let difference = Difference::between(schema, live, &merged, Absent::IsDefault);
    let changed = recorded(difference.changed, writer.subresource);
    let removed = recorded(difference.removed, writer.subresource);
    refuse_conflicts(&entries, &changed, live, schema, writer)?;
    for entry in &mut entries {
        entry.set.subtract(&changed);
        entry.set.subtract(&removed);
    }
    let same = |before: &Entry| before.set == wished && changed.is_empty() && removed.is_empty();
    let time = before.filter(same).map_or_else(|| written(writer.time), |before| before.time);
    entries.push(Entry::new(writer, Operation::Apply, time, wished));
    write(&mut merged, entries);
    if writer.subresource.is_empty() {
        last_applied::follow(&mut merged, config, writer.manager);
    }
    Ok(merged)
}

fn refuse_conflicts(entries: &[Entry], changed: &FieldSet, live: &Value, schema: &Value, writer: &Writer<'_>) -> Result<(), PatchError> {
    if writer.force {
        return Ok(());
    }
    let mut allowed = None;
    let mut conflicts = Vec::new();
    for entry in entries {
        let mut fields = entry.set.intersection(changed);
        if fields.is_empty() {
            continue;
        }
        if let Some(allowed) = allowed.get_or_insert_with(|| last_applied::takes_over(live, schema, writer.manager)) {
            fields.subtract(allowed);
        }
        let mut paths = Vec::new();
        fields.paths("", &mut paths);
        let manager = entry.title();
        conflicts.extend(paths.into_iter().map(|field| Conflict { manager: manager.clone(), field }));
    }
    conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
    if conflicts.is_empty() { Ok(()) } else { Err(PatchError::Conflicts(conflicts)) }
}

/// Records in `new.metadata.managedFields` what a write other than an apply changed since `old` (`None`: a creation).
///
/// The writer takes what it changed from all others. `new` may bring a record of its own, which then counts; one that is missing or
/// cannot be read leaves that of `old`, and an empty one clears it. Writes of subresources cannot change the record.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Value, writer: &Writer<'_>) {
    if bounded(new).is_err() || old.is_some_and(|old| bounded(old).is_err()) {
        return;
    }
    let empty = json!({});
    let live = old.unwrap_or(&empty);
    let own = writer.subresource.is_empty();
    let stored = || read(live, schema, writer.api_version);
    let given = if own && is_reset(new) {
        Some(Vec::new())
    } else if own {
        read(new, schema, writer.api_version).filter(|entries| !entries.is_empty()).or_else(stored)
    } else {
        stored()
    };
    let mut entries = given.unwrap_or_default();
    let difference = Difference::between(schema, live, new, Absent::IsAbsent);
    let changed = recorded(difference.changed, writer.subresource);
    let removed = recorded(difference.removed, writer.subresource);
    let mut mine = None;
    for entry in &mut entries {
        entry.set.subtract(&removed);
        if entry.is(writer, Operation::Update) {
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
        None => entries.push(Entry::new(writer, Operation::Update, written(writer.time), changed)),
    }
    cap(&mut entries);
    write(new, entries);
}

/// A set without what is never recorded: of the object itself without status, of its status that only.
fn recorded(mut set: FieldSet, subresource: &str) -> FieldSet {
    set.own = false;
    for name in ["f:apiVersion", "f:kind"] {
        set.children.remove(name);
    }
    match subresource {
        "" => drop(set.children.remove("f:status")),
        "status" => set.children.retain(|key, _| key == "f:status"),
        _ => {}
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.own = false;
        UNOWNED.iter().for_each(|name| drop(metadata.children.remove(*name)));
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

/// What Kubernetes says of conflicts.
pub(super) fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

#[cfg(test)]
mod tests;
