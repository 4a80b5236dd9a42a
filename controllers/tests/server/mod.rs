//! The real API server over a store in memory, called in process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_apiserver::auth::{FixedAuthorizer, Identity};
use gantry_apiserver::cache::{Cache, CacheConfig};
use gantry_apiserver::store::memory::MemoryStore;
use gantry_apiserver::{ApiServer, AppState, router};
use gantry_client::Client;
use tokio_util::sync::CancellationToken;

/// A server of its own for each test; cloned handles share it.
#[derive(Clone)]
pub(crate) struct Server(AppState);

impl Server {
    pub(crate) async fn start() -> Self {
        let cache = Cache::open(Arc::new(MemoryStore::new()), CacheConfig::default()).await.unwrap();
        let mut server = ApiServer::new(cache, Arc::new(FixedAuthorizer));
        // Uids that repeat from run to run.
        let counter = AtomicU64::new(1);
        server.random =
            Arc::new(move || u128::from(counter.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let server = Arc::new(server);
        // It ends with the test's runtime.
        tokio::spawn(gantry_apiserver::definitions::keep(server.clone(), CancellationToken::new()));
        Self(server)
    }

    /// A client that acts as `identity`.
    pub(crate) fn client(&self, identity: Identity, manager: &str) -> Client {
        let decorate = move |head: &mut http::request::Parts| {
            head.extensions.insert(identity.clone());
        };
        Client::in_process(router(self.0.clone()), manager, decorate).with_seed(1)
    }

    /// Grows with every write that changed something.
    pub(crate) fn revision(&self) -> u64 {
        self.0.cache.revision().0
    }
}
