//! The suite that every store passes: what the documentation of [`Store`] says, one test a sentence.
//!
//! `conformance!(make)` makes the tests; `make` is an async function that gives a fresh, empty store and whatever must live as
//! long as it does.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;

/// A store, and what it stands on.
pub(crate) type Made = (Arc<dyn Store>, Box<dyn Any + Send>);

macro_rules! conformance {
    ($make:path) => {
        $crate::store::conformance::conformance!($make;
            revisions_are_numbered_as_declared, expectations_are_held, a_commit_is_all_or_nothing, bad_commits_are_refused, reads_see_what_was_acknowledged,
            snapshots_stand_still, pages_fit_together, events_tell_all, the_future_is_refused, compaction_refuses_what_is_gone,
            a_delete_survives_compaction_before_it, a_dropped_commit_still_counts, followers_miss_nothing, agrees_with_a_model);
    };
    ($make:path; $($name:ident),*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let (store, _base) = $make().await;
            $crate::store::conformance::$name(store).await;
        })*
    };
}
pub(crate) use conformance;

pub(crate) fn key(name: &str) -> Key {
    Key::new("gantry.dev/containers", "shop", name)
}

pub(crate) fn object(name: &str, data: &str) -> Unversioned {
    Unversioned::encode(&json!({"kind": "Container", "metadata": {"name": name}, "spec": {"data": data}})).unwrap()
}

pub(crate) fn index(label: &str) -> Index {
    Index { labels: [("app".to_owned(), label.to_owned())].into(), uid: format!("uid-{label}"), ..Index::default() }
}

pub(crate) fn create(name: &str) -> Op {
    put(name, Expect::Absent, "")
}

pub(crate) fn put(name: &str, expect: Expect, data: &str) -> Op {
    Op::Put { key: key(name), expect, value: object(name, data), index: index(data) }
}

pub(crate) fn delete(name: &str, expect: u64) -> Op {
    Op::Delete { key: key(name), expect: Revision(expect), last: object(name, "last"), index: index("last") }
}

fn check(name: &str, expect: Expect) -> Op {
    Op::Check { key: key(name), expect }
}

pub(crate) fn at(revision: u64) -> Expect {
    Expect::At(Revision(revision))
}

fn numbers(revisions: &[Revision]) -> Vec<u64> {
    revisions.iter().map(|r| r.0).collect()
}

fn json_of(record: &Record) -> Value {
    serde_json::from_slice(&record.bytes).unwrap()
}

/// All objects, by pages of `limit`.
pub(crate) async fn all(snapshot: &dyn Snapshot, resource: Option<&str>, limit: usize) -> Vec<Arc<Record>> {
    let mut records: Vec<Arc<Record>> = Vec::new();
    loop {
        let after = records.last().map(|r| r.key.clone());
        let page = snapshot.page(resource, after.as_ref(), limit).await.unwrap();
        assert!(page.records.len() <= limit);
        assert!(!page.more || page.records.len() == limit);
        records.extend(page.records);
        if !page.more {
            return records;
        }
    }
}

fn names(records: &[Arc<Record>]) -> Vec<String> {
    records.iter().map(|r| r.key.name.to_string()).collect()
}

/// The revisions of `changes` changes in one commit of this store.
fn numbering(store: &dyn Store, after: u64, changes: usize) -> Vec<u64> {
    let is_consecutive = store.capabilities().consecutive_revisions;
    (0..changes as u64).map(|number| after + 1 + if is_consecutive { number } else { 0 }).collect()
}

