//! What is told on stderr of each request: the server's warnings always, the rest as `-v` asks. Secrets and tokens never.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gantry_client::{Body, ClientError, Transport, body};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::output::tell;

/// From this level of `-v` on, each request is shown in a line,
const LINES: u8 = 6;
/// the headers too,
const HEADERS: u8 = 7;
/// the bodies too,
const BODIES: u8 = 8;
/// and more of them.
const LONG_BODIES: u8 = 9;
/// Bodies of up to so many bytes are held back to be shown.
const BODY_LIMIT: u64 = 4 << 20;
/// What stands in place of a secret.
const MASKED: &str = "--- not shown ---";

/// Passes requests on and tells of them.
pub(crate) struct Told {
    inner: Arc<dyn Transport>,
    level: u8,
    /// How long the head of an answer may take; zero: as `inner` has it.
    timeout: Duration,
}

impl Told {
    /// Tells what `level` asks for.
    pub(crate) fn new(inner: Arc<dyn Transport>, level: u8, timeout: Duration) -> Self {
        Self { inner, level, timeout }
    }

    async fn in_time(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        if self.timeout.is_zero() {
            return self.inner.send(request).await;
        }
        let what = format!("{} {}", request.method(), request.uri().path());
        tokio::time::timeout(self.timeout, self.inner.send(request)).await.unwrap_or_else(|elapsed| {
            let message = format!("{what}: no answer within {} ms (--request-timeout)", self.timeout.as_millis());
            Err(ClientError::transport(message, elapsed))
        })
    }

    async fn request(&self, request: Request<Body>) -> Result<Request<Body>, ClientError> {
        if self.level >= HEADERS {
            headers("request", request.headers());
        }
        if self.level < BODIES || request.body().size_hint().exact().is_none_or(|size| size == 0 || size > BODY_LIMIT) {
            return Ok(request);
        }
        let (head, held) = request.into_parts();
        let bytes = held.collect().await.map_err(|error| ClientError::transport("read the body of the request", error))?.to_bytes();
        self.body("request body", &bytes);
        Ok(Request::from_parts(head, body::full(bytes)))
    }

    /// Shows the body of an answer, if it is read as a `whole`: a watch or a log is not waited for.
    async fn answer(&self, answer: Response<Body>, whole: bool) -> Result<Response<Body>, ClientError> {
        if self.level >= HEADERS {
            headers("response", answer.headers());
        }
        if self.level < BODIES || !whole || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let (head, held) = answer.into_parts();
        let bytes = held.collect().await.map_err(|error| ClientError::transport("read the answer", error))?.to_bytes();
        if !bytes.is_empty() {
            self.body("response body", &bytes);
        }
        Ok(Response::from_parts(head, body::full(bytes)))
    }

    fn body(&self, what: &str, bytes: &Bytes) {
        let limit = if self.level >= LONG_BODIES { 64 << 10 } else { 1024 };
        tell(&format!("{what}: {}", shown(bytes, limit)));
    }
}

impl Transport for Told {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(async move {
            let what = (self.level >= LINES).then(|| format!("{} {}", request.method(), request.uri()));
            let whole = is_whole(&request);
            let request = self.request(request).await?;
            let begun = Instant::now();
            let answer = self.in_time(request).await;
            if let Some(what) = what {
                let status = answer.as_ref().map_or("no answer".to_owned(), |answer| answer.status().as_u16().to_string());
                tell(&format!("{what} {status} in {} ms", begun.elapsed().as_millis()));
            }
            let answer = answer?;
            let warnings = answer.headers().get_all(header::WARNING).iter().filter_map(|value| value.to_str().ok());
            warnings.for_each(|warning| tell(&format!("warning: {}", warning_text(warning))));
            self.answer(answer, whole).await
        })
    }
}

/// Whether the answer is a JSON document that the client reads to its end before it goes on.
fn is_whole(request: &Request<Body>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.starts_with("application/json") && !request.uri().query().is_some_and(|query| query.contains("watch=true"))
}

fn headers(of: &str, headers: &HeaderMap) {
    for (name, value) in headers {
        let is_secret = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE].contains(name);
        let value = if is_secret || value.is_sensitive() { MASKED } else { value.to_str().unwrap_or("(not text)") };
        tell(&format!("{of} header: {name}: {value}"));
    }
}

/// A body as it may be shown: JSON with its secrets masked, and nothing else.
fn shown(bytes: &[u8], limit: usize) -> String {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return format!("({} bytes that are not JSON)", bytes.len()) };
    mask(&mut value);
    let text = value.to_string();
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{} [{} bytes more]", &text[..end], text.len() - end),
        None => text,
    }
}

/// Masks what is secret, at any depth: the values of Secrets (in JSON that names its kind, or in parts of one, as patches are),
/// what was applied last of them, and tokens.
fn mask(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => {
            let kind = fields.get("kind").and_then(Value::as_str).map(|kind| kind.starts_with("Secret"));
            let is_secret = kind.unwrap_or(true);
            let patches_data = fields.get("path").and_then(Value::as_str).is_some_and(|path| path.contains("ata"));
            for (name, value) in fields {
                match name.as_str() {
                    "data" | "stringData" if is_secret => hide(value),
                    // What an ApplyRequest changes of a Secret.
                    "changes" if kind == Some(true) => hide(value),
                    // A JSON patch does not say of what kind its object is.
                    "value" if patches_data => hide(value),
                    "token" | "password" | "kubectl.kubernetes.io/last-applied-configuration" => hide(value),
                    _ => mask(value),
                }
            }
        }
        _ => {}
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null => {}
        value => *value = Value::from(MASKED),
    }
}

/// The text of `299 - "text"`.
fn warning_text(header: &str) -> String {
    match header.split_once('"') {
        Some((_, rest)) => rest.trim_end().strip_suffix('"').unwrap_or(rest).replace("\\\"", "\"").replace("\\\\", "\\"),
        None => header.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_of_a_warning_is_unquoted() {
        assert_eq!(warning_text(r#"299 - "unknown field \"spec.x\"""#), "unknown field \"spec.x\"");
        assert_eq!(warning_text("odd"), "odd");
    }

    #[test]
    fn secrets_are_masked_wherever_they_are() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "s", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}},
            "data": {"a": "hunter2"}, "stringData": {"b": "hunter2"}});
        for body in [
            secret.clone(),
            json!({"kind": "SecretList", "items": [{"data": {"a": "hunter2"}}]}),
            json!({"kind": "ApplyRequest", "spec": {"objects": [secret]}}),
            json!({"type": "MODIFIED", "object": secret}),
            json!({"data": {"a": "hunter2"}}),
            json!({"kind": "Secret", "name": "s", "changes": [{"path": "data.a", "old": "x", "new": "hunter2"}]}),
            json!([{"op": "replace", "path": "/data/a", "value": "hunter2"}]),
            json!({"kind": "TokenRequest", "status": {"token": "hunter2"}}),
        ] {
            let text = shown(body.to_string().as_bytes(), 10_000);
            assert!(!text.contains("hunter2") && text.contains(MASKED), "{text}");
        }
        let map = json!({"kind": "ConfigMap", "data": {"a": "open"}}).to_string();
        assert_eq!(shown(map.as_bytes(), 1000), r#"{"data":{"a":"open"},"kind":"ConfigMap"}"#);
        assert_eq!(shown(map.as_bytes(), 5), r#"{"dat [35 bytes more]"#);
        assert_eq!(shown(b"password=hunter2", 1000), "(16 bytes that are not JSON)");
    }
}
