//! References that at most one Image of a namespace may claim.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::reference::ImageReference;
use gantry_api::registry::KindInfo;
use serde_json::Value;

use super::object::{decode, meta_text, resource};
use crate::cache::{Cache, Selection};
use crate::http::error::ApiError;
use crate::store::Key;

/// Images that the controllers make for a bare reference; they give way to explicit ones and claim nothing.
const GENERATED: &str = "gantry.dev/generated";

/// Whether objects of this kind claim anything.
pub(crate) fn claims_anything(kind: &KindInfo) -> bool {
    kind.ours && kind.kind == "Image"
}

/// Refuses an Image that claims a reference which another explicit Image of its namespace claims.
///
/// # Errors
/// 409 that names the other one.
pub(crate) fn check(cache: &Cache, kind: &KindInfo, object: &Value) -> Result<(), ApiError> {
    check_among(cache, kind, object, &BTreeMap::new())
}

/// The same, when the objects of `changed` are about to have another state, or none.
///
/// # Errors
/// 409 that names the other one.
pub(crate) fn check_among(cache: &Cache, kind: &KindInfo, object: &Value, changed: &BTreeMap<Key, Option<&Value>>) -> Result<(), ApiError> {
    if !claims_anything(kind) {
        return Ok(());
    }
    let wanted = claims(object);
    if wanted.is_empty() {
        return Ok(());
    }
    let (name, namespace) = (meta_text(object, "name"), meta_text(object, "namespace"));
    let refuse = |other: &Value| match claims(other).intersection(&wanted).next() {
        None => Ok(()),
        Some(reference) => {
            let other = meta_text(other, "name");
            let why = format!("Image {other:?} already claims the reference {reference}; use it, or give one of them another reference");
            Err(ApiError::conflict(kind, name, &why))
        }
    };
    let (entries, _) = cache.list(&resource(kind), &Selection::namespace(namespace));
    for entry in entries.iter().filter(|entry| &*entry.key.name != name && !changed.contains_key(&entry.key)) {
        let Ok(other) = decode(entry) else { continue };
        refuse(&other)?;
    }
    let others = changed.iter().filter(|(key, _)| *key.resource == *resource(kind) && &*key.namespace == namespace && &*key.name != name);
    others.filter_map(|(_, other)| *other).try_for_each(refuse)
}

/// The normalised references of an explicit Image.
fn claims(object: &Value) -> BTreeSet<String> {
    let generated = object.get("metadata").and_then(|m| m.get("labels")).and_then(|l| l.get(GENERATED)).is_some();
    if generated {
        return BTreeSet::new();
    }
    let spec = object.get("spec");
    let registry = spec.and_then(|s| s.get("source")?.get("registry")?.get("reference"));
    let tags = spec.and_then(|s| s.get("tags")?.as_array()).into_iter().flatten();
    registry.into_iter().chain(tags).filter_map(Value::as_str).map(normalize).collect()
}

/// The full form of a reference, as Docker fills it in; what is none is compared as it is and refused by validation.
fn normalize(text: &str) -> String {
    ImageReference::parse(text).map_or_else(|_| text.to_owned(), |reference| reference.to_string())
}
