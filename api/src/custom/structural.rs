//! Whether a schema of a custom kind is one that can be served: structural, and without what this server does not do.
//!
//! Source: Kubernetes' documentation of CustomResourceDefinitions, "Specifying a structural schema", and
//! `k8s.io/apiextensions-apiserver/pkg/apiserver/schema`.

use serde_json::{Map, Value};

use super::judge::judge;
use super::keywords::{Form, MAX_DEPTH, MAX_ERRORS, OF_VALUES, each_below, form};
use super::node::{Node, compile, texts};
use super::walk;
use crate::validate::{FieldError, FieldErrorReason};

/// Most places in a schema.
const MAX_PLACES: usize = 20_000;

/// Everything that keeps a schema from being served.
pub(super) fn check(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut check = Check { errors: Vec::new(), places: 0 };
    if !schema.is_object() {
        check.push(path, FieldErrorReason::Required, "a schema is required");
        return check.errors;
    }
    check.place(schema, path, Place { depth: 0, of_value: false });
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        check.push(&format!("{path}.type"), FieldErrorReason::Invalid, "must be object at the root");
    }
    check.root(schema, path);
    if check.errors.is_empty() {
        // Only a schema that is sound can be asked for what it takes.
        check.skeletons(schema, &[schema], path, 0);
        check.defaults(schema, path);
    }
    check.errors
}

#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    of_value: bool,
}

struct Check {
    errors: Vec<FieldError>,
    places: usize,
}