pub(crate) async fn revisions_are_numbered_as_declared(store: Arc<dyn Store>) {
    assert_eq!(*store.revision().borrow(), Revision(0));
    assert!(store.commit(vec![]).await.unwrap().is_empty());
    assert_eq!(numbers(&store.commit(vec![create("a")]).await.unwrap()), [1]);
    let ops = vec![check("a", at(1)), create("b"), check("c", Expect::Absent), create("d"), put("a", at(1), "x")];
    let [b, d, a] = numbering(&*store, 1, 3).try_into().unwrap();
    assert_eq!(numbers(&store.commit(ops).await.unwrap()), [1, b, 0, d, a]);
    assert_eq!(numbers(&store.commit(vec![delete("a", a)]).await.unwrap()), [a + 1]);
    assert_eq!(numbers(&store.commit(vec![create("a")]).await.unwrap()), [a + 2]);
    assert_eq!(*store.revision().borrow(), Revision(a + 2));
    assert_eq!(json_of(&store.get(&key("a")).await.unwrap().unwrap())["metadata"]["resourceVersion"], (a + 2).to_string());
    // From any start all that came after it is told in order, however few are asked for at a time.
    for after in 0..=a + 2 {
        let mut told = Vec::new();
        let mut at = Revision(after);
        while at < Revision(a + 2) {
            let events = store.events(at, 1).await.unwrap();
            told.extend(events.iter().map(|e| (e.record.revision.0, e.record.key.name.to_string())));
            at = events.last().unwrap().record.revision;
        }
        let all = [(1, "a"), (b, "b"), (d, "d"), (a, "a"), (a + 1, "a"), (a + 2, "a")].map(|(revision, name)| (revision, name.to_owned()));
        assert_eq!(told, all.into_iter().filter(|(revision, _)| *revision > after).collect::<Vec<_>>(), "after {after}");
    }
}

async fn conflict(store: &dyn Store, ops: Vec<Op>) -> (usize, Option<u64>) {
    match store.commit(ops).await {
        Err(CommitError::Conflict { op, current }) => (op, current.map(|r| r.revision.0)),
        other => panic!("no conflict but {other:?}"),
    }
}

pub(crate) async fn expectations_are_held(store: Arc<dyn Store>) {
    store.commit(vec![create("a")]).await.unwrap();
    store.commit(vec![put("a", at(1), "x")]).await.unwrap();
    for op in [create("a"), put("a", at(1), ""), put("a", at(3), ""), delete("a", 1), check("a", at(1)), check("a", Expect::Absent)] {
        assert_eq!(conflict(&*store, vec![op.clone()]).await, (0, Some(2)), "{op:?}");
    }
    for op in [put("b", at(1), ""), delete("b", 1), check("b", at(1))] {
        assert_eq!(conflict(&*store, vec![check("a", at(2)), op.clone()]).await, (1, None), "{op:?}");
    }
    assert_eq!(numbers(&store.commit(vec![check("a", at(2)), check("b", Expect::Absent)]).await.unwrap()), [2, 0]);
    assert_eq!(*store.revision().borrow(), Revision(2));
}

pub(crate) async fn a_commit_is_all_or_nothing(store: Arc<dyn Store>) {
    store.commit(vec![create("a")]).await.unwrap();
    assert_eq!(conflict(&*store, vec![create("b"), delete("a", 1), create("c"), put("d", at(1), "")]).await, (3, None));
    assert_eq!(names(&all(&*store.snapshot().await.unwrap(), None, 10).await), ["a"]);
    assert!(store.events(Revision(1), 10).await.unwrap().is_empty());
    // Expectations are about the state before the commit.
    assert_eq!(conflict(&*store, vec![create("b"), check("b", at(2))]).await, (1, None));
    store.commit(vec![create("b"), check("b", Expect::Absent)]).await.unwrap();
}

pub(crate) async fn bad_commits_are_refused(store: Arc<dyn Store>) {
    let room = MAX_OBJECT_BYTES - object("a", "").size_bytes();
    let (fits, too_large) = ("x".repeat(room), "x".repeat(room + 1));
    let refused = store.commit(vec![create("b"), put("a", Expect::Absent, &too_large)]).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { op: 1, bytes, limit: MAX_OBJECT_BYTES }) if bytes == MAX_OBJECT_BYTES + 1));
    assert!(matches!(store.commit(vec![create("a"), delete("a", 1)]).await, Err(CommitError::Invalid { .. })));
    let many = (0..=MAX_OPS).map(|n| check(&n.to_string(), Expect::Absent)).collect();
    assert!(matches!(store.commit(many).await, Err(CommitError::Invalid { .. })));
    let value = object("a", &fits);
    let op = Op::Put { key: key("a"), expect: Expect::Absent, value: value.clone(), index: Index::default() };
    assert_eq!(numbers(&store.commit(vec![op]).await.unwrap()), [1]);
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().bytes, value.at(Revision(1)));
}

