//! The keywords of a schema of a custom kind, and walks over its places.

use serde_json::{Map, Value};

use crate::validate::{FieldError, FieldErrorReason};

/// Deepest nesting of places in a schema.
pub(super) const MAX_DEPTH: usize = 60;
/// Most errors that are told of one schema.
pub(super) const MAX_ERRORS: usize = 100;

/// What a keyword's value must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Flag,
    Number,
    Count,
    Texts,
    Any,
    Anys,
    Node,
    Nodes,
    NodesByName,
    NodeOrFlag,
    /// Known to Kubernetes, and refused with this reason.
    Refused(&'static str),
}

/// Every keyword. What is missing here is an unknown field.
const KEYWORDS: &[(&str, Form)] = &[
    ("description", Form::Text),
    ("title", Form::Text),
    ("type", Form::Text),
    ("format", Form::Text),
    ("pattern", Form::Text),
    ("nullable", Form::Flag),
    ("exclusiveMinimum", Form::Flag),
    ("exclusiveMaximum", Form::Flag),
    ("uniqueItems", Form::Flag),
    ("minimum", Form::Number),
    ("maximum", Form::Number),
    ("multipleOf", Form::Number),
    ("minLength", Form::Count),
    ("maxLength", Form::Count),
    ("minItems", Form::Count),
    ("maxItems", Form::Count),
    ("minProperties", Form::Count),
    ("maxProperties", Form::Count),
    ("required", Form::Texts),
    ("enum", Form::Anys),
    ("default", Form::Any),
    ("example", Form::Any),
    ("externalDocs", Form::Any),
    ("properties", Form::NodesByName),
    ("items", Form::Node),
    ("additionalProperties", Form::NodeOrFlag),
    ("allOf", Form::Nodes),
    ("anyOf", Form::Nodes),
    ("oneOf", Form::Nodes),
    ("not", Form::Node),
    ("x-kubernetes-preserve-unknown-fields", Form::Flag),
    ("x-kubernetes-int-or-string", Form::Flag),
    ("x-kubernetes-embedded-resource", Form::Flag),
    ("x-kubernetes-list-type", Form::Text),
    ("x-kubernetes-list-map-keys", Form::Texts),
    ("x-kubernetes-map-type", Form::Text),
    (
        "x-kubernetes-validations",
        Form::Refused("rules in CEL are not checked by this server; say them by pattern, enum, minimum and the like, or leave them out"),
    ),
    ("$ref", Form::Refused("references are not possible in a structural schema")),
    ("$schema", Form::Refused("is not possible in a structural schema")),
    ("id", Form::Refused("is not possible in a structural schema")),
    ("definitions", Form::Refused("is not possible in a structural schema")),
    ("dependencies", Form::Refused("is not possible in a structural schema")),
    ("patternProperties", Form::Refused("is not possible in a structural schema; use additionalProperties")),
    ("additionalItems", Form::Refused("is not possible in a structural schema; use items")),
];

/// Keywords that only say what a value must be: all that may stand below `allOf`, `anyOf`, `oneOf` and `not`.
pub(super) const OF_VALUES: &[&str] = &[
    "format",
    "pattern",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "enum",
    "properties",
    "items",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "uniqueItems",
];

/// The fields of a schema that no keyword names, each with its path.
pub(super) fn unknown(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    each_below(schema, path, 0, &mut |node, path, _| {
        for name in node.keys().filter(|name| !KEYWORDS.iter().any(|(known, _)| known == name)) {
            let path = format!("{path}.{name}");
            if errors.len() < MAX_ERRORS {
                errors.push(FieldError::new(path.clone(), FieldErrorReason::Unknown, format!("unknown field \"{path}\"")));
            }
        }
    });
}

/// Removes the fields of a schema that no keyword names.
pub(super) fn prune(schema: &mut Value, depth: usize) {
    let Some(node) = schema.as_object_mut().filter(|_| depth <= MAX_DEPTH) else { return };
    node.retain(|name, _| KEYWORDS.iter().any(|(known, _)| known == name));
    for (name, value) in node.iter_mut() {
        match (form(name), value) {
            (Some(Form::Node | Form::NodeOrFlag), value) => prune(value, depth + 1),
            (Some(Form::Nodes), Value::Array(nodes)) => nodes.iter_mut().for_each(|node| prune(node, depth + 1)),
            (Some(Form::NodesByName), Value::Object(nodes)) => nodes.values_mut().for_each(|node| prune(node, depth + 1)),
            _ => {}
        }
    }
}

pub(super) fn form(name: &str) -> Option<Form> {
    KEYWORDS.iter().find(|(known, _)| *known == name).map(|(_, form)| *form)
}

/// Calls `tell` with every place of a schema, its path, and whether it stands below `allOf`, `anyOf`, `oneOf` or `not`.
pub(super) fn each_below(schema: &Value, path: &str, depth: usize, tell: &mut impl FnMut(&Map<String, Value>, &str, bool)) {
    fn go(schema: &Value, path: &str, depth: usize, of_value: bool, tell: &mut impl FnMut(&Map<String, Value>, &str, bool)) {
        let Some(node) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else { return };
        tell(node, path, of_value);
        for (name, value) in node {
            let of_value = of_value || matches!(name.as_str(), "allOf" | "anyOf" | "oneOf" | "not");
            match (form(name), value) {
                (Some(Form::Node | Form::NodeOrFlag), value) => go(value, &format!("{path}.{name}"), depth + 1, of_value, tell),
                (Some(Form::Nodes), Value::Array(nodes)) => {
                    for (index, node) in nodes.iter().enumerate() {
                        go(node, &format!("{path}.{name}[{index}]"), depth + 1, of_value, tell);
                    }
                }
                (Some(Form::NodesByName), Value::Object(nodes)) => {
                    for (key, node) in nodes {
                        go(node, &format!("{path}.{name}[{key}]"), depth + 1, of_value, tell);
                    }
                }
                _ => {}
            }
        }
    }
    go(schema, path, depth, false, tell);
}
