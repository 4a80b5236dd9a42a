//! JSON patch (RFC 6902), bounded.

use serde_json::Value;

use super::{MAX_COPIED_BYTES, MAX_OPERATIONS, PatchError, bounded};
use crate::schema::MAX_DEPTH;

/// The object after all operations; nothing is changed when one of them fails.
///
/// # Errors
/// A malformed patch, too many operations, a failing test, a path that leads nowhere, or a result beyond the bounds.
pub fn json_patch(object: &Value, operations: &Value) -> Result<Value, PatchError> {
    let malformed = |text: &str| PatchError::Malformed(text.to_owned());
    let operations = operations.as_array().ok_or_else(|| malformed("a JSON patch is a list of operations"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    bounded(object)?;
    let mut state = State { document: object.clone(), index: 0, copied: 0 };
    for (index, operation) in operations.iter().enumerate() {
        bounded(operation)?;
        state.index = index;
        state.run(operation)?;
    }
    bounded(&state.document)?;
    Ok(state.document)
}

struct State {
    document: Value,
    index: usize,
    copied: usize,
}

impl State {
    fn run(&mut self, operation: &Value) -> Result<(), PatchError> {
        let path = self.pointer(operation, "path")?;
        match operation.get("op").and_then(Value::as_str) {
            Some("add") => self.add(&path, self.value(operation)?),
            Some("remove") => self.remove(&path).map(drop),
            Some("replace") => {
                let value = self.value(operation)?;
                let missing = self.missing(&path);
                *find_mut(&mut self.document, &path).ok_or(missing)? = value;
                Ok(())
            }
            Some("move") => {
                let from = self.pointer(operation, "from")?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(self.malformed("moves a value into itself"));
                }
                let value = self.remove(&from)?;
                self.add(&path, value)
            }
            Some("copy") => {
                let from = self.pointer(operation, "from")?;
                let value = find(&self.document, &from).ok_or_else(|| self.missing(&from))?;
                bounded(value)?;
                // Copies can double a document at every step: their sum is bounded.
                self.copied = self.copied.saturating_add(memory_bytes(value));
                if self.copied > MAX_COPIED_BYTES {
                    return Err(PatchError::TooLarge(self.index));
                }
                let value = value.clone();
                self.add(&path, value)
            }
            Some("test") => {
                let wanted = self.value(operation)?;
                // What is not there is null, as for Kubernetes (evanphx/json-patch): clients ask so for fields that are to be absent.
                let found = match find(&self.document, &path) {
                    None if wanted.is_null() => return Ok(()),
                    found => found.ok_or_else(|| self.missing(&path))?,
                };
                if equal(found, &wanted) {
                    return Ok(());
                }
                Err(PatchError::TestFailed { index: self.index, path: written(&path) })
            }
            _ => Err(self.malformed("has no known \"op\"")),
        }
    }

    fn value(&self, operation: &Value) -> Result<Value, PatchError> {
        operation.get("value").cloned().ok_or_else(|| self.malformed("has no \"value\""))
    }

    fn pointer(&self, operation: &Value, name: &str) -> Result<Vec<String>, PatchError> {
        let text = operation.get(name).and_then(Value::as_str).ok_or_else(|| self.malformed(&format!("has no \"{name}\"")))?;
        let Some(rest) = text.strip_prefix('/') else {
            return if text.is_empty() { Ok(Vec::new()) } else { Err(self.malformed("has a path that does not start with '/'")) };
        };
        let tokens: Vec<String> = rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        // A longer path would nest deeper than an object may.
        if tokens.len() > MAX_DEPTH { Err(PatchError::TooDeep) } else { Ok(tokens) }
    }

    fn add(&mut self, path: &[String], value: Value) -> Result<(), PatchError> {
        let missing = self.missing(path);
        let Some((last, parents)) = path.split_last() else {
            self.document = value;
            return Ok(());
        };
        match find_mut(&mut self.document, parents) {
            Some(Value::Object(fields)) => {
                fields.insert(last.clone(), value);
                Ok(())
            }
            Some(Value::Array(items)) => {
                let at = if last == "-" { Some(items.len()) } else { index(last) };
                let at = at.filter(|at| *at <= items.len()).ok_or(missing)?;
                items.insert(at, value);
                Ok(())
            }
            _ => Err(missing),
        }
    }

    fn remove(&mut self, path: &[String]) -> Result<Value, PatchError> {
        let missing = self.missing(path);
        let Some((last, parents)) = path.split_last() else {
            return Err(self.malformed("removes the whole object"));
        };
        match find_mut(&mut self.document, parents) {
            Some(Value::Object(fields)) => fields.remove(last).ok_or(missing),
            Some(Value::Array(items)) => {
                let at = index(last).filter(|at| *at < items.len()).ok_or(missing)?;
                Ok(items.remove(at))
            }
            _ => Err(missing),
        }
    }

    fn missing(&self, path: &[String]) -> PatchError {
        PatchError::MissingPath { index: self.index, path: written(path) }
    }

    fn malformed(&self, text: &str) -> PatchError {
        PatchError::Malformed(format!("operation {} {text}", self.index))
    }
}

/// About the memory that a value takes; a small map is mostly empty room. Walks with a stack, and not past the bound.
fn memory_bytes(value: &Value) -> usize {
    const MAP_BYTES: usize = 640;
    let (mut stack, mut sum) = (vec![value], 0);
    while let Some(value) = stack.pop() {
        sum += size_of::<Value>();
        match value {
            Value::String(text) => sum += text.len(),
            Value::Array(items) => stack.extend(items),
            Value::Object(fields) => {
                sum += MAP_BYTES;
                stack.extend(fields.iter().map(|(name, value)| {
                    sum += size_of::<String>() + name.len();
                    value
                }));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if sum > MAX_COPIED_BYTES {
            break;
        }
    }
    sum
}

fn written(path: &[String]) -> String {
    path.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { token.parse().ok() } else { None }
}

fn find<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |at, token| match at {
        Value::Object(fields) => fields.get(token),
        Value::Array(items) => items.get(index(token)?),
        _ => None,
    })
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |at, token| match at {
        Value::Object(fields) => fields.get_mut(token),
        Value::Array(items) => items.get_mut(index(token)?),
        _ => None,
    })
}

