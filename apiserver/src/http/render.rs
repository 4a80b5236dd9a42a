//! Objects in the form that the client accepts: whole, as table rows, or metadata only.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use gantry_api::registry::{KindRef, humanize_age};
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::negotiate::Form;
use super::params::Params;

/// The most bytes of one warning.
const MAX_WARNING_BYTES: usize = 512;
/// The most warnings of one answer.
const MAX_WARNINGS: usize = 32;

/// What table rows carry of their object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) kind: KindRef,
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
    /// Whether tables name their columns: in a watch only the first one does.
    pub(crate) columns: bool,
    pub(crate) now: Timestamp,
}

impl View {
    /// A stored object, in this view.
    ///
    /// # Errors
    /// When the stored bytes are not what was written.
    pub(crate) fn encode(&self, bytes: &Bytes) -> Result<Bytes, ApiError> {
        let bytes = &self.shown(bytes)?;
        Ok(match self.form {
            Form::Full => bytes.clone(),
            Form::Partial(version) => {
                let mut json = Vec::new();
                partial(&mut json, Parts::of(bytes)?.metadata()?, version);
                json.into()
            }
            Form::Table(_) => {
                let parts = Parts::of(bytes)?;
                let metadata = Parts::of(parts.metadata()?.get().as_bytes())?;
                let revision = metadata.0.get("resourceVersion").map_or("\"\"", |text| text.get());
                let mut table = self.table_head(&format!("{{\"resourceVersion\":{revision}}}")).into_bytes();
                self.write_row(&mut table, &parts, &metadata)?;
                table.extend_from_slice(LIST_TAIL);
                table.into()
            }
        })
    }

    /// The object that a stored one stands for: itself, or what the kind's view makes of it.
    fn shown(&self, stored: &Bytes) -> Result<Bytes, ApiError> {
        Ok(match self.kind.view {
            Some(view) => (view.render)(&parse(stored)?).to_string().into(),
            None if self.kind.is_converted() => {
                let mut object = parse(stored)?;
                object["apiVersion"] = self.kind.api_version().into();
                object.to_string().into()
            }
            None => stored.clone(),
        })
    }

    /// An object that carries nothing but a revision, for bookmarks.
    pub(crate) fn bookmark(&self, metadata: &Value) -> String {
        let object = |kind: &str, api_version: String| json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
        match self.form {
            Form::Full => object(&self.kind.kind, self.kind.api_version()),
            Form::Partial(version) => object("PartialObjectMetadata", format!("meta.k8s.io/{version}")),
            Form::Table(_) => self.table_head(&metadata.to_string()) + "]}",
        }
    }

    /// A table up to its first row; [`LIST_TAIL`] ends it.
    pub(crate) fn table_head(&self, metadata: &str) -> String {
        let columns = if self.columns { Value::Array(self.column_definitions()) } else { Value::Null };
        format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{}\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":[",
            self.table_version()
        )
    }

    fn table_version(&self) -> &'static str {
        if let Form::Table(version) = self.form { version } else { "v1" }
    }

    fn column_definitions(&self) -> Vec<Value> {
        let column = |name: &str, type_: &str, format: &str, description: &str, priority: i32| json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority});
        let mut columns = vec![column("Name", "string", "name", "Name of the object, unique in its namespace and kind.", 0)];
        columns.extend(self.kind.columns.iter().map(|c| column(&c.name, &c.type_, "", &c.description, c.priority)));
        if self.kind.has_age {
            columns.push(column("Age", "date", "", "Time since the object was created.", 0));
        }
        columns
    }

    /// Appends the row of a stored object.
    ///
    /// # Errors
    /// When the stored bytes are not what was written.
    pub(crate) fn row(&self, json: &mut Vec<u8>, bytes: &Bytes) -> Result<(), ApiError> {
        let bytes = &self.shown(bytes)?;
        let parts = Parts::of(bytes)?;
        let metadata = Parts::of(parts.metadata()?.get().as_bytes())?;
        self.write_row(json, &parts, &metadata)
    }

    fn write_row(&self, json: &mut Vec<u8>, parts: &Parts<'_>, metadata: &Parts<'_>) -> Result<(), ApiError> {
        let mut object = parts.decoded("metadata")?;
        // The record of who owns which field is often most of an object, and no cell shows it.
        object.insert("metadata".to_owned(), Value::Object(metadata.decoded("managedFields")?));
        let object = Value::Object(object);
        let mut cells = vec![object["metadata"]["name"].clone()];
        cells.extend(self.kind.columns.iter().map(|c| c.cell(&object, self.now)));
        if self.kind.has_age {
            cells.push(age(&object, self.now));
        }
        json.extend_from_slice(b"{\"cells\":");
        serde_json::to_writer(&mut *json, &cells).map_err(|error| undecodable(&error))?;
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Metadata => {
                json.extend_from_slice(b",\"object\":");
                partial(json, parts.metadata()?, self.table_version());
            }
            IncludeObject::Object => {
                json.extend_from_slice(b",\"object\":");
                json.extend_from_slice(parts.1);
            }
        }
        json.push(b'}');
        Ok(())
    }
}

/// What follows the last item of a list or row of a table.
pub(crate) const LIST_TAIL: &[u8] = b"]}";

/// The fields of a JSON object, each still as it was encoded; and the whole.
struct Parts<'a>(BTreeMap<String, &'a RawValue>, &'a [u8]);

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(bytes).map(|fields| Self(fields, bytes)).map_err(|error| undecodable(&error))
    }

    fn metadata(&self) -> Result<&'a RawValue, ApiError> {
        self.0.get("metadata").copied().ok_or_else(|| ApiError::internal("a stored object has no metadata"))
    }

    /// All fields but one.
    fn decoded(&self, without: &str) -> Result<Map<String, Value>, ApiError> {
        let fields = self.0.iter().filter(|(name, _)| *name != without);
        fields.map(|(name, raw)| Ok((name.clone(), parse(raw.get().as_bytes())?))).collect()
    }
}

/// Appends metadata as an object of its own.
fn partial(json: &mut Vec<u8>, metadata: &RawValue, version: &str) {
    json.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    json.extend_from_slice(version.as_bytes());
    json.extend_from_slice(b"\",\"metadata\":");
    json.extend_from_slice(metadata.get().as_bytes());
    json.push(b'}');
}

/// A stored object, decoded.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| undecodable(&error))
}

fn undecodable(error: &serde_json::Error) -> ApiError {
    tracing::error!(%error, "a stored object cannot be decoded");
    ApiError::internal("a stored object cannot be decoded")
}

fn age(object: &Value, now: Timestamp) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    created.map_or(Value::Null, |created| humanize_age(created, now).into())
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
