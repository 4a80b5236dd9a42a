//! OpenAPI v3: an index and one document per group version, from the schemas of the registry.
//!
//! kubectl refuses to apply anything unless the document lists a PATCH operation with a `fieldValidation` parameter for the
//! kind, and chooses the type of its patches from that operation's request body.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use gantry_api::registry::{KindInfo, kinds};
use gantry_api::schema;
use serde_json::{Map, Value, json};

use crate::definitions::{Kinds, Table};
use crate::discovery::{cached, hash};
use crate::http::error::ApiError;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Documents by path: `api/v1`, `apis/gantry.dev/v1`.
pub(crate) type Documents = BTreeMap<String, Document>;

/// A document and its fingerprint.
pub(crate) struct Document {
    text: String,
    hash: String,
}

/// Those of the built-in kinds. Made once.
fn built_in() -> &'static Documents {
    static DOCUMENTS: OnceLock<Documents> = OnceLock::new();
    DOCUMENTS.get_or_init(|| documents(kinds().iter()))
}

/// Those of the kinds of a table. Made once for each table; no group of a custom kind has built-in ones.
fn custom(table: &Table) -> &Documents {
    table.documents(|table| documents(table.kinds().map(AsRef::as_ref)))
}

fn documents<'a>(kinds: impl Iterator<Item = &'a KindInfo>) -> Documents {
    let mut groups: BTreeMap<String, Vec<&KindInfo>> = BTreeMap::new();
    for kind in kinds {
        groups.entry(base(kind)).or_default().push(kind);
    }
    let document = |(path, kinds): (String, Vec<&KindInfo>)| {
        let text = make(&kinds).to_string();
        let hash = hash(&text);
        (path, Document { text, hash })
    };
    groups.into_iter().map(document).collect()
}

/// `/openapi/v3`
pub(crate) fn index(kinds: &Kinds, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let table = kinds.table();
    let paths: Map<String, Value> = (built_in().iter().chain(custom(&table)))
        .map(|(path, document)| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.hash)})))
        .collect();
    Ok(cached(headers, json!({"paths": paths}).to_string()))
}

/// `/openapi/v3/{path}`: may be kept for ever, since its URL in the index changes with its content.
pub(crate) fn document(kinds: &Kinds, headers: &HeaderMap, path: &str) -> Result<Response<Body>, ApiError> {
    let table = kinds.table();
    let document = built_in().get(path).or_else(|| custom(&table).get(path)).ok_or_else(ApiError::no_such_resource)?;
    let mut response = cached(headers, document.text.clone());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    response.headers_mut().insert(header::EXPIRES, HeaderValue::from_static("Fri, 31 Dec 2100 23:59:59 GMT"));
    Ok(response)
}

fn base(kind: &KindInfo) -> String {
    if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) }
}

/// Name of a schema component: the group's domain turned round, as Kubernetes names them.
fn component(kind: &KindInfo, suffix: &str) -> String {
    let prefix = match kind.group.as_str() {
        "" => "io.k8s.api.core".to_owned(),
        "coordination.k8s.io" => "io.k8s.api.coordination".to_owned(),
        group => group.split('.').rev().collect::<Vec<_>>().join("."),
    };
    format!("{prefix}.{}.{}{suffix}", kind.version, kind.kind)
}

fn make(kinds: &[&KindInfo]) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    schemas.insert(META.into(), schema::object_meta().clone());
    schemas.insert(LIST_META.into(), list_meta());
    schemas.insert(STATUS.into(), status());
    for kind in kinds {
        let mut object = kind.schema().clone();
        object["x-kubernetes-group-version-kind"] = json!([gvk(kind, "")]);
        object["properties"]["metadata"] = reference(META, "Standard object metadata.");
        schemas.insert(component(kind, ""), object);
        schemas.insert(component(kind, "List"), list_schema(kind));
        add_paths(kind, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Gantry", "version": concat!("v", env!("CARGO_PKG_VERSION"))},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn gvk(kind: &KindInfo, suffix: &str) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": format!("{}{suffix}", kind.kind)})
}

fn reference(name: &str, description: &str) -> Value {
    json!({"description": description, "allOf": [{"$ref": format!("#/components/schemas/{name}")}], "default": {}})
}

fn list_meta() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({"type": "object", "description": "Metadata of lists.", "properties": {
        "resourceVersion": text("The version of the whole list."),
        "continue": text("Token of the next page."),
        "remainingItemCount": {"type": "integer", "format": "int64", "description": "Objects after this page."},
    }})
}

/// What failures are told by, and deletions.
fn status() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({"type": "object", "description": "The outcome of a request that answers no object.", "required": ["kind", "apiVersion"], "properties": {
        "kind": {"type": "string", "enum": ["Status"], "description": "Status."},
        "apiVersion": {"type": "string", "enum": ["v1"], "description": "v1."},
        "metadata": reference(LIST_META, "Standard list metadata."),
        "status": {"type": "string", "enum": ["Success", "Failure"], "description": "Whether it was done."},
        "message": text("One sentence."),
        "reason": text("CamelCase word for programs, such as NotFound."),
        "code": {"type": "integer", "format": "int32", "description": "The HTTP status."},
        "details": {"type": "object", "description": "What it is about: name, group, kind, uid, causes, retryAfterSeconds."},
    }})
}

