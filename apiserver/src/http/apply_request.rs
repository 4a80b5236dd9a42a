//! ApplyRequest: a whole file of objects in one transaction, or with `dryRun=All` the plan of it.
//!
//! Every object is applied on its own against the present state; all errors of all objects are collected; then everything is
//! committed at once or nothing is. Objects may name a namespace that the same file makes.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use gantry_api::effects::{self, Effect};
use gantry_api::patch::apply as apply_patch;
use gantry_api::registry::{KindInfo, find_kind};
use serde_json::{Value, json};

use super::AppState;
use super::body::{self, Decoded};
use super::dispatch::permit;
use super::error::ApiError;
use super::options::WriteOptions;
use super::params::Params;
use super::patch::{check_config, failure};
use super::render;
use super::write::{MAX_ATTEMPTS, operation};
use crate::admission::{check_namespace, check_write};
use crate::auth::{Attributes, Identity};
use crate::store::{CommitError, Expect, Op};
use crate::strategy::object::{decode, key, meta_text};
use crate::strategy::{self, Change, Part, Prepared, claims};

/// The most objects of one request.
const MAX_OBJECTS: usize = 1_000;
/// The most changed fields that are listed of one object.
const MAX_CHANGES: usize = 200;
/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// One object of the file.
struct Item {
    kind: &'static KindInfo,
    namespace: String,
    name: String,
    config: Decoded,
    warnings: Vec<String>,
}

/// What becomes of one object.
struct Plan {
    result: Value,
    op: Option<Op>,
    check: Option<Op>,
}

/// Applies the objects of the request.
pub(super) async fn apply(
    server: &AppState,
    identity: &Identity,
    params: &Params,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let asked = WriteOptions::parse("CreateOptions", params, headers)?;
    let bytes = body::read(body).await?;
    let request = body::decode(headers, &bytes)?.value;
    let spec = request.get("spec").filter(|spec| spec.is_object()).ok_or_else(|| ApiError::bad_request("spec: is required"))?;
    for later in ["set", "prune"] {
        if spec.get(later).is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false)) && v != "") {
            let message = format!("spec.{later}: this server does not know how to keep sets of objects");
            return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message));
        }
    }
    let objects = spec
        .get("objects")
        .and_then(Value::as_array)
        .ok_or_else(|| ApiError::bad_request("spec.objects: a list of objects is required"))?;
    if objects.len() > MAX_OBJECTS {
        return Err(ApiError::too_large(format!("spec.objects: has {} objects, at most {MAX_OBJECTS} are possible", objects.len())));
    }
    let manager = spec.get("fieldManager").and_then(Value::as_str).filter(|m| !m.is_empty()).unwrap_or(&asked.manager);
    let mut options = WriteOptions::internal(manager, asked.dry_run);
    options.force = spec.get("force").and_then(Value::as_bool).unwrap_or_default();
    options.applied = true;
    let _claims = server.image_claims.lock().await;
    for _ in 0..MAX_ATTEMPTS {
        let (results, ops) = plan(server, identity, objects, &options)?;
        if options.dry_run || ops.is_empty() {
            return Ok(answer(&request, &results));
        }
        match server.cache.commit(ops).await {
            Ok(_) => return Ok(answer(&request, &results)),
            // Something changed since it was looked at: look at everything again.
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::from_commit(&error)),
        }
    }
    Err(ApiError::new(StatusCode::CONFLICT, "Conflict", "the objects kept changing while they were applied; please try again"))
}

fn answer(request: &Value, results: &[Value]) -> Response<Body> {
    let metadata = request.get("metadata").filter(|m| m.is_object()).cloned().unwrap_or_else(|| json!({}));
    let body = json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": metadata, "status": {"results": results}});
    render::json(StatusCode::CREATED, body.to_string())
}

/// The results and the operations of the whole file.
fn plan(server: &AppState, identity: &Identity, objects: &[Value], options: &WriteOptions) -> Result<(Vec<Value>, Vec<Op>), ApiError> {
    let namespaces = namespaces_of(objects);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    let (mut ops, mut checks, mut seen) = (Vec::new(), Vec::<Op>::new(), BTreeSet::new());
    for (at, object) in objects.iter().enumerate() {
        let planned = item(object, options).and_then(|item| {
            if !seen.insert(key(item.kind, &item.namespace, &item.name)) {
                return Err(ApiError::bad_request(format!("{} {:?} stands twice in the request", item.kind.qualified(), item.name)));
            }
            one(server, identity, &item, &namespaces, options)
        });
        match planned {
            Ok(plan) => {
                results.push(plan.result);
                ops.extend(plan.op);
                checks.extend(plan.check);
            }
            Err(error) => {
                results.push(refusal(object, &error));
                errors.push((at, error));
            }
        }
    }
    if !errors.is_empty() {
        return Err(refused(&errors, results));
    }
    checks.retain(|check| !ops.iter().any(|op: &Op| op.key() == check.key()));
    checks.sort_by(|a, b| a.key().cmp(b.key()));
    checks.dedup_by(|a, b| a.key() == b.key());
    ops.extend(checks);
    Ok((results, ops))
}

