//! Schemas of the cases.

use serde_json::{Value, json};

fn list(keys: &[&str], items: &Value) -> Value {
    let keys: Value = keys.iter().copied().collect();
    json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": {"type": "object", "properties": items}})
}

fn set(of: &str) -> Value {
    json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": of}})
}

fn map(of: &Value) -> Value {
    json!({"type": "object", "additionalProperties": of})
}

/// A schema of a whole object by its name in the tables.
pub(crate) fn named(name: &str) -> Value {
    let (text, number) = (json!({"type": "string"}), json!({"type": "integer"}));
    let pair = json!({"name": text, "value": number});
    let strings = map(&text);
    let tool = json!({"name": text, "value": number, "other": number, "id": number});
    let whole = |schema: Value| {
        let mut schema = schema;
        schema["x-kubernetes-map-type"] = json!("atomic");
        schema
    };
    let structs = json!({"type": "object", "properties": {"size": number, "word": text}});
    let properties = match name {
        "free" => return json!({"x-kubernetes-preserve-unknown-fields": true}),
        "preserving" => {
            return json!({"x-kubernetes-preserve-unknown-fields": true, "properties": {"size": number}, "additionalProperties": text});
        }
        "leaves" => json!({"size": {"type": "number"}, "word": text, "on": {"type": "boolean"}}),
        "things" => {
            json!({"tags": set("string"), "words": {"type": "array", "items": text}, "free": &strings, "whole": whole(strings)})
        }
        "overrides" => json!({
            "split": {"type": "object", "properties": pair}, "joined": whole(json!({"type": "object", "properties": pair})),
            "list": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "object", "properties": pair}}, "numbers": set("integer"),
        }),
        "tools" => json!({"tools": list(&["name"], &tool), "marks": set("integer")}),
        "tools-id" => json!({"tools": list(&["name", "id"], &tool)}),
        "tools-default-id" => {
            let mut tool = tool;
            tool["id"]["default"] = json!(1);
            json!({"tools": list(&["name", "id"], &tool)})
        }
        "ports" => {
            let port = json!({"port": number, "protocol": {"type": "string", "default": "TCP"}, "name": text});
            json!({"ports": list(&["port", "protocol"], &port)})
        }
        "book" => {
            let sentence = json!({"page": {"type": "number", "default": 2.0}, "line": {"type": "integer", "default": 3}, "text": text});
            let sentences = list(&["page", "line"], &sentence);
            let chapter = json!({"chapter": {"type": "integer", "default": 1}, "section": {"type": "string", "default": "A"}, "sentences": sentences});
            json!({"book": list(&["chapter", "section"], &chapter)})
        }
        "nested" => {
            let free = json!({"x-kubernetes-preserve-unknown-fields": true});
            json!({
                "lists": list(&["name"], &json!({"name": text, "value": set("string")})),
                "maps": list(&["name"], &json!({"name": text, "value": strings})),
                "sets": map(&set("string")), "deep": map(&map(&free)), "struct": {"type": "object", "properties": pair},
            })
        }
        "struct" => json!({"struct": structs}),
        "struct-atomic" => json!({"struct": whole(structs)}),
        other => panic!("no schema {other:?}"),
    };
    json!({"type": "object", "properties": properties})
}