fn list_schema(kind: &KindInfo) -> Value {
    json!({
        "type": "object", "description": format!("A list of {} objects.", kind.kind), "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the representation."},
            "kind": {"type": "string", "description": "Kind of the list."},
            "metadata": reference(LIST_META, "Standard list metadata."),
            "items": {"type": "array", "description": "The objects.", "items": {"allOf": [{"$ref": format!("#/components/schemas/{}", component(kind, ""))}], "default": {}}},
        },
        "x-kubernetes-group-version-kind": [gvk(kind, "List")],
    })
}

fn add_paths(kind: &KindInfo, paths: &mut Map<String, Value>) {
    let root = format!("/{}", base(kind));
    let collection =
        if kind.namespaced { format!("{root}/namespaces/{{namespace}}/{}", kind.plural) } else { format!("{root}/{}", kind.plural) };
    let item = format!("{collection}/{{name}}");
    let mut place = Vec::new();
    if kind.namespaced {
        place.push(parameter("namespace", "path", "string", "Namespace of the object."));
        let parameters = list_parameters();
        let list = operation(kind, "list", "List", "", &parameters, None);
        paths.insert(format!("{root}/{}", kind.plural), json!({"get": list}));
    }
    let list = operation(kind, "list", "List", "", &list_parameters(), None);
    let create = operation(kind, "post", "", "", &write_parameters(), Some(&["application/json", "application/yaml"]));
    let remove_all = operation(kind, "deletecollection", "", "", &list_parameters(), None);
    paths.insert(collection, json!({"parameters": place, "get": list, "post": create, "delete": remove_all}));
    place.push(parameter("name", "path", "string", "Name of the object."));
    let mut operations = object_operations(kind, "");
    operations["delete"] = operation(kind, "delete", "", "", &[parameter("dryRun", "query", "string", "`All` changes nothing.")], None);
    operations["parameters"] = place.clone().into();
    paths.insert(item.clone(), operations);
    if kind.has_status {
        let mut operations = object_operations(kind, "Status");
        operations["parameters"] = place.into();
        paths.insert(format!("{item}/status"), operations);
    }
}

/// GET, PUT and PATCH of an object or of its status.
fn object_operations(kind: &KindInfo, subresource: &str) -> Value {
    let mut patches = vec!["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
    // Listed where it is accepted and nowhere else: clients choose it without asking.
    if kind.merges_strategically() {
        patches.push("application/strategic-merge-patch+json");
    }
    let mut patch_parameters = write_parameters();
    patch_parameters.push(parameter("force", "query", "boolean", "Takes fields over from other appliers."));
    json!({
        "get": operation(kind, "get", "", subresource, &[], None),
        "put": operation(kind, "put", "", subresource, &write_parameters(), Some(&["application/json", "application/yaml"])),
        "patch": operation(kind, "patch", "", subresource, &patch_parameters, Some(&patches)),
    })
}

fn parameter(name: &str, place: &str, type_: &str, description: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "description": description, "schema": {"type": type_, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn write_parameters() -> Vec<Value> {
    vec![
        parameter("dryRun", "query", "string", "`All` computes everything and stores nothing."),
        parameter("fieldManager", "query", "string", "Who writes, for field ownership."),
        parameter("fieldValidation", "query", "string", "`Strict`, `Warn` or `Ignore`: what becomes of unknown fields."),
    ]
}

fn list_parameters() -> Vec<Value> {
    vec![
        parameter("labelSelector", "query", "string", "Only objects with these labels."),
        parameter("fieldSelector", "query", "string", "Only objects with these fields."),
        parameter("limit", "query", "integer", "The most objects of one answer."),
        parameter("continue", "query", "string", "Token of the next page."),
        parameter("resourceVersion", "query", "string", "How recent the answer must be."),
        parameter("watch", "query", "boolean", "Follow the changes."),
    ]
}

fn operation(kind: &KindInfo, action: &str, answer: &str, subresource: &str, parameters: &[Value], bodies: Option<&[&str]>) -> Value {
    let schema = |suffix: &str| json!({"schema": {"$ref": format!("#/components/schemas/{}", component(kind, suffix))}});
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let group: String = kind.group.split(['.', '-']).map(capitalize).collect();
    let id = format!("{action}{group}{}{scope}{}{answer}{subresource}", capitalize(&kind.version), kind.kind);
    let answered = |description: &str, schema: &Value| json!({"description": description, "content": {"application/json": schema}});
    let failed = json!({"schema": {"$ref": format!("#/components/schemas/{STATUS}")}});
    let mut responses = json!({"200": answered("OK", &schema(answer)), "default": answered("Failed", &failed)});
    if matches!(action, "post" | "patch") {
        responses["201"] = answered("Created", &schema(answer));
    }
    let mut operation = json!({
        "operationId": id,
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind, ""),
    });
    if let Some(types) = bodies {
        let body = |type_: &&str| {
            let patch = type_.contains("patch");
            ((*type_).to_owned(), if patch { json!({"schema": {"type": "object"}}) } else { schema("") })
        };
        operation["requestBody"] = json!({"required": true, "content": types.iter().map(body).collect::<Map<_, _>>()});
    }
    operation
}

fn capitalize(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