/// Namespaces that the file itself declares.
fn namespaces_of(objects: &[Value]) -> BTreeSet<String> {
    let declared = objects.iter().filter(|o| o["kind"] == "Namespace" && o["apiVersion"] == "v1");
    declared.map(|o| meta_text(o, "name").to_owned()).collect()
}

fn item(object: &Value, options: &WriteOptions) -> Result<Item, ApiError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let kind = find_kind(text("apiVersion"), text("kind"))
        .ok_or_else(|| ApiError::bad_request(format!("no kind {:?} in version {:?} is known here", text("kind"), text("apiVersion"))))?;
    let name = meta_text(object, "name").to_owned();
    if name.is_empty() {
        return Err(ApiError::bad_request(format!("{}: metadata.name is required", kind.kind)));
    }
    let given = meta_text(object, "namespace");
    let namespace = match (kind.namespaced, given) {
        (false, _) => "",
        (true, "") => DEFAULT_NAMESPACE,
        (true, given) => given,
    };
    let config = Decoded { value: object.clone(), duplicates: Vec::new() };
    let (config, warnings) = check_config(kind, namespace, &name, options, config)?;
    Ok(Item { kind, namespace: namespace.to_owned(), name, config, warnings })
}

fn one(server: &AppState, identity: &Identity, item: &Item, declared: &BTreeSet<String>, options: &WriteOptions) -> Result<Plan, ApiError> {
    let kind = item.kind;
    let entry = server.cache.get(&key(kind, &item.namespace, &item.name));
    let attributes = Attributes {
        verb: if entry.is_some() { "patch" } else { "create" },
        group: kind.group,
        resource: kind.plural,
        namespace: &item.namespace,
        name: &item.name,
        ..Attributes::default()
    };
    permit(server, identity, &attributes)?;
    let api_version = kind.api_version();
    let writer = options.writer(&api_version, Part::Main, server.now());
    let old = entry.as_ref().map(|entry| decode(entry)).transpose().map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
    let new = apply_patch(old.as_ref(), &item.config.value, (kind.schema)(), &writer).map_err(|error| failure(kind, &item.name, error))?;
    let strictness = options.strictness(kind);
    let (prepared, expect, check) = match (&old, &entry) {
        (Some(old), Some(entry)) => {
            let asked = meta_text(&item.config.value, "resourceVersion");
            if !asked.is_empty() && asked != entry.revision.to_string() {
                return Err(ApiError::modified(kind, &item.name));
            }
            (strategy::prepare_update(kind, Part::Main, old, new, &[], (strictness, None))?, Expect::At(entry.revision), None)
        }
        _ => {
            let prepared = strategy::prepare_create(kind, new, &[], strictness, &writer, (server.uid(), true))?;
            let check = match check_namespace(&server.cache, kind, &item.name, &item.namespace) {
                Err(error) if error.code == StatusCode::NOT_FOUND && declared.contains(&item.namespace) => None,
                checked => checked?,
            };
            (prepared, Expect::Absent, check)
        }
    };
    check_write(identity, kind, Part::Main, old.as_ref(), &prepared.object)?;
    claims::check(&server.cache, kind, &prepared.object)?;
    let op = operation(kind, &prepared, expect)?;
    let mut result = result(kind, old.as_ref(), &prepared);
    let warnings: Vec<String> = item.warnings.iter().chain(&prepared.warnings).cloned().collect();
    if !warnings.is_empty() {
        result["warnings"] = warnings.into();
    }
    Ok(Plan { result, op, check })
}

fn result(kind: &KindInfo, old: Option<&Value>, prepared: &Prepared) -> Value {
    let new = &prepared.object;
    let action = match (old, prepared.change) {
        (None, _) => "Created",
        (Some(_), Change::None) => "Unchanged",
        (Some(_), Change::Put) => "Updated",
        (Some(_), Change::Delete) => "Deleted",
    };
    let mut changes = Vec::new();
    if let Some(old) = old.filter(|_| prepared.change == Change::Put) {
        differences("", Some(old), Some(new), kind.kind == "Secret", &mut changes);
    }
    let (effect, message) = effect(kind, old, new, prepared.change);
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "namespace": meta_text(new, "namespace"), "name": meta_text(new, "name"),
        "action": action, "changes": changes, "effect": effect, "effectMessage": message,
    })
}

