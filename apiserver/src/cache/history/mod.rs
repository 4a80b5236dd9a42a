//! Random histories of concurrent requests, judged by a model.
//!
//! Every change has a number, so a history need not be searched for an order: the log is the order. What is left to judge is
//! whether the log and all answers fit together ([`check`]), and whether each watch told its part of the log ([`watch::check`]).
//!
//! * Each change of the log is explained by exactly one request; the changes of a request are all there, consecutive and in
//!   order, or not at all; a refused request has none; one whose outcome is unknown may go either way.
//! * Each expectation held in the state just before the request's first change.
//! * Real time: a request begun after another's answer has the higher number, and a read sees a state that is not older than
//!   any answer before it began nor newer than its end; never the middle of a transaction.

mod run;
pub(crate) mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::Selection;
use crate::store::{Change, Event, Index, Key, Store};

/// Tells the puts of a history apart.
pub(crate) type Token = u64;

/// How many histories: `full` with `GANTRY_TEST_FULL=1`, else a twentieth.
pub(crate) fn rounds(full: usize) -> usize {
    if std::env::var_os("GANTRY_TEST_FULL").is_some() { full } else { full.div_ceil(20) }
}

/// Moments, in an order that agrees with real time.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What a write needs to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Absent,
    At(u64),
    Present,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Put(Token),
    /// With the token of the last state. Without one it must name the revision, and is told from others by that.
    Delete(Option<Token>),
    Check,
}

#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) wanted: Wanted,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// With the revisions of the changes (checks left out), where they were told.
    Done(Option<Vec<u64>>),
    Refused,
    Unknown,
}

/// An object in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) revision: u64,
    pub(crate) token: Token,
}

impl Seen {
    pub(crate) fn of(entry: &super::Entry) -> Self {
        Self { key: entry.key.clone(), revision: entry.revision.0, token: token_of(&entry.bytes) }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Did {
    Write(Vec<Write>, Outcome),
    Get(Key, Option<Seen>),
    /// `fresh`: of now, and not of a revision that was asked for.
    List {
        resource: &'static str,
        selection: Selection,
        revision: u64,
        found: Vec<Seen>,
        fresh: bool,
    },
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) invoked: u64,
    /// `u64::MAX` when there was no answer.
    pub(crate) returned: u64,
    pub(crate) did: Did,
}

/// The token in an object: of its spec or, in a `ConfigMap`, of its data.
pub(crate) fn token_of(bytes: &[u8]) -> Token {
    let object: Value = serde_json::from_slice(bytes).unwrap();
    let found = ["/spec/token", "/data/token", "/spec/hostname"].iter().find_map(|path| object.pointer(path));
    found.and_then(Value::as_str).and_then(|text| text.trim_start_matches('t').parse().ok()).unwrap_or_default()
}

/// A change of the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) change: Change,
    pub(crate) token: Token,
    pub(crate) index: Arc<Index>,
}

/// An object in the model.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) revision: u64,
    pub(crate) token: Token,
    pub(crate) index: Arc<Index>,
}

pub(crate) type Objects = BTreeMap<Key, Object>;

/// What really happened: the log, and the state after each of its changes.
pub(crate) struct Truth {
    pub(crate) log: Vec<Entry>,
    /// `states[n]` is as of revision n.
    pub(crate) states: Vec<Objects>,
    /// Whether a revision ends a transaction, so that readers may find it.
    visible: Vec<bool>,
}

impl Truth {
    /// The whole log of a store, which must not have been compacted.
    pub(crate) async fn of(store: &dyn Store) -> Self {
        let events = store.events(crate::store::Revision(0), usize::MAX).await.unwrap();
        Self::of_events(&events)
    }

