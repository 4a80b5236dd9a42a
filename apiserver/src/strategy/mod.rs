//! The path that every kind shares between a decoded request and a commit: what may change, what changes with it.
//!
//! ```text
//!  decoded object ─► identity ─► strictness ─► defaults ─► admission ─► validation ─► generation, no-op check ─► commit
//! ```
//!
//! Everything here is pure but for [`commit`]; the retry loops live with the verbs.

pub(crate) mod claims;
pub(crate) mod decoding;
pub(crate) mod metadata;
pub(crate) mod object;

use gantry_api::patch::{Writer, track_update};
use gantry_api::registry::KindInfo;
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::admission;
use crate::http::error::ApiError;
use decoding::Strictness;
use object::{finalizers, is_held, is_terminating, meta_mut, meta_text, set_field, set_meta, time_text};

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status, where there is a status subresource.
    Main,
    /// The status alone.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// Where a container runs: status and finalizers, written by the `binding` subresource.
    Binding,
}

/// What a write comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// The object has a new state.
    Put,
    /// The last thing that held the object back is gone.
    Delete,
}

/// A write that may be committed.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The new state; the stored one for [`Change::None`].
    pub(crate) object: Value,
    /// What it comes to.
    pub(crate) change: Change,
    /// For the client.
    pub(crate) warnings: Vec<String>,
}

/// A new object (`applied`: made by an apply, which recorded its owners already), ready but for its name when that is still to be generated.
///
/// # Errors
/// 400 and 422 for what the client sent.
pub(crate) fn prepare_create(
    kind: &KindInfo,
    mut object: Value,
    duplicates: &[String],
    strictness: Strictness,
    writer: &Writer<'_>,
    (uid, applied): (Uuid, bool),
) -> Result<Prepared, ApiError> {
    if !meta_text(&object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let warnings = decoding::strict(kind, &mut object, duplicates, strictness)?;
    if kind.has_status {
        set_field(&mut object, "status", None);
    }
    if let Some(meta) = meta_mut(&mut object) {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
            meta.remove(field);
        }
        meta.insert("uid".into(), uid.to_string().into());
        meta.insert("creationTimestamp".into(), time_text(writer.time).into());
        if kind.has_generation() {
            meta.insert("generation".into(), 1.into());
        }
    }
    admission::on_create(kind, &mut object);
    if !applied {
        set_meta(&mut object, "managedFields", None);
    }
    let mut object = decoding::normalize(kind, object)?;
    decoding::validate(kind, &object, None)?;
    if !applied && is_tracked(kind) {
        track_update(None, &mut object, kind.schema(), writer);
    }
    Ok(Prepared { object, change: Change::Put, warnings })
}

/// The stored object with the parts replaced that this write may change. `writer` is recorded as the owner of what changed;
/// `None` when an apply recorded it already.
///
/// # Errors
/// 400, 409 and 422 for what the client sent.
pub(crate) fn prepare_update(
    kind: &KindInfo,
    part: Part,
    old: &Value,
    mut new: Value,
    duplicates: &[String],
    (strictness, writer): (Strictness, Option<&Writer<'_>>),
) -> Result<Prepared, ApiError> {
    let name = meta_text(old, "name");
    let uid = meta_text(&new, "uid");
    if !uid.is_empty() && uid != meta_text(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta_text(old, "uid"));
        return Err(ApiError::conflict(kind, name, &why));
    }
    let warnings = decoding::strict(kind, &mut new, duplicates, strictness)?;
    let mut object = match part {
        Part::Main => merge_main(kind, old, new)?,
        Part::Status => merge_status(old, &mut new, writer.is_none()),
        Part::Finalize => merge_finalizers(old, &new),
        Part::Binding => new,
    };
    object = decoding::normalize(kind, object)?;
    decoding::validate(kind, &object, Some(old))?;
    check_terminating(kind, old, &object)?;
    if part == Part::Main && kind.has_generation() && content_differs(kind, old, &object) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        set_meta(&mut object, "generation", Some(generation.into()));
    }
    if let Some(writer) = writer.filter(|_| is_tracked(kind) && !same(old, &object)) {
        track_update(Some(old), &mut object, kind.schema(), writer);
    }
    if is_terminating(&object) && !is_held(kind, &object) {
        return Ok(Prepared { object, change: Change::Delete, warnings });
    }
    if same(old, &object) {
        return Ok(Prepared { object: old.clone(), change: Change::None, warnings });
    }
    Ok(Prepared { object, change: Change::Put, warnings })
}

