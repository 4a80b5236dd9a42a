//! Which CustomResourceDefinitions are taken.
//!
//! Source: `k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation`.

use serde_json::Value;

use super::names::is_established;
use super::node::{Node, texts};
use super::path::{FieldPath, JsonPath};
use super::structural;
use crate::meta;
use crate::validate::{FieldError, FieldErrorReason, name, plain};

/// Most versions of a kind.
const MAX_VERSIONS: usize = 32;
/// Most selectable fields of a version, as in Kubernetes.
const MAX_SELECTABLE: usize = 8;
/// Most columns of a version.
const MAX_COLUMNS: usize = 64;
/// Says that somebody approved of a group that is Kubernetes' own.
const APPROVED: &str = "api-approved.kubernetes.io";
/// Groups that this server serves itself.
const BUILT_IN: [&str; 5] = [super::GROUP, "authentication.k8s.io", "authorization.k8s.io", "coordination.k8s.io", meta::GROUP];

/// Whether kinds can be added to a group: not to one of this server's own.
pub fn is_open_group(group: &str) -> bool {
    group.contains('.') && !BUILT_IN.contains(&group) && !group.ends_with(&format!(".{}", meta::GROUP))
}

/// Everything wrong with a definition; `old` is the stored one on an update.
pub(super) fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut check = Check(plain(new, old, false));
    check.names(new);
    check.group(new);
    check.versions(new);
    check.conversion(new);
    check.stored_versions(new);
    if let Some(old) = old.filter(|old| is_established(old)) {
        for (pointer, path) in [
            ("/spec/group", "spec.group"),
            ("/spec/scope", "spec.scope"),
            ("/spec/names/plural", "spec.names.plural"),
            ("/spec/names/kind", "spec.names.kind"),
        ] {
            if old.pointer(pointer) != new.pointer(pointer) {
                check.invalid(path, "field is immutable once the kind is established");
            }
        }
    }
    check.0
}

