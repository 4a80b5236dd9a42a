//! The rules of `metadata` that every kind shares (apimachinery `api/validation`).

use gantry_api::registry::KindInfo;
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::Value;

use super::object::{finalizers, meta_text};

/// The most bytes of all annotations together.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Every error of an object's metadata.
pub(crate) fn validate(kind: &KindInfo, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |path: String, reason: FieldErrorReason, value: Option<&str>, message: &str| {
        errors.push(FieldError { path, reason, value: value.map(|v| format!("{v:?}")), message: message.to_owned() });
    };
    let name = meta_text(object, "name");
    let as_label = kind.label_names || super::object::is_namespace(kind);
    if name.is_empty() {
        wrong("metadata.name".into(), FieldErrorReason::Required, None, "name or generateName is required");
    } else if as_label && !is_label(name) {
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', start and end with an alphanumeric character, \
                       and have at most 63 characters";
        wrong("metadata.name".into(), FieldErrorReason::Invalid, Some(name), message);
    } else if !is_subdomain(name) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', start and end with an alphanumeric \
                       character, and have at most 253 characters";
        wrong("metadata.name".into(), FieldErrorReason::Invalid, Some(name), message);
    }
    let map = |field: &str| object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_object);
    for (label, value) in map("labels").into_iter().flatten() {
        if !is_qualified(label) {
            wrong(
                "metadata.labels".into(),
                FieldErrorReason::Invalid,
                Some(label),
                "a qualified name must be [prefix/]name of at most 63 letters, digits, '-', '_' or '.'",
            );
        }
        let value = value.as_str().unwrap_or_default();
        if !value.is_empty() && !is_name_part(value) {
            wrong(
                "metadata.labels".into(),
                FieldErrorReason::Invalid,
                Some(value),
                "a label value is empty or has at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit",
            );
        }
    }
    let mut bytes = 0;
    for (annotation, value) in map("annotations").into_iter().flatten() {
        bytes += annotation.len() + value.as_str().map_or(0, str::len);
        if !is_qualified(&annotation.to_ascii_lowercase()) {
            wrong(
                "metadata.annotations".into(),
                FieldErrorReason::Invalid,
                Some(annotation),
                "a qualified name must be [prefix/]name of at most 63 letters, digits, '-', '_' or '.'",
            );
        }
    }
    if bytes > MAX_ANNOTATION_BYTES {
        wrong("metadata.annotations".into(), FieldErrorReason::Invalid, None, "must have at most 262144 bytes");
    }
    for finalizer in finalizers(object) {
        if !is_qualified(&finalizer) {
            wrong(
                "metadata.finalizers".into(),
                FieldErrorReason::Invalid,
                Some(&finalizer),
                "must be a qualified name such as example.com/name",
            );
        }
    }
    errors.extend(owner_references(object));
    errors
}

fn owner_references(object: &Value) -> Vec<FieldError> {
    let owners = object.get("metadata").and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    let mut errors = Vec::new();
    let mut controllers = 0;
    for (at, owner) in owners.into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.push(FieldError {
                    path: format!("metadata.ownerReferences[{at}].{field}"),
                    reason: FieldErrorReason::Required,
                    value: None,
                    message: "must not be empty".to_owned(),
                });
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool).unwrap_or_default());
    }
    if controllers > 1 {
        errors.push(FieldError {
            path: "metadata.ownerReferences".to_owned(),
            reason: FieldErrorReason::Invalid,
            value: None,
            message: "only one reference can have controller set to true".to_owned(),
        });
    }
    errors
}

fn is_label(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Labels joined by dots; a label by itself may be longer than 63 here, as in Kubernetes.
fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_name_part(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}
