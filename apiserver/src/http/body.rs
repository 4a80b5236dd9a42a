//! Request bodies: read within bounds, decoded from JSON, YAML or (for a few kinds) protobuf.

use std::thread;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::negotiate::MediaType;
use super::protobuf;

/// The most bytes of a request body (Kubernetes' limit).
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// How long a body may take to come: whoever sends one has a seat that others want.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Duplicate fields that are reported; more do not help anybody.
const MAX_DUPLICATES: usize = 32;
/// Room for 128 levels of YAML: an unoptimised build takes 25 KiB each. Only what is used of it becomes memory.
const YAML_STACK_BYTES: usize = 8 << 20;
/// What bodies may be.
pub(crate) const BODY_TYPES: &str = "application/json, application/yaml";

/// A decoded body.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Decoded {
    /// The document.
    pub(crate) value: Value,
    /// Paths of fields that stood twice in it; the last one counted.
    pub(crate) duplicates: Vec<String>,
}

/// The whole body.
///
/// # Errors
/// 413 past [`MAX_BODY_BYTES`], 408 when it does not come, 400 when the client goes away.
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    let whole = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match whole.map_err(|_elapsed| ApiError::body_timeout(BODY_PATIENCE.as_secs()))? {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}")))
        }
        Err(error) => Err(ApiError::bad_request(format!("read the body: {error}"))),
    }
}

/// The media type of the body, without parameters; `None` when not said.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(MediaType::parse(text).essence).filter(|essence| !essence.is_empty())
}

/// Decodes an object by its Content-Type; a missing one means JSON.
///
/// # Errors
/// 415 for other types, 400 when it does not parse.
pub(crate) fn decode(headers: &HeaderMap, bytes: &[u8]) -> Result<Decoded, ApiError> {
    match media_type(headers).as_deref() {
        None | Some("application/json" | "text/json") => json(bytes),
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => yaml(bytes),
        Some("application/vnd.kubernetes.protobuf") => protobuf::decode(bytes).map(|value| Decoded { value, duplicates: Vec::new() }),
        Some(other) => Err(ApiError::unsupported_media_type(other, BODY_TYPES)),
    }
}

/// Decodes JSON. Depth is bounded by the parser (128).
pub(crate) fn json(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut duplicates = Vec::new();
    let value = Tracked { path: String::new(), duplicates: &mut duplicates }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
    Ok(Decoded { value, duplicates })
}

/// Decodes one YAML document, within a budget for aliases, depth and nodes. On a thread of its own: the parser recurses, with frames so
/// large that a document within the budget overflows the stack of a runtime's thread, which ends the whole process.
pub(crate) fn yaml(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::bad_request("the body is not valid YAML: it is not UTF-8"))?;
    // Much of what is called YAML is JSON, which a JSON parser reads more exactly.
    if text.trim_start().starts_with('{')
        && let Ok(decoded) = json(bytes)
    {
        return Ok(decoded);
    }
    let parser = thread::Builder::new().name("yaml".to_owned()).stack_size(YAML_STACK_BYTES);
    thread::scope(|scope| {
        let parsing = parser.spawn_scoped(scope, || yaml_document(text)).map_err(|error| {
            tracing::error!(%error, "start a thread to read YAML");
            ApiError::unavailable("the server has no thread to read YAML with; send JSON, or try again")
        })?;
        parsing.join().unwrap_or_else(|_panicked| Err(ApiError::bad_request("the body is not valid YAML")))
    })
}

fn yaml_document(text: &str) -> Result<Decoded, ApiError> {
    let options = serde_saphyr::options! {
        // Both are seen; whether that is refused is for `fieldValidation` to say.
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        strict_booleans: true,
        legacy_octal_numbers: true,
        // Aliases save writing the same few fields again; what grows by them without end is cut short early.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
        budget: serde_saphyr::budget! {
            // As many as the JSON parser reads: what is stored must be read again.
            max_depth: 127,
            max_nodes: 250_000,
            max_events: 1_000_000,
            max_total_scalar_bytes: MAX_BODY_BYTES,
            max_documents: 1,
        },
    };
    let mut duplicates = Vec::new();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Tracked { path: String::new(), duplicates: &mut duplicates }.deserialize(deserializer)
    });
    let value = value.map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))?;
    Ok(Decoded { value, duplicates })
}

/// Builds a [`Value`] and notes fields that stand twice.
struct Tracked<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tracked<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tracked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // JSON has none of YAML's others; they would become null, as if the field were not there.
        if value.is_finite() { Ok(value.into()) } else { Err(E::custom("a number must be finite")) }
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) =
            seq.next_element_seed(Tracked { path: format!("{}[{}]", self.path, items.len()), duplicates: &mut *self.duplicates })?
        {
            items.push(item);
        }
        Ok(items.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if fields.contains_key(&name) && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(path.clone());
            }
            let value = map.next_value_seed(Tracked { path, duplicates: &mut *self.duplicates })?;
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_documents_are_read_or_refused_on_a_small_stack() {
        let block = |depth: usize| (0..depth).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>() + &" ".repeat(depth) + "b";
        let flow = |depth: usize| "{a: ".repeat(depth) + "1" + &"}".repeat(depth);
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        let judge = move || {
            for depth in [100, 127, 128, 200, 600, 5_000] {
                let read = depth < 128;
                assert_eq!(yaml(block(depth).as_bytes()).is_ok(), read, "block {depth}");
                assert_eq!(yaml(flow(depth).as_bytes()).is_ok(), read, "flow {depth}");
                assert_eq!(json(objects(depth).as_bytes()).is_ok(), read, "JSON {depth}");
            }
        };
        thread::Builder::new().stack_size(1 << 20).spawn(judge).unwrap().join().unwrap();
    }
}
