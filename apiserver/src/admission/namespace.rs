//! Namespaces: born active and held by the `kubernetes` finalizer; objects are only made in living ones.

use gantry_api::registry::{KindInfo, find_resource};
use serde_json::{Value, json};

use crate::cache::{Cache, Entry};
use crate::http::error::ApiError;
use crate::store::{Expect, Op};
use crate::strategy::object::{decode, is_namespace, is_terminating, key, meta_mut, meta_text, set_field};

/// A new Namespace is Active, and its contents are purged before its finalizer leaves.
pub(super) fn complete(kind: &KindInfo, object: &mut Value) {
    if !is_namespace(kind) {
        return;
    }
    set_field(object, "spec", Some(json!({"finalizers": ["kubernetes"]})));
    set_field(object, "status", Some(json!({"phase": "Active"})));
    let name = meta_text(object, "name").to_owned();
    let Some(meta) = meta_mut(object) else { return };
    let labels = meta.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut().filter(|_| !name.is_empty()) {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

/// The check that must hold when an object is made in `namespace`: it exists and is not being deleted.
///
/// # Errors
/// 404 and 403.
pub(crate) fn check_namespace(cache: &Cache, kind: &KindInfo, name: &str, namespace: &str) -> Result<Option<Op>, ApiError> {
    if !kind.namespaced {
        return Ok(None);
    }
    let Some(namespaces) = find_resource("", "v1", "namespaces") else { return Ok(None) };
    let key = key(namespaces, "", namespace);
    let entry = cache.get(&key).ok_or_else(|| ApiError::not_found(namespaces, namespace))?;
    if may_be_terminating(&entry) && is_terminating(&decode(&entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?) {
        return Err(ApiError::namespace_terminating(kind, name, namespace));
    }
    Ok(Some(Op::Check { key, expect: Expect::At(entry.revision) }))
}

/// Every object that is made asks this of its namespace: decoding that was a twelfth of a request.
fn may_be_terminating(namespace: &Entry) -> bool {
    std::str::from_utf8(&namespace.bytes).map_or(true, |text| text.contains("\"deletionTimestamp\""))
}