/// Equality by value: `1` is `1.0`. Walks with a stack, as a document in the making may be deep.
fn equal(one: &Value, other: &Value) -> bool {
    let mut pairs = vec![(one, other)];
    while let Some(pair) = pairs.pop() {
        let same = match pair {
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => {
                pairs.extend(a.iter().zip(b));
                a.len() == b.len()
            }
            (Value::Object(a), Value::Object(b)) => {
                pairs.extend(a.iter().filter_map(|(name, value)| Some((value, b.get(name)?))));
                a.len() == b.len() && a.keys().all(|name| b.contains_key(name))
            }
            (a, b) => a == b,
        };
        if !same {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_do_what_the_rfc_says() {
        for (object, patch, result) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": [1, 3]}), json!([{"op": "add", "path": "/a/1", "value": 2}]), json!({"a": [1, 2, 3]})),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]})),
            (json!({}), json!([{"op": "test", "path": "/a/b", "value": null}, {"op": "add", "path": "/a", "value": 1}]), json!({"a": 1})),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": null}]), json!({"a": null})),
            (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "c": 1})),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (json!({"a/b": {"~": 1}}), json!([{"op": "test", "path": "/a~1b/~0", "value": 1.0}]), json!({"a/b": {"~": 1}})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": 5}]), json!(5)),
        ] {
            assert_eq!(json_patch(&object, &patch), Ok(result), "{patch}");
        }
    }

    #[test]
    fn errors_are_typed() {
        let object = json!({"a": [1]});
        let one = |operation: Value| json_patch(&object, &json!([operation])).unwrap_err();
        let missing = |path: &str| PatchError::MissingPath { index: 0, path: path.to_owned() };
        assert_eq!(one(json!({"op": "remove", "path": "/x"})), missing("/x"));
        assert_eq!(one(json!({"op": "replace", "path": "/x", "value": 1})), missing("/x"));
        assert_eq!(one(json!({"op": "add", "path": "/a/5", "value": 1})), missing("/a/5"));
        assert_eq!(one(json!({"op": "add", "path": "/a/01", "value": 1})), missing("/a/01"));
        assert_eq!(one(json!({"op": "add", "path": "/a/99999999999999999999999", "value": 1})), missing("/a/99999999999999999999999"));
        assert_eq!(one(json!({"op": "test", "path": "/a/0", "value": 2})), PatchError::TestFailed { index: 0, path: "/a/0".to_owned() });
        for bad in [
            json!(5),
            json!({}),
            json!({"op": "jump", "path": "/a"}),
            json!({"op": "add", "path": "/a"}),
            json!({"op": "remove", "path": ""}),
        ] {
            assert!(matches!(one(bad.clone()), PatchError::Malformed(_)), "{bad}");
        }
        assert!(matches!(one(json!({"op": "move", "from": "/a", "path": "/a/0"})), PatchError::Malformed(_)));
        assert!(matches!(json_patch(&object, &json!({})), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn hostile_patches_are_bounded() {
        let copy = json!({"op": "copy", "from": "", "path": "/a"});
        let doubling = json_patch(&json!({"x": "y"}), &json!(vec![copy; 5000]));
        assert!(matches!(doubling, Err(PatchError::TooDeep | PatchError::TooLarge(_))), "{doubling:?}");
        let wide: Vec<Value> = (0..60).map(|n| json!({"op": "copy", "from": "/l", "path": format!("/l/{n}")})).collect();
        assert!(json_patch(&json!({"l": ["x"]}), &json!(wide)).is_err());
        let many = json!(vec![json!({"op": "test", "path": "", "value": {}}); MAX_OPERATIONS + 1]);
        assert_eq!(json_patch(&json!({}), &many), Err(PatchError::TooManyOperations(MAX_OPERATIONS + 1)));
    }
}
