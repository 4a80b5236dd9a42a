//! From what a client sent to a whole, well-typed object with defaults: identity, strictness, normalization, validation.

use gantry_api::registry::KindInfo;
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::Value;

use super::object::{meta_mut, meta_text, set_field};
use crate::http::error::ApiError;

/// What becomes of fields that a kind does not have (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// The request is refused.
    Strict,
    /// They are dropped, with a warning each.
    Warn,
    /// They are dropped.
    Ignore,
}

impl Strictness {
    /// When the request does not say: strict for our kinds; Kubernetes' own behave as Kubernetes does.
    pub(crate) fn default_for(kind: &KindInfo) -> Self {
        if kind.ours { Self::Strict } else { Self::Warn }
    }
}

/// Checks `apiVersion`, `kind`, namespace and name against the URL and fills them in where they are missing.
///
/// # Errors
/// 400 when they differ.
pub(crate) fn identify(kind: &KindInfo, object: &mut Value, namespace: &str, name: Option<&str>) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request(format!("the body is not a {} object", kind.kind)));
    }
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.clone())] {
        match object.get(field) {
            None | Some(Value::Null) => set_field(object, field, Some(expected.into())),
            Some(Value::String(text)) if text.is_empty() => set_field(object, field, Some(expected.into())),
            Some(Value::String(text)) if *text == expected => {}
            Some(other) => {
                let message = format!("the {field} in the data ({other}) does not match the expected {field} ({expected})");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    if object.get("metadata").is_some_and(Value::is_null) {
        set_field(object, "metadata", None);
    }
    let given = meta_text(object, "namespace").to_owned();
    let wanted = if kind.namespaced { namespace } else { "" };
    if !given.is_empty() && given != wanted {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given} does not match {wanted:?})"
        );
        return Err(ApiError::bad_request(message));
    }
    if let Some(wanted) = name {
        let given = meta_text(object, "name");
        if !given.is_empty() && given != wanted {
            return Err(ApiError::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({wanted})")));
        }
    }
    let Some(meta) = meta_mut(object) else {
        return Err(ApiError::bad_request("metadata is not an object"));
    };
    if !wanted.is_empty() {
        meta.insert("namespace".into(), wanted.into());
    }
    if let Some(name) = name {
        meta.insert("name".into(), name.into());
    }
    Ok(())
}

/// Refuses or drops what the kind does not have. Answers the warnings.
///
/// # Errors
/// 400 for unknown and duplicate fields under [`Strictness::Strict`], 422 for wrong types; each with every path.
pub(crate) fn strict(kind: &KindInfo, object: &mut Value, duplicates: &[String], strictness: Strictness) -> Result<Vec<String>, ApiError> {
    let errors = kind.rules.check(object);
    let (unknown, wrong): (Vec<FieldError>, Vec<FieldError>) = errors.into_iter().partition(|e| e.reason == FieldErrorReason::Unknown);
    let problems: Vec<String> = (unknown.iter().map(|e| format!("unknown field {:?}", e.path)))
        .chain(duplicates.iter().map(|path| format!("duplicate field {path:?}")))
        .collect();
    if strictness == Strictness::Strict && !problems.is_empty() {
        let texts = problems.into_iter().chain(wrong.iter().map(|e| format!("{}: {}", e.path, e.message))).collect::<Vec<_>>();
        let all: Vec<FieldError> = unknown.into_iter().chain(wrong).collect();
        return Err(ApiError::strict_decoding(kind, &texts, &all));
    }
    if !wrong.is_empty() {
        return Err(ApiError::invalid(kind, meta_text(object, "name"), &wrong));
    }
    if !unknown.is_empty() {
        kind.rules.prune(object);
    }
    Ok(if strictness == Strictness::Warn { problems } else { Vec::new() })
}

/// Refuses or drops what the kind does not have, in a part of an object, where required fields may be missing. Answers the warnings.
///
/// # Errors
/// 400 under [`Strictness::Strict`], with every path.
pub(crate) fn known(kind: &KindInfo, part: &mut Value, strictness: Strictness) -> Result<Vec<String>, ApiError> {
    let errors: Vec<FieldError> = kind.rules.check(part).into_iter().filter(|e| e.reason != FieldErrorReason::Required).collect();
    let unknown = |e: &&FieldError| e.reason == FieldErrorReason::Unknown;
    let problems: Vec<String> = errors.iter().filter(unknown).map(|e| format!("unknown field {:?}", e.path)).collect();
    if problems.is_empty() {
        return Ok(problems);
    }
    if strictness == Strictness::Strict {
        let wrong = errors.iter().filter(|e| !unknown(e)).map(|e| format!("{}: {}", e.path, e.message));
        let texts: Vec<String> = problems.into_iter().chain(wrong).collect();
        return Err(ApiError::strict_decoding(kind, &texts, &errors));
    }
    kind.rules.prune(part);
    Ok(if strictness == Strictness::Warn { problems } else { Vec::new() })
}

/// Applies the defaults.
///
/// # Errors
/// 422 when it does not decode into the kind's type.
pub(crate) fn normalize(kind: &KindInfo, object: Value) -> Result<Value, ApiError> {
    let name = meta_text(&object, "name").to_owned();
    let mut object = kind.rules.normalize(object).map_err(|errors| ApiError::invalid(kind, &name, &errors))?;
    // Typed encoding leaves these out for some kinds; stored objects always say what they are.
    set_field(&mut object, "apiVersion", Some(kind.api_version().into()));
    set_field(&mut object, "kind", Some(kind.kind.as_str().into()));
    Ok(object)
}

/// Every rule of the kind.
///
/// # Errors
/// 422 with every error at once.
pub(crate) fn validate(kind: &KindInfo, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors = super::metadata::validate(kind, new);
    for error in kind.rules.validate(new, old) {
        if !errors.iter().any(|e| e.path == error.path && e.reason == error.reason) {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, meta_text(new, "name"), &errors)) }
}
