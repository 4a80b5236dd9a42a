//! Structural OpenAPI v3 schemas made from the Rust types, and what is done with them: checking, pruning, duplicate keys.
//!
//! A structural schema has no references and no alternatives: each node has one type, so that checking, pruning, apply and
//! `explain` walk an object and its schema side by side.

mod check;
mod duplicate;
mod structural;

use std::sync::OnceLock;

use serde_json::Value;

pub(crate) use check::type_name;
pub use check::{check, prune};
pub use duplicate::{JsonError, duplicate_keys};
pub(crate) use structural::of;

use crate::meta::ObjectMeta;

/// Deepest nesting of an object that is accepted; serde_json refuses to parse deeper ones, too.
pub const MAX_DEPTH: usize = 128;

/// The schema of `metadata`, which the schemas of kinds give as a plain object only.
pub fn object_meta() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| structural::convert::<ObjectMeta>("ObjectMeta"))
}

/// The schema at a property of an object's root: `metadata` stands for [`object_meta`].
pub(crate) fn root_property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    if name == "metadata" { Some(object_meta()) } else { schema.get("properties")?.get(name) }
}

/// Whether a value nests deeper than `limit`. Does not recurse itself.
pub fn deeper_than(value: &Value, limit: usize) -> bool {
    let mut stack = vec![(value, 0_usize)];
    while let Some((value, depth)) = stack.pop() {
        if depth > limit {
            return true;
        }
        match value {
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => stack.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::kinds;

    fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
        visit(path, schema);
        for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(child, &format!("{path}.{name}"), visit);
        }
        for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(child) = schema.get(key).filter(|child| child.is_object()) {
                walk(child, &format!("{path}{suffix}"), visit);
            }
        }
    }

    #[test]
    fn every_schema_is_structural_and_describes_every_field() {
        let metadata = ("ObjectMeta".to_owned(), object_meta());
        let all = kinds().iter().map(|kind| (kind.kind.to_owned(), kind.schema())).chain([metadata]);
        for (name, schema) in all {
            walk(schema, &name, &mut |path, node| {
                for key in ["$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "$schema", "const"] {
                    assert!(node.get(key).is_none(), "{path} has {key}");
                }
                let free = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
                assert!(node["type"].is_string() || free.iter().any(|key| node.get(key).is_some()), "{path} has no type: {node}");
                for (field, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    assert!(child["description"].is_string(), "{path}.{field} has no description");
                }
            });
        }
    }

    #[test]
    fn every_list_of_objects_of_every_kind_says_how_it_merges() {
        for kind in kinds() {
            walk(kind.schema(), &kind.kind, &mut |path, node| {
                let of_objects = node["items"]["type"] == "object";
                assert!(!of_objects || node["x-kubernetes-list-type"].is_string(), "{path} has no x-kubernetes-list-type");
            });
        }
    }

    #[test]
    fn enums_and_defaults_are_shown() {
        let schema = crate::registry::find_word("container").unwrap().schema();
        let policy = &schema["properties"]["spec"]["properties"]["restartPolicy"];
        assert_eq!(policy["enum"], serde_json::json!(["Always", "OnFailure", "Never"]));
        assert_eq!(policy["default"], "Always");
        let port = &schema["properties"]["spec"]["properties"]["ports"]["items"]["properties"];
        assert_eq!(port["protocol"]["default"], "TCP");
        assert_eq!((&port["hostPort"]["maximum"], &port["hostPort"]["format"]), (&65535.into(), &"int32".into()));
    }
}
