//! Whether custom objects are what their schema asks for.

use serde_json::{Map, Value};

use super::node::{Limits, List, Node};
use crate::schema::type_name;
use crate::validate::{FieldError, FieldErrorReason};

/// Most errors that are told of one object.
const MAX_ERRORS: usize = 200;
/// Deepest nesting that is looked into: objects that are deeper are refused before.
const MAX_DEPTH: usize = 2 * crate::schema::MAX_DEPTH;

/// Everything wrong with a value, each with its path.
pub(crate) fn judge(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    Judge { errors, depth: 0 }.value(node, value, path);
}

struct Judge<'a> {
    errors: &'a mut Vec<FieldError>,
    depth: usize,
}

impl Judge<'_> {
    fn push(&mut self, path: &str, reason: FieldErrorReason, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::new(path, reason, message));
        }
    }

    fn wrong(&mut self, path: &str, value: &Value, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            let shown: String = value.to_string().chars().take(64).collect();
            self.errors.push(FieldError { value: Some(shown), ..FieldError::new(path, FieldErrorReason::Invalid, message) });
        }
    }

    fn value(&mut self, node: &Node, value: &Value, path: &str) {
        if self.errors.len() >= MAX_ERRORS || self.depth > MAX_DEPTH {
            return;
        }
        if value.is_null() && node.nullable {
            return;
        }
        if !has_type(node, value) {
            let wanted = if node.int_or_string { "integer or string" } else { &node.type_ };
            return self.push(path, FieldErrorReason::TypeInvalid, format!("must be of type {wanted}, not {}", type_name(value)));
        }
        self.depth += 1;
        self.limits(&node.limits, value, path);
        match value {
            Value::Object(fields) => self.members(node, fields, path),
            Value::Array(items) => self.items(node, items, path),
            _ => {}
        }
        self.alternatives(node, value, path);
        self.depth -= 1;
    }

    fn members(&mut self, node: &Node, fields: &Map<String, Value>, path: &str) {
        for name in node.limits.required.iter().filter(|name| !fields.contains_key(*name)) {
            self.push(&join(path, name), FieldErrorReason::Required, "is required");
        }
        self.count(node.limits.members, fields.len(), path, "members");
        if node.embedded {
            self.identity(fields, path);
        }
        for (name, field) in fields {
            if let Some(child) = node.member(name) {
                self.value(child, field, &join(path, name));
            }
        }
    }

    /// An embedded object says what it is.
    fn identity(&mut self, fields: &Map<String, Value>, path: &str) {
        for name in ["apiVersion", "kind"] {
            if fields.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
                self.push(&join(path, name), FieldErrorReason::Required, "must not be empty in an embedded object");
            }
        }
    }

    fn items(&mut self, node: &Node, items: &[Value], path: &str) {
        self.count(node.limits.items, items.len(), path, "items");
        if let Some(child) = &node.items {
            for (index, item) in items.iter().enumerate() {
                self.value(child, item, &format!("{path}[{index}]"));
            }
        }
        let key = |item: &Value| match &node.list {
            List::Atomic => None,
            List::Set => Some(item.to_string()),
            List::Map(keys) => Some(Value::from_iter(keys.iter().map(|key| item.get(key).cloned().unwrap_or_default())).to_string()),
        };
        let mut seen = std::collections::HashSet::new();
        for (index, key) in items.iter().enumerate().filter_map(|(index, item)| Some((index, key(item)?))) {
            if !seen.insert(key) {
                self.push(&format!("{path}[{index}]"), FieldErrorReason::Duplicate, "is there twice");
            }
        }
    }

    fn limits(&mut self, limits: &Limits, value: &Value, path: &str) {
        if !limits.values.is_empty() && !limits.values.iter().any(|known| same(known, value)) {
            let known: Vec<String> = limits.values.iter().map(Value::to_string).collect();
            let shown: String = value.to_string().chars().take(64).collect();
            let message = format!("unsupported value, must be one of {}", known.join(", "));
            if self.errors.len() < MAX_ERRORS {
                self.errors.push(FieldError { value: Some(shown), ..FieldError::new(path, FieldErrorReason::NotSupported, message) });
            }
        }
        match value {
            Value::String(text) => self.text(limits, text, value, path),
            Value::Number(number) => self.number(limits, number.as_f64().unwrap_or_default(), value, path),
            _ => {}
        }
    }

    fn text(&mut self, limits: &Limits, text: &str, value: &Value, path: &str) {
        self.count(limits.length, text.chars().count(), path, "characters");
        if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.wrong(path, value, format!("must match '{}'", pattern.text));
        }
        if let Err(message) = super::format::check_text(&limits.format, text) {
            self.wrong(path, value, message);
        }
    }

    fn number(&mut self, limits: &Limits, number: f64, value: &Value, path: &str) {
        match limits.minimum {
            Some(least) if limits.above_minimum && number <= least => self.wrong(path, value, format!("must be greater than {least}")),
            Some(least) if number < least => self.wrong(path, value, format!("must be {least} or greater")),
            _ => {}
        }
        match limits.maximum {
            Some(most) if limits.below_maximum && number >= most => self.wrong(path, value, format!("must be less than {most}")),
            Some(most) if number > most => self.wrong(path, value, format!("must be {most} or less")),
            _ => {}
        }
        if let Some(step) = limits.multiple_of.filter(|step| *step > 0.0) {
            let quotient = number / step;
            if (quotient - quotient.round()).abs() > 1e-9 * quotient.abs().max(1.0) {
                self.wrong(path, value, format!("must be a multiple of {step}"));
            }
        }
        if let Err(message) = super::format::check_number(&limits.format, number) {
            self.wrong(path, value, message);
        }
    }

    fn count(&mut self, (least, most): (Option<u64>, Option<u64>), count: usize, path: &str, what: &str) {
        let count = count as u64;
        if let Some(least) = least.filter(|least| count < *least) {
            self.push(path, FieldErrorReason::Invalid, format!("must have at least {least} {what}"));
        }
        if let Some(most) = most.filter(|most| count > *most) {
            self.push(path, FieldErrorReason::Invalid, format!("must have at most {most} {what}"));
        }
    }

    fn alternatives(&mut self, node: &Node, value: &Value, path: &str) {
        for part in &node.all_of {
            self.value(part, value, path);
        }
        let depth = self.depth;
        let fits = |part: &Node| {
            let mut errors = Vec::new();
            Judge { errors: &mut errors, depth }.value(part, value, path);
            errors.is_empty()
        };
        if !node.any_of.is_empty() && !node.any_of.iter().any(fits) {
            self.push(path, FieldErrorReason::Invalid, "must fit at least one of the schemas in anyOf");
        }
        if !node.one_of.is_empty() && node.one_of.iter().filter(|part| fits(part)).count() != 1 {
            self.push(path, FieldErrorReason::Invalid, "must fit exactly one of the schemas in oneOf");
        }
        if node.not.as_deref().is_some_and(fits) {
            self.push(path, FieldErrorReason::Invalid, "must not fit the schema in not");
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a value is of the type that is asked for; where none is, of any.
fn has_type(node: &Node, value: &Value) -> bool {
    let is_whole = |value: &Value| value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0);
    if node.int_or_string {
        return value.is_string() || is_whole(value);
    }
    match node.type_.as_str() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => is_whole(value),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn first(schema: &Value, value: &Value) -> Option<(String, FieldErrorReason)> {
        let mut errors = Vec::new();
        judge(&Node::of(schema), value, "spec", &mut errors);
        errors.into_iter().next().map(|error| (error.path, error.reason))
    }

    #[test]
    fn every_limit_is_kept() {
        use FieldErrorReason::{Duplicate, Invalid, NotSupported, Required, TypeInvalid};
        let object = |properties: Value| json!({"type": "object", "properties": properties});
        for (schema, good, bad, path, reason) in [
            (json!({"type": "string"}), json!("a"), json!(1), "spec", TypeInvalid),
            (json!({"type": "integer"}), json!(1.0), json!(1.5), "spec", TypeInvalid),
            (json!({"type": "number"}), json!(1), json!("1"), "spec", TypeInvalid),
            (json!({"type": "boolean"}), json!(true), json!("true"), "spec", TypeInvalid),
            (json!({"type": "string", "nullable": true}), json!(null), json!(false), "spec", TypeInvalid),
            (json!({"type": "string"}), json!(""), json!(null), "spec", TypeInvalid),
            (json!({"x-kubernetes-int-or-string": true}), json!("50%"), json!(1.5), "spec", TypeInvalid),
            (json!({"type": "string", "enum": ["a", "b"]}), json!("b"), json!("c"), "spec", NotSupported),
            (json!({"type": "string", "pattern": "^a+$"}), json!("aa"), json!("b"), "spec", Invalid),
            (json!({"type": "string", "minLength": 2, "maxLength": 3}), json!("äöü"), json!("ä"), "spec", Invalid),
            (json!({"type": "string", "format": "ipv4"}), json!("10.0.0.1"), json!("10.0.0"), "spec", Invalid),
            (json!({"type": "integer", "format": "int32"}), json!(1), json!(1_u64 << 40), "spec", Invalid),
            (json!({"type": "integer", "minimum": 1, "maximum": 5}), json!(5), json!(6), "spec", Invalid),
            (json!({"type": "number", "minimum": 1, "exclusiveMinimum": true}), json!(1.1), json!(1), "spec", Invalid),
            (json!({"type": "number", "multipleOf": 0.1}), json!(0.3), json!(0.35), "spec", Invalid),
            (json!({"type": "array", "items": {"type": "integer"}, "maxItems": 2}), json!([1, 2]), json!([1, 2, 3]), "spec", Invalid),
            (json!({"type": "array", "items": {"type": "integer"}}), json!([1]), json!([1, "x"]), "spec[1]", TypeInvalid),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
                json!(["a", "b"]),
                json!(["a", "a"]),
                "spec[1]",
                Duplicate,
            ),
            (
                json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "l"]}),
                json!([{"k": 1, "l": 1}, {"k": 1, "l": 2}]),
                json!([{"k": 1}, {"k": 1}]),
                "spec[1]",
                Duplicate,
            ),
            (json!({"type": "object", "required": ["a"]}), json!({"a": 1}), json!({}), "spec.a", Required),
            (json!({"type": "object", "maxProperties": 1}), json!({"a": 1}), json!({"a": 1, "b": 1}), "spec", Invalid),
            (object(json!({"a": {"type": "string"}})), json!({"a": "x"}), json!({"a": 1}), "spec.a", TypeInvalid),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": "v"}),
                json!({"k": 1}),
                "spec.k",
                TypeInvalid,
            ),
            (
                json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"a": 1}),
                json!({"a": 1, "b": 1}),
                "spec",
                Invalid,
            ),
            (
                json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"b": 1}),
                json!({"c": 1}),
                "spec",
                Invalid,
            ),
            (json!({"type": "string", "allOf": [{"pattern": "a"}, {"pattern": "b"}]}), json!("ab"), json!("a"), "spec", Invalid),
            (json!({"type": "string", "not": {"enum": ["x"]}}), json!("y"), json!("x"), "spec", Invalid),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true}),
                json!({"apiVersion": "v1", "kind": "Pod"}),
                json!({"kind": "Pod"}),
                "spec.apiVersion",
                Required,
            ),
        ] {
            assert_eq!(first(&schema, &good), None, "{schema} {good}");
            assert_eq!(first(&schema, &bad), Some((path.to_owned(), reason)), "{schema} {bad}");
        }
    }
}
