//! PATCH of an object or of its status: JSON patch, merge patch, strategic merge patch (Kubernetes' own kinds), apply.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use gantry_api::patch::{PatchError, apply, json_patch, merge_patch, strategic_merge};
use gantry_api::registry::KindInfo;
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::Value;

use super::body::{self, Decoded};
use super::create::insert;
use super::dispatch::Target;
use super::error::ApiError;
use super::options::WriteOptions;
use super::write::{MAX_ATTEMPTS, Written, modify};
use crate::strategy::object::{key, meta_text};
use crate::strategy::{Part, decoding};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Changes the part of the object that the URL names.
pub(super) async fn patch(target: &Target, name: &str, part: Part, body: Body) -> Result<Response<Body>, ApiError> {
    let mut options = WriteOptions::parse("PatchOptions", &target.params, &target.headers)?;
    let media = body::media_type(&target.headers).unwrap_or_default();
    let kind = &*target.kind;
    let change: fn(&Value, &Value, &Value) -> Result<Value, PatchError> = match media.as_str() {
        JSON => |old, patch, _| json_patch(old, patch),
        MERGE => |old, patch, _| merge_patch(old, patch),
        STRATEGIC if kind.merges_strategically() => strategic_merge,
        APPLY => {
            options.applied = true;
            let bytes = body::read(body).await?;
            return applied(target, name, part, &options, body::yaml(&bytes)?).await?.respond(target);
        }
        other if !kind.merges_strategically() => return Err(ApiError::unsupported_media_type(other, &[JSON, MERGE, APPLY].join(", "))),
        other => return Err(ApiError::unsupported_media_type(other, &[JSON, MERGE, STRATEGIC, APPLY].join(", "))),
    };
    if options.force_given {
        return Err(ApiError::invalid_options(
            "PatchOptions",
            "force",
            FieldErrorReason::Forbidden,
            "may not be specified for non-apply patch",
        ));
    }
    let bytes = body::read(body).await?;
    let patch = body::json(&bytes)?;
    let written = modify(target, name, part, &options, |old| {
        let mut value = change(old, &patch.value, kind.schema()).map_err(|error| failure(kind, name, error))?;
        decoding::identify(kind, &mut value, target.namespace(), Some(name))?;
        Ok(Decoded { value, duplicates: patch.duplicates.clone() })
    });
    written.await?.respond(target)
}

/// Server-side apply: what the manager wishes becomes exactly what it owns. Creates the object when there is none.
async fn applied(target: &Target, name: &str, part: Part, options: &WriteOptions, config: Decoded) -> Result<Written, ApiError> {
    let (kind, namespace) = (&*target.kind, target.namespace());
    let (config, warnings) = check_config(kind, namespace, name, options, config)?;
    let warned = |mut written: Written| {
        written.warnings.extend(warnings.clone());
        written
    };
    for _ in 0..MAX_ATTEMPTS {
        let exists = target.server.cache.get(&key(kind, namespace, name)).is_some();
        let tried = if exists {
            modify(target, name, part, options, |old| apply_to(target, Some(old), &config, part, options)).await
        } else if part == Part::Main {
            if !meta_text(&config.value, "uid").is_empty() {
                return Err(ApiError::conflict(kind, name, "uid is set, but there is no such object"));
            }
            let object = apply_to(target, None, &config, part, options)?;
            insert(target, object, options).await
        } else {
            Err(ApiError::not_found(kind, name))
        };
        match tried {
            // Made or removed by somebody else in between: look again.
            Err(error) if exists && error.code == StatusCode::NOT_FOUND && part == Part::Main => {}
            Err(error) if !exists && error.reason == "AlreadyExists" => {}
            result => return result.map(warned),
        }
    }
    Err(ApiError::modified(kind, name))
}

/// What an applied configuration must be before it is looked at. Answers it without fields that the kind does not have, which nobody
/// can own, and the warnings about them.
///
/// # Errors
/// 400 and 422.
pub(super) fn check_config(
    kind: &KindInfo,
    namespace: &str,
    name: &str,
    options: &WriteOptions,
    mut config: Decoded,
) -> Result<(Decoded, Vec<String>), ApiError> {
    if !options.manager_given {
        return Err(ApiError::invalid_options("PatchOptions", "fieldManager", FieldErrorReason::Required, "is required for apply patch"));
    }
    if config.value.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    decoding::identify(kind, &mut config.value, namespace, Some(name))?;
    let warnings = decoding::known(kind, &mut config.value, options.strictness(kind))?;
    Ok((config, warnings))
}

fn apply_to(target: &Target, old: Option<&Value>, config: &Decoded, part: Part, options: &WriteOptions) -> Result<Decoded, ApiError> {
    let api_version = target.kind.api_version();
    let writer = options.writer(&api_version, part, target.server.now());
    let name = meta_text(&config.value, "name");
    let value = apply(old, &config.value, target.kind.schema(), &writer).map_err(|error| failure(&target.kind, name, error))?;
    Ok(Decoded { value, duplicates: config.duplicates.clone() })
}

/// The Status of a patch that cannot be applied.
pub(super) fn failure(kind: &KindInfo, name: &str, error: PatchError) -> ApiError {
    let invalid = |path: &str, message: String| {
        let error = FieldError { path: path.to_owned(), reason: FieldErrorReason::Invalid, value: None, message };
        ApiError::invalid(kind, name, &[error])
    };
    match error {
        PatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
        PatchError::TooManyOperations(_) => ApiError::too_large(error.to_string()),
        PatchError::Invalid { path, message } => invalid(&path, message),
        PatchError::Conflicts(ref conflicts) => ApiError::apply_conflict(error.to_string(), conflicts),
        PatchError::TooDeep | PatchError::TooLarge(_) | PatchError::TestFailed { .. } | PatchError::MissingPath { .. } => {
            invalid("patch", error.to_string())
        }
    }
}
