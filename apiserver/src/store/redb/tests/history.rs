//! A run of random commits, and what is known of it: which events there must be, and where a commit ends.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::*;
use crate::store::conformance::{index, object};
use crate::store::record::Change;

/// Objects that come and go.
const NAMES: u32 = 120;

/// One event as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) change: Change,
    pub(super) key: Key,
    pub(super) bytes: Bytes,
    pub(super) previous: Option<Revision>,
    /// The last one of its commit: no crash shows a state between two of a commit.
    pub(super) ends: bool,
}

impl Committed {
    fn of(event: &Event, ends: bool) -> Self {
        let record = &event.record;
        let previous = event.previous.as_ref().map(|p| p.revision);
        Self { change: event.change, key: record.key.clone(), bytes: record.bytes.clone(), previous, ends }
    }

    fn apply_to(&self, objects: &mut BTreeMap<Key, Revision>, revision: Revision) {
        match self.change {
            Change::Put => drop(objects.insert(self.key.clone(), revision)),
            Change::Delete => drop(objects.remove(&self.key)),
        }
    }
}

/// Events from one stop to the next.
const STOP: u64 = 100;

/// All changes ever committed, the first being that of revision 1.
#[derive(Debug, Default)]
pub(super) struct History {
    events: Vec<Committed>,
    objects: BTreeMap<Key, Revision>,
    /// The objects after every so many events, once asked for: what follows need not be added up from the beginning each time.
    stops: OnceLock<Vec<BTreeMap<Key, Revision>>>,
}

/// The history up to some revision, and perhaps one change after it that is not in the history.
#[derive(Debug, Clone)]
pub(super) struct Known<'a> {
    history: &'a History,
    upto: u64,
    after: Option<Committed>,
}

impl History {
    pub(super) fn revision(&self) -> Revision {
        Revision(self.events.len() as u64)
    }

    fn stops(&self) -> &[BTreeMap<Key, Revision>] {
        self.stops.get_or_init(|| {
            let (mut stops, mut objects) = (vec![BTreeMap::new()], BTreeMap::new());
            for (number, event) in (1..).zip(&self.events) {
                event.apply_to(&mut objects, Revision(number));
                if number % STOP == 0 {
                    stops.push(objects.clone());
                }
            }
            stops
        })
    }

    /// All of it, which must not grow any more.
    pub(super) fn known(&self) -> Known<'_> {
        Known { history: self, upto: self.events.len() as u64, after: None }
    }

    /// Notes that `ops` were acknowledged with these revisions. Commits that ran side by side may be noted in any order.
    pub(super) fn acknowledge(&mut self, ops: &[Op], revisions: &[Revision]) {
        for (op, revision) in ops.iter().zip(revisions) {
            let Some(value) = op.value() else { continue };
            let change = if matches!(op, Op::Put { .. }) { Change::Put } else { Change::Delete };
            let previous = match op.expect() {
                Expect::Absent => None,
                Expect::At(revision) => Some(revision),
            };
            let at = usize::try_from(revision.0).unwrap();
            let nothing = Committed { change, key: op.key().clone(), bytes: Bytes::new(), previous: None, ends: false };
            self.events.resize(self.events.len().max(at), nothing);
            let bytes = value.at(*revision);
            self.events[at - 1] =
                Committed { change, key: op.key().clone(), bytes, previous, ends: Some(revision) == revisions.iter().max() };
            match change {
                Change::Put => drop(self.objects.insert(op.key().clone(), *revision)),
                Change::Delete => drop(self.objects.remove(op.key())),
            }
        }
    }

    /// A commit of so many operations on objects whose numbers lie in `names`.
    pub(super) fn random_ops(&self, random: &mut StdRng, count: usize, names: Range<u32>) -> Vec<Op> {
        let mut chosen: Vec<u32> = (0..count).map(|_| random.random_range(names.clone())).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(|number| self.random_op(random, &number.to_string())).collect()
    }

    fn random_op(&self, random: &mut StdRng, name: &str) -> Op {
        let size = match random.random_range(0..100) {
            0 => random.random_range(10_000..60_000),
            1..20 => random.random_range(2_000..6_000),
            _ => random.random_range(20..1_000),
        };
        let (key, value) = (key(name), object(name, &"x".repeat(size)));
        match self.objects.get(&key) {
            None => Op::Put { key, expect: Expect::Absent, value, index: index("random") },
            Some(&expect) if random.random_bool(0.2) => Op::Delete { key, expect, last: object(name, "last"), index: index("last") },
            Some(&at) => Op::Put { key, expect: Expect::At(at), value, index: index("random") },
        }
    }
}

