//! GET, PUT and PATCH of an object's `scale`: its number of replicas, wherever its kind keeps it.
//!
//! Source: autoscaling/v1 Scale.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use gantry_api::patch::{json_patch, merge_patch};
use gantry_api::registry::{KindInfo, Scale};
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::{Value, json};

use super::body::{self, Decoded};
use super::dispatch::Target;
use super::error::ApiError;
use super::options::WriteOptions;
use super::patch::failure;
use super::render;
use super::write::{Written, modify};
use crate::strategy::Part;
use crate::strategy::object::{decode_as, key, meta_text, set_meta};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGES: [&str; 2] = ["application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Answers or changes the scale of an object.
pub(super) async fn scale(target: &Target, verb: &str, name: &str, body: Body) -> Result<Response<Body>, ApiError> {
    let kind = &*target.kind;
    let paths = kind.custom.as_ref().and_then(|custom| custom.scale.as_ref()).ok_or_else(ApiError::no_such_resource)?;
    match verb {
        "get" => {
            let entry = target.server.cache.get(&key(kind, target.namespace(), name)).ok_or_else(|| ApiError::not_found(kind, name))?;
            let object = decode_as(kind, &entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
            Ok(render::json(StatusCode::OK, shown(paths, &object).to_string()))
        }
        "update" => {
            let options = WriteOptions::parse("UpdateOptions", &target.params, &target.headers)?;
            let sent = body::decode(&target.headers, &body::read(body).await?)?.value;
            respond(paths, &modify(target, name, Part::Main, &options, |old| changed(kind, paths, old, &sent)).await?)
        }
        "patch" => {
            let options = WriteOptions::parse("PatchOptions", &target.params, &target.headers)?;
            let media = body::media_type(&target.headers).unwrap_or_default();
            let is_merge = MERGES.contains(&media.as_str());
            if !is_merge && media != JSON_PATCH {
                return Err(ApiError::unsupported_media_type(&media, &[JSON_PATCH, MERGES[0], MERGES[1]].join(", ")));
            }
            let patch = body::json(&body::read(body).await?)?.value;
            let apply = if is_merge { merge_patch } else { json_patch };
            let change = |old: &Value| {
                let sent = apply(&shown(paths, old), &patch).map_err(|error| failure(kind, name, error))?;
                changed(kind, paths, old, &sent)
            };
            respond(paths, &modify(target, name, Part::Main, &options, change).await?)
        }
        _ => Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource")),
    }
}

/// The scale of an object.
fn shown(paths: &Scale, object: &Value) -> Value {
    let number = |value: Option<&Value>| value.and_then(Value::as_i64).unwrap_or_default();
    let meta = |field: &str| object.get("metadata").and_then(|meta| meta.get(field)).cloned();
    let mut metadata = json!({"name": meta("name")});
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta(field) {
            metadata[field] = value;
        }
    }
    let mut status = json!({"replicas": number(paths.current.get(object))});
    if let Some(selector) = paths.selector.as_ref().and_then(|path| path.get(object)).and_then(Value::as_str) {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if let Some(replicas) = paths.replicas.get(object).and_then(Value::as_i64) {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The object with the number of replicas that a scale asks for.
fn changed(kind: &KindInfo, paths: &Scale, old: &Value, sent: &Value) -> Result<Decoded, ApiError> {
    let name = meta_text(old, "name");
    let wrong = |message: &str| {
        let error = FieldError::new("spec.replicas", FieldErrorReason::Invalid, message);
        ApiError::invalid(kind, name, &[error])
    };
    if !["", name].contains(&meta_text(sent, "name")) {
        return Err(ApiError::bad_request("the name of the Scale is not that of the object"));
    }
    let replicas = match sent.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().ok_or_else(|| wrong("must be an integer"))?,
    };
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        return Err(wrong("must be from 0 to 2147483647"));
    }
    let mut value = old.clone();
    paths.replicas.set(&mut value, replicas.into()).map_err(wrong)?;
    let revision = meta_text(sent, "resourceVersion");
    set_meta(&mut value, "resourceVersion", (!revision.is_empty()).then(|| revision.into()));
    let uid = meta_text(sent, "uid");
    if !uid.is_empty() {
        set_meta(&mut value, "uid", Some(uid.into()));
    }
    Ok(Decoded { value, duplicates: Vec::new() })
}

fn respond(paths: &Scale, written: &Written) -> Result<Response<Body>, ApiError> {
    let mut response = render::json(StatusCode::OK, shown(paths, &render::parse(&written.bytes)?).to_string());
    render::warn(&mut response, &written.warnings);
    Ok(response)
}
