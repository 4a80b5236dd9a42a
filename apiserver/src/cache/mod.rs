//! The watch cache: every current object and the recent changes, in memory.
//!
//! One task follows the store's log in order (`feed`); every read and every watch of the API is answered from here. An event
//! arrives encoded once and is shared by all who see it: lists, pages and watch frames hold the same bytes.
//!
//! * Reads are fresh: a commit goes through [`Cache::commit`], which returns when its changes can be read here.
//! * A page of a list is served at the revision of its first page, by undoing the kept history, or not at all ([`PageError`]).
//! * A watcher gets every change after its start once and in order, or an end; each has a bounded queue of its own, and one
//!   whose queue is full is ended, so that it slows nobody ([`Watcher`]).

mod feed;
#[cfg(test)]
pub(crate) mod history;
mod page;
pub mod selector;
mod state;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use crate::store::Record as Entry;
use crate::store::{CommitError, Key, Op, ReadError, Revision, Store};
pub use page::{BadToken, Continue, ListPage, PageError};
pub use selector::{FieldSelector, FieldTerm, LabelSelector, Selection, SelectorError};
use state::State;
pub use watcher::{WatchEnd, WatchError, WatchEvent, WatchStart, Watcher};

/// Bounds of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// Changes kept for watches that resume and for later pages of lists.
    pub history_events: usize,
    /// Bytes of objects that the kept changes may hold.
    pub history_bytes: usize,
    /// Events waiting for one watcher; with one more it is ended.
    pub watcher_events: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { history_events: 10_000, history_bytes: 16 * 1024 * 1024, watcher_events: 1_000 }
    }
}

/// Figures of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStats {
    /// Objects per resource, such as `gantry.dev/containers`.
    pub objects: Vec<(Arc<str>, usize)>,
    /// The newest change that can be read.
    pub revision: Revision,
    /// Changes in the history.
    pub history_events: usize,
    /// Bytes of the objects in it.
    pub history_bytes: usize,
    /// Watches that go on.
    pub watchers: usize,
    /// Watches ended because their queue was full, since the cache was opened.
    pub ended_slow: u64,
}

/// The objects in memory, in front of a store. Dropping it ends its task and all watches.
pub struct Cache {
    store: Arc<dyn Store>,
    state: Arc<RwLock<State>>,
    applied: watch::Receiver<Revision>,
    /// Told whenever `applied` grew, and at the end. Wakes in the order of arrival, which a watch channel does not.
    grew: Arc<Notify>,
    stop: CancellationToken,
    feeder: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Cache {
    /// Loads all objects and the kept log of `store`, and follows it from then on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, config: CacheConfig) -> Result<Arc<Self>, ReadError> {
        let state = Arc::new(RwLock::new(feed::load(&*store, config).await?));
        let stop = CancellationToken::new();
        let (sender, applied) = watch::channel(read(&state).revision());
        let grew = Arc::new(Notify::new());
        let feeder =
            feed::Feeder { store: store.clone(), state: state.clone(), applied: sender, grew: grew.clone(), stop: stop.clone(), config };
        let feeder = std::sync::Mutex::new(Some(tokio::spawn(feeder.run())));
        Ok(Arc::new(Self { store, state, applied, grew, stop, feeder }))
    }

    /// Commits to the store, and returns when the changes can be read here. See [`Store::commit`].
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the commit back.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Vec<Revision>, CommitError> {
        let revisions = self.store.commit(ops).await?;
        if let Some(&newest) = revisions.iter().max() {
            self.wait_for(newest).await.map_err(|_closed| CommitError::Closed)?;
        }
        Ok(revisions)
    }

    /// Returns when all changes up to `revision` can be read here.
    ///
    /// # Errors
    /// When the cache is closed first.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), ReadError> {
        loop {
            let mut grew = std::pin::pin!(self.grew.notified());
            // Before the look, so that no growth is missed between the two.
            grew.as_mut().enable();
            if *self.applied.borrow() >= revision {
                return Ok(());
            }
            if self.applied.has_changed().is_err() {
                return Err(ReadError::Closed);
            }
            grew.await;
        }
    }

    /// The object, if it exists.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.read().get(key)
    }

    /// The selected objects of a resource in the order of their keys, and the revision at which all of them stood so.
    pub fn list(&self, resource: &str, selection: &Selection) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.read();
        (state.select(resource, selection), state.revision())
    }

    /// One page of at most `limit` selected objects: the first one now, a later one as of the revision of the first.
    ///
    /// # Errors
    /// `Expired` when the history no longer reaches back; it carries the token to go on with regardless.
    pub fn page(&self, resource: &str, selection: &Selection, limit: usize, from: Option<&Continue>) -> Result<ListPage, PageError> {
        page::page(&self.read(), resource, selection, limit, from)
    }

    /// The selected objects as they stood at exactly `revision`.
    ///
    /// # Errors
    /// `Expired` when the history does not reach back so far, `Future` when it lies ahead.
    pub fn list_at(&self, resource: &str, selection: &Selection, revision: Revision) -> Result<Vec<Arc<Entry>>, PageError> {
        page::list_at(&self.read(), resource, selection, revision)
    }

    /// The changes of the selected objects of a resource.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(&self, resource: &str, selection: Selection, start: WatchStart) -> Result<Watcher, WatchError> {
        self.state.write().unwrap_or_else(PoisonError::into_inner).watch(resource, selection, start, self.applied.clone())
    }

    /// The objects that name `uid` among their owners, in the order of their keys.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Entry>> {
        self.read().owned_by(uid)
    }

    /// The revision of what is read here now.
    pub fn revision(&self) -> Revision {
        self.read().revision()
    }

    /// Gives up the changes up to and including `through`, here and in the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn compact(&self, through: Revision) -> Result<(), CommitError> {
        self.store.compact(through).await?;
        self.forget(through);
        Ok(())
    }

    fn forget(&self, through: Revision) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).forget(through);
    }

    /// Figures for metrics.
    pub fn stats(&self) -> CacheStats {
        self.read().stats()
    }

    /// Watches that go on now.
    pub fn watchers(&self) -> usize {
        self.read().watchers()
    }

    /// The lowest revision after which a watch can begin.
    pub fn oldest(&self) -> Revision {
        self.read().oldest()
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Ends the task and all watches, and returns when both are over.
    pub async fn close(&self) {
        self.stop.cancel();
        let feeder = self.feeder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = match feeder {
            Some(task) => Some(task.await),
            None => None,
        } {
            tracing::error!(%error, "watch cache task ended badly");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        read(&self.state)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A panic elsewhere leaves the state whole: it is changed by single steps that do not panic.
fn read(state: &RwLock<State>) -> RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}
