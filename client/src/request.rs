//! Single requests: what every verb, and whatever has no verb of its own, is made of.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::body::{self, Body};
use crate::error::ClientError;
use crate::transport::Client;

/// The longest answer that is read as a whole, in bytes; lists are paged well below it.
const ANSWER_LIMIT: usize = 512 << 20;
/// The longest error answer that is read, in bytes.
const ERROR_LIMIT: usize = 1 << 20;
/// Kubernetes' media type for JSON.
pub(crate) const JSON: &str = "application/json";

/// A connection that an HTTP request has turned into a stream of bytes both ways.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

impl Client {
    /// Sends a request and gives back the head of a successful answer; an unsuccessful one is an error.
    ///
    /// `User-Agent` is filled in, and `Accept: application/json` unless the request says otherwise.
    pub async fn request(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        accepted(self.send(request).await?).await
    }

    /// Sends JSON, or nothing, and reads JSON.
    pub async fn request_json(&self, method: Method, path_and_query: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let bytes = body.map(|value| encode(value, path_and_query)).transpose()?;
        self.exchange(method, path_and_query, JSON, JSON, bytes).await
    }

    /// Sends any body under a content type; the answer streams. For uploads (see [`crate::body::from_reader`]) and logs.
    pub async fn request_raw(
        &self,
        method: Method,
        path_and_query: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Response<Body>, ClientError> {
        self.request(build(method, path_and_query, "*/*", content_type, body)?).await
    }

    /// Sends a request that asks for another protocol (it carries `Connection: Upgrade`) and gives back the head of the answer
    /// and the connection as a stream. Fails when the server answers anything but 101, and in process, where there is no connection.
    pub async fn upgrade(&self, request: Request<Body>) -> Result<(http::response::Parts, Upgraded), ClientError> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let mut answer = self.send(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(answer).await);
        }
        let stream =
            hyper::upgrade::on(&mut answer).await.map_err(|error| ClientError::transport(format!("{what}: switch protocols"), error))?;
        Ok((answer.into_parts().0, TokioIo::new(stream)))
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let headers = request.headers_mut();
        if let Ok(agent) = HeaderValue::try_from(format!("{}/{}", self.manager, env!("CARGO_PKG_VERSION"))) {
            headers.entry(header::USER_AGENT).or_insert(agent);
        }
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static(JSON));
        self.transport.send(request).await
    }

    /// One request whose answer is read as a whole and decoded.
    pub(crate) async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Option<Bytes>,
    ) -> Result<T, ClientError> {
        let what = format!("{method} {path}");
        let head = build(method, path, accept, body.as_ref().map(|_| content_type), ())?;
        let answer = accepted(self.send_again(&head, body.as_ref()).await?).await?;
        let bytes = body::collect(answer.into_body(), ANSWER_LIMIT)
            .await
            .map_err(|error| ClientError::transport(format!("read the answer to {what}"), error))?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { request: what, source })
    }

    /// One request whose answer streams.
    pub(crate) async fn open(&self, path: &str, accept: &str) -> Result<Body, ClientError> {
        let head = build(Method::GET, path, accept, None, ())?;
        Ok(accepted(self.send_again(&head, None).await?).await?.into_body())
    }
}

/// The JSON of a request's body.
pub(crate) fn encode(value: &impl serde::Serialize, what: &str) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| ClientError::transport(format!("encode the request to {what}"), error))
}

fn build<B>(method: Method, path: &str, accept: &str, content_type: Option<&str>, body: B) -> Result<Request<B>, ClientError> {
    let mut builder = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
    if let Some(content_type) = content_type {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    builder.body(body).map_err(|error| ClientError::transport(format!("make a request to {path}"), error))
}

async fn accepted(answer: Response<Body>) -> Result<Response<Body>, ClientError> {
    if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
}

async fn refusal(answer: Response<Body>) -> ClientError {
    let code = answer.status().as_u16();
    let body = body::collect(answer.into_body(), ERROR_LIMIT).await.unwrap_or_default();
    ClientError::refused(code, &body)
}

/// A path and query in the making; every value is escaped.
pub struct PathBuilder {
    text: String,
    has_query: bool,
}

impl PathBuilder {
    /// Begins with `path`, which is taken as it is.
    pub fn new(path: impl Into<String>) -> Self {
        Self { text: path.into(), has_query: false }
    }
    /// Appends `/segment`.
    #[must_use]
    pub fn segment(mut self, segment: &str) -> Self {
        self.text.push('/');
        escape(&mut self.text, segment);
        self
    }
    /// Appends `name=value` to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        escape(&mut self.text, name);
        self.text.push('=');
        escape(&mut self.text, value);
        self
    }
    /// Appends `name=value` to the query when there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }
    /// The path and query.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Appends `value` with everything but RFC 3986's unreserved characters percent-encoded.
fn escape(text: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let path = PathBuilder::new("/api/v1").segment("a/b").query("labelSelector", "x=1,y in (é)").maybe("limit", None).finish();
        assert_eq!(path, "/api/v1/a%2Fb?labelSelector=x%3D1%2Cy%20in%20%28%C3%A9%29");
    }
}
