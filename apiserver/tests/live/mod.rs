//! The API server as clients meet it: over a store in memory, behind its own TLS listener and Unix socket.

#![allow(dead_code, reason = "each suite uses some of it")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use gantry_apiserver::auth::{FixedAuthorizer, Identity};
use gantry_apiserver::cache::{Cache, CacheConfig};
use gantry_apiserver::server::{Listeners, ServerConfig};
use gantry_apiserver::store::memory::MemoryStore;
use gantry_apiserver::{ApiServer, router};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A server that listens. It has no controllers, and no objects yet.
pub(crate) struct Live {
    /// Its data, and place for a test's own files.
    pub(crate) dir: TempDir,
    /// Of the TLS listener.
    pub(crate) address: SocketAddr,
    router: Router,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Live {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(Arc::new(MemoryStore::new()), CacheConfig::default()).await.expect("open the cache");
        let server = Arc::new(ApiServer::new(cache, Arc::new(FixedAuthorizer)));
        let mut config = ServerConfig::new(dir.path());
        config.socket = Some(dir.path().join("gantry.sock"));
        config.listen = vec!["127.0.0.1:0".parse().expect("an address")];
        let listeners = Listeners::bind(&config, jiff::Timestamp::now()).await.expect("listen");
        let address = listeners.addresses()[0];
        let stop = CancellationToken::new();
        let router = router(server);
        let served = tokio::spawn(listeners.serve(router.clone(), stop.clone()));
        Self { dir, address, router, stop, served }
    }

    /// For clients of the TLS listener, with an administrator's certificate.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// The Unix socket, on which root is an administrator.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("gantry.sock")
    }

    /// Makes an object, as an administrator.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let mut request = Request::post(path).body(Body::from(object.to_string())).expect("a request");
        request.extensions_mut().insert(Identity::admin());
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        assert!(response.status().is_success(), "{path}: {object}: {}", response.status());
        let bytes = response.into_body().collect().await.expect("the whole answer").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.served.await.expect("the server ends");
    }
}
