//! The Leases of the Namespace `kube-node-lease`, by which Kubernetes' tools tell whether a Node lives (`kubectl describe node`).
//!
//! Nothing of them is stored, as no heartbeat is a write: each is made of its Node when it is asked for, and is renewed as long as the
//! Node is Ready.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use gantry_api::registry::{KindInfo, find_resource};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::dispatch::Target;
use super::error::ApiError;
use super::{list, render};
use crate::cache::{Entry, Selection};
use crate::store::Index;
use crate::strategy::object::{key, resource};

const NAMESPACE: &str = "kube-node-lease";
/// Kubernetes' own (`pkg/kubelet/apis/config/v1beta1/defaults.go`); tools only show it.
const DURATION_SECONDS: i64 = 40;

/// Whether a request is about such Leases.
pub(super) fn is_meant(target: &Target) -> bool {
    target.kind.group == "coordination.k8s.io" && target.kind.kind == "Lease" && target.namespace() == NAMESPACE
}

/// Answers it.
///
/// # Errors
/// 405 for anything but get and list, 404 when there is no such Node.
pub(super) fn answer(target: &Target, verb: &str) -> Result<Response<Body>, ApiError> {
    let nodes = find_resource("", "v1", "nodes").ok_or_else(ApiError::no_such_resource)?;
    let cache = &target.server.cache;
    let (view, now) = (target.view(true)?, target.server.now());
    match (verb, target.path.name.as_deref(), target.path.subresource.as_deref()) {
        (_, _, Some(_)) => Err(ApiError::no_such_resource()),
        ("get", Some(name), None) => {
            let node = cache.get(&key(nodes, "", name)).ok_or_else(|| ApiError::not_found(&target.kind, name))?;
            Ok(render::json(StatusCode::OK, view.encode(&of_node(&node, now)?)?))
        }
        ("list", None, None) => {
            let selection = target.selection()?;
            let (entries, revision) = cache.list(&resource(nodes), &Selection::default());
            let selected = entries.iter().filter(|node| is_selected(&selection, &target.kind, &node.key.name));
            let leases = selected.map(|node| of_node(node, now)).collect::<Result<_, _>>()?;
            Ok(render::json(StatusCode::OK, list::items(view, &json!({"resourceVersion": revision.to_string()}), leases)))
        }
        _ => Err(ApiError::method_not_allowed("the leases of nodes are made when they are read; watch nodes instead")),
    }
}

/// They have no labels.
fn is_selected(selection: &Selection, kind: &KindInfo, name: &str) -> bool {
    selection.selects(&key(kind, NAMESPACE, name), &Index::default())
}

fn of_node(node: &Entry, now: Timestamp) -> Result<Bytes, ApiError> {
    let node = render::parse(&node.bytes)?;
    let metadata = &node["metadata"];
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let since = ready.map_or(&metadata["creationTimestamp"], |condition| &condition["lastTransitionTime"]);
    let is_ready = ready.is_some_and(|condition| condition["status"] == "True");
    let renewed = if is_ready { now } else { since.as_str().and_then(|text| text.parse().ok()).unwrap_or(now) };
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]});
    let lease: Value = json!({
        "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {
            "name": metadata["name"], "namespace": NAMESPACE, "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"], "ownerReferences": [owner],
        },
        "spec": {
            "holderIdentity": metadata["name"], "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        },
    });
    Ok(lease.to_string().into())
}
