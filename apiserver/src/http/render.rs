//! Objects in the form that the client accepts: whole, as table rows, or metadata only.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use gantry_api::registry::KindInfo;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::negotiate::Form;
use super::params::Params;

/// The most bytes of one warning.
const MAX_WARNING_BYTES: usize = 512;
/// The most warnings of one answer.
const MAX_WARNINGS: usize = 32;

/// What table rows carry of their object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// # Errors
    /// 400 for a value that it cannot have.
    pub(crate) fn parse(params: &Params) -> Result<Self, ApiError> {
        match params.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// How to show the objects of one answer.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) kind: &'static KindInfo,
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
    pub(crate) now: Timestamp,
}

impl View {
    /// A stored object, in this view.
    ///
    /// # Errors
    /// When the stored bytes are not what was written.
    pub(crate) fn encode(&self, bytes: &Bytes) -> Result<Bytes, ApiError> {
        if self.form == Form::Full && self.kind.view.is_none() {
            return Ok(bytes.clone());
        }
        let object = self.object(bytes)?;
        Ok(match self.form {
            Form::Full => object.to_string().into(),
            Form::Partial(version) => partial(object, version).to_string().into(),
            Form::Table(_) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let row = self.row(object);
                self.table(&[row], &metadata).to_string().into()
            }
        })
    }

    /// A stored object, decoded, or what the kind's view makes of it.
    ///
    /// # Errors
    /// When the stored bytes are not what was written.
    pub(crate) fn object(&self, bytes: &[u8]) -> Result<Value, ApiError> {
        let stored = parse(bytes)?;
        Ok(match self.kind.view {
            Some(view) => (view.render)(&stored),
            None => stored,
        })
    }

    /// An object that carries nothing but a revision, for bookmarks.
    pub(crate) fn bookmark(&self, metadata: &Value) -> Value {
        match self.form {
            Form::Full => json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata}),
            Form::Partial(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
            }
            Form::Table(_) => self.table(&[], metadata),
        }
    }

    /// A table of these rows.
    pub(crate) fn table(&self, rows: &[Value], metadata: &Value) -> Value {
        let version = if let Form::Table(version) = self.form { version } else { "v1" };
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
            "columnDefinitions": self.columns(), "rows": rows,
        })
    }

    fn columns(&self) -> Vec<Value> {
        let column = |name: &str, type_: &str, format: &str, description: &str, priority: i32| json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority});
        let mut columns = vec![column("Name", "string", "name", "Name of the object, unique in its namespace and kind.", 0)];
        columns.extend(self.kind.columns.iter().map(|c| column(c.name, c.type_, "", c.description, c.priority)));
        columns.push(column("Age", "date", "", "Time since the object was created.", 0));
        columns
    }

    /// The row of an object.
    pub(crate) fn row(&self, object: Value) -> Value {
        let mut cells = vec![object["metadata"]["name"].clone()];
        cells.extend(self.kind.columns.iter().map(|c| (c.cell)(&object, self.now)));
        cells.push(age(&object, self.now));
        let version = if let Form::Table(version) = self.form { version } else { "v1" };
        match self.include {
            IncludeObject::None => json!({"cells": cells}),
            IncludeObject::Metadata => json!({"cells": cells, "object": partial(object, version)}),
            IncludeObject::Object => json!({"cells": cells, "object": object}),
        }
    }
}

/// A stored object, decoded.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        tracing::error!(%error, "a stored object cannot be decoded");
        ApiError::internal("a stored object cannot be decoded")
    })
}

/// Its metadata alone.
pub(crate) fn partial(mut object: Value, version: &str) -> Value {
    let metadata = object.get_mut("metadata").map_or(Value::Object(Map::new()), Value::take);
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

fn age(object: &Value, now: Timestamp) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    created.map_or(Value::Null, |created| human_duration(now.duration_since(created).as_secs()).into())
}

/// A duration as kubectl shows it: one or two units, fewer the longer it is (apimachinery `duration.HumanDuration`).
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// JSON with a status code.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds a `Warning` header each.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let plain: String = warning.chars().filter(|c| !c.is_control()).collect();
        let end = (0..=plain.len().min(MAX_WARNING_BYTES)).rev().find(|at| plain.is_char_boundary(*at)).unwrap_or_default();
        let text = plain[..end].replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
