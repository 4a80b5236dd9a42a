//! The kinds that a CustomResourceDefinition brings: one for each served version.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::judge::judge;
use super::node::{Node, texts};
use super::path::{FieldPath, JsonPath};
use super::walk;
use crate::registry::{Cell, Column, CustomKind, KindInfo, Rules, Scale, Subresource, humanize_age};
use crate::schema;
use crate::validate::{FieldError, plain};

/// What is sent to `scale`.
const SCALE: Subresource = Subresource { name: "scale", verbs: &["get", "patch", "update"], kind: Some(("autoscaling", "v1", "Scale")) };

/// The kinds of a definition by its accepted names, the preferred version first; none of a definition that is none.
pub fn kinds(definition: &Value) -> Vec<KindInfo> {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let mut served: Vec<&Value> = versions.into_iter().flatten().filter(|version| version["served"] == true).collect();
    served.sort_by_key(|version| Reverse(priority(version["name"].as_str().unwrap_or_default())));
    let storage = versions.into_iter().flatten().find(|version| version["storage"] == true);
    let storage = storage.and_then(|version| version["name"].as_str()).unwrap_or_default();
    served.into_iter().filter_map(|version| kind(definition, version, storage)).collect()
}

fn kind(definition: &Value, version: &Value, storage: &str) -> Option<KindInfo> {
    let spec = definition.get("spec")?;
    let accepted = definition.pointer("/status/acceptedNames").filter(|names| names["plural"].is_string()).unwrap_or(&spec["names"]);
    let name = |field: &str| accepted.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let group = spec.get("group")?.as_str()?.to_owned();
    let has_scale = version.pointer("/subresources/scale").is_some_and(Value::is_object);
    let open = version.pointer("/schema/openAPIV3Schema")?;
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array).filter(|columns| !columns.is_empty());
    Some(KindInfo {
        version: version.get("name")?.as_str()?.to_owned(),
        kind: name("kind"),
        list_kind: name("listKind"),
        plural: name("plural"),
        singular: name("singular"),
        short_names: texts(accepted.get("shortNames")),
        categories: texts(accepted.get("categories")),
        namespaced: spec.get("scope")? == "Namespaced",
        has_status: version.pointer("/subresources/status").is_some_and(Value::is_object),
        subresources: if has_scale { vec![SCALE] } else { Vec::new() },
        ours: false,
        label_names: false,
        has_age: columns.is_none(),
        columns: columns.into_iter().flatten().filter_map(column).collect(),
        selectable: selectable(version),
        rules: Box::new(Custom { root: Node::of(open), schema: published(open, &name("kind")) }),
        view: None,
        custom: Some(CustomKind {
            definition: definition.pointer("/metadata/name")?.as_str()?.to_owned(),
            storage_version: format!("{group}/{storage}"),
            has_versions: has_versions(definition),
            warning: warning(version, &group, &name("kind")),
            indexed: indexed(definition),
            scale: version.pointer("/subresources/scale").and_then(scale),
        }),
        group,
    })
}

fn selectable(version: &Value) -> Vec<Cow<'static, str>> {
    let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    fields.filter_map(|field| Some(Cow::Owned(field.get("jsonPath")?.as_str()?.strip_prefix('.')?.to_owned()))).collect()
}

/// The selectable fields of all versions: objects are the same in all.
fn indexed(definition: &Value) -> Vec<Cow<'static, str>> {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let mut fields: Vec<Cow<'static, str>> = versions.flat_map(selectable).collect();
    fields.sort();
    fields.dedup();
    fields
}

fn has_versions(definition: &Value) -> bool {
    let count = |pointer: &str| definition.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
    count("/spec/versions") > 1 || count("/status/storedVersions") > 1
}

fn warning(version: &Value, group: &str, kind: &str) -> Option<String> {
    let name = version["name"].as_str().filter(|_| version["deprecated"] == true)?;
    let given = version.get("deprecationWarning").and_then(Value::as_str).map(str::to_owned);
    Some(given.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated")))
}

fn scale(paths: &Value) -> Option<Scale> {
    let path = |field: &str| paths.get(field).and_then(Value::as_str).and_then(|text| FieldPath::parse(text).ok());
    Some(Scale { replicas: path("specReplicasPath")?, current: path("statusReplicasPath")?, selector: path("labelSelectorPath") })
}

/// Orders versions as clients prefer them: released before beta before alpha, newer before older, others by their name.
///
/// Source: `k8s.io/apimachinery/pkg/version`, `CompareKubeAwareVersionStrings`.
pub fn priority(version: &str) -> impl Ord + use<> {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let stage = |word: &str, rank: u8| Some((rank, rest[digits..].strip_prefix(word)?.parse::<u32>().ok()?));
        let (rank, minor) = if digits == rest.len() { (2, 0) } else { stage("beta", 1).or_else(|| stage("alpha", 0))? };
        Some((rank, major, minor))
    });
    (parsed, Reverse(version.to_owned()))
}

