//! One connection after another: how many, how long, and who is at the other end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::Stopping;
use super::opening::Opening;
use crate::auth::{Identity, Peer, authenticate};

/// A client that takes longer to send its headers is cut off.
const HEADER_READ: Duration = Duration::from_secs(15);
/// Silence on HTTP/2 after which the other end is asked for a sign of life, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(15);
/// Requests at a time on one connection: a client's watches share one.
const STREAMS: u32 = 1_000;

#[derive(Clone)]
pub(super) struct Limits {
    pub(super) grace: Duration,
    pub(super) admin_group: Arc<str>,
}

/// The connections of one listener.
pub(super) struct Connections {
    serving: Serving,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

/// What each connection needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Serving {
    router: Router,
    limits: Limits,
    stop: CancellationToken,
}

impl Connections {
    pub(super) fn new(router: Router, limits: Limits, max: usize, stop: CancellationToken) -> Self {
        let serving = Serving { router, limits, stop };
        Self { serving, permits: Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))), tasks: JoinSet::new() }
    }

    /// Waits until one more connection is possible; `None` when the server stops.
    pub(super) async fn admit(&mut self) -> Option<OwnedSemaphorePermit> {
        while self.tasks.try_join_next().is_some() {}
        self.until_stop(self.permits.clone().acquire_owned()).await?.ok()
    }

    /// `None` when the server stops first.
    pub(super) async fn until_stop<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        self.serving.stop.run_until_cancelled(wait).await
    }

    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        permit: OwnedSemaphorePermit,
        serve: impl FnOnce(Serving) -> F,
    ) {
        let serve = serve(self.serving.clone());
        self.tasks.spawn(async move {
            serve.await;
            drop(permit);
        });
    }

    /// Waits for the connections, which end themselves within the grace; what does not is cut off.
    pub(super) async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.serving.limits.grace, all).await.is_err() {
            tracing::debug!(left = self.tasks.len(), "connections were cut off");
            self.tasks.shutdown().await;
        }
    }
}

impl Serving {
    /// Looking into the user database may block.
    pub(super) async fn identify_local(&self, peer: Peer<'static>) -> Option<Identity> {
        if let Peer::Unix { uid: 0, .. } = peer {
            return Some(Identity::admin());
        }
        let group = self.limits.admin_group.clone();
        tokio::task::spawn_blocking(move || authenticate(peer, &group)).await.ok().flatten()
    }

    /// Serves HTTP/1.1 (with upgrades) or HTTP/2 until the other end closes, or the server stops and the requests are answered.
    pub(super) async fn run(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, identity: Option<Identity>) {
        let router = self.router;
        let stopping = Stopping(self.stop.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let extensions = request.extensions_mut();
            extensions.insert(stopping.clone());
            if let Some(identity) = &identity {
                extensions.insert(identity.clone());
            }
            router.clone().oneshot(request.map(Body::new))
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .max_concurrent_streams(STREAMS);
        let mut connection =
            std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(Opening::new(stream, HEADER_READ)), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}
