//! The one writer: a thread that takes whatever commits wait, puts them into one transaction and pays one sync for all.
//!
//! A commit is acknowledged, and its events can be seen, only after the transaction is durable. After any error of the storage
//! the writer trusts nothing it holds: it closes the file, opens and verifies it, and learns from its revision whether the
//! failed transaction is in it. Until that works, writes are refused; the writer tries again by itself and with each write.
//!
//! When nobody waits and old events are to go, it drops them a slice at a time and looks for commits after each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use std::{io, mem};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, Table, WriteTransaction};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::log::{self, Bounds};
use super::read::{self, LookError};
use super::shared::Shared;
use super::stats::micros;
use super::tables::{Extent, LOG, META, OBJECTS};
use super::{Backing, RedbConfig, format};
use crate::store::Health;
use crate::store::commit::{CommitError, Op, holds};
use crate::store::key::Revision;
use crate::store::record::{Change, Event, Record};

/// Commits in one transaction.
const GROUP_COMMITS: usize = 512;
/// Operations in one transaction, apart from its last commit.
const GROUP_OPS: usize = 4_096;
/// Old events dropped in one transaction beyond as many as it adds, so that the log shrinks in slices.
const TRIM_SLICE: u64 = 64;
/// Old events dropped in one transaction of their own: a commit that comes meanwhile waits for no more.
const IDLE_TRIM_SLICE: u64 = 256;

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
    /// Waits with a time limit, which a thread outside of a runtime cannot.
    pub(super) timer: Runtime,
}

/// A group's transaction, on its way.
struct Group {
    extent: Extent,
    events: Vec<Arc<Event>>,
}

/// What there is to do.
enum Next {
    Request(Request),
    /// Nothing that anybody asked for.
    Idle,
    Closed,
}

