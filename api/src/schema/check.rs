//! Checking an object against its structural schema, and dropping what the schema does not know.

use serde_json::{Map, Value};

use super::{MAX_DEPTH, deeper_than, root_property};
use crate::validate::{FieldError, FieldErrorReason};

/// Most errors that are reported of one object; a person reads a handful.
const MAX_ERRORS: usize = 200;

/// Every unknown field, wrong type, unknown enum value, missing required field and number out of range, each with its path.
///
/// `null` counts as absent. An object nested deeper than [`MAX_DEPTH`] gives that one error.
pub fn check(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if deeper_than(object, MAX_DEPTH) {
        errors.push(error("", FieldErrorReason::Invalid, format!("object is nested deeper than {MAX_DEPTH} levels")));
        return errors;
    }
    let Some(fields) = object.as_object() else {
        errors.push(error("", FieldErrorReason::TypeInvalid, format!("must be an object, not {}", type_name(object))));
        return errors;
    };
    for (name, value) in fields {
        match root_property(schema, name) {
            Some(child) => check_value(child, value, name, &mut errors),
            None => push(&mut errors, error(name, FieldErrorReason::Unknown, format!("unknown field \"{name}\""))),
        }
    }
    errors
}

/// Removes the fields that the schema does not know, at every depth.
pub fn prune(schema: &Value, object: &mut Value) {
    if deeper_than(object, MAX_DEPTH) {
        return;
    }
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, _| root_property(schema, name).is_some());
    for (name, value) in fields.iter_mut() {
        if let Some(child) = root_property(schema, name) {
            prune_value(child, value);
        }
    }
}

fn prune_value(schema: &Value, value: &mut Value) {
    match value {
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| prune_value(schema, item));
            }
        }
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let rest = schema.get("additionalProperties");
            if !is_open(schema) {
                fields.retain(|name, _| rest.is_some() || properties.is_some_and(|known| known.contains_key(name)));
            }
            for (name, field) in fields.iter_mut() {
                if let Some(child) = properties.and_then(|known| known.get(name)).or(rest) {
                    prune_value(child, field);
                }
            }
        }
        _ => {}
    }
}

fn is_open(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

fn check_value(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= MAX_ERRORS || value.is_null() {
        return;
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        if !value.is_string() && !value.is_number() {
            wrong_type("string or number", value, path, errors);
        }
        return;
    }
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("object"), Value::Object(fields)) => check_object(schema, fields, path, errors),
        (Some("array"), Value::Array(items)) => check_items(schema, items, path, errors),
        (Some("string"), Value::String(text)) => check_text(schema, text, path, errors),
        (Some("integer"), Value::Number(number)) => check_integer(schema, number, path, errors),
        (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(wanted), _) => wrong_type(wanted, value, path, errors),
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in fields {
        if let Some(child) = properties.and_then(|known| known.get(name)) {
            check_value(child, value, &format!("{path}.{name}"), errors);
        } else if let Some(child) = schema.get("additionalProperties") {
            check_value(child, value, &format!("{path}[{name}]"), errors);
        } else if !is_open(schema) {
            let path = format!("{path}.{name}");
            push(errors, error(&path, FieldErrorReason::Unknown, format!("unknown field \"{path}\"")));
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            push(errors, error(&format!("{path}.{name}"), FieldErrorReason::Required, "is required"));
        }
    }
}

fn check_items(schema: &Value, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let Some(child) = schema.get("items") else { return };
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if item.is_null() {
            push(errors, error(&path, FieldErrorReason::TypeInvalid, "must not be null"));
        } else {
            check_value(child, item, &path, errors);
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        if !values.iter().any(|value| value == text) {
            let supported: Vec<String> = values.iter().map(Value::to_string).collect();
            let message = format!("unsupported value, must be one of {}", supported.join(", "));
            push(errors, FieldError { value: Some(shown(text)), ..error(path, FieldErrorReason::NotSupported, message) });
        }
        return;
    }
    let bad = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => {
            text.parse::<jiff::Timestamp>().is_err().then_some("must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
        }
        Some("byte") => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_err().then_some("must be base64 with padding")
        }
        _ => None,
    };
    if let Some(message) = bad {
        push(errors, error(path, FieldErrorReason::Invalid, message));
    }
}

