//! The API over HTTP: from a URL to a verb, one file per verb.
//!
//! ```text
//!  URL ─► route ─► who and may they ─► verb ─► decode ─► strategy ─► cache.commit ─► form that the client accepts
//! ```

mod apply_request;
mod backup;
mod binding;
mod body;
pub(crate) mod compress;
mod content;
mod create;
pub(crate) mod delete;
mod delete_collection;
pub(crate) mod dispatch;
pub mod error;
mod flow;
mod frames;
mod get;
mod health;
mod list;
mod metrics;
pub(crate) mod negotiate;
mod node_lease;
mod options;
mod params;
pub mod parsers;
mod patch;
mod protobuf;
pub(crate) mod render;
mod reviews;
mod route;
mod scale;
mod update;
mod watch;
pub(crate) mod write;

use std::sync::{Arc, OnceLock};

use axum::Router;
use gantry_content::ContentStore;
use jiff::Timestamp;
use uuid::Uuid;

use crate::auth::Authorizer;
use crate::cache::Cache;
use crate::definitions::Kinds;
use crate::stream::NodeProxy;
pub use body::MAX_BODY_BYTES;
pub use flow::{FlowLimits, GateLimits};

/// Tells the time that is written into objects.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// A source of 128 random bits, for uids and generated names.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// Tells the figures of the store.
pub type StoreStats = Box<dyn Fn() -> crate::store::redb::Stats + Send + Sync>;

/// What the router serves from. Shared by all requests.
pub struct ApiServer {
    /// The objects.
    pub cache: Arc<Cache>,
    /// Who may what.
    pub authorizer: Arc<dyn Authorizer>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Name of this engine instance.
    pub instance: String,
    /// Where uploaded content goes; without it uploads answer 501.
    pub content: Option<Arc<ContentStore>>,
    /// The way to the nodes' agents, once there is one.
    pub node_proxy: OnceLock<Arc<dyn NodeProxy>>,
    /// Figures of the store, for `/metrics`.
    pub store_stats: Option<StoreStats>,
    /// Held while an Image is checked and committed, so that two claims of one reference cannot pass each other.
    pub(crate) image_claims: tokio::sync::Mutex<()>,
    /// The kinds that are served.
    pub(crate) kinds: Kinds,
    pub(crate) frames: frames::Frames,
    pub(crate) flow: flow::FlowControl,
    pub(crate) metrics: metrics::RequestMetrics,
}

/// What handlers get.
pub type AppState = Arc<ApiServer>;

impl ApiServer {
    /// A server over `cache` with the machine's clock and randomness, without content and nodes.
    pub fn new(cache: Arc<Cache>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            kinds: Kinds::load(&cache, Timestamp::now()),
            cache,
            authorizer,
            clock: Arc::new(Timestamp::now),
            random: Arc::new(rand::random),
            instance: "gantry".to_owned(),
            content: None,
            node_proxy: OnceLock::new(),
            image_claims: tokio::sync::Mutex::new(()),
            frames: frames::Frames::default(),
            flow: flow::FlowControl::new(&FlowLimits::default()),
            metrics: metrics::RequestMetrics::default(),
            store_stats: None,
        }
    }

    /// Other bounds of what is worked on at a time; before the first request.
    #[must_use]
    pub fn with_flow_limits(mut self, limits: &FlowLimits) -> Self {
        self.flow = flow::FlowControl::new(limits);
        self
    }

    /// Connects the agents' side of logs and exec; the first call counts.
    pub fn set_node_proxy(&self, proxy: Arc<dyn NodeProxy>) {
        if self.node_proxy.set(proxy).is_err() {
            tracing::warn!("the way to the nodes is set already");
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(crate) fn uid(&self) -> Uuid {
        uuid::Builder::from_random_bytes((self.random)().to_be_bytes()).into_uuid()
    }
}

/// The whole API as a service over HTTP requests and responses: for listeners, and for in-process clients.
///
/// Who asks is taken from the request's extensions ([`crate::auth::Identity`]); a request without one is answered 401.
pub fn router(state: AppState) -> Router {
    Router::new().fallback(dispatch::handle).with_state(state)
}

#[cfg(test)]
mod tests;
