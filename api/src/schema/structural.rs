//! From schemars' JSON Schema to a structural schema.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The structural schema of a kind: as [`convert`], with `metadata` as a plain object.
pub(crate) fn of<T: JsonSchema>(kind: &str) -> Value {
    let mut schema = convert::<T>(kind);
    if let Some(metadata) = schema.pointer_mut("/properties/metadata") {
        *metadata = json!({"type": "object", "description": "Standard object's metadata."});
    }
    // The server fills in what the URL already says, and an empty spec is a spec.
    if let Some(root) = schema.as_object_mut() {
        root.remove("required");
    }
    schema
}

/// The structural schema of a type; `name` chooses its rows of the table of list types.
pub(crate) fn convert<T: JsonSchema>(name: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structure(&mut schema);
    for (_, path, extensions) in MERGE_TYPES.iter().filter(|row| row.0 == name) {
        extend(&mut schema, path, extensions);
    }
    schema
}

/// Type, path of a field in it, and the extensions that the field gets.
type MergeType = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// How Kubernetes merges the lists and references of its own kinds, which k8s-openapi leaves out of its schemas.
/// Source: the `+listType`, `+structType` and `patchStrategy` tags of `k8s.io/api` and `k8s.io/apimachinery`.
const MERGE_TYPES: &[MergeType] = &[
    ("ObjectMeta", "ownerReferences", &[LIST_MAP, ("x-kubernetes-list-map-keys", "uid"), MERGE, ("x-kubernetes-patch-merge-key", "uid")]),
    ("ObjectMeta", "finalizers", &[("x-kubernetes-list-type", "set"), MERGE]),
    ("ObjectMeta", "managedFields", &[ATOMIC]),
    ("Namespace", "spec.finalizers", &[ATOMIC]),
    ("Namespace", "status.conditions", &[LIST_MAP, BY_TYPE, MERGE, KEY_TYPE]),
    ("Node", "spec.taints", &[ATOMIC]),
    ("Node", "spec.podCIDRs", &[("x-kubernetes-list-type", "set"), MERGE]),
    ("Node", "status.addresses", &[LIST_MAP, BY_TYPE, MERGE, KEY_TYPE]),
    ("Node", "status.conditions", &[LIST_MAP, BY_TYPE, MERGE, KEY_TYPE]),
    ("Node", "status.images", &[ATOMIC]),
    ("Node", "status.runtimeHandlers", &[ATOMIC]),
    ("Node", "status.volumesAttached", &[ATOMIC]),
    ("Node", "status.volumesInUse", &[ATOMIC]),
    ("ServiceAccount", "secrets", &[LIST_MAP, BY_NAME, MERGE, ("x-kubernetes-patch-merge-key", "name")]),
    ("ServiceAccount", "imagePullSecrets", &[ATOMIC]),
    ("Event", "involvedObject", &[("x-kubernetes-map-type", "atomic")]),
    ("Event", "related", &[("x-kubernetes-map-type", "atomic")]),
];
const LIST_MAP: (&str, &str) = ("x-kubernetes-list-type", "map");
const ATOMIC: (&str, &str) = ("x-kubernetes-list-type", "atomic");
const BY_TYPE: (&str, &str) = ("x-kubernetes-list-map-keys", "type");
const BY_NAME: (&str, &str) = ("x-kubernetes-list-map-keys", "name");
const MERGE: (&str, &str) = ("x-kubernetes-patch-strategy", "merge");
const KEY_TYPE: (&str, &str) = ("x-kubernetes-patch-merge-key", "type");

fn extend(schema: &mut Value, path: &str, extensions: &[(&str, &str)]) {
    let pointer: String = path.split('.').map(|field| format!("/properties/{field}")).collect();
    let Some(node) = schema.pointer_mut(&pointer).and_then(Value::as_object_mut) else { return };
    for (key, value) in extensions {
        let value = if *key == "x-kubernetes-list-map-keys" { json!([value]) } else { json!(value) };
        node.insert((*key).to_owned(), value);
    }
}

fn structure(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else {
        // `true`: anything at all, as the fields of FieldsV1.
        *schema = json!({"x-kubernetes-preserve-unknown-fields": true});
        return;
    };
    for key in ["$schema", "title", "$defs", "writeOnly", "readOnly"] {
        node.remove(key);
    }
    join_alternatives(node);
    if let Some(Value::Array(types)) = node.get("type") {
        let first = types.iter().find(|name| *name != "null").cloned();
        node.insert("type".to_owned(), first.unwrap_or_else(|| json!("object")));
    }
    if let Some(Value::Array(values)) = node.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if node.get("default").is_some_and(|default| !is_worth_showing(default)) {
        node.remove("default");
    }
    // A closed struct: what it does not name is unknown anyway.
    if node.get("additionalProperties") == Some(&Value::Bool(false)) {
        node.remove("additionalProperties");
    }
    number_format(node);
    for (_, property) in node.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        structure(property);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key) {
            structure(child);
        }
    }
    let described_only = node.keys().all(|key| key == "description");
    let open_object =
        node.get("type") == Some(&json!("object")) && !node.contains_key("properties") && !node.contains_key("additionalProperties");
    if described_only || open_object {
        node.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    let lists_objects = node.get("items").is_some_and(|items| items["type"] == "object");
    if lists_objects && !node.contains_key("x-kubernetes-list-type") {
        node.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
    }
}

/// Empty defaults say nothing in `explain`; objects and lists are shown by their members.
fn is_worth_showing(default: &Value) -> bool {
    match default {
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// One branch beside `null` becomes the node itself; several constants become an enum.
fn join_alternatives(node: &mut Map<String, Value>) {
    for key in ["anyOf", "oneOf", "allOf"] {
        let Some(Value::Array(branches)) = node.remove(key) else { continue };
        let mut branches: Vec<Value> = branches.into_iter().filter(|branch| branch["type"] != "null").collect();
        for branch in &mut branches {
            if let Some(inner) = branch.as_object_mut() {
                join_alternatives(inner);
            }
        }
        if branches.len() == 1 {
            let Some(Value::Object(branch)) = branches.pop() else { continue };
            for (name, value) in branch {
                node.entry(name).or_insert(value);
            }
        } else {
            join_constants(node, &branches);
        }
    }
    if let Some(constant) = node.remove("const") {
        node.insert("enum".to_owned(), json!([constant]));
    }
}

fn join_constants(node: &mut Map<String, Value>, branches: &[Value]) {
    let mut values = Vec::new();
    let mut text = node.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    for branch in branches {
        let constants = branch.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
        if let ([constant], Some(description)) = (constants.as_slice(), branch["description"].as_str()) {
            text.push_str(&format!("\n{}: {description}", constant.as_str().unwrap_or_default()));
        }
        values.extend(constants);
    }
    node.insert("type".to_owned(), json!("string"));
    node.insert("description".to_owned(), json!(text.trim_start()));
    node.insert("enum".to_owned(), Value::Array(values));
}

/// OpenAPI knows signed formats only.
fn number_format(node: &mut Map<String, Value>) {
    let (format, maximum) = match node.get("format").and_then(Value::as_str) {
        Some("uint8") => ("int32", u64::from(u8::MAX)),
        Some("uint16") => ("int32", u64::from(u16::MAX)),
        Some("uint32") => ("int64", u64::from(u32::MAX)),
        Some("uint64" | "uint") => ("int64", i64::MAX.unsigned_abs()),
        _ => return,
    };
    node.insert("format".to_owned(), json!(format));
    node.entry("minimum").or_insert(json!(0));
    node.entry("maximum").or_insert(json!(maximum));
}
