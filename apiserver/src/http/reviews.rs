//! Questions about the caller itself.

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::AppState;
use super::body;
use super::error::ApiError;
use super::render;
use crate::auth::{Attributes, Identity};
use crate::discovery::{ResourceVerbs, resource_verbs};

/// `kubectl auth can-i`, `kubectl auth can-i --list`, `kubectl auth whoami`.
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
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let status = match kind {
        "SelfSubjectReview" => json!({"userInfo": {"username": identity.user, "groups": identity.groups}}),
        "SelfSubjectRulesReview" => rules(server, identity, spec.get("namespace").and_then(Value::as_str).unwrap_or_default()),
        _ => json!({"allowed": is_allowed(server, identity, spec)}),
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

/// Paths that a rules review asks about: those that name no resource.
const PATHS: [&str; 10] = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/metrics", "/openapi/*", "/readyz", "/version"];

/// Everything that the caller may do, found by asking the authorizer about each verb of each resource. Rules about single objects are
/// not found so: then the answer says that it is incomplete.
fn rules(server: &AppState, identity: &Identity, namespace: &str) -> Value {
    let may = |attributes: Attributes<'_>| server.authorizer.authorize(identity, &attributes).is_allowed();
    if may(Attributes { verb: "*", group: "*", resource: "*", namespace, ..Attributes::default() }) {
        let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        return json!({"resourceRules": everything, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false});
    }
    let table = server.kinds.table();
    let rule = |ResourceVerbs { group, plural, subresource, verbs }: ResourceVerbs<'_>| {
        let allowed: Vec<&str> = verbs
            .into_iter()
            .filter(|verb| may(Attributes { verb, group, resource: plural, subresource, namespace, ..Attributes::default() }))
            .collect();
        let name = if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") };
        (!allowed.is_empty()).then(|| json!({"verbs": allowed, "apiGroups": [group], "resources": [name]}))
    };
    let resources: Vec<Value> = resource_verbs(&table).into_iter().filter_map(rule).collect();
    let paths: Vec<&str> = PATHS
        .into_iter()
        .filter(|path| may(Attributes { verb: "get", path: path.trim_end_matches("/*"), ..Attributes::default() }))
        .collect();
    let paths = if paths.is_empty() { json!([]) } else { json!([{"verbs": ["get"], "nonResourceURLs": paths}]) };
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": identity.is_of_the_engine()})
}
