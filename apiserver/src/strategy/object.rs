//! Reading and changing the metadata of objects held as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gantry_api::registry::{KindInfo, kinds};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::store::{Index, Indexer, Key, Record};

/// Goes up when [`index`] takes anything else from an object than before.
const RULES: u64 = 1;

/// A string field of `metadata`; absent is empty.
pub(crate) fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata`, made when it is missing. `None` when the value is no object.
pub(crate) fn meta_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// Sets a field of `metadata`, or removes it.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(meta) = meta_mut(object) else { return };
    match value {
        Some(value) => {
            meta.insert(field.to_owned(), value);
        }
        None => {
            meta.remove(field);
        }
    }
}

/// Sets a top-level field, or removes it.
pub(crate) fn set_field(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.remove(field);
        }
    }
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Sets `metadata.finalizers`; none means no field.
pub(crate) fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    set_meta(object, "finalizers", (!finalizers.is_empty()).then(|| finalizers.into()));
}

/// Whether deletion has been asked for.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !meta_text(object, "deletionTimestamp").is_empty()
}

/// Whether anything still holds the object back: finalizers, and for namespaces those of the spec.
pub(crate) fn is_held(kind: &KindInfo, object: &Value) -> bool {
    let spec_finalizers = || object.get("spec").and_then(|s| s.get("finalizers")).and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    !finalizers(object).is_empty() || (is_namespace(kind) && spec_finalizers())
}

/// Whether the kind is core's Namespace.
pub(crate) fn is_namespace(kind: &KindInfo) -> bool {
    kind.group.is_empty() && kind.kind == "Namespace"
}

/// `metav1.Time`: UTC, whole seconds.
pub(crate) fn time_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The resource part of store keys.
pub(crate) fn resource(kind: &KindInfo) -> String {
    let stored = kind.stored();
    format!("{}/{}", stored.group, stored.plural)
}

/// The store key of an object of a kind.
pub(crate) fn key(kind: &KindInfo, namespace: &str, name: &str) -> Key {
    Key::new(resource(kind), if kind.namespaced { namespace } else { "" }, name)
}

/// An object of a kind as stored, decoded and in the kind's version.
///
/// # Errors
/// When the bytes are not what was written.
pub(crate) fn decode_as(kind: &KindInfo, record: &Record) -> Result<Value, serde_json::Error> {
    let mut object = decode(record)?;
    if kind.is_converted() {
        set_field(&mut object, "apiVersion", Some(kind.api_version().into()));
    }
    Ok(object)
}

/// An object as stored, decoded.
///
/// # Errors
/// When the bytes are not what was written.
pub(crate) fn decode(record: &Record) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&record.bytes)
}

/// The rules by which a store indexes its objects, and their version: it follows from which fields of which kinds are selectable.
pub fn indexer() -> Indexer {
    Indexer { version: rules_version(), index: index_stored }
}

/// FNV-1a over everything that the index of an object depends on: stable over processes, which the standard library's hasher is not.
fn rules_version() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ RULES;
    for kind in kinds() {
        for part in [&*kind.group, "/", &*kind.plural, "\n"].into_iter().chain(kind.selectable.iter().flat_map(|path| [&**path, "\n"])) {
            hash = part.bytes().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        }
    }
    hash.max(1)
}

fn index_stored(key: &Key, bytes: &[u8]) -> Option<Index> {
    let kind =
        kinds().iter().find(|kind| key.resource.strip_prefix(&*kind.group).and_then(|r| r.strip_prefix('/')) == Some(&*kind.plural))?;
    Some(index(kind, &serde_json::from_slice(bytes).ok()?))
}

/// What selections and look-ups need of an object. Whoever makes it take anything else counts up `RULES`.
pub(crate) fn index(kind: &KindInfo, object: &Value) -> Index {
    let meta = object.get("metadata");
    let labels: BTreeMap<String, String> = meta
        .and_then(|m| m.get("labels"))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let owners = meta.and_then(|m| m.get("ownerReferences")).and_then(Value::as_array).into_iter().flatten();
    let field = |path: &Cow<'static, str>| {
        let value = path.split('.').try_fold(object, |value, part| value.get(part))?;
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return None,
        };
        Some((path.clone(), text))
    };
    let of_views = kind.views().flat_map(|view| (view.index)(object)).map(|(path, value)| (Cow::Borrowed(path), value));
    Index {
        labels,
        fields: kind.indexed().iter().filter_map(field).chain(of_views).collect(),
        uid: meta_text(object, "uid").to_owned(),
        owners: owners.filter_map(|o| o.get("uid")?.as_str()).map(str::to_owned).collect(),
    }
}
