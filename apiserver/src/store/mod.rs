//! The log of changes that everything else follows.
//!
//! [`Store`] is the contract; its documentation is the specification, and one suite (`conformance`) holds every
//! implementation to it: [`memory`] (simulations, tests), [`redb`] (one machine, durable), and the watch cache in front of
//! each. Only the API server opens a store.
//!
//! ```text
//!  request ─► commit(ops) ─► compare revisions ─► number the changes ─► objects + log, durable ─► acknowledged
//!                                                                              │
//!                                             watch cache ◄─ events(after) ◄───┘ in order, each once
//! ```

pub mod backup;
mod commit;
#[cfg(test)]
pub(crate) mod conformance;
mod key;
pub mod memory;
mod object;
mod record;
pub mod redb;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use commit::{CommitError, Expect, Op};
pub use key::{Key, Revision};
pub use object::{EncodeError, Unversioned};
pub use record::{Change, Event, Index, Indexer, Previous, Record};

/// The largest object, in bytes of its JSON without the revision: 1.5 MiB, etcd's customary request limit.
pub const MAX_OBJECT_BYTES: usize = 1536 * 1024;
/// The most operations of one commit.
pub const MAX_OPS: usize = 10_000;

/// What a store can do beyond the minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Every changed object of a commit takes a revision of its own, consecutively and in the order of the operations. Without
    /// it all changes of a commit share one, as in etcd; the log tells them in the order of the operations.
    pub consecutive_revisions: bool,
}

/// Whether a store takes writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Health {
    /// It does.
    #[default]
    Healthy,
    /// The disk is full: reads go on, writes are refused, and nothing is lost by that.
    DiskFull,
    /// The storage failed and cannot be opened and verified again yet: writes fail, and so do reads that the watch cache does not
    /// answer.
    Failed {
        /// Why, with its causes.
        error: String,
    },
}

/// A failed read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The events after this revision are no longer all there; begin again from the current objects.
    #[error("events after revision {after} are compacted, the oldest possible start is {oldest}")]
    Compacted {
        /// What was asked for.
        after: Revision,
        /// The lowest revision that would have worked.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("revision {after} lies ahead of the current revision {current}")]
    Future {
        /// What was asked for.
        after: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The storage below failed, or what it holds is not what was written.
    #[error("read the store")]
    Storage(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// The objects of one resource, from a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of their keys.
    pub records: Vec<Arc<Record>>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// All objects as they stood at one revision. Short-lived: it holds back the reuse of space.
pub trait Snapshot: Send + Sync {
    /// The revision; no object in the snapshot is newer, no change up to it is missing.
    fn revision(&self) -> Revision;

    /// How many objects there are.
    fn objects(&self) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// At most `limit` objects with a key greater than `after` (from the first when `None`), of one resource or, with `None`,
    /// of all. Pages of one snapshot fit together without gap or repeat, whatever is written meanwhile.
    fn page<'a>(&'a self, resource: Option<&'a str>, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page, ReadError>>;
}

/// Objects with one counter of changes and a log of them. All methods may be called from any number of tasks.
///
/// Nothing here assumes that one process alone writes: a revision may grow by other hands, a commit's revisions may leave gaps to those
/// before, and what a caller read may have changed when its commit arrives, which expectations find.
///
/// # Guarantees
/// * **Order.** All changes form one sequence, numbered by one counter. Revisions never repeat and never go back, not after a
///   crash. The counter begins at 0: the first change is number 1.
/// * **Durability.** When [`commit`](Store::commit) has returned `Ok`, the change survives a crash of the process and of the
///   machine (as far as the implementation is durable at all; `memory` is not).
/// * **Atomicity.** The operations of a commit take effect all or none; no snapshot and no crash shows a part of them.
/// * **Visibility.** Only durable changes are seen, by anyone. A read begun after a commit was acknowledged sees it.
/// * **Log.** [`events`](Store::events) tells every change after a revision once, in order, or fails with `Compacted`.
pub trait Store: Send + Sync + 'static {
    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// Applies `ops` atomically if each one's expectation holds. All expectations are compared with the state before the
    /// commit. Answers one revision per operation: the new one of the object, and for a [`Op::Check`] the object's present one
    /// (0 when absent). A key may be changed only once in a commit.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] names the first operation whose expectation failed. With any error but
    /// [`CommitError::Storage`] nothing was changed; after that one the outcome is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the commit back.
    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>>;

    /// The object as it stands now.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>>;

    /// All objects as they stand now.
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>>;

    /// At most `limit` changes after `after`, in order; none when `after` is the current revision. Changes that share a revision are
    /// never parted, be they a few more than `limit`: whoever goes on after the last one told misses nothing.
    ///
    /// # Errors
    /// `Compacted` when not all changes after `after` are kept, `Future` when it lies ahead of the current revision.
    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>>;

    /// The current revision, and a signal for each time that it grows. Never ahead of what `events` tells.
    fn revision(&self) -> watch::Receiver<Revision>;

    /// The lowest revision from which [`events`](Store::events) still can start.
    fn oldest(&self) -> Revision;

    /// How the store is, and a signal for each time that this changes. A store gets out of a failure by itself when its cause is over.
    fn health(&self) -> watch::Receiver<Health>;

    /// Gives up the changes up to and including `through` (at most the current revision). May return before they are gone, but
    /// not before `events` refuses them.
    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>>;
}