/// What happens to processes: the worst of all changed fields.
fn effect(kind: &KindInfo, old: Option<&Value>, new: &Value, change: Change) -> (&'static str, String) {
    if !(kind.ours && kind.kind == "Container") || change == Change::None {
        return ("None", String::new());
    }
    let name = meta_text(new, "name");
    let state = |object: &Value| object["spec"]["desiredState"].as_str().unwrap_or("Running").to_owned();
    let Some(old) = old else {
        return if state(new) == "Stopped" { ("None", String::new()) } else { ("Start", format!("starts {name}")) };
    };
    if change == Change::Delete {
        return ("Remove", format!("removes {name}"));
    }
    match (state(old).as_str(), state(new).as_str()) {
        (before, "Stopped") if before != "Stopped" => return ("Stop", format!("stops {name}")),
        ("Stopped", after) if after != "Stopped" => return ("Start", format!("starts {name}")),
        _ => {}
    }
    let known: Vec<String> = effects::known_paths().iter().map(|path| (*path).to_owned()).collect();
    let changes = effects::changes(&old["spec"], &new["spec"], &known);
    let Some(worst) = changes.iter().map(|c| c.effect).max() else { return ("None", String::new()) };
    let fields = changes.iter().filter(|c| c.effect == worst).map(|c| c.path.as_str()).collect::<Vec<_>>().join(", ");
    match worst {
        Effect::None => ("None", String::new()),
        Effect::Live => ("Live", format!("changes {name} while it runs: {fields}")),
        Effect::Restart => ("Restart", format!("restarts {name}: {fields}; its writable layer stays")),
        Effect::Replace => ("Replace", format!("replaces {name}: {fields}; discards its writable layer")),
    }
}

/// Fields that differ, by path; what the server keeps by itself and secrets are left out.
fn differences(path: &str, old: Option<&Value>, new: Option<&Value>, secret: bool, found: &mut Vec<Value>) {
    const OWN: [&str; 3] = ["metadata.managedFields", "metadata.generation", "metadata.resourceVersion"];
    if old == new || OWN.contains(&path) || found.len() >= MAX_CHANGES {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (old, new) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            differences(&below, a.get(name), b.get(name), secret, found);
        }
        return;
    }
    let hidden = secret && (path.starts_with("data") || path.starts_with("stringData"));
    let shown =
        |value: Option<&Value>| if hidden { value.map_or(Value::Null, |_| "(hidden)".into()) } else { value.cloned().unwrap_or_default() };
    found.push(json!({"path": path, "old": shown(old), "new": shown(new)}));
}

fn refusal(object: &Value, error: &ApiError) -> Value {
    let action = if error.code == StatusCode::CONFLICT { "Conflict" } else { "Invalid" };
    json!({
        "apiVersion": object.get("apiVersion"), "kind": object.get("kind"), "namespace": meta_text(object, "namespace"),
        "name": meta_text(object, "name"), "action": action, "changes": [], "effect": "None", "effectMessage": "", "message": error.message,
    })
}

/// The refusal of the whole request: one cause for each error of each object, and all results.
fn refused(errors: &[(usize, ApiError)], results: Vec<Value>) -> ApiError {
    let conflict = errors.iter().all(|(_, error)| error.code == StatusCode::CONFLICT);
    let denied = errors.iter().find(|(_, error)| matches!(error.code, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED));
    let (code, reason) = match denied {
        Some((_, error)) => (error.code, error.reason),
        None if conflict => (StatusCode::CONFLICT, "Conflict"),
        None => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
    };
    let messages = errors.iter().map(|(_, error)| error.message.as_str()).collect::<Vec<_>>().join("; ");
    let mut causes = Vec::new();
    for (at, error) in errors {
        let own = error.details.get("causes").and_then(Value::as_array).filter(|own| !own.is_empty());
        match own {
            None => causes.push(json!({"reason": error.reason, "message": error.message, "field": format!("spec.objects[{at}]")})),
            Some(own) => causes.extend(own.iter().map(|cause| {
                let mut cause = cause.clone();
                let field = cause["field"].as_str().unwrap_or_default().trim_start_matches('.').to_owned();
                cause["field"] = format!("spec.objects[{at}].{field}").into();
                cause
            })),
        }
    }
    let mut error = ApiError::new(code, reason, format!("nothing was applied: {messages}"));
    error.details.insert("group".into(), "gantry.dev".into());
    error.details.insert("kind".into(), "ApplyRequest".into());
    error.details.insert("causes".into(), causes.into());
    error.details.insert("results".into(), results.into());
    error
}
