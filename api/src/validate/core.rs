//! Rules of Secrets and ConfigMaps. Values are never shown.

use serde_json::Value;

use super::{Errors, name};

/// Most bytes of all values together, as in Kubernetes.
const MAX_DATA: usize = 1 << 20;

/// Everything wrong with a Secret's data.
pub(super) fn secret(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    // Base64 is a third longer than what it stands for.
    data(new, &["data"], MAX_DATA / 3 * 4 + 4, errors);
    let type_ = new.get("type").and_then(Value::as_str).unwrap_or_default();
    let needed: &[&str] = match type_ {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| new.get("data").and_then(|data| data.get(**key)).is_none()) {
        errors.required(&format!("data[{key}]"), &format!("is required in a Secret of type {type_}"));
    }
    immutable(new, old, &["data"], errors);
    if old.is_some_and(|old| old.get("type") != new.get("type")) {
        errors.invalid("type", "field is immutable");
    }
}

/// Everything wrong with a ConfigMap's data.
pub(super) fn config_map(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    data(new, &["data", "binaryData"], MAX_DATA / 3 * 4 + 4, errors);
    immutable(new, old, &["data", "binaryData"], errors);
    let keys = |field: &str| new.get(field).and_then(Value::as_object);
    for key in keys("data").into_iter().flat_map(|data| data.keys()) {
        if keys("binaryData").is_some_and(|binary| binary.contains_key(key)) {
            errors.duplicate(&format!("binaryData[{key}]"), key);
        }
    }
}

fn data(object: &Value, fields: &[&str], most: usize, errors: &mut Errors) {
    let mut total = 0_usize;
    for field in fields {
        for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
            if !name::is_data_key(key) {
                errors.bad(&format!("{field}[{key}]"), key, "must be at most 253 letters, digits, '-', '_' or '.'");
            }
            total = total.saturating_add(value.as_str().map_or(0, str::len));
        }
    }
    if total > most {
        errors.invalid(fields.first().copied().unwrap_or_default(), "must have at most 1048576 bytes in all");
    }
}

fn immutable(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else { return };
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.forbidden("immutable", "field is immutable when it is set");
    }
    for field in fields.iter().filter(|field| old.get(**field) != new.get(**field)) {
        errors.forbidden(field, "field is immutable when `immutable` is set");
    }
}
