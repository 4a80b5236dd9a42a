//! The one writer: a thread that takes whatever commits wait, puts them into one transaction and pays one sync for all.
//!
//! A commit is acknowledged, and its events can be seen, only after the transaction is durable. After any error of the storage
//! the writer trusts nothing it holds: it closes the file, opens and verifies it, and learns from its revision whether the
//! failed transaction is in it. Until that works, writes are refused and the next one tries again.

use std::io;
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::file::{self, Extent, LOG, LookError, META, OBJECTS, OpenError};
use super::format;
use super::shared::Shared;
use super::{Backing, RedbConfig};
use crate::store::commit::{CommitError, Op, holds};
use crate::store::key::Revision;
use crate::store::record::{Change, Event, Record};

/// Commits in one transaction.
const GROUP_COMMITS: usize = 512;
/// Operations in one transaction, apart from its last commit.
const GROUP_OPS: usize = 4_096;
/// Old events dropped in one transaction beyond as many as it adds, so that the log shrinks in slices.
const TRIM_SLICE: u64 = 64;

pub(super) type CommitReply = oneshot::Sender<Result<Vec<Revision>, CommitError>>;

/// What the writer is asked.
pub(super) enum Request {
    Commit { ops: Vec<Op>, reply: CommitReply },
    Compact { through: Revision, reply: oneshot::Sender<Result<(), CommitError>> },
    Close { reply: oneshot::Sender<()> },
}

/// A commit of the group, with its answer once that is known.
struct Waiting {
    ops: Vec<Op>,
    reply: CommitReply,
    answer: Result<Vec<Revision>, CommitError>,
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) backing: Box<dyn Backing>,
    pub(super) config: RedbConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) extent: Extent,
    /// Events up to here are to go.
    pub(super) compact_through: Revision,
}

/// A group's transaction, on its way.
struct Group {
    extent: Extent,
    events: Vec<Arc<Event>>,
}

impl Writer {
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(request) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut next = Some(request);
            let mut ops = 0;
            while let Some(request) = next.take() {
                match request {
                    Request::Commit { ops: more, reply } => {
                        ops += more.len();
                        group.push(Waiting { ops: more, reply, answer: Ok(Vec::new()) });
                    }
                    Request::Compact { through, reply } => {
                        self.compact(through);
                        // The asker has gone: nothing to tell.
                        let _ = reply.send(Ok(()));
                    }
                    Request::Close { reply } => {
                        self.write(std::mem::take(&mut group));
                        self.shared.close();
                        drop(self);
                        let _ = reply.send(());
                        return;
                    }
                }
                if group.len() < GROUP_COMMITS && ops < GROUP_OPS {
                    next = queue.try_recv().ok();
                }
            }
            self.write(group);
        }
        self.shared.close();
    }

    /// Refuses the events from now on; they leave the file in slices, with later writes.
    fn compact(&mut self, through: Revision) {
        self.compact_through = self.compact_through.max(through.min(self.extent.revision));
        self.shared.refuse_through(self.compact_through);
    }

    fn write(&mut self, mut group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let written = self.reopened_if_needed().and_then(|database| {
            self.refuse_if_full()?;
            self.write_group(&database, &mut group).map_err(Failure::from)
        });
        let failure = match written {
            Ok(done) => {
                self.publish(done);
                None
            }
            Err(failure) => self.recovered_from(failure),
        };
        for waiting in group {
            let answer = match &failure {
                Some(error) if waiting.answer.is_ok() => Err(error.clone()),
                _ => waiting.answer,
            };
            // A requester that has gone takes nothing back.
            let _ = waiting.reply.send(answer);
        }
    }

    fn write_group(&self, database: &Database, group: &mut [Waiting]) -> Result<Group, LookError> {
        let mut txn = database.begin_write()?;
        // Together: the file needs no repair after a crash, and a torn header cannot hide a committed state.
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(self.config.quick_repair);
        let mut done = Group { extent: self.extent, events: Vec::new() };
        self.fill(&txn, group, &mut done)?;
        if done.events.is_empty() {
            txn.abort()?;
        } else {
            txn.commit()?;
        }
        Ok(done)
    }

    fn fill(&self, txn: &WriteTransaction, group: &mut [Waiting], done: &mut Group) -> Result<(), LookError> {
        let mut objects = txn.open_table(OBJECTS)?;
        let mut log = txn.open_table(LOG)?;
        for waiting in group {
            let ops = std::mem::take(&mut waiting.ops);
            waiting.answer = match find_conflict(&objects, &ops)? {
                Some(conflict) => Err(conflict),
                None => Ok(ops.into_iter().map(|op| apply(&mut objects, &mut log, op, done)).collect::<Result<_, _>>()?),
            };
        }
        if done.events.is_empty() {
            return Ok(());
        }
        self.trim(&mut log, done)?;
        let mut meta = txn.open_table(META)?;
        meta.insert("revision", done.extent.revision.0)?;
        meta.insert("oldest", done.extent.oldest.0)?;
        Ok(())
    }

    /// Drops old events: a few more than were added, until the log is within its bounds.
    fn trim(&self, log: &mut Table<'_, u64, &'static [u8]>, done: &mut Group) -> Result<(), LookError> {
        let extent = &mut done.extent;
        for _ in 0..done.events.len() as u64 + TRIM_SLICE {
            let kept = extent.revision.0 - extent.oldest.0;
            let is_too_long = kept > self.config.log_events || extent.log_bytes > self.config.log_bytes;
            if kept <= 1 || !(is_too_long || extent.oldest < self.compact_through) {
                break;
            }
            let Some(dropped) = log.pop_first()? else { break };
            extent.log_bytes = extent.log_bytes.saturating_sub(dropped.1.value().len() as u64);
            extent.oldest = Revision(dropped.0.value());
        }
        Ok(())
    }

    fn publish(&mut self, done: Group) {
        self.extent = done.extent;
        self.shared.publish(done.events, done.extent, self.backing.file_bytes());
    }

    /// Writing into the last pages of a file system fails half-way; refusing before that keeps the file open and whole.
    fn refuse_if_full(&self) -> Result<(), Failure> {
        match self.backing.free_bytes() {
            Ok(free) if free < self.config.reserve_bytes => Err(Failure::Full),
            _ => Ok(()),
        }
    }

    fn reopened_if_needed(&mut self) -> Result<Arc<Database>, Failure> {
        if let Some(database) = self.shared.database() {
            return Ok(database);
        }
        self.refuse_if_full()?;
        let (database, extent) = self.backing.open(true).map_err(Failure::from)?;
        if extent.revision < self.extent.revision {
            let lost = io::Error::other("acknowledged revisions are missing from the file");
            return Err(Failure::Storage(Arc::new(lost)));
        }
        let txn = database.begin_read().map_err(|error| Failure::from(LookError::from(error)))?;
        let after = self.extent.revision;
        let events = file::events(&txn, after, usize::MAX).map_err(Failure::from)?;
        drop(txn);
        tracing::info!(rv = extent.revision.0, "the store's file is open again");
        let database = Arc::new(database);
        self.shared.set_database(Some(database.clone()));
        // What an earlier failure left undecided turns out to be in the file: it is told like any other change.
        self.publish(Group { extent, events });
        Ok(database)
    }

    /// After a failure: `None` when the group's changes turn out to be in the file, else the answer to those who wait.
    fn recovered_from(&mut self, failure: Failure) -> Option<CommitError> {
        let before = self.extent.revision;
        let error = match failure {
            // Nothing was begun: the file is as good as before.
            Failure::Full => return Some(CommitError::Full),
            Failure::NoSpace => CommitError::Full,
            Failure::Storage(error) => CommitError::Storage(error),
        };
        if self.shared.database().is_some() {
            tracing::error!(error = ?error, "writing the store failed; opening its file again");
            self.shared.set_database(None);
        }
        match self.reopened_if_needed() {
            // The transaction is one: it is there as a whole or not at all.
            Ok(_) if self.extent.revision > before => None,
            Ok(_) => Some(error),
            Err(Failure::Storage(error)) => Some(CommitError::Storage(error)),
            // It may be in the file, and nobody can look now.
            Err(Failure::Full | Failure::NoSpace) => Some(error),
        }
    }
}

