//! The real router over the store in memory, by HTTP requests.

mod applying;
mod clients;
mod components;
mod custom;
mod documents;
mod history;
mod metrics;
mod pods;
mod pressure;
mod reading;
mod requests;
mod store;
mod watching;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{ApiServer, FlowLimits, router};
use crate::auth::{FixedAuthorizer, Identity};
use crate::cache::{Cache, CacheConfig};
use crate::server::Stopping;
use crate::store::Store;
use crate::store::memory::MemoryStore;

pub(super) const CONTAINERS: &str = "/apis/gantry.dev/v1/namespaces/default/containers";
pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Asserts the status and gives the body.
    pub(super) fn is(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        if body["kind"] == "Status" {
            assert!(body["code"].is_null() || body["code"] == status, "{body}");
        }
        body
    }
}

pub(super) struct Harness {
    pub(super) server: Arc<ApiServer>,
    pub(super) router: Router,
    identity: Identity,
    /// As if a listener stopped.
    pub(super) stopping: CancellationToken,
}

impl Harness {
    pub(super) async fn new() -> Self {
        let harness = Self::empty(CacheConfig::default()).await;
        harness.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
        harness
    }

    /// Without any object.
    pub(super) async fn empty(config: CacheConfig) -> Self {
        Self::over(Arc::new(MemoryStore::new()), config, &FlowLimits::default()).await
    }

    /// Over a store, with bounds.
    pub(super) async fn over(store: Arc<dyn Store>, config: CacheConfig, limits: &FlowLimits) -> Self {
        let cache = Cache::open(store, config).await.unwrap();
        let mut server = ApiServer::new(cache, Arc::new(FixedAuthorizer)).with_flow_limits(limits);
        let counter = AtomicU64::new(1);
        server.random = Arc::new(move || u128::from(counter.fetch_add(1, Ordering::Relaxed)) << 64 | 7);
        server.clock = Arc::new(|| "2026-01-02T03:04:05Z".parse().unwrap());
        let server = Arc::new(server);
        Self { router: router(server.clone()), server, identity: Identity::admin(), stopping: CancellationToken::new() }
    }

    /// The same server for somebody else.
    pub(super) fn seen_by(&self, identity: Identity) -> Self {
        Self { server: self.server.clone(), router: self.router.clone(), identity, stopping: self.stopping.clone() }
    }

    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).unwrap();
        request.extensions_mut().insert(self.identity.clone());
        request.extensions_mut().insert(Stopping(self.stopping.clone()));
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], Body::empty()).await
    }
    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, &[("content-type", JSON)], body.to_string()).await
    }
    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, &[("content-type", JSON)], body.to_string()).await
    }
    pub(super) async fn merge(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path, &[("content-type", MERGE)], body.to_string()).await
    }
    pub(super) async fn delete(&self, path: &str, options: Value) -> Answer {
        self.call("DELETE", path, &[("content-type", JSON)], options.to_string()).await
    }
}

/// A small Container.
pub(super) fn container(name: &str) -> Value {
    json!({
        "apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": name},
        "spec": {"image": "localhost/busybox:1", "command": ["sleep", "1d"]},
    })
}