impl Check {
    fn push(&mut self, path: &str, reason: FieldErrorReason, message: &str) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::new(path, reason, message));
        }
    }

    fn forbid(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Forbidden, message);
    }

    /// One place, and all below it.
    fn place(&mut self, schema: &Value, path: &str, place: Place) {
        self.places += 1;
        if self.places == MAX_PLACES || place.depth > MAX_DEPTH {
            let message = format!("has more than {MAX_PLACES} places, or more than {MAX_DEPTH} levels");
            self.push(path, FieldErrorReason::Invalid, &message);
        }
        if self.places >= MAX_PLACES || place.depth > MAX_DEPTH {
            return;
        }
        let Some(node) = schema.as_object() else { return self.push(path, FieldErrorReason::TypeInvalid, "must be a schema") };
        for (name, value) in node.iter().filter(|(_, value)| !value.is_null()) {
            let below = format!("{path}.{name}");
            match form(name) {
                None => self.push(&below, FieldErrorReason::Unknown, &format!("unknown field \"{below}\"")),
                Some(Form::Refused(why)) => self.forbid(&below, why),
                Some(form) => self.keyword(form, value, &below, place, is_junction(name)),
            }
        }
        if place.of_value {
            self.value_only(node, path);
        } else {
            self.structure(node, path);
        }
        self.values(node, path);
    }

    fn keyword(&mut self, form: Form, value: &Value, path: &str, place: Place, junction: bool) {
        let is_texts = |value: &Value| value.as_array().is_some_and(|items| items.iter().all(Value::is_string));
        let (fits, wanted) = match form {
            Form::Text => (value.is_string(), "a string"),
            Form::Flag => (value.is_boolean(), "a boolean"),
            Form::Number => (value.is_number(), "a number"),
            Form::Count => (value.is_u64(), "an integer of 0 or more"),
            Form::Texts => (is_texts(value), "a list of strings"),
            Form::Anys | Form::Nodes => (value.is_array(), "a list"),
            Form::Node => (value.is_object(), "a schema"),
            Form::NodesByName => (value.is_object(), "an object of schemas"),
            Form::NodeOrFlag => (value.is_object() || value.is_boolean(), "a schema or a boolean"),
            Form::Any | Form::Refused(_) => (true, ""),
        };
        if !fits {
            return self.push(path, FieldErrorReason::TypeInvalid, &format!("must be {wanted}"));
        }
        let below = Place { depth: place.depth + 1, of_value: place.of_value || junction };
        match (form, value) {
            (Form::Node, node) | (Form::NodeOrFlag, node @ Value::Object(_)) => self.place(node, path, below),
            (Form::Nodes, Value::Array(nodes)) => {
                for (index, node) in nodes.iter().enumerate() {
                    self.place(node, &format!("{path}[{index}]"), below);
                }
            }
            (Form::NodesByName, Value::Object(nodes)) => {
                for (name, node) in nodes {
                    self.place(node, &format!("{path}[{name}]"), below);
                }
            }
            _ => {}
        }
    }

    /// Below `allOf` and its like, only what says what a value must be.
    fn value_only(&mut self, node: &Map<String, Value>, path: &str) {
        let is_type_of_either = node.len() == 1 && matches!(node.get("type").and_then(Value::as_str), Some("integer" | "string"));
        if is_type_of_either {
            // Whether the place takes both is looked at where the alternative stands.
            return;
        }
        for name in node
            .keys()
            .filter(|name| !OF_VALUES.contains(&name.as_str()) && form(name).is_some_and(|form| !matches!(form, Form::Refused(_))))
        {
            self.forbid(&format!("{path}.{name}"), "must be undefined below allOf, anyOf, oneOf and not, to be structural");
        }
    }

    /// A place has one type, and what goes with it.
    fn structure(&mut self, node: &Map<String, Value>, path: &str) {
        let flag = |name: &str| node.get(name) == Some(&Value::Bool(true));
        let (either, open) = (flag("x-kubernetes-int-or-string"), flag("x-kubernetes-preserve-unknown-fields"));
        let type_ = node.get("type").and_then(Value::as_str).unwrap_or_default();
        let at = |name: &str| format!("{path}.{name}");
        match type_ {
            "" if !either && !open => self.push(&at("type"), FieldErrorReason::Required, "must not be empty, to be structural"),
            "null" => self.forbid(&at("type"), "use nullable in its place"),
            "" | "object" | "array" | "string" | "integer" | "number" | "boolean" => {}
            _ => {
                let message = "must be one of object, array, string, integer, number, boolean";
                self.push(&at("type"), FieldErrorReason::NotSupported, message);
            }
        }
        if either && !type_.is_empty() {
            self.forbid(&at("type"), "must be empty where x-kubernetes-int-or-string is true");
        }
        if node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            self.push(&at("x-kubernetes-preserve-unknown-fields"), FieldErrorReason::NotSupported, "must be true or undefined");
        }
        if flag("x-kubernetes-embedded-resource") && (type_ != "object" || (!open && !node.contains_key("properties"))) {
            let message = "needs type object, and properties or x-kubernetes-preserve-unknown-fields";
            self.push(&at("x-kubernetes-embedded-resource"), FieldErrorReason::Invalid, message);
        }
        if type_ == "array" && !node.contains_key("items") {
            self.push(&at("items"), FieldErrorReason::Required, "must be given of an array");
        }
        for (name, wanted) in [("properties", "object"), ("additionalProperties", "object"), ("items", "array")] {
            if node.contains_key(name) && type_ != wanted && !(type_.is_empty() && open) {
                self.forbid(&at(name), &format!("needs type {wanted}"));
            }
        }
        match node.get("additionalProperties") {
            Some(Value::Bool(false)) => self.forbid(&at("additionalProperties"), "must not be false: unknown fields are pruned anyway"),
            Some(_) if node.contains_key("properties") => self.forbid(&at("additionalProperties"), "cannot stand beside properties"),
            _ => {}
        }
        self.either(node, either, path);
        self.merging(node, type_, path);
    }

    /// `type` may stand in an alternative only where it says over what `x-kubernetes-int-or-string` says.
    fn either(&mut self, node: &Map<String, Value>, either: bool, path: &str) {
        let names_types =
            |list: Option<&Value>| list.and_then(Value::as_array).into_iter().flatten().any(|node| node.get("type").is_some());
        let nested = node.get("allOf").and_then(Value::as_array).into_iter().flatten().any(|part| names_types(part.get("anyOf")));
        for (name, found) in [
            ("anyOf", names_types(node.get("anyOf")) && !either),
            ("allOf", (nested && !either) || names_types(node.get("allOf"))),
            ("oneOf", names_types(node.get("oneOf"))),
            ("not", node.get("not").is_some_and(|node| node.get("type").is_some())),
        ] {
            if found {
                self.forbid(
                    &format!("{path}.{name}"),
                    "type must be undefined below it, unless x-kubernetes-int-or-string is true and it is anyOf",
                );
            }
        }
    }

    fn merging(&mut self, node: &Map<String, Value>, type_: &str, path: &str) {
        let at = |name: &str| format!("{path}.{name}");
        let text = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("x-kubernetes-map-type") {
            "" => {}
            "atomic" | "granular" if type_ == "object" => {}
            "atomic" | "granular" => self.forbid(&at("x-kubernetes-map-type"), "is for objects only"),
            _ => self.push(&at("x-kubernetes-map-type"), FieldErrorReason::NotSupported, "must be granular or atomic"),
        }
        let list = text("x-kubernetes-list-type");
        if !list.is_empty() && type_ != "array" {
            self.forbid(&at("x-kubernetes-list-type"), "is for arrays only");
        }
        if node.contains_key("x-kubernetes-list-map-keys") && list != "map" {
            self.forbid(&at("x-kubernetes-list-map-keys"), "needs x-kubernetes-list-type map");
        }
        let items = node.get("items").unwrap_or(&Value::Null);
        match list {
            "" | "atomic" => {}
            "set" => {
                let nested = matches!(items.get("type").and_then(Value::as_str), Some("object" | "array"));
                let atomic = ["x-kubernetes-map-type", "x-kubernetes-list-type"]
                    .iter()
                    .any(|name| items.get(name).is_some_and(|value| value == "atomic"));
                if (nested && !atomic) || items.get("nullable") == Some(&Value::Bool(true)) {
                    self.push(&at("items"), FieldErrorReason::Invalid, "the items of a set must be scalars, or atomic, and not nullable");
                }
            }
            "map" => self.map_keys(node, items, path),
            _ => self.push(&at("x-kubernetes-list-type"), FieldErrorReason::NotSupported, "must be atomic, set or map"),
        }
    }

    fn map_keys(&mut self, node: &Map<String, Value>, items: &Value, path: &str) {
        let at = format!("{path}.x-kubernetes-list-map-keys");
        let keys = texts(node.get("x-kubernetes-list-map-keys"));
        if keys.is_empty() {
            return self.push(&at, FieldErrorReason::Required, "must be given of a list of type map");
        }
        if items.get("type").is_none_or(|type_| type_ != "object") {
            self.push(&format!("{path}.items.type"), FieldErrorReason::Invalid, "must be object in a list of type map");
        }
        let required = texts(items.get("required"));
        for (index, key) in keys.iter().enumerate() {
            let property = items.get("properties").and_then(|properties| properties.get(key));
            let scalar = property
                .is_some_and(|node| matches!(node.get("type").and_then(Value::as_str), Some("string" | "integer" | "number" | "boolean")));
            let at = format!("{at}[{index}]");
            if keys[..index].contains(key) {
                self.push(&at, FieldErrorReason::Duplicate, "is there twice");
            }
            match property {
                None => self.push(&at, FieldErrorReason::Invalid, "must name a property of the items"),
                Some(_) if !scalar => self.push(&at, FieldErrorReason::Invalid, "must name a scalar property of the items"),
                Some(node) if node.get("default").is_none() && !required.contains(key) => {
                    self.push(&at, FieldErrorReason::Required, "must name a property that is required, or has a default");
                }
                Some(_) => {}
            }
        }
    }

    fn values(&mut self, node: &Map<String, Value>, path: &str) {
        if node.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.forbid(&format!("{path}.uniqueItems"), "cannot be true; use x-kubernetes-list-type: set");
        }
        if let Some(Err(message)) = node.get("pattern").and_then(Value::as_str).map(compile) {
            self.push(&format!("{path}.pattern"), FieldErrorReason::Invalid, &message);
        }
        for name in ["exclusiveMinimum", "exclusiveMaximum"] {
            let bound = if name == "exclusiveMinimum" { "minimum" } else { "maximum" };
            if node.get(name) == Some(&Value::Bool(true)) && !node.contains_key(bound) {
                self.push(&format!("{path}.{bound}"), FieldErrorReason::Required, &format!("must be given where {name} is true"));
            }
        }
        if node.get("multipleOf").and_then(Value::as_f64).is_some_and(|step| step <= 0.0) {
            self.push(&format!("{path}.multipleOf"), FieldErrorReason::Invalid, "must be more than 0");
        }
    }

    /// At the root, `apiVersion`, `kind` and `metadata` are what they are.
    fn root(&mut self, schema: &Value, path: &str) {
        for (name, wanted) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
            let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) else { continue };
            if property.get("type").is_some_and(|type_| type_ != wanted) {
                self.push(&format!("{path}.properties[{name}].type"), FieldErrorReason::Invalid, &format!("must be {wanted}"));
            }
            let below = property.get("properties").and_then(Value::as_object).into_iter().flatten();
            for (field, _) in below.filter(|(field, _)| !matches!(field.as_str(), "name" | "generateName")) {
                let message = "nothing but name and generateName may be specified of metadata: the rest is known";
                self.forbid(&format!("{path}.properties[{name}].properties[{field}]"), message);
            }
        }
        if schema.get("default").is_some() {
            self.forbid(&format!("{path}.default"), "the root has no default");
        }
    }

    /// What is said of a value must be about something that the structure has.
    fn skeletons(&mut self, schema: &Value, places: &[&Value], path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            for (index, part) in schema.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
                self.completed(part, places, &format!("{path}.{name}[{index}]"), depth + 1);
            }
        }
        if let Some(part) = schema.get("not") {
            self.completed(part, places, &format!("{path}.not"), depth + 1);
        }
        for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.skeletons(child, &[child], &format!("{path}.properties[{name}]"), depth + 1);
        }
        for name in ["items", "additionalProperties"] {
            if let Some(child) = schema.get(name).filter(|child| child.is_object()) {
                self.skeletons(child, &[child], &format!("{path}.{name}"), depth + 1);
            }
        }
    }

    fn completed(&mut self, part: &Value, places: &[&Value], path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        for (name, child) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let below = format!("{path}.properties[{name}]");
            let found: Vec<&Value> = places
                .iter()
                .filter_map(|place| {
                    place
                        .get("properties")
                        .and_then(|all| all.get(name))
                        .or_else(|| place.get("additionalProperties").filter(|all| all.is_object()))
                })
                .collect();
            if found.is_empty() {
                self.push(
                    &below,
                    FieldErrorReason::Required,
                    "must also be defined in the structure outside of allOf, anyOf, oneOf and not",
                );
            } else {
                self.completed(child, &found, &below, depth + 1);
            }
        }
        if let Some(child) = part.get("items") {
            let found: Vec<&Value> = places.iter().filter_map(|place| place.get("items")).collect();
            if found.is_empty() {
                self.push(&format!("{path}.items"), FieldErrorReason::Required, "must also be defined in the structure");
            } else {
                self.completed(child, &found, &format!("{path}.items"), depth + 1);
            }
        }
        let nested = Value::Object(
            part.as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| is_junction(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        );
        self.skeletons(&nested, places, path, depth + 1);
    }

    /// A default must be what its place takes.
    fn defaults(&mut self, schema: &Value, path: &str) {
        let mut found = Vec::new();
        each_below(schema, path, 0, &mut |node, path, _| {
            if let Some(default) = node.get("default") {
                found.push((node.clone(), path.to_owned(), default.clone()));
            }
        });
        for (node, path, default) in found {
            let at = format!("{path}.default");
            let place = Node::of(&Value::Object(node));
            let mut whole = default.clone();
            walk::complete(&place, &mut whole, false);
            let mut errors = Vec::new();
            judge(&place, &whole, &at, &mut errors);
            let object = Value::Object(Map::from_iter([("spec".to_owned(), default)]));
            let root = Node { type_: "object".to_owned(), properties: [("spec".to_owned(), place)].into(), ..Node::default() };
            errors.extend(walk::unknown(&root, &object).into_iter().map(|error| FieldError {
                path: error.path.replacen("spec", &at, 1),
                reason: FieldErrorReason::Invalid,
                ..error
            }));
            self.errors.extend(errors.into_iter().take(MAX_ERRORS.saturating_sub(self.errors.len())));
        }
    }
}

