//! From a request to its verb: route, identity, authorization, then one of the handlers.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response};
use gantry_api::registry::KindRef;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::metrics::RequestLabels;
use super::params::Params;
use super::render::{IncludeObject, View};
use super::route::{self, ResourcePath, Route};
use super::{
    AppState, apply_request, backup, binding, content, create, delete, delete_collection, get, health, list, metrics, negotiate,
    node_lease, patch, render, reviews, scale, update, watch,
};
use crate::admission::check_read;
use crate::auth::{Attributes, Decision, Identity};
use crate::cache::{Entry, FieldSelector, LabelSelector, Selection};
use crate::definitions::settle;
use crate::server::Stopping;
use crate::strategy::Part;
use crate::{discovery, openapi, stream};

/// The most bytes of a selector.
const MAX_SELECTOR_BYTES: usize = 32 * 1024;

/// A request about objects of a kind, as far as all verbs need it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) server: AppState,
    pub(crate) identity: Identity,
    pub(crate) kind: KindRef,
    pub(crate) path: ResourcePath,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    /// Cancelled when the listener stops: answers without an end of their own end on it.
    pub(crate) stopping: CancellationToken,
}

impl Target {
    /// The namespace of the URL; empty when there is none.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    /// The same request about an object of another kind.
    pub(crate) fn with_kind(&self, kind: impl Into<KindRef>) -> Self {
        Self { kind: kind.into(), ..self.clone() }
    }

    /// Whether a stored object is one of the kind: of a view, there may be none.
    pub(crate) fn shows(&self, entry: &Entry) -> bool {
        self.kind.view.is_none_or(|view| entry.index.fields.iter().any(|(path, _)| path == view.exists))
    }

    /// How the client wants to see objects.
    ///
    /// # Errors
    /// 406 and 400.
    pub(crate) fn view(&self, tables: bool) -> Result<View, ApiError> {
        let form = negotiate::form(&self.headers, tables)?;
        Ok(View { kind: self.kind.clone(), form, include: IncludeObject::parse(&self.params)?, columns: true, now: self.server.now() })
    }

    /// Which objects of the collection the request is about.
    ///
    /// # Errors
    /// 400 for selectors that are malformed or name a field that the kind does not offer.
    pub(crate) fn selection(&self) -> Result<Selection, ApiError> {
        let text = |name: &str| {
            let text = self.params.get(name).unwrap_or_default();
            if text.len() > MAX_SELECTOR_BYTES { Err(ApiError::bad_request(format!("{name} is too long"))) } else { Ok(text) }
        };
        let labels = LabelSelector::parse(text("labelSelector")?).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(text("fieldSelector")?).map_err(|error| ApiError::bad_request(error.why))?;
        for term in fields.terms() {
            let path = term.path.as_str();
            if !matches!(path, "metadata.name" | "metadata.namespace") && !self.kind.selectable.iter().any(|known| known == path) {
                let known = ["metadata.name", "metadata.namespace"]
                    .into_iter()
                    .chain(self.kind.selectable.iter().map(AsRef::as_ref))
                    .collect::<Vec<_>>();
                let message = format!("field label not supported: {path} (supported: {})", known.join(", "));
                return Err(ApiError::bad_request(message));
            }
        }
        let fields = match self.kind.view {
            Some(view) => fields.of_stored(view),
            None => fields,
        };
        Ok(Selection { namespace: self.path.namespace.as_deref().map(Into::into), labels, fields })
    }
}

/// Every request of the API.
pub(super) async fn handle(State(server): State<AppState>, request: Request) -> Response<Body> {
    let begin = Instant::now();
    let mut labels = RequestLabels::default();
    let response = answer(server.clone(), request, &mut labels).await.unwrap_or_else(|error| error.response());
    server.metrics.record(labels, response.status(), begin.elapsed());
    response
}

async fn answer(server: AppState, request: Request, labels: &mut RequestLabels) -> Result<Response<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let identity = parts.extensions.get::<Identity>().cloned().unwrap_or_else(Identity::anonymous);
    let params = Params::parse(parts.uri.query())?;
    let route = match route::parse(parts.uri.path()) {
        Ok(route) => route,
        Err(error) => {
            authorize_path(&server, &identity, &parts)?;
            return Err(error);
        }
    };
    if let Route::Resource(path) = route {
        let verb = verb(&parts.method, &path, &params)?;
        *labels = RequestLabels::of(verb, &path, &server.kinds);
        return resource(server, identity, verb, path, params, parts, body).await;
    }
    authorize_path(&server, &identity, &parts)?;
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource"));
    }
    match route {
        Route::CoreVersions => discovery::core(&parts.headers),
        Route::Groups => discovery::groups(&server.kinds, &parts.headers),
        Route::Group(group) => discovery::group(&server.kinds, &parts.headers, &group),
        Route::Resources(group, version) => discovery::resources(&server.kinds, &parts.headers, &group, &version),
        Route::OpenApiIndex => openapi::index(&server.kinds, &parts.headers),
        Route::OpenApi(path) => openapi::document(&server.kinds, &parts.headers, &path),
        Route::Version => Ok(health::version()),
        Route::Backup => backup::backup(&server).await,
        Route::Health(endpoint) => Ok(health::health(&server, &endpoint, &params)),
        Route::Metrics => metrics::answer(&server),
        Route::Resource(_) => Err(ApiError::no_such_resource()),
    }
}

