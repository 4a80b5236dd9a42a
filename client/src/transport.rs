//! Ways to the server: in process, Unix socket, TLS.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;

use crate::error::ClientError;

/// A streamed body.
pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Sends one request and gives back the head of the answer at once; the body streams.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`; its URI has a path and query only.
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>>;
}

/// A client of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<dyn Transport>,
    /// `fieldManager` of writes and the first word of the User-Agent.
    pub(crate) manager: Arc<str>,
}

impl Client {
    /// Over any transport.
    pub fn new(transport: Arc<dyn Transport>, manager: &str) -> Self {
        Self { transport, manager: manager.into() }
    }
    /// Over a Unix socket.
    pub fn unix(_socket: &Path, _manager: &str) -> Self {
        unimplemented!()
    }
    /// The same server under another field manager.
    pub fn with_manager(&self, manager: &str) -> Self {
        Self { transport: self.transport.clone(), manager: manager.into() }
    }
}
