//! A local copy of the objects of one kind, kept current by a watch.

use std::sync::Arc;

use gantry_api::{Kind, ObjectKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ListParams};

/// A local copy of the objects of one kind, kept current by list and watch for ever: a cut watch resumes, a 410 lists again,
/// an unreachable server is tried again with back-off. Each object is decoded once. Cheap to clone.
pub struct Informer<K> {
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { kind: std::marker::PhantomData }
    }
}

impl<K: Kind> Informer<K> {
    /// Starts following what `params` select, until `stop`.
    pub fn start(_api: Api<K>, _params: ListParams, _stop: CancellationToken) -> Self {
        unimplemented!()
    }
    /// Resolves once the first list is in.
    pub async fn synced(&self) {
        unimplemented!()
    }
    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        unimplemented!()
    }
    /// One object as last seen.
    pub fn get(&self, _key: &ObjectKey) -> Option<Arc<K>> {
        unimplemented!()
    }
    /// All objects as last seen, in order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        unimplemented!()
    }
    /// Keys that changed, from now on; every key that is here is sent first. The receiver is bounded by coalescing:
    /// a key that is waiting to be received is not queued twice. Objects are read by [`Informer::get`] (`None`: deleted).
    pub fn changes(&self) -> mpsc::UnboundedReceiver<ObjectKey> {
        unimplemented!()
    }
    /// The object as a write that this process just made left it, so that the next read does not go back in time.
    /// Ignored when the watch has delivered a newer version.
    pub fn observe_write(&self, _object: K) {
        unimplemented!()
    }
}
