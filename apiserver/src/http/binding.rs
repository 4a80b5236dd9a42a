//! POST to a container's `binding`: the scheduler's one word on where it runs.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use gantry_api::meta::{Condition, ConditionStatus, GROUP, Time, VERSION, set_condition};
use gantry_api::registry::find_resource;
use serde_json::{Value, json};

use super::body::{self, Decoded};
use super::dispatch::Target;
use super::error::ApiError;
use super::options::{WriteOptions, dry_run};
use super::render;
use super::write::{Written, modify};
use crate::strategy::Part;
use crate::strategy::object::{finalizers, is_terminating, set_field, set_finalizers};

/// Held by the node's agent until nothing of the container is left there.
const AGENT_FINALIZER: &str = "gantry.dev/agent";

/// Binds the container to `nodeName`, or with an empty one takes the binding back. Binding it again to its node changes nothing.
///
/// A binding that was taken back leaves the agent's finalizer: until that agent has let go, no other node can have the container, so that
/// it never runs on two.
pub(super) async fn bind(target: &Target, name: &str, body: Body) -> Result<Response<Body>, ApiError> {
    let bytes = body::read(body).await?;
    let request = body::decode(&target.headers, &bytes)?.value;
    let node = match request.get("nodeName") {
        Some(Value::String(node)) => node.clone(),
        Some(Value::Null) => String::new(),
        _ => return Err(ApiError::bad_request("nodeName: the name of a node is required; an empty one takes the binding back")),
    };
    let options = WriteOptions::parse("CreateOptions", &target.params, &target.headers)?;
    let mut written = write(target, name, &node, &options, |_| Ok(())).await?;
    written.created = true;
    written.respond(target)
}

/// POST to a Pod's `eviction`: takes the binding of its container back. The agent stops the container, and the scheduler binds it to
/// another node that takes it, or leaves it pending.
///
/// Source: policy/v1 Eviction; `kubectl drain` asks for it and waits until the Pod is gone.
pub(super) async fn evict(target: &Target, name: &str, body: Body) -> Result<Response<Body>, ApiError> {
    let bytes = body::read(body).await?;
    let eviction = if bytes.is_empty() { json!({}) } else { body::decode(&target.headers, &bytes)?.value };
    let wanted = eviction.pointer("/deleteOptions/preconditions/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut options = WriteOptions::parse("CreateOptions", &target.params, &target.headers)?;
    let dry = eviction.pointer("/deleteOptions/dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    options.dry_run |= dry_run("DeleteOptions", dry)?;
    let (Some(view), Some(kind)) = (target.kind.view, find_resource(GROUP, VERSION, "containers")) else {
        return Err(ApiError::no_such_resource());
    };
    let check = |old: &Value| {
        let pod = (view.render)(old);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        if old["status"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            return Err(ApiError::not_found(&target.kind, name));
        }
        if !wanted.is_empty() && uid != wanted {
            return Err(ApiError::conflict(&target.kind, name, &format!("the uid in the precondition is {wanted}, that of the pod {uid}")));
        }
        Ok(())
    };
    write(&target.with_kind(kind), name, "", &options, check).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(render::json(StatusCode::CREATED, status.to_string()))
}

/// Binds, if `check` has nothing against the present state.
async fn write(
    target: &Target,
    name: &str,
    node: &str,
    options: &WriteOptions,
    check: impl Fn(&Value) -> Result<(), ApiError>,
) -> Result<Written, ApiError> {
    let now = Time(target.server.now());
    let uid = uuid::Builder::from_random_bytes((target.server.random)().to_be_bytes()).into_uuid().to_string();
    modify(target, name, Part::Binding, options, |old| {
        check(old)?;
        bound(target, name, old, (node, &uid), &now).map(|value| Decoded { value, duplicates: Vec::new() })
    })
    .await
}

fn bound(target: &Target, name: &str, old: &Value, (node, uid): (&str, &str), now: &Time) -> Result<Value, ApiError> {
    let current = old["status"]["nodeName"].as_str().unwrap_or_default();
    if current == node {
        return Ok(old.clone());
    }
    if is_terminating(old) {
        return Err(ApiError::conflict(&target.kind, name, "the container is being deleted"));
    }
    if !current.is_empty() && !node.is_empty() {
        return Err(ApiError::conflict(&target.kind, name, &format!("the container is bound to node {current:?} already")));
    }
    let mut list = finalizers(old);
    let former = old["status"]["formerNodeName"].as_str().unwrap_or_default();
    if !former.is_empty() && former != node && list.iter().any(|f| f == AGENT_FINALIZER) {
        return Err(ApiError::conflict(&target.kind, name, &format!("node {former:?} has not let go of the container yet")));
    }
    let mut object = old.clone();
    let mut status = old.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let conditions = status.get("conditions").cloned().unwrap_or_else(|| json!([]));
    let mut conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
    let (holds, reason, message) = if node.is_empty() {
        (ConditionStatus::False, "Unbound", format!("node {current} lets go of it; then the scheduler chooses again"))
    } else {
        (ConditionStatus::True, "Bound", format!("runs on node {node}"))
    };
    set_condition(&mut conditions, Condition::new("Scheduled", holds, reason, message, generation, now.clone()));
    let conditions = serde_json::to_value(conditions).map_err(|error| ApiError::internal(error.to_string()))?;
    set_field(&mut status, "conditions", Some(conditions));
    if !node.is_empty() {
        set_field(&mut status, "bindingUID", Some(uid.into()));
    }
    set_field(&mut status, "nodeName", (!node.is_empty()).then(|| node.into()));
    set_field(&mut status, "formerNodeName", node.is_empty().then(|| current.into()));
    set_field(&mut object, "status", Some(status));
    if !node.is_empty() && !list.iter().any(|f| f == AGENT_FINALIZER) {
        list.push(AGENT_FINALIZER.to_owned());
        set_finalizers(&mut object, &list);
    }
    Ok(object)
}