    pub(crate) fn of_events(events: &[Arc<Event>]) -> Self {
        let mut states = vec![Objects::new()];
        let mut log = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let record = &event.record;
            assert_eq!(record.revision.0, at as u64 + 1, "the log has a gap");
            let token = token_of(&record.bytes);
            let mut state = states[at].clone();
            match event.change {
                Change::Put => {
                    let object = Object { revision: record.revision.0, token, index: record.index.clone() };
                    state.insert(record.key.clone(), object);
                }
                Change::Delete => assert!(state.remove(&record.key).is_some(), "{:?} is deleted twice", record.key),
            }
            states.push(state);
            log.push(Entry {
                revision: record.revision.0,
                key: record.key.clone(),
                change: event.change,
                token,
                index: record.index.clone(),
            });
        }
        let visible = vec![true; states.len()];
        Self { log, states, visible }
    }

    pub(crate) fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// The selected objects at a revision.
    pub(crate) fn selected(&self, revision: u64, resource: &str, selection: &Selection) -> Vec<Seen> {
        let state = &self.states[usize::try_from(revision).unwrap()];
        let of = state.iter().filter(|(key, object)| &*key.resource == resource && selection.selects(key, &object.index));
        of.map(|(key, object)| Seen { key: key.clone(), revision: object.revision, token: object.token }).collect()
    }

    fn revision_before(&self, entry: &Entry) -> Option<u64> {
        self.states[usize::try_from(entry.revision - 1).unwrap()].get(&entry.key).map(|object| object.revision)
    }
}

/// Judges all answers.
///
/// # Panics
/// At the first that does not fit.
pub(crate) fn check(truth: &mut Truth, calls: &[Call]) {
    let spans = explain(truth, calls);
    for (first, last) in spans.iter().flatten() {
        for revision in *first..*last {
            truth.visible[usize::try_from(revision).unwrap()] = false;
        }
    }
    let bounds = Bounds::of(calls, &spans, truth.last());
    for (call, span) in calls.iter().zip(&spans) {
        let (floor, ceiling) = (bounds.floor(call.invoked), bounds.ceiling(call.returned));
        let between = || (floor..=ceiling).filter(|n| truth.visible[usize::try_from(*n).unwrap()]).map(|n| usize::try_from(n).unwrap());
        match &call.did {
            Did::Write(writes, outcome) => match span {
                Some((first, _)) => {
                    assert!(*first > floor, "{call:?}\nhas revision {first}, but {floor} was answered before it began");
                    let before = &truth.states[usize::try_from(first - 1).unwrap()];
                    assert!(writes.iter().all(|w| holds(w, before)), "{call:?}\nwent through at {first} against its expectations");
                }
                None if matches!(outcome, Outcome::Refused) => {
                    let why = between().any(|n| writes.iter().any(|w| !holds(w, &truth.states[n])));
                    assert!(why, "{call:?}\nwas refused, but its expectations held from {floor} to {ceiling}");
                }
                None => {}
            },
            Did::Get(key, found) => {
                let fits = between().any(|n| {
                    let there = truth.states[n].get(key).map(|o| Seen { key: key.clone(), revision: o.revision, token: o.token });
                    there == *found
                });
                assert!(fits, "{call:?}\nfits no state from {floor} to {ceiling}");
            }
            Did::List { resource, selection, revision, found, fresh } => {
                assert!(*revision <= ceiling, "{call:?}\nis newer than {ceiling}");
                if *fresh {
                    assert!(*revision >= floor, "{call:?}\nis older than {floor}, which was answered before");
                    assert!(truth.visible[usize::try_from(*revision).unwrap()], "{call:?}\nshows the middle of a transaction");
                }
                assert_eq!(*found, truth.selected(*revision, resource, selection), "{call:?}");
            }
        }
    }
}

fn holds(write: &Write, state: &Objects) -> bool {
    let current = state.get(&write.key).map(|object| object.revision);
    match write.wanted {
        Wanted::Absent => current.is_none(),
        Wanted::At(revision) => current == Some(revision),
        Wanted::Present => current.is_some(),
        Wanted::Any => true,
    }
}

