//! Discovery: which groups, versions and resources there are, aggregated and not, all from the registry.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::cmp::Reverse;

use gantry_api::custom::priority;
use gantry_api::registry::{KindInfo, Subresource, kinds};
use serde_json::{Value, json};

use crate::definitions::{Kinds, Table};
use crate::http::compress::compress;
use crate::http::error::ApiError;
use crate::http::negotiate::accepted;
use crate::http::render;

/// Verbs of objects, in the order of the alphabet as Kubernetes lists them.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const VIEW_VERBS: [&str; 3] = ["get", "list", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// A resource as discovery tells it.
struct Resource<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    plural: &'a str,
    singular: &'a str,
    short_names: &'a [String],
    categories: &'a [String],
    namespaced: bool,
    verbs: Vec<&'static str>,
    subresources: Vec<Part<'a>>,
}

/// A subresource: name, verbs, and the group, version and kind of what is sent to it.
struct Part<'a> {
    name: &'static str,
    verbs: Vec<&'static str>,
    kind: (&'a str, &'a str, &'a str),
}

impl<'a> Resource<'a> {
    fn stored(kind: &'a KindInfo) -> Self {
        let own = (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str());
        let part = |s: &Subresource| Part { name: s.name, verbs: s.verbs.to_vec(), kind: s.kind.unwrap_or(own) };
        let mut subresources: Vec<Part> = kind.subresources.iter().map(part).collect();
        if kind.has_status {
            subresources.push(Part { name: "status", verbs: STATUS_VERBS.to_vec(), kind: own });
        }
        Self {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            plural: &kind.plural,
            singular: &kind.singular,
            short_names: &kind.short_names,
            categories: &kind.categories,
            namespaced: kind.namespaced,
            verbs: if kind.view.is_some() { VIEW_VERBS.to_vec() } else { VERBS.to_vec() },
            subresources,
        }
    }

    /// Resources that are not in the registry because nothing of them is stored.
    fn unstored(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        namespaced: bool,
        verbs: &[&'static str],
    ) -> Self {
        Self {
            group,
            version: "v1",
            kind,
            plural,
            singular,
            short_names: &[],
            categories: &[],
            namespaced,
            verbs: verbs.to_vec(),
            subresources: Vec::new(),
        }
    }
}

/// All resources, core first: of two groups with the same resource name, clients take the first.
fn all(custom: &Table) -> Vec<Resource<'_>> {
    let mut all: Vec<Resource<'_>> = kinds().iter().map(Resource::stored).collect();
    all.push(Resource::unstored("gantry.dev", "ApplyRequest", "applyrequests", "applyrequest", false, &["create"]));
    all.push(Resource::unstored(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        false,
        &["create"],
    ));
    for (kind, plural, singular) in [
        ("SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
        ("SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
    ] {
        all.push(Resource::unstored("authorization.k8s.io", kind, plural, singular, false, &["create"]));
    }
    all.extend(custom.kinds().map(|kind| Resource::stored(kind)));
    all
}

/// A resource or a part of one, and what can be done with it.
pub(crate) struct ResourceVerbs<'a> {
    pub(crate) group: &'a str,
    pub(crate) plural: &'a str,
    /// Empty for the resource itself.
    pub(crate) subresource: &'static str,
    pub(crate) verbs: Vec<&'static str>,
}

/// All that can be asked for.
pub(crate) fn resource_verbs(custom: &Table) -> Vec<ResourceVerbs<'_>> {
    let mut found = Vec::new();
    for Resource { group, plural, verbs, subresources, .. } in all(custom) {
        found.push(ResourceVerbs { group, plural, subresource: "", verbs });
        found.extend(subresources.into_iter().map(|part| ResourceVerbs { group, plural, subresource: part.name, verbs: part.verbs }));
    }
    found
}

/// Groups in order, core left out, each with its versions, the preferred one first.
fn groups_of<'a>(all: &[Resource<'a>]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in all.iter().filter(|r| !r.group.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| Reverse(priority(version)));
    }
    groups
}

/// `/api`
pub(crate) fn core(headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let none = Table::default();
    let all = all(&none);
    if let Some(version) = aggregated(headers) {
        return Ok(aggregate(headers, version, &[item(&all, "", &["v1"])]));
    }
    let versions = json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    });
    Ok(plain(headers, &versions))
}