fn authorize_path(server: &AppState, identity: &Identity, parts: &Parts) -> Result<(), ApiError> {
    let verb = if parts.method == Method::HEAD { "get".to_owned() } else { parts.method.as_str().to_ascii_lowercase() };
    let attributes = Attributes { verb: &verb, path: parts.uri.path(), ..Attributes::default() };
    permit(server, identity, &attributes)
}

pub(super) fn permit(server: &AppState, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let Decision::Deny { reason } = server.authorizer.authorize(identity, attributes) else { return Ok(()) };
    if identity.is_anonymous() {
        return Err(ApiError::unauthorized());
    }
    let mut message = if attributes.resource.is_empty() {
        format!("forbidden: User {:?} cannot {} path {:?}", identity.user, attributes.verb, attributes.path)
    } else {
        let slash = if attributes.subresource.is_empty() { "" } else { "/" };
        let place = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", attributes.namespace)
        };
        let dot = if attributes.group.is_empty() { "" } else { "." };
        format!(
            "{}{dot}{} {:?} is forbidden: User {:?} cannot {} resource \"{}{slash}{}\" in API group {:?} {place}",
            attributes.resource,
            attributes.group,
            attributes.name,
            identity.user,
            attributes.verb,
            attributes.resource,
            attributes.subresource,
            attributes.group,
        )
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    Err(ApiError::new(axum::http::StatusCode::FORBIDDEN, "Forbidden", message))
}

/// The Kubernetes verb of a request.
fn verb(method: &Method, path: &ResourcePath, params: &Params) -> Result<&'static str, ApiError> {
    let one = path.name.is_some();
    Ok(match *method {
        Method::GET | Method::HEAD if params.flag("watch") && !one => "watch",
        Method::GET | Method::HEAD if one => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => return Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource")),
    })
}

async fn resource(
    server: AppState,
    identity: Identity,
    verb: &'static str,
    path: ResourcePath,
    params: Params,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let attributes = Attributes {
        verb,
        group: &path.group,
        resource: &path.plural,
        subresource: path.subresource.as_deref().unwrap_or_default(),
        namespace: path.namespace.as_deref().unwrap_or_default(),
        name: path.name.as_deref().unwrap_or_default(),
        path: parts.uri.path(),
    };
    permit(&server, &identity, &attributes)?;
    let _seat = match needs_seat(verb, &path) {
        Some(is_write) => Some(server.flow.enter(&identity, &parts.headers, is_write).await?),
        None => None,
    };
    if let Some(response) = virtual_resource(&path, &parts) {
        return response.answer(&server, &identity, params, parts.headers, body).await;
    }
    let kind = server.kinds.find_resource(&path.group, &path.version, &path.plural).ok_or_else(ApiError::no_such_resource)?;
    if path.namespace.is_some() && !kind.namespaced {
        return Err(ApiError::no_such_resource());
    }
    let stopping = parts.extensions.get::<Stopping>().map(|stopping| stopping.0.clone()).unwrap_or_default();
    let target = Target { server, identity, kind: kind.clone(), path, params, headers: parts.headers.clone(), stopping };
    let subresource = target.path.subresource.as_deref();
    if let (Some(view), None) = (kind.view, subresource)
        && !matches!(verb, "get" | "list" | "watch")
    {
        return Err(ApiError::method_not_allowed(view.read_only));
    }
    if node_lease::is_meant(&target) {
        return node_lease::answer(&target, verb);
    }
    if matches!(verb, "get" | "list" | "watch") {
        let named = (target.namespace(), target.path.name.as_deref());
        check_read(&target.server.cache, &target.identity, &kind, named, &target.selection()?.fields)?;
    }
    let answered = named(&target, verb, parts, body).await;
    if kind.is_definition() && answered.is_ok() && !matches!(verb, "get" | "list" | "watch") {
        // Before the answer, so that what was added can be used at once.
        settle(&target.server).await;
    }
    let mut response = answered?;
    if let Some(warning) = kind.custom.as_ref().and_then(|custom| custom.warning.clone()) {
        render::warn(&mut response, &[warning]);
    }
    Ok(response)
}