/// Why a group was not written.
enum Failure {
    /// Refused before anything was begun.
    Full,
    /// The disk filled up on the way.
    NoSpace,
    Storage(Arc<dyn std::error::Error + Send + Sync>),
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        match &error {
            LookError::Database(cause) if matches!(&**cause, redb::Error::Io(io) if is_no_space(io)) => Self::NoSpace,
            _ => Self::Storage(Arc::new(error)),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match &error {
            OpenError::Database { source, .. } if matches!(&**source, redb::Error::Io(io) if is_no_space(io)) => Self::NoSpace,
            OpenError::Io { source, .. } if is_no_space(source) => Self::NoSpace,
            _ => Self::Storage(Arc::new(error)),
        }
    }
}

type Objects<'txn> = Table<'txn, &'static [u8], &'static [u8]>;

/// The first operation whose expectation fails.
fn find_conflict(objects: &Objects<'_>, ops: &[Op]) -> Result<Option<CommitError>, LookError> {
    for (op, operation) in ops.iter().enumerate() {
        let key = operation.key().to_bytes();
        let found = objects.get(&*key)?;
        let current = found.as_ref().map(|value| format::record_revision(&key, value.value())).transpose()?;
        if !holds(operation.expect(), current) {
            let current = found.map(|value| format::decode_record(&key, value.value()).map(Arc::new)).transpose()?;
            return Ok(Some(CommitError::Conflict { op, current }));
        }
    }
    Ok(None)
}

/// The expectation holds.
fn apply(objects: &mut Objects<'_>, log: &mut Table<'_, u64, &'static [u8]>, op: Op, done: &mut Group) -> Result<Revision, LookError> {
    let revision = done.extent.revision.next();
    let key_bytes = op.key().to_bytes();
    let (change, key, value, index) = match op {
        Op::Check { .. } => {
            let found = objects.get(&*key_bytes)?;
            return Ok(found.map(|value| format::record_revision(&key_bytes, value.value())).transpose()?.unwrap_or_default());
        }
        Op::Put { key, value, index, .. } => (Change::Put, key, value, index),
        Op::Delete { key, last, index, .. } => (Change::Delete, key, last, index),
    };
    let record = Arc::new(Record { key, revision, bytes: value.at(revision), index: Arc::new(index) });
    let replaced = match change {
        Change::Put => objects.insert(&*key_bytes, &*format::encode_record(&record))?,
        Change::Delete => objects.remove(&*key_bytes)?,
    };
    let previous = replaced.map(|value| format::decode_previous(&key_bytes, value.value())).transpose()?;
    let event = Event { change, record, previous };
    let encoded = format::encode_event(&event);
    log.insert(revision.0, &*encoded)?;
    done.extent.log_bytes += encoded.len() as u64;
    done.extent.revision = revision;
    done.events.push(Arc::new(event));
    Ok(revision)
}