/// `/apis`
pub(crate) fn groups(kinds: &Kinds, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let table = kinds.table();
    let all = all(&table);
    let groups = groups_of(&all);
    if let Some(version) = aggregated(headers) {
        return Ok(aggregate(headers, version, &groups.iter().map(|(group, versions)| item(&all, group, versions)).collect::<Vec<_>>()));
    }
    let list: Vec<Value> = groups.iter().map(|(group, versions)| api_group(group, versions)).collect();
    Ok(plain(headers, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})))
}

/// `/apis/{group}`
pub(crate) fn group(kinds: &Kinds, headers: &HeaderMap, group: &str) -> Result<Response<Body>, ApiError> {
    let table = kinds.table();
    let found = groups_of(&all(&table)).into_iter().find(|(name, _)| *name == group).ok_or_else(ApiError::no_such_resource)?;
    let mut document = api_group(found.0, &found.1);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Ok(plain(headers, &document))
}

/// `/api/v1`, `/apis/{group}/{version}`
pub(crate) fn resources(kinds: &Kinds, headers: &HeaderMap, group: &str, version: &str) -> Result<Response<Body>, ApiError> {
    let table = kinds.table();
    let of_version: Vec<Resource<'_>> = all(&table).into_iter().filter(|r| r.group == group && r.version == version).collect();
    if of_version.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    let mut list = Vec::new();
    for r in &of_version {
        list.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs,
            "shortNames": r.short_names, "categories": r.categories,
        }));
        for Part { name, verbs, kind: (group, version, kind) } in &r.subresources {
            let mut part = json!({
                "name": format!("{}/{name}", r.plural), "singularName": "", "namespaced": r.namespaced, "kind": kind, "verbs": verbs,
            });
            if *kind != r.kind {
                (part["group"], part["version"]) = ((*group).into(), (*version).into());
            }
            list.push(part);
        }
    }
    let document = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version), "resources": list});
    Ok(plain(headers, &document))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": group_version(group, version), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// The version of the aggregated form that the client asks for before anything else we can give. Older clients know only
/// `v2beta1` and would find nothing in a `v2`.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let wanted = accepted(headers).into_iter().filter(|m| matches!(m.essence.as_str(), "application/json" | "*/*" | "application/*"));
    for media in wanted {
        match (media.param("as"), media.param("g"), media.param("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => return Some("v2"),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => return Some("v2beta1"),
            (None, _, _) => return None,
            _ => {}
        }
    }
    None
}

/// One group of the aggregated form.
fn item(all: &[Resource<'_>], group: &str, versions: &[&str]) -> Value {
    let response_kind = |r: &Resource| json!({"group": r.group, "version": r.version, "kind": r.kind});
    let resource = |r: &Resource| {
        let subresources: Vec<Value> = (r.subresources.iter())
            .map(|Part { name, verbs, kind: (group, version, kind) }| {
                json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs})
            })
            .collect();
        let mut resource = json!({
            "resource": r.plural, "responseKind": response_kind(r), "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": r.singular, "verbs": r.verbs, "shortNames": r.short_names, "categories": r.categories,
        });
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resource
    };
    let version = |version: &&str| {
        let resources: Vec<Value> = all.iter().filter(|r| r.group == group && r.version == *version).map(resource).collect();
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn aggregate(headers: &HeaderMap, version: &str, items: &[Value]) -> Response<Body> {
    let document =
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let mut response = cached(headers, document.to_string());
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

fn plain(headers: &HeaderMap, document: &Value) -> Response<Body> {
    cached(headers, document.to_string())
}

/// JSON with an `ETag`, or 304 when the client has it. The form depends on Accept, and caches are told so.
pub(crate) fn cached(headers: &HeaderMap, text: String) -> Response<Body> {
    let tag = format!("\"{}\"", hash(&text));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let known = known.flat_map(|v| v.split(',')).any(|v| v.trim() == tag);
    let bytes = text.len();
    let mut response =
        render::json(if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK }, if known { Body::empty() } else { Body::from(text) });
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    compress(headers, bytes, response)
}

/// A fingerprint of a document that is the same in every process of one build.
pub(crate) fn hash(text: &str) -> String {
    let mut digest = String::with_capacity(32);
    for seed in [0_u64, 1] {
        #[expect(deprecated, reason = "the one hasher of the standard library without random keys; it guards caches, not secrets")]
        let mut hasher = std::hash::SipHasher::new_with_keys(seed, 0);
        hasher.write(text.as_bytes());
        // Writing to a string cannot fail.
        let _ = write!(digest, "{:016x}", hasher.finish());
    }
    digest
}
