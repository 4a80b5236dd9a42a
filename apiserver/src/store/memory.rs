//! The store in memory: the same decisions as the durable one without the disk. For simulations and tests.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;

use super::commit::{CommitError, Op, check_shape, holds};
use super::key::{Key, Revision};
use super::record::{Change, Event, Previous, Record};
use super::{Capabilities, Health, Page, ReadError, Snapshot, Store};

/// Events kept.
const LOG_EVENTS: usize = 10_000;

/// See the module.
pub struct MemoryStore {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
    capabilities: Capabilities,
    health: watch::Sender<Health>,
}

#[derive(Default)]
struct State {
    /// Behind an `Arc`, so that a snapshot costs a copy only if somebody writes while it lives.
    objects: Arc<BTreeMap<Key, Arc<Record>>>,
    log: VecDeque<Arc<Event>>,
    revision: Revision,
    oldest: Revision,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            revision: watch::Sender::new(Revision(0)),
            capabilities: Capabilities { consecutive_revisions: true },
            health: watch::Sender::new(Health::Healthy),
        }
    }

    /// From now on it calls itself so; it takes writes all the same.
    #[cfg(test)]
    pub(crate) fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// An empty store that numbers as etcd does: all changes of a commit share a revision.
    #[cfg(test)]
    pub(crate) fn with_shared_revisions() -> Self {
        Self { capabilities: Capabilities { consecutive_revisions: false }, ..Self::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, ops: Vec<Op>) -> Result<Vec<Revision>, CommitError> {
        check_shape(&ops)?;
        let mut state = self.state();
        for (op, operation) in ops.iter().enumerate() {
            let current = state.objects.get(operation.key());
            if !holds(operation.expect(), current.map(|record| record.revision)) {
                return Err(CommitError::Conflict { op, current: current.cloned() });
            }
        }
        let shared = (!self.capabilities.consecutive_revisions).then(|| state.revision.next());
        let revisions = ops.into_iter().map(|op| state.apply(op, shared)).collect();
        state.bound_log();
        let newest = state.revision;
        // Under the lock, so that the signal never goes back.
        self.revision.send_if_modified(|revision| std::mem::replace(revision, newest) != newest);
        Ok(revisions)
    }
}

impl State {
    /// The expectation holds. `shared`: the revision of all changes of the commit.
    fn apply(&mut self, op: Op, shared: Option<Revision>) -> Revision {
        let revision = shared.unwrap_or(self.revision.next());
        let (change, key, value, index) = match op {
            Op::Check { key, .. } => return self.objects.get(&key).map(|record| record.revision).unwrap_or_default(),
            Op::Put { key, value, index, .. } => (Change::Put, key, value, index),
            Op::Delete { key, last, index, .. } => (Change::Delete, key, last, index),
        };
        let record = Arc::new(Record { key: key.clone(), revision, bytes: value.at(revision), index: Arc::new(index) });
        let objects = Arc::make_mut(&mut self.objects);
        let previous = match change {
            Change::Put => objects.insert(key, record.clone()),
            Change::Delete => objects.remove(&key),
        };
        let previous = previous.map(|p| Previous { revision: p.revision, index: p.index.clone() });
        self.log.push_back(Arc::new(Event { change, record, previous }));
        self.revision = revision;
        revision
    }

    /// Drops old events, and all of a revision when one of it goes.
    fn bound_log(&mut self) {
        while self.log.len() > LOG_EVENTS || self.log.front().is_some_and(|event| event.record.revision <= self.oldest) {
            let Some(dropped) = self.log.pop_front() else { break };
            self.oldest = dropped.record.revision;
        }
    }

    fn events(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Event>>, ReadError> {
        if after > self.revision {
            return Err(ReadError::Future { after, current: self.revision });
        }
        if after < self.oldest {
            return Err(ReadError::Compacted { after, oldest: self.oldest });
        }
        let from = self.log.partition_point(|event| event.record.revision <= after);
        let last = self.log.range(from..).take(limit).next_back().map(|event| event.record.revision);
        let upto = last.map_or(from, |last| self.log.partition_point(|event| event.record.revision <= last));
        Ok(self.log.range(from..upto).cloned().collect())
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>> {
        ready(self.commit_now(ops)).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>> {
        ready(Ok(self.state().objects.get(key).cloned())).boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>> {
        let state = self.state();
        let snapshot = MemorySnapshot { objects: state.objects.clone(), revision: state.revision };
        ready(Ok(Box::new(snapshot) as Box<dyn Snapshot>)).boxed()
    }

    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>> {
        ready(self.state().events(after, limit)).boxed()
    }

    fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn oldest(&self) -> Revision {
        self.state().oldest
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>> {
        let mut state = self.state();
        let through = through.min(state.revision);
        let gone = state.log.partition_point(|event| event.record.revision <= through);
        state.log.drain(..gone);
        state.oldest = state.oldest.max(through);
        ready(Ok(())).boxed()
    }
}

struct MemorySnapshot {
    objects: Arc<BTreeMap<Key, Arc<Record>>>,
    revision: Revision,
}

impl Snapshot for MemorySnapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn objects(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        ready(Ok(self.objects.len() as u64)).boxed()
    }

    fn page<'a>(&'a self, resource: Option<&'a str>, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page, ReadError>> {
        let first = resource.map(|resource| Key::new(resource, "", ""));
        let start = match (&first, after) {
            (Some(first), Some(after)) if after < first => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let range = self.objects.range::<Key, _>((start, Bound::Unbounded));
        let mut records = range.map(|(_, record)| record).take_while(|r| resource.is_none_or(|wanted| &*r.key.resource == wanted));
        let page = Page { records: records.by_ref().take(limit).cloned().collect(), more: records.next().is_some() };
        ready(Ok(page)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{Made, conformance, create};

    async fn make() -> Made {
        (Arc::new(MemoryStore::new()), Box::new(()))
    }

    conformance!(make);

    mod shared_revisions {
        use super::*;

        async fn make() -> Made {
            (Arc::new(MemoryStore::with_shared_revisions()), Box::new(()))
        }

        conformance!(make);
    }

    #[tokio::test]
    async fn the_log_is_bounded() {
        let store = MemoryStore::new();
        for n in 0..3 {
            let ops = (0..5_000).map(|m| create(&format!("{n}-{m}"))).collect();
            store.commit(ops).await.unwrap();
        }
        assert_eq!(store.oldest(), Revision(5_000));
        assert_eq!(store.events(Revision(5_000), 20_000).await.unwrap().len(), LOG_EVENTS);
    }
}
