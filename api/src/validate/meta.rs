//! Metadata: names, labels, annotations, finalizers, owners.

use serde_json::Value;

use super::{Errors, name};
use crate::meta::ObjectMeta;

/// Most bytes of all annotations together, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Everything wrong with an object's metadata; `label_names` demands names that can be host names.
pub(super) fn check(new: &Value, old: Option<&Value>, label_names: bool, errors: &mut Errors) {
    let decode = |object: &Value| serde_json::from_value::<ObjectMeta>(object.get("metadata").cloned().unwrap_or_default()).ok();
    let Some(meta) = decode(new) else {
        errors.invalid("metadata", "is not object metadata");
        return;
    };
    names(&meta, label_names, errors);
    labels(&meta, errors);
    owners(&meta, errors);
    let Some(old) = old.and_then(decode) else { return };
    for (path, same) in [
        ("metadata.name", meta.name == old.name),
        ("metadata.namespace", meta.namespace == old.namespace),
        ("metadata.uid", meta.uid.is_none() || meta.uid == old.uid),
        ("metadata.creationTimestamp", meta.creation_timestamp.is_none() || meta.creation_timestamp == old.creation_timestamp),
    ] {
        if !same {
            errors.invalid(path, "field is immutable");
        }
    }
    let known = old.finalizers.unwrap_or_default();
    if old.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|finalizer| !known.contains(finalizer)) {
        errors.forbidden("metadata.finalizers", "no new finalizer can be added to an object that is being deleted");
    }
}

fn names(meta: &ObjectMeta, label_names: bool, errors: &mut Errors) {
    let rule = if label_names { name::label } else { name::subdomain };
    match meta.name.as_deref() {
        None | Some("") if meta.generate_name.as_deref().unwrap_or_default().is_empty() => {
            errors.required("metadata.name", "name or generateName is required");
        }
        Some(text) if !text.is_empty() => errors.rule("metadata.name", text, rule(text)),
        _ => {}
    }
    if let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        // Five characters follow, so the end of the prefix may be a dash.
        let sample: String = prefix.chars().take(58).chain(['x']).collect();
        errors.rule("metadata.generateName", prefix, rule(&sample));
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        errors.rule("metadata.namespace", namespace, name::label(namespace));
    }
}

fn labels(meta: &ObjectMeta, errors: &mut Errors) {
    let key_rule = "must be a name of at most 63 letters, digits, '-', '_' or '.', with an optional DNS subdomain and '/' before it";
    for (key, value) in meta.labels.iter().flatten() {
        if !name::is_qualified(key) {
            errors.bad("metadata.labels", key, key_rule);
        }
        if !name::is_label_value(value) {
            errors.bad(
                &format!("metadata.labels[{key}]"),
                value,
                "must be at most 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit",
            );
        }
    }
    let mut total = 0_usize;
    for (key, value) in meta.annotations.iter().flatten() {
        total = total.saturating_add(key.len()).saturating_add(value.len());
        if !name::is_qualified(&key.to_ascii_lowercase()) {
            errors.bad("metadata.annotations", key, key_rule);
        }
    }
    if total > MAX_ANNOTATIONS {
        errors.invalid("metadata.annotations", "must have at most 262144 bytes in all");
    }
    for (index, finalizer) in meta.finalizers.iter().flatten().enumerate() {
        if !name::is_qualified(finalizer) {
            errors.bad(&format!("metadata.finalizers[{index}]"), finalizer, key_rule);
        }
    }
}

fn owners(meta: &ObjectMeta, errors: &mut Errors) {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    for (index, owner) in owners.iter().enumerate() {
        for (field, value) in [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.required(&format!("metadata.ownerReferences[{index}].{field}"), "is required");
            }
        }
        if owners[..index].iter().any(|other| other.uid == owner.uid) {
            errors.duplicate(&format!("metadata.ownerReferences[{index}].uid"), &owner.uid);
        }
    }
    if owners.iter().filter(|owner| owner.controller == Some(true)).count() > 1 {
        errors.invalid("metadata.ownerReferences", "only one owner can be the controller");
    }
}