fn check_integer(schema: &Value, number: &serde_json::Number, path: &str, errors: &mut Vec<FieldError>) {
    let Some(value) = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)) else {
        push(errors, error(path, FieldErrorReason::TypeInvalid, "must be an integer of at most 64 bits"));
        return;
    };
    let wide = if schema.get("format").and_then(Value::as_str) == Some("int32") {
        (i128::from(i32::MIN), i128::from(i32::MAX))
    } else {
        (i128::from(i64::MIN), i128::from(i64::MAX))
    };
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64).map(|bound| bound as i128);
    let least = bound("minimum").unwrap_or(wide.0);
    let most = bound("maximum").unwrap_or(wide.1).min(wide.1);
    if value < least || value > most {
        let message = format!("must be from {least} to {most}");
        push(errors, FieldError { value: Some(number.to_string()), ..error(path, FieldErrorReason::Invalid, message) });
    }
}

fn wrong_type(wanted: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    // The value is left out: what stands at a wrong place may be a secret.
    push(errors, error(path, FieldErrorReason::TypeInvalid, format!("must be of type {wanted}, not {}", type_name(value))));
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    Value::String(short).to_string()
}

fn error(path: &str, reason: FieldErrorReason, message: impl Into<String>) -> FieldError {
    FieldError { path: path.to_owned(), reason, value: None, message: message.into() }
}

fn push(errors: &mut Vec<FieldError>, error: FieldError) {
    if errors.len() < MAX_ERRORS {
        errors.push(error);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::find_word;

    fn found(kind: &str, object: &Value) -> Vec<(String, FieldErrorReason)> {
        check(find_word(kind).unwrap().schema(), object).into_iter().map(|error| (error.path, error.reason)).collect()
    }

    #[test]
    fn reports_everything_at_once_with_paths() {
        let object = json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "colour": 1,
            "metadata": {"name": "web", "labls": {}, "labels": {"a": 1}},
            "spec": {"imagee": "x", "restartPolicy": "Sometimes", "env": [{"value": "v"}, null], "command": "sh",
                "ports": [{"containerPort": 80, "hostPort": 70000, "hostport": 1}], "restartedAt": "yesterday"}});
        let mut all = found("container", &object);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("colour", FieldErrorReason::Unknown),
            ("metadata.labels[a]", FieldErrorReason::TypeInvalid),
            ("metadata.labls", FieldErrorReason::Unknown),
            ("spec.command", FieldErrorReason::TypeInvalid),
            ("spec.env[0].name", FieldErrorReason::Required),
            ("spec.env[1]", FieldErrorReason::TypeInvalid),
            ("spec.imagee", FieldErrorReason::Unknown),
            ("spec.ports[0].hostPort", FieldErrorReason::Invalid),
            ("spec.ports[0].hostport", FieldErrorReason::Unknown),
            ("spec.restartPolicy", FieldErrorReason::NotSupported),
            ("spec.restartedAt", FieldErrorReason::Invalid),
        ];
        assert_eq!(all, expected.map(|(path, reason)| (path.to_owned(), reason)));
    }

    #[test]
    fn errors_of_secrets_do_not_show_them() {
        let object = json!({"metadata": {"name": "s"}, "data": {"a": "hunter2!", "b": 12345}});
        let errors = check(find_word("secret").unwrap().schema(), &object);
        assert_eq!(errors.len(), 2);
        assert!(!format!("{errors:?}").contains("hunter2") && !format!("{errors:?}").contains("12345"));
    }

    #[test]
    fn depth_is_an_error_and_no_overflow() {
        let mut value = json!(1);
        for _ in 0..1000 {
            value = json!([value]);
        }
        let errors = found("configmap", &json!({"metadata": {}, "data": value}));
        assert_eq!(errors, [(String::new(), FieldErrorReason::Invalid)]);
    }

    #[test]
    fn pruning_keeps_what_is_known() {
        let mut object = json!({"kind": "Network", "x": 1, "metadata": {"name": "n", "y": 1, "labels": {"z": "1"}},
            "spec": {"mtu": 1400, "mtuu": 1, "options": {"any": "thing"}}});
        prune(find_word("net").unwrap().schema(), &mut object);
        assert_eq!(
            object,
            json!({"kind": "Network", "metadata": {"name": "n", "labels": {"z": "1"}}, "spec": {"mtu": 1400, "options": {"any": "thing"}}})
        );
    }
}
