//! The durable store of one machine: objects and log in one file of the embedded database redb.
//!
//! * `writer`: the one thread that writes; whatever waits becomes one transaction and one sync. `log`: what is kept of the past;
//!   `failure`: what becomes of a failed write.
//! * `file`: making and opening the file; the lock that keeps a second engine out. `tables`: what it must hold, and migrations.
//! * `read`, `format`: the bytes. `restore`: a file from a backup.
//! * `shared`: the newest events in memory, the current revision, health. `stats`: figures.
//!
//! Transactions are two-phase with quick repair: a file that was open in a crash opens at once, whatever its size, and a torn
//! write of the header cannot choose a state that was never committed. The price is a second sync on each transaction, which
//! grouping shares among all that wait.

mod failure;
mod file;
mod format;
mod log;
mod read;
mod restore;
mod shared;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use redb::{ReadTransaction, ReadableDatabase as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use super::commit::{CommitError, Op, check_shape};
use super::key::{Key, Revision};
use super::record::{Event, Indexer, Record};
use super::{Capabilities, Health, Page, ReadError, Snapshot, Store};
use file::Directory;
pub use file::OpenError;
pub use format::Corrupt;
use read::LookError;
pub use restore::{REVISIONS_SKIPPED, RestoreError, Restored, restore};
use shared::Shared;
pub use stats::{Histogram, Stats};
use tables::Opened;
use writer::{Request, Writer};

/// Commits waiting for the writer; more wait to get into the queue.
const QUEUE: usize = 1_024;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Bounds of the store, and what it is given from outside.
#[derive(Clone)]
pub struct RedbConfig {
    /// The database's cache of pages; everything is read from the watch cache, so it need not be large.
    pub cache_bytes: usize,
    /// Events kept in the log.
    pub log_events: u64,
    /// Bytes of events kept in the log.
    pub log_bytes: u64,
    /// How long events are kept in the log, to a sixtieth. Old ones go with the next write.
    pub log_age: Duration,
    /// Writes are refused while less than this is free on the file system.
    pub reserve_bytes: u64,
    /// Between two tries to get out of a failure by itself: nobody tells when a disk has room again.
    pub retry: Duration,
    /// Save the allocator's state with each transaction, so that a file opens at once after a crash.
    pub quick_repair: bool,
    /// Sync a transaction before the header names it, and the header after it.
    pub two_phase: bool,
    /// By which rules objects are indexed; `None` leaves the indexes as they were written.
    pub indexer: Option<Indexer>,
    /// The time.
    pub clock: Clock,
}

impl Default for RedbConfig {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self {
            cache_bytes: 4 * mib,
            log_events: 30_000,
            log_bytes: 32 * mib as u64,
            log_age: Duration::from_secs(3600),
            reserve_bytes: 16 * mib as u64,
            retry: Duration::from_secs(1),
            quick_repair: true,
            two_phase: true,
            indexer: None,
            clock: Arc::new(Timestamp::now),
        }
    }
}

impl RedbConfig {
    fn now_millis(&self) -> u64 {
        u64::try_from((self.clock)().as_millisecond()).unwrap_or_default()
    }
}

/// Where the file comes from: a directory, or a test's failing disk.
trait Backing: Send {
    fn open(&mut self, deeply: bool) -> Result<Opened, OpenError>;
    fn free_bytes(&self) -> io::Result<u64>;
    fn file_bytes(&self) -> u64;
}

impl Backing for Directory {
    fn open(&mut self, deeply: bool) -> Result<Opened, OpenError> {
        Directory::open(self, deeply)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Directory::free_bytes(self)
    }
    fn file_bytes(&self) -> u64 {
        Directory::file_bytes(self)
    }
}