impl Writer {
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            match self.next(&mut queue) {
                Next::Request(request) => {
                    if let Some(reply) = self.serve(request, &mut queue) {
                        self.shared.close();
                        drop(self);
                        let _ = reply.send(());
                        return;
                    }
                }
                Next::Idle if self.is_healthy() => self.trim_a_slice(),
                Next::Idle => self.try_again(),
                Next::Closed => break,
            }
        }
        self.shared.close();
    }

    fn next(&self, queue: &mut mpsc::Receiver<Request>) -> Next {
        let request = if !self.is_healthy() {
            let waited = self.timer.block_on(async { tokio::time::timeout(self.config.retry, queue.recv()).await });
            let Ok(request) = waited else { return Next::Idle };
            request
        } else if self.bounds().are_exceeded(&self.extent) {
            match queue.try_recv() {
                Err(TryRecvError::Empty) => return Next::Idle,
                received => received.ok(),
            }
        } else {
            queue.blocking_recv()
        };
        request.map_or(Next::Closed, Next::Request)
    }

    /// Serves a request and those that wait behind it; whom to tell when it was the last one.
    fn serve(&mut self, first: Request, queue: &mut mpsc::Receiver<Request>) -> Option<oneshot::Sender<()>> {
        let mut group = Vec::new();
        let mut next = Some(first);
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
                    self.write(group);
                    return Some(reply);
                }
            }
            if group.len() < GROUP_COMMITS && ops < GROUP_OPS {
                next = queue.try_recv().ok();
            }
        }
        self.write(group);
        None
    }

    fn is_healthy(&self) -> bool {
        *self.shared.health().borrow() == Health::Healthy
    }

    fn bounds(&self) -> Bounds {
        Bounds::new(&self.config, &self.extent, self.compact_through, self.config.now_millis())
    }

    /// Refuses the events from now on; they leave the file in slices.
    fn compact(&mut self, through: Revision) {
        self.compact_through = self.compact_through.max(through.min(self.extent.revision));
        self.shared.refuse_through(self.compact_through);
    }

    fn write(&mut self, mut group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let failure = self.write_or_recover(&mut group, TRIM_SLICE).err();
        if failure.is_none() {
            self.shared.count(|stats| stats.group_commits.add(group.len() as u64));
        }
        for waiting in group {
            // A conflict was found in a state that came to nothing: it is as little an answer as a success.
            let answer = failure.clone().map_or(waiting.answer, Err);
            // A requester that has gone takes nothing back.
            let _ = waiting.reply.send(answer);
        }
    }

    /// Writes the group in one transaction and drops so many old events with it. After a failure the file is opened again, and shows
    /// whether the group is in it; else the answer to all who wait.
    fn write_or_recover(&mut self, group: &mut [Waiting], trim: u64) -> Result<(), CommitError> {
        let refused = self.reopened_if_needed().and_then(|database| self.refuse_if_full().map(|()| database));
        let database = match refused {
            Ok(database) => database,
            Err(failure) => {
                self.shared.set_health(failure.health());
                self.shared.count(|stats| stats.refused_full += u64::from(matches!(failure, Failure::Full)) * group.len() as u64);
                // Nothing was begun.
                return Err(failure.unchanged());
            }
        };
        let written = catch_unwind(AssertUnwindSafe(|| self.write_group(&database, group, trim)));
        drop(database);
        match written {
            Ok(Ok(done)) => {
                self.publish(done);
                self.shared.set_health(Health::Healthy);
                Ok(())
            }
            Ok(Err(error)) => self.recover(&error.into()),
            Err(panic) => self.recover(&Failure::panicked(&*panic)),
        }
    }

    fn write_group(&self, database: &Database, group: &mut [Waiting], trim: u64) -> Result<Group, LookError> {
        let mut txn = database.begin_write()?;
        // Together: the file needs no repair after a crash, and a torn header cannot hide a committed state.
        txn.set_two_phase_commit(self.config.two_phase);
        txn.set_quick_repair(self.config.quick_repair);
        let mut done = Group { extent: self.extent.clone(), events: Vec::new() };
        self.fill(&txn, group, trim, &mut done)?;
        if done.extent == self.extent {
            txn.abort()?;
        } else {
            let begun = Instant::now();
            txn.commit()?;
            self.shared.count(|stats| {
                stats.transactions += 1;
                stats.sync_micros.add(micros(begun.elapsed()));
            });
        }
        Ok(done)
    }

    fn fill(&self, txn: &WriteTransaction, group: &mut [Waiting], trim: u64, done: &mut Group) -> Result<(), LookError> {
        let mut objects = txn.open_table(OBJECTS)?;
        let mut log = txn.open_table(LOG)?;
        for waiting in group.iter_mut() {
            let ops = mem::take(&mut waiting.ops);
            waiting.answer = match find_conflict(&objects, &ops)? {
                Some(conflict) => Err(conflict),
                None => Ok(ops.into_iter().map(|op| apply(&mut objects, &mut log, op, done)).collect::<Result<_, _>>()?),
            };
        }
        if done.events.is_empty() && !group.is_empty() {
            return Ok(());
        }
        let now = self.config.now_millis();
        let bounds = Bounds::new(&self.config, &done.extent, self.compact_through, now);
        // Not those that are being added: whoever follows the log must get to see them.
        log::trim(&mut log, &mut done.extent, bounds, done.events.len() as u64 + trim, self.extent.revision)?;
        log::note_time(txn, &self.config, &mut done.extent, now)?;
        let mut meta = txn.open_table(META)?;
        meta.insert("revision", done.extent.revision.0)?;
        meta.insert("oldest", done.extent.oldest.0)?;
        meta.insert("log_bytes", done.extent.log_bytes)?;
        meta.insert("object_bytes", done.extent.object_bytes)?;
        Ok(())
    }

    /// Old events go, though nobody writes.
    fn trim_a_slice(&mut self) {
        // The health tells of a failure, and the log.
        let _ = self.write_or_recover(&mut [], IDLE_TRIM_SLICE);
    }

    fn publish(&mut self, done: Group) {
        self.shared.publish(done.events, &done.extent, self.backing.file_bytes());
        self.extent = done.extent;
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
        let (database, extent) = match catch_unwind(AssertUnwindSafe(|| self.backing.open(true))) {
            Ok(opened) => opened.map_err(Failure::from)?,
            Err(panic) => return Err(Failure::panicked(&*panic)),
        };
        if extent.revision < self.extent.revision {
            let lost = io::Error::other("acknowledged revisions are missing from the file");
            return Err(Failure::Storage(Arc::new(lost)));
        }
        let txn = database.begin_read().map_err(|error| Failure::from(LookError::from(error)))?;
        let events = read::events(&txn, self.extent.revision, usize::MAX).map_err(Failure::from)?;
        drop(txn);
        tracing::info!(rv = extent.revision.0, "the store's file is open again");
        let database = Arc::new(database);
        self.shared.set_database(Some(database.clone()));
        self.shared.count(|stats| stats.reopened += 1);
        // What an earlier failure left undecided turns out to be in the file: it is told like any other change.
        self.publish(Group { extent, events });
        Ok(database)
    }

    /// After a failure on the way: all is well if the group's changes turn out to be in the file, else the answer to those who wait.
    fn recover(&mut self, failure: &Failure) -> Result<(), CommitError> {
        let before = self.extent.revision;
        tracing::error!(error = ?failure, "writing the store failed; opening its file again");
        self.shared.set_database(None);
        self.shared.set_health(failure.health());
        self.shared.count(|stats| stats.failures += 1);
        match self.reopened_if_needed() {
            // The transaction is one: it is there as a whole or not at all.
            Ok(_) => {
                let is_full = matches!(failure, Failure::NoSpace(_));
                self.shared.set_health(if is_full { failure.health() } else { Health::Healthy });
                if self.extent.revision > before { Ok(()) } else { Err(failure.unchanged()) }
            }
            // It may be in the file, and nobody can look now.
            Err(again) => {
                self.shared.set_health(again.health());
                Err(failure.unknown())
            }
        }
    }

    /// Looks whether a failure is over.
    fn try_again(&mut self) {
        let now = self.reopened_if_needed().and_then(|_| self.refuse_if_full());
        self.shared.set_health(now.err().map_or(Health::Healthy, |failure| failure.health()));
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
    let (written, replaced) = match change {
        Change::Put => {
            let value = format::encode_record(&record);
            (Some(value.len() as u64), objects.insert(&*key_bytes, &*value)?)
        }
        Change::Delete => (None, objects.remove(&*key_bytes)?),
    };
    let replaced_bytes = replaced.as_ref().map_or(0, |value| value.value().len() as u64);
    let previous = replaced.map(|value| format::decode_previous(&key_bytes, value.value())).transpose()?;
    done.extent.objects = done.extent.objects + written.map_or(0, |_| 1) - u64::from(previous.is_some());
    done.extent.object_bytes = (done.extent.object_bytes + written.unwrap_or(0)).saturating_sub(replaced_bytes);
    let event = Event { change, record, previous };
    let encoded = format::encode_event(&event);
    log.insert(revision.0, &*encoded)?;
    done.extent.log_bytes += encoded.len() as u64;
    done.extent.revision = revision;
    done.events.push(Arc::new(event));
    Ok(revision)
}