pub(crate) async fn reads_see_what_was_acknowledged(store: Arc<dyn Store>) {
    for n in 1..=20 {
        let expect = if n == 1 { Expect::Absent } else { at(n - 1) };
        store.commit(vec![put("a", expect, &n.to_string())]).await.unwrap();
        let read = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((read.revision, &*read.index), (Revision(n), &index(&n.to_string())));
        assert_eq!(json_of(&read)["spec"]["data"], n.to_string());
        assert_eq!(store.snapshot().await.unwrap().revision(), Revision(n));
        assert_eq!(store.events(Revision(n - 1), 9).await.unwrap().len(), 1);
        assert_eq!(*store.revision().borrow(), Revision(n));
    }
    store.commit(vec![delete("a", 20)]).await.unwrap();
    assert!(store.get(&key("a")).await.unwrap().is_none());
}

pub(crate) async fn snapshots_stand_still(store: Arc<dyn Store>) {
    let [_, b, c] = numbering(&*store, 0, 3).try_into().unwrap();
    store.commit(vec![create("a"), create("b"), create("c")]).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let first = snapshot.page(None, None, 1).await.unwrap();
    assert_eq!((names(&first.records), first.more), (vec!["a".to_owned()], true));
    store.commit(vec![delete("b", b), put("c", at(c), "new"), create("bb"), create("d")]).await.unwrap();
    let last = numbering(&*store, c, 4)[3];
    let rest = snapshot.page(None, Some(&key("a")), 10).await.unwrap();
    assert_eq!((names(&rest.records), rest.more), (vec!["b".to_owned(), "c".to_owned()], false));
    assert_eq!((rest.records[1].revision, snapshot.revision()), (Revision(c), Revision(c)));
    assert_eq!(snapshot.objects().await.unwrap(), 3);
    let now = store.snapshot().await.unwrap();
    assert_eq!(now.objects().await.unwrap(), 4);
    assert_eq!((names(&all(&*now, None, 2).await), now.revision()), (["a", "bb", "c", "d"].map(str::to_owned).to_vec(), Revision(last)));
}

pub(crate) async fn pages_fit_together(store: Arc<dyn Store>) {
    let mut keys = Vec::new();
    for resource in ["/a", "/ab", "g/a"] {
        for namespace in ["", "n", "n-m"] {
            keys.extend(["x", "x-y", "y"].map(|name| Key::new(resource, namespace, name)));
        }
    }
    let put = |key: &Key| Op::Put { key: key.clone(), expect: Expect::Absent, value: object("x", ""), index: Index::default() };
    store.commit(keys.iter().rev().map(put).collect()).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    for limit in [1, 2, 3, 9, 27, 100] {
        let got: Vec<Key> = all(&*snapshot, None, limit).await.iter().map(|r| r.key.clone()).collect();
        assert_eq!(got, keys, "{limit}");
        for resource in ["/a", "/ab", "g/a", "h/a", "/"] {
            let wanted: Vec<Key> = keys.iter().filter(|k| &*k.resource == resource).cloned().collect();
            let got: Vec<Key> = all(&*snapshot, Some(resource), limit).await.iter().map(|r| r.key.clone()).collect();
            assert_eq!(got, wanted, "{resource} {limit}");
        }
    }
}