struct Check(Vec<FieldError>);

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Check {
    fn push(&mut self, path: &str, reason: FieldErrorReason, message: &str) {
        self.0.push(FieldError::new(path, reason, message));
    }
    fn invalid(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Invalid, message);
    }
    fn required(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Required, message);
    }

    fn label(&mut self, path: &str, text: &str) {
        if let Err(message) = name::label(text) {
            self.invalid(path, &message);
        } else if text.starts_with(|char: char| char.is_ascii_digit()) {
            self.invalid(path, "must start with a letter");
        }
    }

    fn names(&mut self, new: &Value) {
        let (plural, group) = (text(new, "/spec/names/plural"), text(new, "/spec/group"));
        let wanted = format!("{plural}.{group}");
        if text(new, "/metadata/name") != wanted {
            self.invalid("metadata.name", &format!("must be spec.names.plural, a dot and spec.group: {wanted:?}"));
        }
        self.label("spec.names.plural", plural);
        self.label("spec.names.singular", text(new, "/spec/names/singular"));
        let (kind, list) = (text(new, "/spec/names/kind"), text(new, "/spec/names/listKind"));
        for (path, name) in [("spec.names.kind", kind), ("spec.names.listKind", list)] {
            self.label(path, &name.to_lowercase());
        }
        if !kind.is_empty() && kind == list {
            self.invalid("spec.names.listKind", "must not be the same as the kind");
        }
        for field in ["shortNames", "categories"] {
            for (index, name) in texts(new.pointer(&format!("/spec/names/{field}"))).iter().enumerate() {
                self.label(&format!("spec.names.{field}[{index}]"), name);
            }
        }
    }

    fn group(&mut self, new: &Value) {
        let group = text(new, "/spec/group");
        if let Err(message) = name::subdomain(group) {
            return self.invalid("spec.group", &message);
        }
        if !group.contains('.') {
            return self.invalid("spec.group", "must be a domain with at least one dot");
        }
        if !is_open_group(group) {
            return self.push("spec.group", FieldErrorReason::Forbidden, "is a group of this server's own kinds; use a domain of yours");
        }
        let protected = ["k8s.io", "kubernetes.io"].iter().any(|owner| group == *owner || group.ends_with(&format!(".{owner}")));
        let approved = new.pointer("/metadata/annotations").and_then(|all| all.get(APPROVED)).and_then(Value::as_str).unwrap_or_default();
        if protected && approved.is_empty() {
            let message = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            self.required("metadata.annotations[api-approved.kubernetes.io]", message);
        }
    }

    fn versions(&mut self, new: &Value) {
        let versions = new.pointer("/spec/versions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if versions.is_empty() {
            return self.required("spec.versions", "at least one version is required");
        }
        if versions.len() > MAX_VERSIONS {
            return self.invalid("spec.versions", &format!("must have at most {MAX_VERSIONS} versions"));
        }
        if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
            self.invalid("spec.versions", "must have exactly one version marked as storage version");
        }
        if !versions.iter().any(|version| version["served"] == true) {
            self.invalid("spec.versions", "must have at least one version that is served");
        }
        for (index, version) in versions.iter().enumerate() {
            let path = format!("spec.versions[{index}]");
            self.label(&format!("{path}.name"), text(version, "/name"));
            if versions[..index].iter().any(|other| other["name"] == version["name"]) {
                self.push(&format!("{path}.name"), FieldErrorReason::Duplicate, "is there twice");
            }
            self.version(version, &path);
        }
        if new.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
            self.invalid("spec.preserveUnknownFields", "must be false; use x-kubernetes-preserve-unknown-fields in the schema");
        }
    }

    fn version(&mut self, version: &Value, path: &str) {
        match version.pointer("/schema/openAPIV3Schema") {
            None => self.required(&format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
            Some(schema) => self.0.extend(structural::check(schema, &format!("{path}.schema.openAPIV3Schema"))),
        }
        if let Some(scale) = version.pointer("/subresources/scale") {
            self.scale(scale, &format!("{path}.subresources.scale"));
        }
        if version.get("deprecationWarning").is_some() && version["deprecated"] != true {
            self.invalid(&format!("{path}.deprecationWarning"), "can only be set when deprecated is true");
        }
        self.columns(version, &format!("{path}.additionalPrinterColumns"));
        self.selectable(version, &format!("{path}.selectableFields"));
    }

    fn scale(&mut self, scale: &Value, path: &str) {
        for (field, roots, needed) in [
            ("specReplicasPath", &["spec"][..], true),
            ("statusReplicasPath", &["status"], true),
            ("labelSelectorPath", &["spec", "status"], false),
        ] {
            let at = format!("{path}.{field}");
            match scale.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                None if needed => self.required(&at, "must not be empty"),
                None => {}
                Some(text) => match FieldPath::parse(text) {
                    Err(message) => self.invalid(&at, message),
                    Ok(path) if path.steps().len() < 2 || !roots.contains(&path.steps()[0].as_str()) => {
                        self.invalid(&at, &format!("must be below .{}", roots.join(" or .")));
                    }
                    Ok(_) => {}
                },
            }
        }
    }

    fn columns(&mut self, version: &Value, path: &str) {
        let columns = version.get("additionalPrinterColumns").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if columns.len() > MAX_COLUMNS {
            return self.invalid(path, &format!("must have at most {MAX_COLUMNS} columns"));
        }
        for (index, column) in columns.iter().enumerate() {
            let at = |field: &str| format!("{path}[{index}].{field}");
            if text(column, "/name").is_empty() {
                self.required(&at("name"), "must not be empty");
            }
            if !matches!(text(column, "/type"), "integer" | "number" | "string" | "boolean" | "date") {
                let message = "must be one of integer, number, string, boolean, date";
                self.push(&at("type"), FieldErrorReason::NotSupported, message);
            }
            if let Err(message) = JsonPath::parse(text(column, "/jsonPath")) {
                self.invalid(&at("jsonPath"), &message);
            }
            let known = ["", "int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
            if !known.contains(&text(column, "/format")) {
                self.push(&at("format"), FieldErrorReason::NotSupported, &format!("must be one of {}", known[1..].join(", ")));
            }
        }
    }

    fn selectable(&mut self, version: &Value, path: &str) {
        let fields = version.get("selectableFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if fields.len() > MAX_SELECTABLE {
            return self.invalid(path, &format!("must have at most {MAX_SELECTABLE} fields"));
        }
        let root = version.pointer("/schema/openAPIV3Schema").map(Node::of).unwrap_or_default();
        for (index, field) in fields.iter().enumerate() {
            let at = format!("{path}[{index}].jsonPath");
            let text = text(field, "/jsonPath");
            if fields[..index].contains(field) {
                self.push(&at, FieldErrorReason::Duplicate, "is there twice");
            }
            match FieldPath::parse(text) {
                Err(message) => self.invalid(&at, message),
                Ok(path) if path.steps().first().is_some_and(|step| step == "metadata") => {
                    self.invalid(&at, "must not point into metadata");
                }
                Ok(path) => {
                    let found = path.steps().iter().try_fold(&root, |node, step| node.properties.get(step));
                    if !found.is_some_and(|node| matches!(node.type_.as_str(), "string" | "integer" | "boolean")) {
                        self.invalid(&at, "must point to a string, integer or boolean of the schema");
                    }
                }
            }
        }
    }

    fn conversion(&mut self, new: &Value) {
        match text(new, "/spec/conversion/strategy") {
            "None" if new.pointer("/spec/conversion/webhook").is_some() => {
                self.push("spec.conversion.webhook", FieldErrorReason::Forbidden, "should not be set when strategy is not set to Webhook");
            }
            "None" => {}
            "Webhook" => {
                let message = "webhooks are not called by this server; with None, objects keep their fields and only apiVersion changes";
                self.push("spec.conversion.strategy", FieldErrorReason::NotSupported, message);
            }
            _ => self.push("spec.conversion.strategy", FieldErrorReason::NotSupported, "must be None"),
        }
    }

    fn stored_versions(&mut self, new: &Value) {
        let names: Vec<&str> =
            new.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten().map(|version| text(version, "/name")).collect();
        for (index, stored) in texts(new.pointer("/status/storedVersions")).iter().enumerate() {
            if !names.contains(&stored.as_str()) {
                self.invalid(
                    &format!("status.storedVersions[{index}]"),
                    "missing from spec.versions; objects may still be stored in this version",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::custom;
    use crate::registry::find_word;

    fn definition() -> serde_json::Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}, "free": {"type": "object"}}}}}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}], "selectableFields": [{"jsonPath": ".spec.size"}]}]}})
    }

    fn first(pointer: &str, value: serde_json::Value) -> String {
        let kind = find_word("crd").unwrap();
        let mut object = definition();
        match object.pointer_mut(pointer) {
            Some(at) => *at = value,
            None => {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[field] = value;
            }
        }
        let object = kind.rules.normalize(object).unwrap();
        kind.rules.validate(&object, None).first().map(|error| error.path.clone()).unwrap_or_default()
    }

    #[test]
    fn each_rule_names_its_field() {
        let v = "/spec/versions/0";
        for (pointer, value, path) in [
            ("/metadata/labels", json!({"a": "b"}), ""),
            ("/metadata/name", json!("x.example.com"), "metadata.name"),
            ("/spec/names/plural", json!("Widgets"), "metadata.name"),
            ("/spec/names/listKind", json!("Widget"), "spec.names.listKind"),
            ("/spec/names/shortNames", json!(["A"]), "spec.names.shortNames[0]"),
            ("/spec/versions", json!([]), "spec.versions"),
            ("/spec/versions/0/served", json!(false), "spec.versions"),
            ("/spec/versions/0/storage", json!(false), "spec.versions"),
            ("/spec/versions/0/name", json!("V1"), "spec.versions[0].name"),
            ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema"),
            (
                "/spec/versions/0/subresources/scale/specReplicasPath",
                json!(".size"),
                "spec.versions[0].subresources.scale.specReplicasPath",
            ),
            ("/spec/versions/0/additionalPrinterColumns/0/jsonPath", json!("x["), "spec.versions[0].additionalPrinterColumns[0].jsonPath"),
            ("/spec/versions/0/additionalPrinterColumns/0/type", json!("x"), "spec.versions[0].additionalPrinterColumns[0].type"),
            ("/spec/versions/0/selectableFields/0/jsonPath", json!(".spec.free"), "spec.versions[0].selectableFields[0].jsonPath"),
            ("/spec/conversion", json!({"strategy": "Webhook"}), "spec.conversion.strategy"),
            ("/spec/preserveUnknownFields", json!(true), "spec.preserveUnknownFields"),
            ("/status", json!({"storedVersions": ["v0"]}), "status.storedVersions[0]"),
        ] {
            assert_eq!(first(pointer, value.clone()), path, "{pointer} {value}, below {v}");
        }
        for (group, path) in [
            ("core", "spec.group"),
            ("gantry.dev", "spec.group"),
            ("x.gantry.dev", "spec.group"),
            ("coordination.k8s.io", "spec.group"),
            ("new.k8s.io", "metadata.annotations[api-approved.kubernetes.io]"),
            ("example.org", ""),
        ] {
            let kind = find_word("crd").unwrap();
            let mut object = definition();
            object["spec"]["group"] = json!(group);
            object["metadata"]["name"] = json!(format!("widgets.{group}"));
            let object = kind.rules.normalize(object).unwrap();
            assert_eq!(kind.rules.validate(&object, None).first().map_or("", |error| &error.path), path, "{group}");
        }
    }

    #[test]
    fn names_are_filled_in_and_frozen_once_established() {
        let kind = find_word("crd").unwrap();
        let mut object = kind.rules.normalize(definition()).unwrap();
        assert_eq!(object["spec"]["names"]["singular"], "widget");
        assert_eq!(object["spec"]["names"]["listKind"], "WidgetList");
        assert_eq!(object["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(kind.rules.normalize(object.clone()).unwrap(), object);
        object["status"] = custom::settle(&object, &[], "2026-01-01T00:00:00Z");
        let mut changed = object.clone();
        changed["spec"]["scope"] = json!("Cluster");
        assert_eq!(kind.rules.validate(&changed, Some(&object))[0].path, "spec.scope");
        let unknown = json!({"spec": {"nope": 1, "versions": [{"schema": {"openAPIV3Schema": {"propertie": {}, "properties": {"a": {"x-kubernetes-y": 1}}}}}]}});
        let mut found: Vec<String> =
            kind.rules.check(&unknown).into_iter().filter(|e| e.reason.as_str() == "FieldValueUnknown").map(|e| e.path).collect();
        found.sort();
        let at = "spec.versions[0].schema.openAPIV3Schema";
        assert_eq!(found, ["spec.nope".to_owned(), format!("{at}.propertie"), format!("{at}.properties[a].x-kubernetes-y")]);
    }

    #[test]
    fn a_definition_brings_its_kinds() {
        let object = find_word("crd").unwrap().rules.normalize(definition()).unwrap();
        let kinds = custom::kinds(&object);
        let kind = &kinds[0];
        assert_eq!((kind.kind.as_str(), kind.list_kind.as_str(), kind.api_version().as_str()), ("Widget", "WidgetList", "example.com/v1"));
        assert!(kind.has_status && kind.namespaced && !kind.has_age && kind.is_called("widgets.example.com"));
        assert_eq!(kind.columns[0].cell(&json!({"spec": {"size": 4}}), jiff::Timestamp::UNIX_EPOCH), 4);
        let filled = kind.rules.normalize(json!({"metadata": {"name": "a"}, "spec": {"wrong": 1}})).unwrap();
        assert_eq!(filled["spec"], json!({"size": 1}));
        assert_eq!(kind.rules.validate(&json!({"metadata": {"name": "a"}, "spec": {"size": "x"}}), None)[0].path, "spec.size");
    }
}
