//! ApplyRequest: a whole file of objects in one transaction, or with `dryRun=All` the plan of it.
//!
//! Every object is applied on its own against the present state; all errors of all objects are collected; what they need of one
//! another is looked at over the whole file; then everything is committed at once or nothing is. Objects may name a namespace that the
//! same file makes, and be of a kind that it defines. A file may be a set, which is remembered, so that what is left out of it can be pruned.

mod defined;
mod effect;
mod plan;
mod result;
mod set;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::{Value, json};

use super::AppState;
use super::body;
use super::error::ApiError;
use super::options::WriteOptions;
use super::params::Params;
use super::render;
use super::write::MAX_ATTEMPTS;
use crate::auth::Identity;
use crate::definitions::settle;
use crate::store::CommitError;
use crate::strategy::object::meta_text;
use plan::Planned;
use set::Set;

/// The most objects of one request.
const MAX_OBJECTS: usize = 1_000;
/// The namespace of a request that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// What is asked for.
struct Asked {
    metadata: Value,
    objects: Vec<Value>,
    /// Of each object the paths of fields that stand twice in it.
    duplicates: Vec<Vec<String>>,
    /// Of objects that name none.
    namespace: String,
    set: Option<Set>,
    prune: bool,
    options: WriteOptions,
}

impl Asked {
    fn parse(mut request: Value, duplicates: &[String], asked: &WriteOptions) -> Result<Self, ApiError> {
        check_fields(&request)?;
        let spec = request.get_mut("spec").map(Value::take).unwrap_or_default();
        let objects = spec.get("objects").and_then(Value::as_array).cloned().unwrap_or_default();
        if objects.len() > MAX_OBJECTS {
            return Err(ApiError::too_large(format!("spec.objects: has {} objects, at most {MAX_OBJECTS} are possible", objects.len())));
        }
        let text = |field: &str| spec.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let flag = |field: &str| spec.get(field).and_then(Value::as_bool).unwrap_or_default();
        let mut options = WriteOptions::internal(text("fieldManager").unwrap_or(&asked.manager), asked.dry_run);
        options.force = flag("force");
        options.applied = true;
        let namespace = meta_text(&request, "namespace");
        let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace }.to_owned();
        let set = text("set").map(|text| Set::parse(text, &namespace)).transpose()?;
        let prune = flag("prune");
        if prune && set.is_none() {
            return Err(wrong("spec.set", FieldErrorReason::Required, "spec.prune deletes what has left a set: say which"));
        }
        if prune && objects.is_empty() && !options.force {
            let message = "there is no object in the request, so that everything in the set would be deleted; with spec.force it is";
            return Err(wrong("spec.objects", FieldErrorReason::Required, message));
        }
        let (of_objects, of_request) = sort_duplicates(duplicates, objects.len());
        if let Some(path) = of_request.first() {
            return Err(wrong(path, FieldErrorReason::Duplicate, "the field stands twice in the request"));
        }
        let metadata = request.get_mut("metadata").map(Value::take).filter(Value::is_object).unwrap_or_else(|| json!({}));
        Ok(Self { metadata, objects, duplicates: of_objects, namespace, set, prune, options })
    }

    fn answer(&self, planned: &Planned) -> Response<Body> {
        let mut status = json!({"results": planned.results});
        if let Some(set) = &self.set {
            status["set"] = set.to_value();
        }
        let body = json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": self.metadata, "status": status});
        render::json(StatusCode::CREATED, body.to_string())
    }
}

/// Refuses fields that an ApplyRequest does not have, and values of wrong types: a misspelt `prune` is not to be passed over.
fn check_fields(request: &Value) -> Result<(), ApiError> {
    let fields = request.as_object().ok_or_else(|| ApiError::bad_request("the body is not an ApplyRequest"))?;
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(name) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(wrong(name, FieldErrorReason::Unknown, &format!("unknown field {name:?}")));
    }
    let spec = fields.get("spec").and_then(Value::as_object).ok_or_else(|| ApiError::bad_request("spec: is required"))?;
    for (name, value) in spec.iter().filter(|(_, value)| !value.is_null()) {
        let (fits, wanted) = match name.as_str() {
            "objects" => (value.is_array(), "a list of objects"),
            "set" | "fieldManager" => (value.is_string(), "a string"),
            "prune" | "force" => (value.is_boolean(), "a boolean"),
            _ => return Err(wrong(&format!("spec.{name}"), FieldErrorReason::Unknown, &format!("unknown field \"spec.{name}\""))),
        };
        if !fits {
            return Err(wrong(&format!("spec.{name}"), FieldErrorReason::TypeInvalid, &format!("must be {wanted}")));
        }
    }
    if spec.get("objects").is_none_or(Value::is_null) {
        return Err(ApiError::bad_request("spec.objects: a list of objects is required"));
    }
    Ok(())
}

/// Duplicates of each object with paths of its own, and those of the request itself.
fn sort_duplicates(duplicates: &[String], objects: usize) -> (Vec<Vec<String>>, Vec<String>) {
    let mut of_objects = vec![Vec::new(); objects];
    let mut of_request = Vec::new();
    for path in duplicates {
        let inner = path.strip_prefix("spec.objects[").and_then(|rest| rest.split_once("]."));
        let place = inner.and_then(|(index, rest)| Some((of_objects.get_mut(index.parse::<usize>().ok()?)?, rest)));
        match place {
            Some((list, rest)) => list.push(rest.to_owned()),
            None => of_request.push(path.clone()),
        }
    }
    (of_objects, of_request)
}

fn wrong(path: &str, reason: FieldErrorReason, message: &str) -> ApiError {
    let error = FieldError { path: path.to_owned(), reason, value: None, message: message.to_owned() };
    ApiError::invalid_request("ApplyRequest", &error)
}

/// Applies the objects of the request.
pub(super) async fn apply(
    server: &AppState,
    identity: &Identity,
    params: &Params,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse("CreateOptions", params, headers)?;
    let bytes = body::read(body).await?;
    let decoded = body::decode(headers, &bytes)?;
    if !server.cache.store().capabilities().consecutive_revisions {
        let message = "the store of this server cannot number the changes of one transaction apart; apply the objects one by one";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message));
    }
    let asked = Asked::parse(decoded.value, &decoded.duplicates, &options)?;
    let _claims = server.image_claims.lock().await;
    for _ in 0..MAX_ATTEMPTS {
        let mut planned = plan::plan(server, identity, &asked)?;
        if asked.options.dry_run || planned.ops.is_empty() {
            return Ok(asked.answer(&planned));
        }
        match server.cache.commit(std::mem::take(&mut planned.ops)).await {
            Ok(_) => {
                if planned.defines {
                    settle(server).await;
                }
                return Ok(asked.answer(&planned));
            }
            // Something changed since it was looked at: look at everything again.
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::from_commit(&error)),
        }
    }
    Err(ApiError::new(StatusCode::CONFLICT, "Conflict", "the objects kept changing while they were applied; please try again"))
}
