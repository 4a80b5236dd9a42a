//! An OpenAPI v3 document: its schemas, and what they say of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// References that are followed from one schema to another.
const HOPS: usize = 32;

/// The schemas of one group and version.
pub(super) struct Document {
    schemas: Map<String, Value>,
}

impl Document {
    /// From what the server answers.
    pub(super) fn new(mut document: Value) -> Self {
        let schemas = document["components"]["schemas"].take();
        Self { schemas: if let Value::Object(schemas) = schemas { schemas } else { Map::new() } }
    }

    /// The schema of a kind.
    pub(super) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Value> {
        let is_it = |gvk: &Value| gvk["group"] == group && gvk["version"] == version && gvk["kind"] == kind;
        self.schemas.values().find(|schema| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.iter().any(is_it)))
    }

    /// The schema and those that it refers to, the nearest first: what `$ref` and a single `allOf` lead to.
    fn chain<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let mut chain = vec![schema];
        let mut last = schema;
        while chain.len() < HOPS {
            let next = last["$ref"].as_str().and_then(|name| self.schemas.get(name.rsplit('/').next()?)).or_else(|| last["allOf"].get(0));
            match next {
                Some(next) => chain.push(next),
                None => break,
            }
            last = next.unwrap_or(last);
        }
        chain
    }

    /// The fields of an object, of a list's items, or of a map's values, in the order of their names.
    pub(super) fn fields<'a>(&'a self, schema: &'a Value) -> BTreeMap<&'a str, &'a Value> {
        let inner = self.innermost(schema);
        let all = self.chain(inner).into_iter().filter_map(|schema| schema["properties"].as_object()).flatten();
        all.map(|(name, schema)| (name.as_str(), schema)).collect()
    }

    /// Whether an object must have a field.
    pub(super) fn is_required(&self, schema: &Value, field: &str) -> bool {
        let lists = self.chain(self.innermost(schema)).into_iter().filter_map(|schema| schema["required"].as_array()).flatten();
        lists.into_iter().any(|name| name == field)
    }

    /// Past lists and maps: the schema of what is in them.
    fn innermost<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..HOPS {
            let inner = self.chain(schema).into_iter().find_map(|part| element(part));
            match inner {
                Some(inner) => schema = inner,
                None => break,
            }
        }
        schema
    }

    /// The type as kubectl writes it: `string`, `[]Object`, `map[string]string`, `ObjectMeta`.
    pub(super) fn type_of(&self, schema: &Value) -> String {
        for part in self.chain(schema) {
            if let Some(items) = part.get("items") {
                return format!("[]{}", self.type_of(items));
            }
            if let Some(values) = part.get("additionalProperties").filter(|values| values.is_object()) {
                return format!("map[string]{}", self.type_of(values));
            }
            if let Some(name) = part["$ref"].as_str() {
                return name.rsplit(['/', '.']).next().unwrap_or(name).to_owned();
            }
            match part["type"].as_str() {
                Some("object") => return "Object".to_owned(),
                Some(type_) => return type_.to_owned(),
                None => {}
            }
        }
        "Object".to_owned()
    }

    /// What the field is, then what its items, values or the type that it refers to are.
    pub(super) fn descriptions<'a>(&'a self, schema: &'a Value) -> Vec<&'a str> {
        let mut found = Vec::new();
        let mut schema = schema;
        for _ in 0..HOPS {
            let chain = self.chain(schema);
            found.extend(chain.iter().filter_map(|part| part["description"].as_str()).filter(|text| !text.is_empty()));
            match chain.into_iter().find_map(element) {
                Some(inner) => schema = inner,
                None => break,
            }
        }
        found
    }

    /// The values that are allowed, when they are counted.
    pub(super) fn choices(&self, schema: &Value) -> Vec<String> {
        let values = self.chain(schema).into_iter().find_map(|part| part["enum"].as_array());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        values.into_iter().flatten().map(text).collect()
    }
}

/// What is in a list or a map.
fn element(schema: &Value) -> Option<&Value> {
    schema.get("items").or_else(|| schema.get("additionalProperties")).filter(|inner| inner.is_object())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A kind with a reference, a list, a map, choices, and a type that holds itself.
    pub(in super::super) fn document() -> Document {
        Document::new(json!({"components": {"schemas": {
            "io.x.v1.Meta": {"description": "All have it.", "type": "object", "properties": {"name": {"type": "string", "description": "Its name."}}},
            "dev.x.v1.Node": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/dev.x.v1.Node"}}},
            "dev.x.v1.Thing": {"description": "A thing.", "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "x.dev", "version": "v1", "kind": "Thing"}],
                "required": ["spec"],
                "properties": {
                    "metadata": {"allOf": [{"$ref": "#/components/schemas/io.x.v1.Meta"}], "description": "Metadata."},
                    "node": {"$ref": "#/components/schemas/dev.x.v1.Node"},
                    "spec": {"type": "object", "description": "What is wished.", "properties": {
                        "ports": {"type": "array", "description": "Ports.", "items": {"type": "object", "description": "A port.", "required": ["number"], "properties": {
                            "number": {"type": "integer", "description": "1 to 65535."},
                            "protocol": {"type": "string", "enum": ["TCP", "UDP"]}}}},
                        "selector": {"type": "object", "additionalProperties": {"type": "string"}},
                        "size": {"description": "An amount."}}}}}}}}))
    }

    #[test]
    fn types_are_named_as_kubectl_names_them() {
        let document = document();
        let thing = document.kind("x.dev", "v1", "Thing").unwrap();
        let spec = document.fields(thing)["spec"];
        for (schema, expected) in [
            (document.fields(thing)["metadata"], "Meta"),
            (document.fields(thing)["node"], "Node"),
            (document.fields(spec)["ports"], "[]Object"),
            (document.fields(spec)["selector"], "map[string]string"),
            (document.fields(spec)["size"], "Object"),
            (document.fields(document.fields(spec)["ports"])["number"], "integer"),
        ] {
            assert_eq!(document.type_of(schema), expected, "{schema}");
        }
        assert!(document.is_required(thing, "spec") && !document.is_required(thing, "metadata"));
        assert!(document.is_required(document.fields(spec)["ports"], "number"));
        assert_eq!(document.descriptions(document.fields(spec)["ports"]), ["Ports.", "A port."]);
        assert_eq!(document.descriptions(document.fields(thing)["metadata"]), ["Metadata.", "All have it."]);
    }
}