pub(crate) async fn events_tell_all(store: Arc<dyn Store>) {
    let b = numbering(&*store, 0, 2)[1];
    store.commit(vec![put("a", Expect::Absent, "one"), create("b")]).await.unwrap();
    store.commit(vec![put("a", at(1), "two")]).await.unwrap();
    store.commit(vec![delete("a", b + 1), check("b", at(b))]).await.unwrap();
    let events = store.events(Revision(0), 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), [1, b, b + 1, b + 2]);
    for event in &events {
        assert_eq!(json_of(&event.record)["metadata"]["resourceVersion"], event.record.revision.to_string());
    }
    let previous = |n: usize| events[n].previous.as_ref().map(|p| (p.revision.0, p.index.labels["app"].clone()));
    assert_eq!([previous(0), previous(1)], [None, None]);
    assert_eq!([previous(2), previous(3)], [Some((1, "one".to_owned())), Some((b + 1, "two".to_owned()))]);
    assert_eq!(events.iter().map(|e| e.change).collect::<Vec<_>>(), [Change::Put, Change::Put, Change::Put, Change::Delete]);
    assert_eq!((json_of(&events[3].record)["spec"]["data"].clone(), &*events[3].record.index), (json!("last"), &index("last")));
    let some = store.events(Revision(b), 1).await.unwrap();
    assert_eq!(some.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), [b + 1]);
    assert!(store.events(Revision(b + 2), 2).await.unwrap().is_empty());
}

pub(crate) async fn the_future_is_refused(store: Arc<dyn Store>) {
    store.commit(vec![create("a")]).await.unwrap();
    let refused = store.events(Revision(2), 1).await;
    assert!(matches!(refused, Err(ReadError::Future { after: Revision(2), current: Revision(1) })), "{refused:?}");
    assert!(matches!(store.events(Revision(u64::MAX), 1).await, Err(ReadError::Future { .. })));
}

pub(crate) async fn compaction_refuses_what_is_gone(store: Arc<dyn Store>) {
    for n in 0..10 {
        store.commit(vec![create(&n.to_string())]).await.unwrap();
    }
    assert_eq!(store.oldest(), Revision(0));
    store.compact(Revision(4)).await.unwrap();
    assert_eq!(store.oldest(), Revision(4));
    let refused = store.events(Revision(3), 1).await;
    assert!(matches!(refused, Err(ReadError::Compacted { after: Revision(3), oldest: Revision(4) })), "{refused:?}");
    assert_eq!(store.events(Revision(4), 100).await.unwrap().len(), 6);
    // Not back, and not beyond the present.
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(store.oldest(), Revision(4));
    store.compact(Revision(99)).await.unwrap();
    assert_eq!(store.oldest(), Revision(10));
    assert!(store.events(Revision(10), 1).await.unwrap().is_empty());
    assert_eq!(all(&*store.snapshot().await.unwrap(), None, 100).await.len(), 10);
    assert_eq!(numbers(&store.commit(vec![create("next")]).await.unwrap()), [11]);
    assert_eq!(store.events(Revision(10), 9).await.unwrap().len(), 1);
}

pub(crate) async fn a_delete_survives_compaction_before_it(store: Arc<dyn Store>) {
    store.commit(vec![create("a")]).await.unwrap();
    store.commit(vec![delete("a", 1)]).await.unwrap();
    store.compact(Revision(1)).await.unwrap();
    let events = store.events(Revision(1), 9).await.unwrap();
    assert_eq!((events.len(), events[0].change, events[0].record.revision), (1, Change::Delete, Revision(2)));
}

pub(crate) async fn a_dropped_commit_still_counts(store: Arc<dyn Store>) {
    let mut signal = store.revision();
    let mut commit = store.commit(vec![create("a")]);
    // Once polled it is on its way.
    let _ = futures_util::poll!(&mut commit);
    drop(commit);
    signal.wait_for(|r| *r >= Revision(1)).await.unwrap();
    assert_eq!(store.events(Revision(0), 9).await.unwrap().len(), 1);
    assert!(matches!(store.commit(vec![create("a")]).await, Err(CommitError::Conflict { .. })));
}

