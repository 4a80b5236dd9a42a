//! The kind CustomResourceDefinition.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use super::{keywords, rules};
use crate::registry::{Cell, Column, KindInfo, Rules};
use crate::schema;
use crate::validate::{FieldError, FieldErrorReason};

/// Its group.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Its version.
pub const VERSION: &str = "v1";
/// Its name.
pub const KIND: &str = "CustomResourceDefinition";
/// Its plural.
pub const PLURAL: &str = "customresourcedefinitions";
/// Held until no object of the kind is left.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The row of the table of kinds.
pub(crate) fn kind() -> KindInfo {
    let created = |object: &Value, _| object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default();
    KindInfo {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        kind: KIND.to_owned(),
        list_kind: format!("{KIND}List"),
        plural: PLURAL.to_owned(),
        singular: "customresourcedefinition".to_owned(),
        short_names: vec!["crd".to_owned(), "crds".to_owned()],
        categories: vec!["api-extensions".to_owned()],
        namespaced: false,
        has_status: true,
        subresources: Vec::new(),
        ours: false,
        label_names: false,
        has_age: false,
        columns: Cow::Owned(vec![Column {
            name: "Created At".into(),
            type_: "date".into(),
            description: "When it was created.".into(),
            priority: 0,
            cell: Cell::Computed(Arc::new(created)),
        }]),
        selectable: Vec::new(),
        rules: Box::new(Definition),
        view: None,
        custom: None,
    }
}

struct Definition;

impl Rules for Definition {
    fn schema(&self) -> &Value {
        definition_schema()
    }
    fn normalize(&self, mut object: Value) -> Result<Value, Vec<FieldError>> {
        let errors = self.check(&object).into_iter().filter(|error| error.reason != FieldErrorReason::Unknown);
        let errors: Vec<FieldError> = errors.collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        drop_nulls(&mut object);
        fill_in(&mut object);
        Ok(object)
    }
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        rules::check(new, old)
    }
    fn check(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = schema::check(self.schema(), object);
        if !schema::deeper_than(object, schema::MAX_DEPTH) {
            each_schema(object, |schema, path| keywords::unknown(schema, path, &mut errors));
        }
        errors
    }
    fn prune(&self, object: &mut Value) {
        schema::prune(self.schema(), object);
        for version in object.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                keywords::prune(schema, 0);
            }
        }
    }
}

/// Calls `look` with the schema of each version and its path.
fn each_schema(object: &Value, mut look: impl FnMut(&Value, &str)) {
    for (index, version) in object.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            look(schema, &format!("spec.versions[{index}].schema.openAPIV3Schema"));
        }
    }
}

/// `null` means absent; but a schema may have `null` as a value of an enum or as a default.
fn drop_nulls(object: &mut Value) {
    for (name, value) in object.as_object_mut().into_iter().flatten() {
        if name != "spec" {
            crate::default::drop_nulls(value);
        }
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.retain(|_, value| !value.is_null());
    for (name, value) in spec {
        if name != "versions" {
            crate::default::drop_nulls(value);
        }
    }
}

/// Names that follow from others, the conversion, and the versions that may be stored.
fn fill_in(object: &mut Value) {
    let storage = object.pointer("/spec/versions").and_then(Value::as_array).and_then(|versions| {
        versions.iter().find(|version| version["storage"] == true).and_then(|version| version["name"].as_str()).map(str::to_owned)
    });
    if let Some(names) = object.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let default = |names: &mut Map<String, Value>, field: &str, text: String| {
            if !kind.is_empty() && names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                names.insert(field.to_owned(), text.into());
            }
        };
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    }
    let Some(storage) = storage else { return };
    let Some(fields) = object.as_object_mut() else { return };
    let status = fields.entry("status").or_insert_with(|| json!({}));
    let Some(status) = status.as_object_mut() else { return };
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut().filter(|stored| !stored.iter().any(|name| *name == storage)) {
        stored.push(storage.into());
    }
}