/// The request that is about the collection, an object, or a part of it.
async fn named(target: &Target, verb: &str, parts: Parts, body: Body) -> Result<Response<Body>, ApiError> {
    match (target.path.name.clone(), target.path.subresource.clone()) {
        (None, _) => collection(target, verb, body).await,
        (Some(_), _) if target.kind.namespaced && target.path.namespace.is_none() => {
            Err(ApiError::bad_request("namespace is required: the name alone does not say which object is meant"))
        }
        (Some(name), None) => object(target, verb, &name, body).await,
        (Some(name), Some(subresource)) => self::subresource(target, verb, &name, &subresource, parts, body).await,
    }
}

/// Whether a request counts among the reads (`false`) or the writes (`true`) that are worked on. Watches, streams to containers and
/// uploads last as long as they last.
fn needs_seat(verb: &str, path: &ResourcePath) -> Option<bool> {
    match (verb, path.plural.as_str(), path.subresource.as_deref()) {
        ("watch", ..) | (_, "content", _) | (_, _, Some("log" | "exec")) => None,
        ("get" | "list", ..) => Some(false),
        _ => Some(true),
    }
}

async fn collection(target: &Target, verb: &str, body: Body) -> Result<Response<Body>, ApiError> {
    match verb {
        "list" => list::list(target).await,
        "watch" => watch::watch(target).await,
        "create" if target.kind.namespaced && target.path.namespace.is_none() => {
            Err(ApiError::method_not_allowed("the namespace is missing in the URL: objects of this kind are made in a namespace"))
        }
        "create" => create::create(target, body).await,
        "deletecollection" if target.kind.namespaced && target.path.namespace.is_none() => {
            Err(ApiError::method_not_allowed("a collection is deleted in one namespace at a time"))
        }
        "deletecollection" => delete_collection::delete_collection(target, body).await,
        _ => Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource")),
    }
}

async fn object(target: &Target, verb: &str, name: &str, body: Body) -> Result<Response<Body>, ApiError> {
    match verb {
        "get" => get::get(target, name).await,
        "update" => update::update(target, name, Part::Main, body).await,
        "patch" => patch::patch(target, name, Part::Main, body).await,
        "delete" => delete::delete(target, name, body).await,
        _ => Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource")),
    }
}

async fn subresource(
    target: &Target,
    verb: &str,
    name: &str,
    subresource: &str,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let known = target.kind.subresources.iter().any(|s| s.name == subresource);
    let is_container = target.kind.ours && target.kind.kind == "Container";
    let is_pod = target.kind.view.is_some();
    match (subresource, verb) {
        ("status", _) if !target.kind.has_status => Err(ApiError::no_such_resource()),
        ("status", "get") => get::get(target, name).await,
        ("status", "update") => update::update(target, name, Part::Status, body).await,
        ("status", "patch") => patch::patch(target, name, Part::Status, body).await,
        ("scale", _) if known => scale::scale(target, verb, name, body).await,
        ("finalize", "update") if crate::strategy::object::is_namespace(&target.kind) => {
            update::update(target, name, Part::Finalize, body).await
        }
        ("binding", "create") if is_container => binding::bind(target, name, body).await,
        ("eviction", "create") if is_pod => binding::evict(target, name, body).await,
        ("log" | "exec", "get" | "create") if is_container || is_pod => stream::to_node(target, name, subresource, parts, body).await,
        ("status" | "finalize" | "binding", _) => {
            Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource"))
        }
        _ if known => Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource")),
        _ => Err(ApiError::no_such_resource()),
    }
}

/// Resources that are not stored: each is one question with one answer.
enum Virtual {
    ApplyRequest,
    ContentArchive(String),
    Review(&'static str),
}

impl Virtual {
    async fn answer(
        self,
        server: &AppState,
        identity: &Identity,
        params: Params,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        match self {
            Self::ApplyRequest => apply_request::apply(server, identity, &params, &headers, body).await,
            Self::ContentArchive(namespace) => content::import_archive(server, &namespace, body).await,
            Self::Review(kind) => reviews::review(server, identity, kind, &headers, body).await,
        }
    }
}

/// The virtual resource of a request, if it is about one.
fn virtual_resource(path: &ResourcePath, parts: &Parts) -> Option<Virtual> {
    let post = parts.method == Method::POST;
    match (path.group.as_str(), path.version.as_str(), path.plural.as_str(), path.name.as_deref()) {
        ("gantry.dev", "v1", "applyrequests", None) if post => Some(Virtual::ApplyRequest),
        ("gantry.dev", "v1", "content", Some("archives")) if post => path.namespace.clone().map(Virtual::ContentArchive),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", None) if post => Some(Virtual::Review("SelfSubjectAccessReview")),
        ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", None) if post => Some(Virtual::Review("SelfSubjectRulesReview")),
        ("authentication.k8s.io", "v1", "selfsubjectreviews", None) if post => Some(Virtual::Review("SelfSubjectReview")),
        _ => None,
    }
}
