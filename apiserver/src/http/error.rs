//! Failures as Kubernetes' `metav1.Status`, with its reasons, causes and texts.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gantry_api::patch::Conflict;
use gantry_api::registry::KindInfo;
use gantry_api::validate::{FieldError, FieldErrorReason};
use serde_json::{Map, Value, json};

use crate::cache::{PageError, WatchError};
use crate::store::{CommitError, ReadError};

/// The message of 507 `InsufficientStorage` (RFC 4918, section 11.5; Kubernetes has no reason for it): writes are refused while less than
/// the store's reserve is free, and taken again by themselves.
const FULL: &str = "the disk is full: nothing was written; free some space in the engine's data directory, then try again";

/// A failed request. Everything that a client is told about it is in here.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub code: StatusCode,
    /// CamelCase word such as `NotFound`; empty when Kubernetes has none.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
    /// What it is about: `name`, `group`, `kind`, `uid`, `causes`, `retryAfterSeconds`.
    pub details: Map<String, Value>,
    /// `metadata.continue` of the Status, on expired pages.
    pub continue_token: Option<String>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// A failure without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), continue_token: None }
    }

    fn about(mut self, kind: &KindInfo, name: &str, detail_kind: &str) -> Self {
        if !name.is_empty() {
            self.details.insert("name".into(), name.into());
        }
        if !kind.group.is_empty() {
            self.details.insert("group".into(), kind.group.as_str().into());
        }
        self.details.insert("kind".into(), detail_kind.into());
        self
    }

    fn with_causes(mut self, causes: Vec<Value>) -> Self {
        if !causes.is_empty() {
            self.details.insert("causes".into(), Value::Array(causes));
        }
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403.
    pub fn forbidden(kind: &KindInfo, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", kind.qualified())
        } else {
            format!("{} {name:?} is forbidden: {why}", kind.qualified())
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name, &kind.plural)
    }

    /// 403 with the cause that tells clients to wait for the namespace to be gone.
    pub fn namespace_terminating(kind: &KindInfo, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = json!({"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"});
        Self::forbidden(kind, name, &why).with_causes(vec![cause])
    }

    /// 404 of an object.
    pub fn not_found(kind: &KindInfo, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name, &kind.plural)
    }

    /// 404 of a path.
    pub fn no_such_resource() -> Self {
        let mut error = Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource");
        error.details = Map::new();
        error
    }

    /// 405.
    pub fn method_not_allowed(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 406.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/yaml, application/json;as=Table;g=meta.k8s.io;v=v1, \
                       application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(got: &str, accepted: &str) -> Self {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted} (got {got})");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 408: the body did not come.
    pub fn body_timeout(seconds: u64) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", format!("the body of the request did not arrive within {seconds} s"))
    }

    /// 409 of a create.
    pub fn already_exists(kind: &KindInfo, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name, &kind.plural)
    }

    /// 409 of a precondition.
    pub fn conflict(kind: &KindInfo, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name, &kind.plural)
    }

    /// 409 of a stale resourceVersion; scripts look for this text.
    pub fn modified(kind: &KindInfo, name: &str) -> Self {
        Self::conflict(kind, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// 409 of a server-side apply over fields of others.
    pub fn apply_conflict(message: String, conflicts: &[Conflict]) -> Self {
        let cause =
            |c: &Conflict| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.field});
        Self::new(StatusCode::CONFLICT, "Conflict", message).with_causes(conflicts.iter().map(cause).collect())
    }

    /// 410: list again. `continue_token` goes on without consistency.
    pub fn expired(message: impl Into<String>, continue_token: Option<String>) -> Self {
        Self { continue_token, ..Self::new(StatusCode::GONE, "Expired", message) }
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 422 of an object, with every error at once.
    pub fn invalid(kind: &KindInfo, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_as(&qualified_kind(kind), &kind.group, &kind.kind, name, errors)
    }

    /// 422 of request options, such as `meta.k8s.io ListOptions`.
    pub fn invalid_options(options: &str, field: &str, reason: FieldErrorReason, message: &str) -> Self {
        let error = FieldError { path: field.to_owned(), reason, value: None, message: message.to_owned() };
        Self::invalid_as(&format!("{options}.meta.k8s.io"), "meta.k8s.io", options, "", &[error])
    }

    /// 422 of a request that is not stored, such as an ApplyRequest.
    pub(crate) fn invalid_request(kind: &str, error: &FieldError) -> Self {
        Self::invalid_as(&format!("{kind}.gantry.dev"), "gantry.dev", kind, "", std::slice::from_ref(error))
    }

    fn invalid_as(qualified: &str, group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.path, field_text(e))).collect();
        let list = if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) };
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{qualified} {name:?} is invalid: {list}"));
        if !name.is_empty() {
            error.details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            error.details.insert("group".into(), group.into());
        }
        error.details.insert("kind".into(), kind.into());
        error.with_causes(causes(errors))
    }

    /// 400 of strict decoding: what the kind does not have, and duplicates, each by its path.
    pub fn strict_decoding(kind: &KindInfo, problems: &[String], errors: &[FieldError]) -> Self {
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            problems.join(", ")
        );
        Self::bad_request(message).with_causes(causes(errors))
    }

    /// 504: the asked revision lies in the future.
    pub fn too_large_resource_version(asked: impl std::fmt::Display, current: impl std::fmt::Display) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .with_causes(vec![json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})]);
        error.details.insert("retryAfterSeconds".into(), 1.into());
        error
    }

    /// 429: nothing was done; try again in a second.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.details.insert("retryAfterSeconds".into(), 1.into());
        error
    }

    /// 500. The details go to the log, not to the client.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// The `metav1.Status`.
    pub fn status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.clone().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }

    /// The HTTP answer.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.status().to_string()));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if let Some(seconds) = self.details.get("retryAfterSeconds").and_then(Value::as_u64) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The failure of a read.
    pub fn from_read(error: &ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => Self::expired(error.to_string(), None),
            ReadError::Future { after, current } => Self::too_large_resource_version(after, current),
            ReadError::Closed => Self::unavailable("the server is shutting down"),
            ReadError::Storage(source) => {
                tracing::error!(%source, "read the store");
                Self::internal("the store cannot be read")
            }
        }
    }

    /// The failure of a commit, conflicts excepted: those are the caller's.
    pub fn from_commit(error: &CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::new(StatusCode::CONFLICT, "Conflict", "the object has been modified"),
            CommitError::TooLarge { bytes, limit, .. } => {
                Self::too_large(format!("the object has {bytes} bytes, at most {limit} are possible"))
            }
            CommitError::Invalid { why } => Self::internal(*why),
            CommitError::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", FULL),
            CommitError::Closed => Self::unavailable("the server is shutting down"),
            CommitError::Storage(source) => {
                tracing::error!(%source, "write the store");
                Self::internal("the store cannot be written")
            }
        }
    }

    /// The failure of a list.
    pub fn from_page(error: &PageError) -> Self {
        match error {
            PageError::Expired { inconsistent } => {
                let message = match inconsistent {
                    Some(_) => {
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, \
                                or use the continue token in this response to retrieve the remainder of the results."
                    }
                    None => "The resourceVersion for the provided list is too old.",
                };
                Self::expired(message, inconsistent.as_ref().map(crate::cache::Continue::encode))
            }
            PageError::Future { asked, current } => Self::too_large_resource_version(asked, current),
        }
    }

    /// The failure of a watch.
    pub fn from_watch(error: &WatchError) -> Self {
        match error {
            WatchError::Expired { .. } => Self::expired(error.to_string(), None),
            WatchError::Future { after, current } => Self::too_large_resource_version(after, current),
            WatchError::Closed => Self::unavailable(error.to_string()),
        }
    }
}

/// `Container.gantry.dev`, or `Namespace` for core.
fn qualified_kind(kind: &KindInfo) -> String {
    if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) }
}

fn causes(errors: &[FieldError]) -> Vec<Value> {
    errors.iter().map(|e| json!({"reason": e.reason.as_str(), "message": field_text(e), "field": e.path})).collect()
}

/// As Kubernetes' `field.Error` prints itself, without the path.
fn field_text(error: &FieldError) -> String {
    let sort = match error.reason {
        FieldErrorReason::Required => "Required value",
        FieldErrorReason::Invalid | FieldErrorReason::TypeInvalid => "Invalid value",
        FieldErrorReason::NotSupported => "Unsupported value",
        FieldErrorReason::Forbidden => "Forbidden",
        FieldErrorReason::Duplicate => "Duplicate value",
        FieldErrorReason::Unknown => "Unknown field",
    };
    match &error.value {
        Some(value) => format!("{sort}: {value}: {}", error.message),
        None => format!("{sort}: {}", error.message),
    }
}