fn is_junction(name: &str) -> bool {
    matches!(name, "allOf" | "anyOf" | "oneOf" | "not")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn first(spec: &Value) -> String {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        check(&schema, "s")
            .first()
            .map(|error| error.path.strip_prefix("s.properties[spec]").unwrap_or(&error.path).to_owned())
            .unwrap_or_default()
    }

    #[test]
    fn sound_schemas_are_taken() {
        for good in [
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!({"x-kubernetes-int-or-string": true}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^\\d+%?$"}),
            json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}]}),
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "additionalProperties": true}),
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}}),
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"properties": {"b": {"pattern": "x"}}}]}),
            json!({"type": "object", "default": {}, "properties": {"a": {"type": "integer", "default": 1, "minimum": 1}}}),
        ] {
            assert_eq!(first(&good), "", "{good}");
        }
    }

    #[test]
    fn what_is_not_structural_is_named() {
        for (bad, path) in [
            (json!({}), ".type"),
            (json!({"type": "thing"}), ".type"),
            (json!({"type": "null"}), ".type"),
            (json!({"type": "object", "propertie": {}}), ".propertie"),
            (json!({"type": "object", "properties": []}), ".properties"),
            (json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a > 1"}]}), ".x-kubernetes-validations"),
            (json!({"$ref": "#/x", "type": "object"}), ".$ref"),
            (json!({"type": "object", "additionalProperties": false}), ".additionalProperties"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"a": {"type": "string"}}}),
                ".additionalProperties",
            ),
            (json!({"type": "array"}), ".items"),
            (json!({"type": "array", "items": [{"type": "string"}]}), ".items"),
            (json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}), ".uniqueItems"),
            (json!({"type": "string", "pattern": "("}), ".pattern"),
            (json!({"type": "string", "x-kubernetes-int-or-string": true}), ".type"),
            (json!({"type": "string", "anyOf": [{"type": "integer"}, {"type": "string"}]}), ".anyOf"),
            (json!({"type": "object", "allOf": [{"description": "x"}]}), ".allOf[0].description"),
            (json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}), ".anyOf[0].properties[a]"),
            (json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}), ".x-kubernetes-preserve-unknown-fields"),
            (json!({"type": "object", "x-kubernetes-embedded-resource": true}), ".x-kubernetes-embedded-resource"),
            (json!({"type": "object", "x-kubernetes-list-type": "set"}), ".x-kubernetes-list-type"),
            (json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}), ".items"),
            (json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}), ".x-kubernetes-list-map-keys"),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
                ".x-kubernetes-list-map-keys[0]",
            ),
            (json!({"type": "integer", "default": "x"}), ".default"),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}}), ".default.b"),
            (json!({"type": "number", "exclusiveMinimum": true}), ".minimum"),
        ] {
            assert_eq!(first(&bad), path, "{bad}");
        }
        assert_eq!(
            check(
                &json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s"
            )
            .len(),
            1
        );
        assert_eq!(check(&json!({"type": "string"}), "s")[0].path, "s.type");
        let deep = (0..70).fold(json!({"type": "string"}), |inner, _| json!({"type": "object", "properties": {"a": inner}}));
        assert!(check(&deep, "s").iter().any(|error| error.message.contains("levels")));
    }
}