/// Whether field ownership is recorded. Nobody applies these, and they are written often.
fn is_tracked(kind: &KindInfo) -> bool {
    !matches!(kind.built_in(), "Event" | "Lease")
}

/// Metadata that nobody writes stays as stored, and so does the status.
fn merge_main(kind: &KindInfo, old: &Value, mut new: Value) -> Result<Value, ApiError> {
    if kind.has_status {
        set_field(&mut new, "status", old.get("status").cloned());
    }
    let empty = Map::new();
    let stored = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let Some(meta) = meta_mut(&mut new) else {
        return Err(ApiError::bad_request("metadata is not an object"));
    };
    const KEPT: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
    ];
    for field in KEPT {
        match stored.get(field) {
            Some(value) => meta.insert(field.into(), value.clone()),
            None => meta.remove(field),
        };
    }
    meta.remove("selfLink");
    // Leaving the field out keeps it; what an explicit value means is for the record of owners to say.
    if meta.get("managedFields").is_none_or(Value::is_null) || !is_tracked(kind) {
        match stored.get("managedFields") {
            Some(fields) => drop(meta.insert("managedFields".into(), fields.clone())),
            None => drop(meta.remove("managedFields")),
        }
    }
    Ok(new)
}

/// Of a write of the status only the status counts, and what an apply recorded of it.
fn merge_status(old: &Value, new: &mut Value, applied: bool) -> Value {
    let mut object = old.clone();
    let status = new.get_mut("status").map(Value::take).filter(|s| !s.is_null());
    set_field(&mut object, "status", status);
    if applied && let Some(managed) = new.get_mut("metadata").and_then(|m| m.get_mut("managedFields")) {
        set_meta(&mut object, "managedFields", Some(managed.take()));
    }
    object
}

fn merge_finalizers(old: &Value, new: &Value) -> Value {
    let mut object = old.clone();
    let list = new.get("spec").and_then(|s| s.get("finalizers")).cloned().unwrap_or_else(|| json!([]));
    object["spec"]["finalizers"] = list;
    object
}

/// While an object is being deleted, finalizers only leave.
fn check_terminating(kind: &KindInfo, old: &Value, new: &Value) -> Result<(), ApiError> {
    if !is_terminating(old) {
        return Ok(());
    }
    let before = finalizers(old);
    let added: Vec<String> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let message = format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
    let error = FieldError { path: "metadata.finalizers".into(), reason: FieldErrorReason::Forbidden, value: None, message };
    Err(ApiError::invalid(kind, meta_text(old, "name"), &[error]))
}

/// Whether anything outside metadata and status differs.
fn content_differs(kind: &KindInfo, old: &Value, new: &Value) -> bool {
    differ_besides(old, new, |name| name == "metadata" || (kind.has_status && name == "status"))
}

/// Whether two objects differ in a member that `left_out` does not name.
fn differ_besides(old: &Value, new: &Value, left_out: impl Fn(&str) -> bool) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old != new };
    let gone = old.keys().any(|name| !left_out(name) && !new.contains_key(name));
    gone || new.iter().any(|(name, value)| !left_out(name) && old.get(name) != Some(value))
}

/// Whether a write would change nothing but times of managed fields.
fn same(old: &Value, new: &Value) -> bool {
    if differ_besides(old, new, |name| name == "metadata") {
        return false;
    }
    let (Some(before), Some(after)) = (old.get("metadata"), new.get("metadata")) else { return false };
    if differ_besides(before, after, |name| matches!(name, "resourceVersion" | "managedFields")) {
        return false;
    }
    let (before, after) = (owners(before), owners(after));
    before.len() == after.len() && before.iter().zip(after).all(|(a, b)| !differ_besides(a, b, |name| name == "time"))
}

fn owners(metadata: &Value) -> &[Value] {
    metadata.get("managedFields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
