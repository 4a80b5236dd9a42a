//! DELETE of one object: at once, or by marking it until its finalizers leave.

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use gantry_api::registry::KindInfo;
use gantry_api::validate::FieldErrorReason;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiServer;
use super::body;
use super::dispatch::Target;
use super::error::ApiError;
use super::options::dry_run;
use super::params::Params;
use super::render;
use super::write::{MAX_ATTEMPTS, Written, encode, operation};
use crate::cache::Entry;
use crate::store::{CommitError, Expect, Op, Revision, Unversioned};
use crate::strategy::object::{
    decode_as, finalizers, is_held, is_namespace, is_terminating, key, meta_text, set_field, set_finalizers, set_meta, time_text,
};
use crate::strategy::{Change, Prepared};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`; unknown fields are ignored, as clients send some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    dry_run: bool,
    propagation: Option<Propagation>,
    grace_seconds: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the body, or without one from the query.
    pub(super) async fn read(params: &Params, headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let bytes = body::read(body).await?;
        let options = if bytes.is_empty() { Value::Null } else { body::decode(headers, &bytes)?.value };
        Self::parse(&options, params)
    }

    /// Whether nothing is to be stored.
    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn parse(options: &Value, params: &Params) -> Result<Self, ApiError> {
        if !options.is_object() && !options.is_null() {
            return Err(ApiError::bad_request("the body is not a DeleteOptions object"));
        }
        let text = |field: &str| options.get(field).and_then(Value::as_str).or_else(|| params.get(field));
        let invalid = |field, reason, message: &str| Err(ApiError::invalid_options("DeleteOptions", field, reason, message));
        let orphan = match options.get("orphanDependents").and_then(Value::as_bool) {
            None => params.has("orphanDependents").then(|| params.flag("orphanDependents")),
            given => given,
        };
        let propagation = match text("propagationPolicy") {
            Some(_) if orphan.is_some() => {
                let message = "orphanDependents and deletionPropagation cannot be both set";
                return invalid("propagationPolicy", FieldErrorReason::Invalid, message);
            }
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(_) => {
                let message = "supported values: \"Background\", \"Foreground\", \"Orphan\"";
                return invalid("propagationPolicy", FieldErrorReason::NotSupported, message);
            }
        };
        let dry: Vec<&str> = options.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let grace = match options.get("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(seconds) => Some(seconds),
            None => params.integer("gracePeriodSeconds")?,
        };
        let precondition = |field: &str| options.get("preconditions").and_then(|p| p.get(field)).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            dry_run: dry_run("DeleteOptions", dry.into_iter().chain(params.all("dryRun")))?,
            propagation,
            grace_seconds: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        })
    }

    fn check(&self, kind: &KindInfo, name: &str, object: &Value, revision: Revision) -> Result<(), ApiError> {
        let uid = meta_text(object, "uid");
        if let Some(wanted) = self.uid.as_ref().filter(|wanted| *wanted != uid) {
            let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
            return Err(ApiError::conflict(kind, name, &why));
        }
        if let Some(wanted) = self.resource_version.as_ref().filter(|wanted| **wanted != revision.to_string()) {
            let why = format!("Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}");
            return Err(ApiError::conflict(kind, name, &why));
        }
        Ok(())
    }
}

/// Deletes the object of the URL.
pub(super) async fn delete(target: &Target, name: &str, body: Body) -> Result<Response<Body>, ApiError> {
    let options = DeleteOptions::read(&target.params, &target.headers, body).await?;
    let (written, gone) = remove(&target.server, &target.kind, target.namespace(), name, &options).await?;
    if !gone {
        return written.respond(target);
    }
    let object = render::parse(&written.bytes)?;
    let mut details = json!({"name": name, "kind": target.kind.plural, "uid": object["metadata"]["uid"]});
    if !target.kind.group.is_empty() {
        details["group"] = target.kind.group.as_str().into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(render::json(StatusCode::OK, status.to_string()))
}

/// Deletes an object, or marks it. Answers its last state and whether it is gone.
///
/// # Errors
/// 404, and 409 for preconditions.
pub(super) async fn remove(
    server: &ApiServer,
    kind: &KindInfo,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Written, bool), ApiError> {
    let key = key(kind, namespace, name);
    for _ in 0..MAX_ATTEMPTS {
        let entry = server.cache.get(&key).ok_or_else(|| ApiError::not_found(kind, name))?;
        let Deletion { op, value, gone } = plan(server, kind, &entry, options)?;
        let written = |bytes| Written { bytes, created: false, warnings: Vec::new() };
        let (Some(op), Some(value)) = (op, value) else { return Ok((written(entry.bytes.clone()), false)) };
        if options.dry_run {
            return Ok((written(value.at(entry.revision)), gone));
        }
        match server.cache.commit(vec![op]).await {
            Ok(revisions) => return Ok((written(value.at(revisions.first().copied().unwrap_or_default())), gone)),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::from_commit(&error)),
        }
    }
    Err(ApiError::modified(kind, name))
}

/// What a request to delete does to an object.
pub(crate) struct Deletion {
    /// `None`: nothing is left to do.
    pub(crate) op: Option<Op>,
    /// The object then; of one that is deleted, its last state.
    pub(super) value: Option<Unversioned>,
    gone: bool,
}

/// The deletion of an object as it stands.
///
/// # Errors
/// 409 for preconditions.
pub(crate) fn plan(server: &ApiServer, kind: &KindInfo, entry: &Entry, options: &DeleteOptions) -> Result<Deletion, ApiError> {
    let old = decode_as(kind, entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
    options.check(kind, &entry.key.name, &old, entry.revision)?;
    let (object, change) = mark(kind, &old, options, || time_text(server.now()));
    let gone = change == Change::Delete;
    let prepared = Prepared { object, change, warnings: Vec::new() };
    let op = operation(kind, &prepared, Expect::At(entry.revision))?;
    let value = op.is_some().then(|| encode(&prepared.object)).transpose()?;
    Ok(Deletion { op, value, gone })
}

/// The object after a deletion that says nothing of its dependents.
pub(super) fn marked(kind: &KindInfo, old: &Value, now: Timestamp) -> (Value, Change) {
    mark(kind, old, &DeleteOptions::default(), || time_text(now))
}

/// The object after a request to delete it.
fn mark(kind: &KindInfo, old: &Value, options: &DeleteOptions, now: impl FnOnce() -> String) -> (Value, Change) {
    let mut object = old.clone();
    if let Some(propagation) = options.propagation {
        let mut list: Vec<String> = finalizers(old).into_iter().filter(|f| f != FOREGROUND && f != ORPHAN).collect();
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => list.push(FOREGROUND.into()),
            Propagation::Orphan => list.push(ORPHAN.into()),
        }
        set_finalizers(&mut object, &list);
    }
    if !is_held(kind, &object) {
        return (object, Change::Delete);
    }
    let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if let Some(seconds) = options.grace_seconds.filter(|seconds| !is_terminating(old) || grace.is_none_or(|grace| *seconds < grace)) {
        set_meta(&mut object, "deletionGracePeriodSeconds", Some(seconds.into()));
    }
    if !is_terminating(old) {
        set_meta(&mut object, "deletionTimestamp", Some(now().into()));
        if let Some(generation) = old["metadata"]["generation"].as_i64() {
            set_meta(&mut object, "generation", Some((generation + 1).into()));
        }
        if is_namespace(kind) {
            let mut status = object.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
            set_field(&mut status, "phase", Some("Terminating".into()));
            set_field(&mut object, "status", Some(status));
        }
    }
    let change = if object == *old { Change::None } else { Change::Put };
    (object, change)
}