/// Several writers in each other's way, and followers that must see each change once, in order.
pub(crate) async fn followers_miss_nothing(store: Arc<dyn Store>) {
    const CHANGES: u64 = 400;
    let follow = |store: Arc<dyn Store>| async move {
        let (mut signal, mut at, mut seen) = (store.revision(), Revision(0), BTreeMap::new());
        while at < Revision(CHANGES) {
            let told = *signal.wait_for(|r| *r > at).await.unwrap();
            let events = store.events(at, 7).await.unwrap();
            assert!(events.len() as u64 >= (told.0 - at.0).min(7), "the signal is ahead of the events");
            for event in events {
                at = at.next();
                assert_eq!(event.record.revision, at);
                let before = match event.change {
                    Change::Put => seen.insert(event.record.key.clone(), at),
                    Change::Delete => seen.remove(&event.record.key),
                };
                assert_eq!(event.previous.as_ref().map(|p| p.revision), before);
            }
        }
        seen
    };
    let followers: Vec<_> = (0..3).map(|_| tokio::spawn(follow(store.clone()))).collect();
    let writers: Vec<_> = (0..8).map(|seed| tokio::spawn(contend(store.clone(), seed, CHANGES / 8))).collect();
    let mut acknowledged: Vec<u64> = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, (1..=CHANGES).collect::<Vec<_>>());
    let now = all(&*store.snapshot().await.unwrap(), None, 100).await;
    let now: BTreeMap<_, _> = now.iter().map(|r| (r.key.clone(), r.revision)).collect();
    for follower in followers {
        assert_eq!(follower.await.unwrap(), now);
    }
}

/// Makes `changes` changes to keys that others want too, and gives the acknowledged revisions.
async fn contend(store: Arc<dyn Store>, seed: u64, changes: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged = Vec::new();
    while (acknowledged.len() as u64) < changes {
        let name = random.random_range(0..4).to_string();
        let current = store.get(&key(&name)).await.unwrap();
        let op = match current {
            None => create(&name),
            Some(record) if random.random_bool(0.3) => delete(&name, record.revision.0),
            Some(record) => put(&name, Expect::At(record.revision), "x"),
        };
        match store.commit(vec![op]).await {
            Ok(revisions) => acknowledged.extend(numbers(&revisions)),
            Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
    acknowledged
}

/// Random commits of several operations, each outcome compared with what a map says.
pub(crate) async fn agrees_with_a_model(store: Arc<dyn Store>) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let (mut revision, mut changes) = (0, 0);
    for _ in 0..300 {
        let mut chosen: Vec<String> = (0..random.random_range(1..5)).map(|_| random.random_range(0..8).to_string()).collect();
        chosen.sort();
        chosen.dedup();
        let (mut after, mut next, mut ops, mut wanted) = (model.clone(), revision, Vec::new(), Ok(Vec::new()));
        for (position, name) in chosen.iter().enumerate() {
            let current = model.get(name).copied();
            let expect = match random.random_range(0..10) {
                0 => Expect::Absent,
                1 => at(random.random_range(0..=revision)),
                _ => current.map_or(Expect::Absent, at),
            };
            let (op, change) = match (random.random_range(0..5), expect) {
                (0, _) => (check(name, expect), None),
                (1, Expect::At(expected)) => (delete(name, expected.0), Some(Change::Delete)),
                _ => (put(name, expect, "m"), Some(Change::Put)),
            };
            ops.push(op);
            if !commit::holds(expect, current.map(Revision)) {
                wanted = wanted.and(Err((position, current)));
            }
            let is_first = next == revision;
            next += u64::from(change.is_some() && (is_first || store.capabilities().consecutive_revisions));
            match change {
                None => {}
                Some(Change::Put) => drop(after.insert(name.clone(), next)),
                Some(Change::Delete) => drop(after.remove(name)),
            }
            if let Ok(revisions) = &mut wanted {
                revisions.push(change.map_or(current.unwrap_or(0), |_| next));
            }
        }
        let got = match store.commit(ops.clone()).await {
            Ok(revisions) => Ok(numbers(&revisions)),
            Err(CommitError::Conflict { op, current }) => Err((op, current.map(|r| r.revision.0))),
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(got, wanted, "{ops:?}");
        if got.is_ok() {
            changes += ops.iter().filter(|op| op.is_change()).count();
            (model, revision) = (after, next);
        }
        let now = all(&*store.snapshot().await.unwrap(), None, 3).await;
        assert_eq!(now.iter().map(|r| (r.key.name.to_string(), r.revision.0)).collect::<BTreeMap<_, _>>(), model);
    }
    assert_eq!((store.events(Revision(0), 10_000).await.unwrap().len(), *store.revision().borrow()), (changes, Revision(revision)));
}
