//! Logs and exec: requests that are passed on, untouched, to the agent of the node that runs the container.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Request, Response, StatusCode, Uri};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::http::dispatch::Target;
use crate::http::error::ApiError;
use crate::strategy::object::{decode, key, meta_text};

/// The way to the agents.
pub trait NodeProxy: Send + Sync {
    /// Passes a request on to the agent of `node` and answers what it says. The path is `/containers/{uid}/log` or
    /// `/containers/{uid}/exec` with the client's query; headers, body and a pending upgrade are the client's.
    fn call(&self, node: &str, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Passes the request of a container's `log` or `exec` on.
///
/// # Errors
/// 404 when there is no such container, 409 when it is not bound to a node, 503 when its node cannot be asked.
pub(crate) async fn to_node(target: &Target, name: &str, stream: &str, parts: Parts, body: Body) -> Result<Response<Body>, ApiError> {
    let key = key(&target.kind, target.namespace(), name);
    let entry = target.server.cache.get(&key).ok_or_else(|| ApiError::not_found(&target.kind, name))?;
    let object = decode(&entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
    let node = object["status"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        let why = because(&object, "Scheduled");
        return Err(ApiError::conflict(&target.kind, name, &format!("the container is not bound to a node yet{why}")));
    }
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    if stream == "exec" && phase != "Running" {
        let phase = if phase.is_empty() { "Pending" } else { phase };
        return Err(ApiError::conflict(&target.kind, name, &format!("the container is {phase}, not Running{}", because(&object, "Ready"))));
    }
    let proxy = target.server.node_proxy.get().map(Arc::clone);
    let proxy = proxy.ok_or_else(|| ApiError::unavailable(format!("node {node:?}, which runs the container, is not connected")))?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/containers/{}/{stream}{query}", meta_text(&object, "uid"));
    let path: PathAndQuery = path.parse().map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", "the query is malformed"))?;
    let mut parts = parts;
    parts.uri = Uri::from(path);
    Ok(proxy.call(node, Request::from_parts(parts, body)).await)
}

/// What a condition that does not hold says, to be put behind a statement.
fn because(object: &Value, condition: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.filter(|c| c["type"] == condition && c["status"] != "True").find_map(|c| c["message"].as_str());
    found.filter(|message| !message.is_empty()).map_or_else(String::new, |message| format!(": {message}"))
}
