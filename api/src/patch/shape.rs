//! How the nodes of an object merge, by its schema.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::schema::root_property;

/// How a node merges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape<'a> {
    /// Field by field.
    Object,
    /// Item by item; items are known by these fields.
    Map(&'a [Value]),
    /// Item by item; items are scalars.
    Set,
    /// As one value.
    Atomic,
}

pub(super) fn shape<'a>(schema: &'a Value, value: &Value) -> Shape<'a> {
    let is = |key: &str, wanted: &str| schema.get(key).and_then(Value::as_str) == Some(wanted);
    match value {
        Value::Object(_) if is("x-kubernetes-map-type", "atomic") => Shape::Atomic,
        Value::Object(_) => Shape::Object,
        Value::Array(_) if is("x-kubernetes-list-type", "set") => Shape::Set,
        Value::Array(_) if is("x-kubernetes-list-type", "map") => {
            Shape::Map(schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).map_or(&[], Vec::as_slice))
        }
        _ => Shape::Atomic,
    }
}

static NO_SCHEMA: Value = Value::Null;

/// The schema of a member that the schema names; `root` stands for the object itself, whose metadata has a schema of its own.
pub(super) fn named<'a>(schema: &'a Value, name: &str, root: bool) -> Option<&'a Value> {
    if root { root_property(schema, name) } else { schema.get("properties").and_then(|all| all.get(name)) }
}

/// The schema of a member, named or not.
pub(super) fn member<'a>(schema: &'a Value, name: &str, root: bool) -> &'a Value {
    named(schema, name, root).or_else(|| schema.get("additionalProperties")).unwrap_or(&NO_SCHEMA)
}

pub(super) fn items(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(&NO_SCHEMA)
}

/// The key by which an item of a list that merges is known, in the form of FieldsV1; defaults of keys count, and a key that is
/// missing without a default is left out. `None` for an item that has no key at all.
pub(super) fn item_key(schema: &Value, shape: Shape<'_>, item: &Value) -> Option<String> {
    let Shape::Map(keys) = shape else {
        return (!item.is_object() && !item.is_array() && !item.is_null()).then(|| value_key(item));
    };
    let fields = item.as_object()?;
    let mut found = BTreeMap::new();
    for key in keys.iter().filter_map(Value::as_str) {
        let default = || items(schema).get("properties").and_then(|all| all.get(key)).and_then(|field| field.get("default"));
        if let Some(value) = fields.get(key).filter(|value| !value.is_null()).or_else(default) {
            found.insert(key, plain(value));
        }
    }
    if found.is_empty() { None } else { serde_json::to_string(&found).ok().map(|text| format!("k:{text}")) }
}

/// The items of a list that merges, with their keys; those without are left out, as nobody can own them.
pub(super) fn keyed<'a>(schema: &Value, shape: Shape<'_>, value: Option<&'a Value>) -> Vec<(String, &'a Value)> {
    let list = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|item| Some((item_key(schema, shape, item)?, item))).collect()
}

/// Whether the value is a container without anything in it.
pub(super) fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The key of a value in a set. `1.0` is `1`.
fn value_key(value: &Value) -> String {
    format!("v:{}", plain(value))
}

/// A scalar with whole numbers written without a fraction, as keys compare by their text.
pub(super) fn plain(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 9e15 => Value::from(number as i64),
        _ => value.clone(),
    }
}