/// The store. Dropping it lets the writer finish what waits, and end.
pub struct RedbStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the store in `dir`, or makes it. Blocks; call it where that is allowed.
    ///
    /// # Errors
    /// See [`OpenError`]; in particular a second engine on the same directory is refused.
    pub fn open(dir: &Path, config: RedbConfig) -> Result<Self, OpenError> {
        let directory = Directory::take(dir, config.cache_bytes, config.indexer)?;
        Self::start(Box::new(directory), config, dir)
    }

    fn start(mut backing: Box<dyn Backing>, config: RedbConfig, dir: &Path) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Io { path: PathBuf::from(dir), source };
        let (database, extent) = backing.open(false)?;
        let shared = Arc::new(Shared::new(database, &extent, backing.file_bytes()));
        let (queue, requests) = mpsc::channel(QUEUE);
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fail)?;
        let compact_through = extent.oldest;
        let writer = Writer { backing, config, shared: shared.clone(), extent, compact_through, timer };
        let run = move || writer.run(requests);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(fail)?;
        Ok(Self { shared, queue, thread: Mutex::new(Some(thread)) })
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Writes what waits, closes the file and gives up the directory. Later commits and reads fail with `Closed`.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Request::Close { reply }).await.is_ok() {
            // An error means that the writer is gone already.
            let _ = closed.await;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if !matches!(spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!("the store's writer ended badly");
        }
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T, CommitError>>) -> Result<T, CommitError> {
        self.queue.send(request).await.map_err(|_closed| CommitError::Closed)?;
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    fn begin_read(&self) -> Result<ReadTransaction, ReadError> {
        let Some(database) = self.shared.database() else {
            return Err(if self.shared.is_closed() { ReadError::Closed } else { ReadError::Storage(Arc::new(NotOpen)) });
        };
        database.begin_read().map_err(|error| LookError::from(error).into())
    }

    /// Reads the file on a thread where that may block.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, LookError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let txn = self.begin_read()?;
        blocking(move || look(&txn)).await
    }

    async fn read_events(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Event>>, ReadError> {
        let current = *self.shared.revision().borrow();
        if after > current {
            return Err(ReadError::Future { after, current });
        }
        let compacted = || ReadError::Compacted { after, oldest: self.shared.oldest() };
        if after < self.shared.oldest() {
            return Err(compacted());
        }
        if let Some(events) = self.shared.recent(after, limit) {
            return Ok(events);
        }
        let limit = limit.min(usize::try_from(current.0 - after.0).unwrap_or(usize::MAX));
        let events = self.look(move |txn| read::events(txn, after, limit)).await?;
        // The writer may have dropped the first ones since the look at `oldest`.
        match events.first() {
            Some(first) if first.record.revision != after.next() => Err(compacted()),
            _ => Ok(events),
        }
    }
}

/// After a failure, until the file could be opened and verified again.
#[derive(Debug, thiserror::Error)]
#[error("the store's file failed and is not open again yet")]
struct NotOpen;

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Result<T, LookError> + Send + 'static) -> Result<T, ReadError> {
    match spawn_blocking(look).await {
        Ok(read) => read.map_err(ReadError::from),
        Err(error) => Err(ReadError::Storage(Arc::new(error))),
    }
}

impl Store for RedbStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { consecutive_revisions: true }
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>> {
        async move {
            check_shape(&ops)?;
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Commit { ops, reply }, answer).await
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>> {
        let key = key.clone();
        self.look(move |txn| read::get(txn, &key)).boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>> {
        async move {
            let txn = self.begin_read()?;
            let snapshot = blocking(move || Ok(RedbSnapshot { revision: read::revision(&txn)?, txn: Arc::new(txn) })).await?;
            // The file may be a moment ahead of what was told.
            let mut told = self.shared.revision().subscribe();
            told.wait_for(|told| *told >= snapshot.revision).await.map_err(|_| ReadError::Closed)?;
            Ok(Box::new(snapshot) as Box<dyn Snapshot>)
        }
        .boxed()
    }

    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>> {
        self.read_events(after, limit).boxed()
    }

    fn revision(&self) -> watch::Receiver<Revision> {
        self.shared.revision().subscribe()
    }

    fn oldest(&self) -> Revision {
        self.shared.oldest()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health().subscribe()
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>> {
        async move {
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Compact { through, reply }, answer).await
        }
        .boxed()
    }
}

struct RedbSnapshot {
    txn: Arc<ReadTransaction>,
    revision: Revision,
}

impl Snapshot for RedbSnapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn objects(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        let txn = self.txn.clone();
        blocking(move || read::objects(&txn)).boxed()
    }

    fn page<'a>(&'a self, resource: Option<&'a str>, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page, ReadError>> {
        let (txn, resource, after) = (self.txn.clone(), resource.map(str::to_owned), after.cloned());
        blocking(move || read::page(&txn, resource.as_deref(), after.as_ref(), limit)).boxed()
    }
}
