//! The way from client-side apply: what `kubectl apply` notes in an annotation is what `kubectl apply --server-side` may take over.

use serde_json::Value;

use super::super::bounded;
use super::compare::fields_of;
use super::fields::FieldSet;

/// The annotation in which client-side apply keeps the last configuration.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The only manager for whom the annotation counts; others opt out of it by their name.
const MANAGER: &str = "kubectl";
/// The most bytes of all annotations of an object.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// The fields that client-side apply wrote last, when `manager` may take them from whoever owns them now.
pub(super) fn takes_over(live: &Value, schema: &Value, manager: &str) -> Option<FieldSet> {
    if manager != MANAGER {
        return None;
    }
    let config: Value = serde_json::from_str(annotation(live)?).ok()?;
    bounded(&config).ok()?;
    Some(fields_of(schema, &config, true))
}

/// Keeps the annotation, where there is one, in step with what `kubectl` applies now, so that client-side apply can go on from it.
pub(super) fn follow(object: &mut Value, config: &Value, manager: &str) {
    if manager != MANAGER || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let bytes: usize = annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        annotations.remove(ANNOTATION);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}