impl<'a> Known<'a> {
    pub(super) fn revision(&self) -> Revision {
        Revision(self.upto + u64::from(self.after.is_some()))
    }

    /// The history up to `revision`, and then the creation of this object.
    pub(super) fn with_creation(&self, revision: Revision, name: &str) -> Self {
        let bytes = object(name, "").at(revision.next());
        let created = Committed { change: Change::Put, key: key(name), bytes, previous: None, ends: true };
        if revision.0 > self.upto {
            // The one after the history stays: there is a second one after it only if the first was never made durable.
            return self.clone();
        }
        Self { history: self.history, upto: revision.0, after: Some(created) }
    }

    fn event(&self, revision: Revision) -> &Committed {
        match &self.after {
            Some(after) if revision.0 == self.upto + 1 => after,
            _ => &self.history.events[usize::try_from(revision.0).unwrap() - 1],
        }
    }

    /// The objects as of a revision.
    fn objects_at(&self, revision: Revision) -> BTreeMap<Key, Revision> {
        let stop = revision.0.min(self.upto) / STOP;
        let mut objects = self.history.stops()[usize::try_from(stop).unwrap()].clone();
        for number in (stop * STOP + 1..=revision.0).map(Revision) {
            self.event(number).apply_to(&mut objects, number);
        }
        objects
    }

    /// Holds an opened store to the history: nothing up to `acknowledged` is missing, the log and the objects are those of its
    /// revision, and that revision is the end of a commit.
    pub(super) async fn check(&self, store: &RedbStore, acknowledged: u64) -> Result<Revision, String> {
        let revision = *store.revision().borrow();
        if revision.0 < acknowledged || revision > self.revision() {
            return Err(format!("opened at {revision}, acknowledged are {acknowledged}, tried were {}", self.revision()));
        }
        if revision.0 > 0 && !self.event(revision).ends {
            return Err(format!("revision {revision} is in the middle of a commit"));
        }
        let (oldest, events) = whole_log(store).await.map_err(|error| format!("{error:?}"))?;
        let got: Vec<u64> = events.iter().map(|e| e.record.revision.0).collect();
        if got != (oldest.0 + 1..=revision.0).collect::<Vec<_>>() {
            return Err(format!("the log after {oldest} up to {revision} has {got:?}"));
        }
        for event in &events {
            let wanted = self.event(event.record.revision);
            let found = Committed::of(event, wanted.ends);
            if found != *wanted {
                return Err(format!("event {} is {found:?}, not {wanted:?}", event.record.revision));
            }
        }
        let snapshot = store.snapshot().await.map_err(|error| format!("{error:?}"))?;
        let records = snapshot.page(None, None, usize::MAX).await.map_err(|error| format!("{error:?}"))?.records;
        for record in &records {
            let wanted = self.event(record.revision);
            if (&record.key, &record.bytes) != (&wanted.key, &wanted.bytes) {
                return Err(format!("object {:?} is not what was written", record.key));
            }
        }
        let found: BTreeMap<_, _> = records.iter().map(|r| (r.key.clone(), r.revision)).collect();
        let wanted = self.objects_at(revision);
        let stats = store.stats();
        // The writer drops old events by itself, also meanwhile.
        if found != wanted || stats.objects != wanted.len() as u64 || stats.log_events > revision.0 - oldest.0 {
            return Err(format!("at {revision} the objects are {found:?}, not {wanted:?}; {stats:?}"));
        }
        Ok(revision)
    }
}

/// All that the log has, and after what it begins. The writer drops old events by itself: one may go between the two questions.
pub(super) async fn whole_log(store: &RedbStore) -> Result<(Revision, Vec<Arc<Event>>), ReadError> {
    loop {
        let oldest = store.oldest();
        match store.events(oldest, usize::MAX).await {
            Err(ReadError::Compacted { .. }) => {}
            answer => return Ok((oldest, answer?)),
        }
    }
}

/// Names of which commits that run side by side take each a share of their own.
pub(super) fn share(number: u32, of: u32) -> Range<u32> {
    NAMES * number / of..NAMES * (number + 1) / of
}