fn column(column: &Value) -> Option<Column> {
    let text = |field: &str| column.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let path = JsonPath::parse(column.get("jsonPath")?.as_str()?).ok()?;
    let type_ = text("type");
    Some(Column {
        name: text("name").into(),
        description: text("description").into(),
        priority: column.get("priority").and_then(Value::as_i64).and_then(|priority| i32::try_from(priority).ok()).unwrap_or_default(),
        cell: Cell::Computed(Arc::new({
            let type_ = type_.clone();
            move |object, now| cell(&path, &type_, object, now)
        })),
        type_: type_.into(),
    })
}

/// A cell as Kubernetes fills it: what is not of the column's type is left out.
///
/// Source: `k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor`.
fn cell(path: &JsonPath, type_: &str, object: &Value, now: Timestamp) -> Value {
    let found = path.find(object);
    let Some(first) = found.first() else { return Value::Null };
    match (type_, first) {
        ("string", _) => {
            let text = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            found.iter().map(text).collect::<Vec<_>>().join(" ").into()
        }
        ("integer", Value::Number(number)) => {
            number.as_i64().map_or_else(|| number.as_f64().map(|number| number as i64).into(), Into::into)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("date", Value::String(text)) => text.parse().map_or_else(|_| "<invalid>".into(), |since| humanize_age(since, now).into()),
        _ => Value::Null,
    }
}

/// The schema as it is published, and as apply and `explain` walk it: with what every object has.
fn published(schema: &Value, kind: &str) -> Value {
    let mut schema = schema.clone();
    add_identity(&mut schema, 0);
    let identity = own_members();
    if let Some(root) = schema.as_object_mut() {
        root.entry("description").or_insert_with(|| format!("{kind} is a custom kind.").into());
        let properties = root.entry("properties").or_insert_with(|| json!({}));
        for (name, member) in identity {
            properties[name] = member;
        }
    }
    schema
}

fn own_members() -> Map<String, Value> {
    let members = json!({
        "apiVersion": {"type": "string", "description": "Version of the representation of this object."},
        "kind": {"type": "string", "description": "Kind of this object."},
        "metadata": {"type": "object", "description": "Standard object's metadata."},
    });
    if let Value::Object(members) = members { members } else { Map::new() }
}

/// Embedded objects have what every object has.
fn add_identity(schema: &mut Value, depth: usize) {
    let Some(node) = schema.as_object_mut().filter(|_| depth <= schema::MAX_DEPTH) else { return };
    if node.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let properties = node.entry("properties").or_insert_with(|| json!({}));
        for (name, mut member) in own_members() {
            if name == "metadata" {
                member = schema::object_meta().clone();
            }
            properties[name] = member;
        }
    }
    for (_, child) in node.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        add_identity(child, depth + 1);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(name) {
            add_identity(child, depth + 1);
        }
    }
}

/// The rules that a schema makes.
struct Custom {
    root: Node,
    schema: Value,
}

impl Rules for Custom {
    fn schema(&self) -> &Value {
        &self.schema
    }
    fn normalize(&self, mut object: Value) -> Result<Value, Vec<FieldError>> {
        let errors =
            walk::unknown(&self.root, &object).into_iter().filter(|error| error.reason != crate::validate::FieldErrorReason::Unknown);
        let errors: Vec<FieldError> = errors.collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        if let Some(metadata) = object.get_mut("metadata") {
            crate::default::drop_nulls(metadata);
        }
        walk::prune(&self.root, &mut object);
        walk::complete(&self.root, &mut object, true);
        Ok(object)
    }
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = plain(new, old, false);
        judge(&self.root, new, "", &mut errors);
        errors
    }
    fn check(&self, object: &Value) -> Vec<FieldError> {
        walk::unknown(&self.root, object)
    }
    fn prune(&self, object: &mut Value) {
        walk::prune(&self.root, object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_clients_prefer_them() {
        let mut versions = ["v1alpha1", "foo1", "v2beta1", "v10", "v11beta2", "v1", "v2", "v12alpha1", "foo10"];
        versions.sort_by_key(|version| Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v2beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]);
    }

    #[test]
    fn cells_are_of_their_column_s_type() {
        let object = json!({"s": "a", "i": 2, "f": 2.5, "b": true, "d": "2026-01-01T00:00:00Z", "l": ["x", "y"]});
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        for (path, type_, shown) in [
            (".s", "string", json!("a")),
            (".i", "string", json!("2")),
            (".l[*]", "string", json!("x y")),
            (".i", "integer", json!(2)),
            (".f", "integer", json!(2)),
            (".f", "number", json!(2.5)),
            (".b", "boolean", json!(true)),
            (".d", "date", json!("60m")),
            (".s", "date", json!("<invalid>")),
            (".s", "integer", json!(null)),
            (".absent", "string", json!(null)),
        ] {
            assert_eq!(cell(&JsonPath::parse(path).unwrap(), type_, &object, now), shown, "{path} {type_}");
        }
    }
}
