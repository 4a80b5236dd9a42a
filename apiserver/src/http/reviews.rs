//! Questions about the caller itself, and collections that are always empty.

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::AppState;
use super::body;
use super::error::ApiError;
use super::render;
use crate::auth::{Attributes, Identity};

/// `kubectl auth can-i`, `kubectl auth whoami`.
pub(super) async fn review(
    server: &AppState,
    identity: &Identity,
    kind: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let bytes = body::read(body).await?;
    let mut review = body::decode(headers, &bytes)?.value;
    if !review.is_object() {
        return Err(ApiError::bad_request(format!("the body is not a {kind} object")));
    }
    let status = if kind == "SelfSubjectReview" {
        json!({"userInfo": {"username": identity.user, "groups": identity.groups}})
    } else {
        json!({"allowed": is_allowed(server, identity, review.get("spec").unwrap_or(&Value::Null))})
    };
    crate::strategy::object::set_field(&mut review, "kind", Some(kind.into()));
    crate::strategy::object::set_field(&mut review, "status", Some(status));
    Ok(render::json(StatusCode::CREATED, review.to_string()))
}

fn is_allowed(server: &AppState, identity: &Identity, spec: &Value) -> bool {
    let resource = spec.get("resourceAttributes");
    let other = spec.get("nonResourceAttributes");
    let text = |of: Option<&'_ Value>, field: &str| of.and_then(|of| of.get(field)).and_then(Value::as_str).unwrap_or_default().to_owned();
    let verb = if resource.is_some() { text(resource, "verb") } else { text(other, "verb") };
    let (group, plural, subresource) = (text(resource, "group"), text(resource, "resource"), text(resource, "subresource"));
    let (namespace, name, path) = (text(resource, "namespace"), text(resource, "name"), text(other, "path"));
    let attributes = Attributes {
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: &path,
    };
    server.authorizer.authorize(identity, &attributes).is_allowed()
}

/// There is no load balancer yet, so no Service either; `kubectl cluster-info` asks for them. A watch of them ends at once.
pub(super) fn services(server: &AppState, watch: bool) -> Response<Body> {
    if watch {
        return render::json(StatusCode::OK, Body::empty());
    }
    let revision = server.cache.revision().to_string();
    let list = json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": []});
    render::json(StatusCode::OK, list.to_string())
}
