//! Unknown fields of custom objects, and defaults.

use serde_json::{Map, Value};

use super::node::Node;
use crate::schema;
use crate::validate::{FieldError, FieldErrorReason};

/// Most unknown fields that are told of one object.
const MAX_ERRORS: usize = 200;

/// Members of a whole object that every kind has.
const OF_OBJECTS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Every field that the schema does not know, and everything wrong with the form of metadata.
pub(crate) fn unknown(root: &Node, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema::deeper_than(object, schema::MAX_DEPTH) {
        let message = format!("object is nested deeper than {} levels", schema::MAX_DEPTH);
        return vec![FieldError::new("", FieldErrorReason::Invalid, message)];
    }
    find(root, object, "", true, &mut errors);
    errors
}

fn find(node: &Node, value: &Value, path: &str, whole: bool, errors: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for (index, item) in items.iter().enumerate() {
                find(child, item, &format!("{path}[{index}]"), false, errors);
            }
        }
        Value::Object(fields) => {
            let whole = whole || node.embedded;
            for (name, field) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match node.member(name) {
                    _ if whole && OF_OBJECTS.contains(&name.as_str()) => of_object(name, field, path, errors),
                    Some(child) => find(child, field, &below, false, errors),
                    None if node.open || errors.len() >= MAX_ERRORS => {}
                    None => errors.push(FieldError::new(below.clone(), FieldErrorReason::Unknown, format!("unknown field \"{below}\""))),
                }
            }
        }
        _ => {}
    }
}

/// What is wrong with the form of `apiVersion`, `kind` or `metadata` of an object at `path`.
fn of_object(name: &str, field: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let found = if name == "metadata" {
        schema::check(&Value::Null, &Value::Object(Map::from_iter([(name.to_owned(), field.clone())])))
    } else if field.is_string() || field.is_null() {
        Vec::new()
    } else {
        vec![FieldError::new(name, FieldErrorReason::TypeInvalid, "must be of type string")]
    };
    let below = |error: FieldError| if path.is_empty() { error } else { FieldError { path: format!("{path}.{}", error.path), ..error } };
    errors.extend(found.into_iter().map(below).take(MAX_ERRORS.saturating_sub(errors.len())));
}

/// Removes the fields that the schema does not know.
pub(crate) fn prune(root: &Node, object: &mut Value) {
    if !schema::deeper_than(object, schema::MAX_DEPTH) {
        drop_unknown(root, object, true);
    }
}

fn drop_unknown(node: &Node, value: &mut Value, whole: bool) {
    match value {
        Value::Array(items) => {
            if let Some(child) = &node.items {
                items.iter_mut().for_each(|item| drop_unknown(child, item, false));
            }
        }
        Value::Object(fields) => {
            let whole = whole || node.embedded;
            let is_own = |name: &str| whole && OF_OBJECTS.contains(&name);
            fields.retain(|name, _| node.open || node.member(name).is_some() || is_own(name));
            for (name, field) in fields.iter_mut() {
                match node.member(name) {
                    _ if is_own(name) => prune_of_object(name, field),
                    Some(child) => drop_unknown(child, field, false),
                    None => {}
                }
            }
        }
        _ => {}
    }
}

fn prune_of_object(name: &str, field: &mut Value) {
    if name == "metadata" {
        let mut object = Value::Object(Map::from_iter([(name.to_owned(), field.take())]));
        schema::prune(&Value::Null, &mut object);
        *field = object.get_mut(name).map(Value::take).unwrap_or_default();
    }
}

/// Drops `null` where the schema does not allow it, and fills in defaults, at every depth.
///
/// Source: Kubernetes' documentation of custom resources, "Defaulting and Nullable".
pub(crate) fn complete(node: &Node, value: &mut Value, whole: bool) {
    match value {
        Value::Array(items) => {
            if let Some(child) = &node.items {
                items.iter_mut().for_each(|item| complete(child, item, false));
            }
        }
        Value::Object(fields) => {
            let whole = whole || node.embedded;
            let is_own = |name: &str| whole && OF_OBJECTS.contains(&name);
            fields.retain(|name, field| !field.is_null() || is_own(name) || node.member(name).is_none_or(|child| child.nullable));
            for (name, child) in node.properties.iter().filter(|(name, _)| !is_own(name)) {
                if let Some(default) = child.default.as_ref().filter(|_| !fields.contains_key(name)) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, field) in fields.iter_mut().filter(|(name, _)| !is_own(name)) {
                if let Some(child) = node.member(name) {
                    complete(child, field, false);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn root() -> Node {
        Node::of(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3},
                "note": {"type": "string", "nullable": true},
                "mode": {"type": "string", "default": "a"},
                "part": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "default": "d"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"v": {"type": "integer"}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"in": {"type": "object", "properties": {}}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            }},
        }}))
    }

    #[test]
    fn unknown_fields_are_found_and_dropped_wherever_they_are() {
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "nam": 1}, "other": 1, "spec": {
            "size": 1, "wrong": 1, "list": [{"k": "a", "l": 1}], "map": {"any": {"v": 1, "w": 2}},
            "free": {"kept": {"deep": 1}, "in": {"gone": 1}}, "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "q": 1}, "r": 1}}});
        let mut found: Vec<String> = unknown(&root(), &object).into_iter().map(|error| error.path).collect();
        found.sort();
        let expected = [
            "metadata.nam",
            "other",
            "spec.free.in.gone",
            "spec.list[0].l",
            "spec.map.any.w",
            "spec.pod.metadata.q",
            "spec.pod.r",
            "spec.wrong",
        ];
        assert_eq!(found, expected);
        prune(&root(), &mut object);
        assert_eq!(unknown(&root(), &object), []);
        assert_eq!(object["spec"]["free"], json!({"kept": {"deep": 1}, "in": {}}));
        assert_eq!(object["spec"]["pod"]["metadata"], json!({"name": "p"}));
    }

    #[test]
    fn defaults_fill_what_is_absent_or_null() {
        let mut object =
            json!({"metadata": {"name": "a"}, "spec": {"size": null, "note": null, "mode": "b", "list": [{}], "map": {"a": null}}});
        complete(&root(), &mut object, true);
        let expected = json!({"size": 3, "note": null, "mode": "b", "part": {"x": 1}, "list": [{"k": "d"}], "map": {}});
        assert_eq!(object["spec"], expected);
        let mut without = json!({"metadata": {}});
        complete(&root(), &mut without, true);
        assert_eq!(without, json!({"metadata": {}}), "a default below what is absent waits for it");
    }
}