/// The schema of a definition; those of its versions are walked by `keywords`.
fn definition_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = |description: &str| json!({"type": "string", "description": description});
        let names = json!({"type": "object", "description": "How the kind is called.", "required": ["plural", "kind"], "properties": {
            "plural": text("Lower-case plural, as in URLs."),
            "singular": text("Lower-case singular; by default the kind in lower case."),
            "shortNames": {"type": "array", "description": "Short names for the command line.", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
            "kind": text("CamelCase name."),
            "listKind": text("CamelCase name of lists; by default the kind with List behind it."),
            "categories": {"type": "array", "description": "Groups of resources such as all.", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
        }});
        json!({
            "type": "object", "description": "CustomResourceDefinition adds a kind to the API.",
            "properties": {
                "apiVersion": text("Version of the representation of this object."),
                "kind": text("Kind of this object."),
                "metadata": {"type": "object", "description": "Standard object's metadata. The name must be <plural>.<group>."},
                "spec": {"type": "object", "description": "What is added.", "required": ["group", "names", "scope", "versions"], "properties": {
                    "group": text("API group of the kind."),
                    "names": names,
                    "scope": {"type": "string", "description": "Whether objects live in a namespace.", "enum": ["Cluster", "Namespaced"]},
                    "preserveUnknownFields": {"type": "boolean", "description": "Must be false: unknown fields are kept where the schema says so."},
                    "conversion": {"type": "object", "description": "How versions become one another.", "required": ["strategy"], "properties": {
                        "strategy": text("None: only apiVersion changes. Webhook is not supported."),
                        "webhook": {"type": "object", "description": "Not supported.", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                    "versions": {"type": "array", "description": "The versions of the kind.", "x-kubernetes-list-type": "atomic", "items": version_schema()},
                }},
                "status": status_schema(&names),
            },
        })
    })
}

fn version_schema() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let flag = |description: &str| json!({"type": "boolean", "description": description});
    json!({"type": "object", "required": ["name", "served", "storage"], "properties": {
        "name": text("Name of the version, such as v1."),
        "served": flag("Whether it is in the API."),
        "storage": flag("Whether objects are stored in it: true of exactly one."),
        "deprecated": flag("Whether its use is answered with a warning."),
        "deprecationWarning": text("The warning; by default one that names the version."),
        "schema": {"type": "object", "description": "What objects must be.", "properties": {
            "openAPIV3Schema": {"type": "object", "description": "A structural OpenAPI v3 schema.", "x-kubernetes-preserve-unknown-fields": true},
        }},
        "subresources": {"type": "object", "description": "Parts of an object with URLs of their own.", "properties": {
            "status": {"type": "object", "description": "Objects have a status that is written apart.", "x-kubernetes-preserve-unknown-fields": true},
            "scale": {"type": "object", "description": "Objects have a number of replicas.", "required": ["specReplicasPath", "statusReplicasPath"], "properties": {
                "specReplicasPath": text("Where the wish stands, below .spec."),
                "statusReplicasPath": text("Where the fact stands, below .status."),
                "labelSelectorPath": text("Where the label selector stands, as a text."),
            }},
        }},
        "additionalPrinterColumns": {"type": "array", "description": "Columns of tables.", "x-kubernetes-list-type": "atomic", "items": {
            "type": "object", "required": ["name", "type", "jsonPath"], "properties": {
                "name": text("Heading."),
                "type": text("integer, number, string, boolean or date."),
                "format": text("Format of the type."),
                "description": text("What it shows."),
                "priority": {"type": "integer", "format": "int32", "description": "0: always shown; more: in wide tables."},
                "jsonPath": text("Where the value stands."),
            },
        }},
        "selectableFields": {"type": "array", "description": "Fields that field selectors may use.", "x-kubernetes-list-type": "atomic", "items": {
            "type": "object", "required": ["jsonPath"], "properties": {"jsonPath": text("Where the field stands.")},
        }},
    }})
}

fn status_schema(names: &Value) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({"type": "object", "description": "What is served.", "properties": {
        "acceptedNames": {"type": "object", "description": "The names that are served.", "properties": names["properties"]},
        "storedVersions": {"type": "array", "description": "Versions in which objects may be stored.", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
        "observedGeneration": {"type": "integer", "format": "int64", "description": "The generation that was looked at."},
        "conditions": {
            "type": "array", "description": "NamesAccepted, Established, Terminating.", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "required": ["type", "status"], "properties": {
                "type": text("Which one."),
                "status": text("True, False or Unknown."),
                "reason": text("Why, in one word."),
                "message": text("Why, in one sentence."),
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status last changed."},
                "observedGeneration": {"type": "integer", "format": "int64", "description": "The generation that was looked at."},
            }},
        },
    }})
}