/// The first and last revision of each request that took effect. Every change of the log that has a token belongs to one.
fn explain(truth: &Truth, calls: &[Call]) -> Vec<Option<(u64, u64)>> {
    let of = |change| truth.log.iter().filter(move |e| e.change == change);
    let tokens = |change| of(change).filter(|e| e.token != 0).map(|e| (e.token, e.revision)).collect::<HashMap<Token, u64>>();
    let (puts, last_states) = (tokens(Change::Put), tokens(Change::Delete));
    let deletes: HashMap<(&Key, u64), u64> =
        of(Change::Delete).filter_map(|e| Some(((&e.key, truth.revision_before(e)?), e.revision))).collect();
    let mut explained = vec![false; truth.states.len()];
    let mut spans = vec![None; calls.len()];
    // The answered ones first: a deletion that nobody was told of may look like one that somebody was.
    for unknown in [false, true] {
        for (call, span) in calls.iter().zip(&mut spans) {
            let Did::Write(writes, outcome) = &call.did else { continue };
            if matches!(outcome, Outcome::Unknown) != unknown {
                continue;
            }
            let changes: Vec<&Write> = writes.iter().filter(|w| w.what != What::Check).collect();
            let found = |write: &&Write| match (write.what, write.wanted) {
                (What::Put(token), _) => puts.get(&token).copied(),
                (What::Delete(Some(token)), _) => last_states.get(&token).copied(),
                (What::Delete(None), Wanted::At(at)) => deletes.get(&(&write.key, at)).copied(),
                _ => None,
            };
            let free = |revision: &u64| !explained[usize::try_from(*revision).unwrap()];
            let at: Vec<u64> = changes.iter().filter_map(found).collect();
            let is_taken = !at.iter().all(free);
            match outcome {
                Outcome::Done(told) => {
                    assert_eq!(at.len(), changes.len(), "{call:?}\nwas acknowledged but is not all in the log");
                    assert!(!is_taken, "{call:?}\nis acknowledged like another of the same change");
                    assert!(told.as_ref().is_none_or(|told| *told == at), "{call:?}\nwas told other revisions than {at:?}");
                }
                Outcome::Refused => {
                    let put = changes.iter().any(|w| matches!(w.what, What::Put(token) if puts.contains_key(&token)));
                    assert!(!put, "{call:?}\nwas refused but is in the log");
                    continue;
                }
                Outcome::Unknown if at.is_empty() || is_taken => continue,
                Outcome::Unknown => assert_eq!(at.len(), changes.len(), "{call:?}\nis in the log by half"),
            }
            assert!(at.windows(2).all(|two| two[1] == two[0] + 1), "{call:?}\nhas revisions {at:?}");
            at.iter().for_each(|revision| explained[usize::try_from(*revision).unwrap()] = true);
            *span = at.first().copied().zip(at.last().copied());
        }
    }
    for entry in truth.log.iter().filter(|entry| entry.token != 0) {
        assert!(explained[usize::try_from(entry.revision).unwrap()], "{entry:?} is in the log, but nobody did it");
    }
    spans
}

/// What real time says of the revisions that a request may see.
struct Bounds {
    /// Answers by time, with the highest revision told until then.
    told: Vec<(u64, u64)>,
    /// Writes by the time they began, latest first, with the lowest revision of those begun since.
    begun: Vec<(u64, u64)>,
    last: u64,
}

impl Bounds {
    fn of(calls: &[Call], spans: &[Option<(u64, u64)>], last: u64) -> Self {
        let mut told: Vec<(u64, u64)> = calls
            .iter()
            .zip(spans)
            .filter(|(call, _)| call.returned != u64::MAX)
            .filter_map(|(call, span)| {
                let revision = match &call.did {
                    Did::Write(..) => span.map(|(_, last)| last),
                    Did::Get(_, found) => found.as_ref().map(|seen| seen.revision),
                    Did::List { revision, .. } => Some(*revision),
                };
                Some((call.returned, revision?))
            })
            .collect();
        told.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut told {
            highest = highest.max(*revision);
            *revision = highest;
        }
        let mut begun: Vec<(u64, u64)> = calls.iter().zip(spans).filter_map(|(c, span)| Some((c.invoked, span.as_ref()?.0))).collect();
        begun.sort_unstable_by(|a, b| b.cmp(a));
        let mut lowest = last + 1;
        for (_, revision) in &mut begun {
            lowest = lowest.min(*revision);
            *revision = lowest;
        }
        Self { told, begun, last }
    }

    /// The highest revision told before `moment`.
    fn floor(&self, moment: u64) -> u64 {
        let before = self.told.partition_point(|(at, _)| *at < moment);
        before.checked_sub(1).map_or(0, |at| self.told[at].1)
    }

    /// Everything begun after `moment` is newer than this.
    fn ceiling(&self, moment: u64) -> u64 {
        let since = self.begun.partition_point(|(at, _)| *at > moment);
        since.checked_sub(1).map_or(self.last, |at| self.begun[at].1 - 1)
    }
}
