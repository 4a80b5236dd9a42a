//! Ways to the server: in process, Unix socket, TLS.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response, request::Parts};
use tower::{Service, ServiceExt};

pub use crate::body::Body;
use crate::body::{self, BoxError};
use crate::connect::{Http, TlsEndpoint};
use crate::error::ClientError;

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
    /// Decorrelates the retries of many clients; set in simulations, which must repeat exactly.
    pub(crate) seed: u64,
}

impl Client {
    /// Over any transport.
    pub fn new(transport: Arc<dyn Transport>, manager: &str) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { transport, manager: manager.into(), seed: RandomState::new().hash_one(manager) }
    }

    /// Over a Unix socket, with connections kept and shared.
    pub fn unix(socket: &Path, manager: &str) -> Self {
        Self::new(Arc::new(Http::unix(socket)), manager)
    }

    /// Over TLS. Nothing is read or connected before the first request.
    pub fn tls(endpoint: TlsEndpoint, manager: &str) -> Self {
        Self::new(Arc::new(Http::tls(endpoint)), manager)
    }

    /// To a server in this process: `service` is its router, called directly. `decorate` sees the head of each request,
    /// for instance to attach the identity under which this client acts.
    pub fn in_process<S, B>(service: S, manager: &str, decorate: impl Fn(&mut Parts) + Send + Sync + 'static) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::new(Arc::new(InProcess { service: Mutex::new(service), decorate }), manager)
    }

    /// The same server under another field manager.
    pub fn with_manager(&self, manager: &str) -> Self {
        Self { transport: self.transport.clone(), manager: manager.into(), seed: self.seed }
    }

    /// The same server with retries timed by `seed`, so that a simulation repeats exactly.
    pub fn with_seed(&self, seed: u64) -> Self {
        Self { transport: self.transport.clone(), manager: self.manager.clone(), seed }
    }

    /// The transport, to wrap it into another.
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.transport.clone()
    }

    /// The field manager of writes.
    pub fn manager(&self) -> &str {
        &self.manager
    }
}

/// The server's router, called without a socket.
struct InProcess<S, F> {
    /// Only ever cloned; the lock makes services that are not `Sync` usable.
    service: Mutex<S>,
    decorate: F,
}

impl<S, B, F> Transport for InProcess<S, F>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    F: Fn(&mut Parts) + Send + Sync + 'static,
{
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut head, body) = request.into_parts();
        (self.decorate)(&mut head);
        // A combinator: inside an async block the compiler cannot prove this future `Send`.
        Box::pin(service.oneshot(Request::from_parts(head, body)).map(|answer| match answer {
            Ok(answer) => Ok(answer.map(body::from_unshared)),
            Err(error) => Err(ClientError::transport("call the server in this process", error)),
        }))
    }
}
