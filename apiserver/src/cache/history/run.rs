//! Histories in one process: clients of [`Cache`] on each store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::watch::{Begin, Heard, Stretch, Type};
use super::*;
use crate::cache::{Cache, CacheConfig, Continue, LabelSelector, PageError, WatchEnd, WatchEvent, WatchStart, Watcher};
use crate::cache::{FieldSelector, WatchError};
use crate::store::memory::MemoryStore;
use crate::store::redb::{RedbConfig, RedbStore};
use crate::store::{CommitError, Expect, Op, Revision, Unversioned};

const RESOURCE: &str = "gantry.dev/containers";
const CLIENTS: u64 = 6;
const WATCHERS: u64 = 4;
const CALLS: usize = 40;

/// One history under way.
struct History {
    cache: Arc<Cache>,
    clock: Clock,
    tokens: AtomicU64,
    /// Cancelled when the clients are done.
    over: CancellationToken,
}

fn keys() -> Vec<Key> {
    let names = ["a", "b", "c", "d"];
    ["shop", "yard"].iter().flat_map(|namespace| names.map(|name| Key::new(RESOURCE, *namespace, name))).collect()
}

fn selection(rng: &mut StdRng) -> Selection {
    let mut selection = Selection::default();
    if rng.random_bool(0.3) {
        selection = Selection::namespace("shop");
    }
    if rng.random_bool(0.4) {
        selection.labels = LabelSelector::parse("color=red").unwrap();
    }
    if rng.random_bool(0.3) {
        selection.fields = FieldSelector::parse(["spec.node=n1", "metadata.name=a"].choose(rng).unwrap()).unwrap();
    }
    selection
}

fn index(rng: &mut StdRng) -> Index {
    let color = ["red", "blue"].choose(rng).unwrap();
    let node = ["n1", "n2"].choose(rng).unwrap();
    Index {
        labels: [("color".to_owned(), (*color).to_owned())].into(),
        fields: vec![("spec.node".into(), (*node).to_owned())],
        ..Index::default()
    }
}

fn object(key: &Key, token: Token) -> Unversioned {
    let metadata = json!({"namespace": &*key.namespace, "name": &*key.name});
    Unversioned::encode(&json!({"metadata": metadata, "spec": {"token": token.to_string()}})).unwrap()
}

impl History {
    /// A change of `key` against what is there now, or was a moment ago.
    fn write(&self, rng: &mut StdRng, key: Key, may_check: bool) -> (Write, Op) {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let current = self.cache.get(&key).map(|entry| entry.revision.0);
        let stale = rng.random_bool(0.1);
        let wanted = match current {
            Some(at) if stale => Wanted::At(at.saturating_sub(1).max(1)),
            Some(at) => Wanted::At(at),
            None => Wanted::Absent,
        };
        let expect = match wanted {
            Wanted::At(at) => Expect::At(Revision(at)),
            Wanted::Absent | Wanted::Present | Wanted::Any => Expect::Absent,
        };
        let (what, op) = match wanted {
            Wanted::At(at) if rng.random_bool(0.3) => {
                let op = Op::Delete { key: key.clone(), expect: Revision(at), last: object(&key, token), index: index(rng) };
                (What::Delete(Some(token)), op)
            }
            _ if may_check && rng.random_bool(0.2) => (What::Check, Op::Check { key: key.clone(), expect }),
            _ => (What::Put(token), Op::Put { key: key.clone(), expect, value: object(&key, token), index: index(rng) }),
        };
        (Write { key, wanted, what }, op)
    }

    async fn commit(&self, rng: &mut StdRng) -> Call {
        let mut keys = keys();
        keys.shuffle(rng);
        let count = if rng.random_bool(0.4) { rng.random_range(2..=5) } else { 1 };
        let (writes, ops): (Vec<_>, Vec<_>) = keys.into_iter().take(count).map(|key| self.write(rng, key, count > 1)).unzip();
        let invoked = self.clock.now();
        let mut commit = std::pin::pin!(self.cache.commit(ops));
        let answer = if rng.random_bool(0.1) {
            // Given up at once: what was asked for may happen all the same.
            match futures_util::poll!(commit.as_mut()) {
                std::task::Poll::Ready(answer) => Some(answer),
                std::task::Poll::Pending => None,
            }
        } else {
            Some(commit.await)
        };
        let returned = if answer.is_some() { self.clock.now() } else { u64::MAX };
        let outcome = match answer {
            None => Outcome::Unknown,
            Some(Ok(revisions)) => {
                let changes = writes.iter().zip(&revisions).filter(|(write, _)| write.what != What::Check);
                Outcome::Done(Some(changes.map(|(_, revision)| revision.0).collect()))
            }
            Some(Err(CommitError::Conflict { .. })) => Outcome::Refused,
            Some(Err(error)) => panic!("{error}"),
        };
        Call { invoked, returned, did: Did::Write(writes, outcome) }
    }

    async fn read(&self, rng: &mut StdRng) -> Option<Call> {
        let invoked = self.clock.now();
        if rng.random_bool(0.4) {
            let key = keys().choose(rng)?.clone();
            let found = self.cache.get(&key).map(|entry| Seen::of(&entry));
            return Some(Call { invoked, returned: self.clock.now(), did: Did::Get(key, found) });
        }
        let selection = selection(rng);
        let (mut found, mut revision, mut fresh) = (Vec::new(), Revision(0), true);
        let mut returned = 0;
        match rng.random_range(0..3) {
            0 => {
                let (entries, at) = self.cache.list(RESOURCE, &selection);
                (found, revision) = (entries.iter().map(|entry| Seen::of(entry)).collect(), at);
            }
            1 => {
                let mut next: Option<Continue> = None;
                loop {
                    let page = match self.cache.page(RESOURCE, &selection, 2, next.as_ref()) {
                        Ok(page) => page,
                        Err(PageError::Expired { .. }) => return None,
                        Err(error) => panic!("{error}"),
                    };
                    returned = if returned == 0 { self.clock.now() } else { returned };
                    assert!(revision == Revision(0) || revision == page.revision, "pages of different revisions");
                    revision = page.revision;
                    found.extend(page.entries.iter().map(|entry| Seen::of(entry)));
                    next = page.next;
                    if next.is_none() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            _ => {
                fresh = false;
                revision = Revision(self.cache.revision().0.saturating_sub(rng.random_range(0..20)));
                match self.cache.list_at(RESOURCE, &selection, revision) {
                    Ok(entries) => found = entries.iter().map(|entry| Seen::of(entry)).collect(),
                    Err(PageError::Expired { .. }) => return None,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let returned = if returned == 0 { self.clock.now() } else { returned };
        let did = Did::List { resource: RESOURCE, selection, revision: revision.0, found, fresh };
        Some(Call { invoked, returned, did })
    }

    async fn client(self: Arc<Self>, seed: u64) -> Vec<Call> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            if rng.random_bool(0.5) {
                calls.push(self.commit(&mut rng).await);
            } else {
                calls.extend(self.read(&mut rng).await);
            }
            if rng.random_bool(0.3) {
                tokio::task::yield_now().await;
            }
            if rng.random_bool(0.01) {
                let through = self.cache.revision().0.saturating_sub(rng.random_range(0..30));
                // Only the cache's history: the store's log is what is judged by.
                self.cache.forget(Revision(through));
            }
        }
        calls
    }

    /// Watches, cut at random and resumed, until everything is told.
    async fn watcher(self: Arc<Self>, seed: u64) -> (Selection, Vec<Stretch>) {
        let mut rng = StdRng::seed_from_u64(seed);
        let selection = selection(&mut rng);
        let mut stretches: Vec<Stretch> = Vec::new();
        loop {
            let resume = stretches.last().and_then(Stretch::reached).filter(|_| rng.random_bool(0.8));
            let earliest = self.cache.revision().0;
            let start = match resume {
                Some(revision) => WatchStart::After(Revision(revision)),
                None if rng.random_bool(0.5) => WatchStart::Initial,
                None => WatchStart::Now,
            };
            let watcher = match self.cache.watch(RESOURCE, selection.clone(), start) {
                Ok(watcher) => watcher,
                Err(WatchError::Expired { .. }) => {
                    // As clients do: list again.
                    stretches.push(Stretch { begin: Begin::Initial, heard: Vec::new() });
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let begin = match start {
                WatchStart::After(revision) => Begin::After(revision.0),
                WatchStart::Initial => Begin::Initial,
                WatchStart::Now => Begin::Now(earliest, self.cache.revision().0),
            };
            let (heard, complete) = self.hear(&mut rng, watcher).await;
            stretches.push(Stretch { begin, heard });
            if complete {
                return (selection, stretches);
            }
        }
    }

    /// Until a cut, an end, or the whole story.
    async fn hear(&self, rng: &mut StdRng, mut watcher: Watcher) -> (Vec<Heard>, bool) {
        let mut heard = Vec::new();
        let cut = rng.random_range(0..40);
        loop {
            let is_over = self.over.is_cancelled();
            if let Some(bookmark) = watcher.bookmark().filter(|_| rng.random_bool(0.3) || is_over) {
                heard.push(Heard::Bookmark(bookmark.0));
                if is_over {
                    return (heard, true);
                }
            }
            let event = tokio::select! {
                event = watcher.next() => event,
                () = self.over.cancelled(), if !is_over => continue,
            };
            match event {
                Ok(WatchEvent::Added(entry)) => heard.push(Heard::Event(Type::Added, Seen::of(&entry))),
                Ok(WatchEvent::Modified(entry)) => heard.push(Heard::Event(Type::Modified, Seen::of(&entry))),
                Ok(WatchEvent::Deleted(entry)) => heard.push(Heard::Event(Type::Deleted, Seen::of(&entry))),
                Ok(WatchEvent::InitialEnd(revision)) => heard.push(Heard::InitialEnd(revision.0)),
                Err(WatchEnd::Expired) => return (heard, false),
                Err(WatchEnd::Closed) => panic!("the cache was closed"),
            }
            if heard.len() >= cut && !is_over {
                return (heard, false);
            }
            if rng.random_bool(0.1) {
                // Slow, so that short queues overflow.
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
    }
}

async fn history(store: Arc<dyn Store>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let config = CacheConfig {
        history_events: *[30, 10_000].choose(&mut rng).unwrap(),
        watcher_events: *[4, 1_000].choose(&mut rng).unwrap(),
        ..CacheConfig::default()
    };
    let cache = Cache::open(store.clone(), config).await.unwrap();
    let history = Arc::new(History { cache, clock: Clock::default(), tokens: AtomicU64::new(1), over: CancellationToken::new() });
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(history.clone().client(seed ^ (n + 1) << 32))).collect();
    let watchers: Vec<_> = (0..WATCHERS).map(|n| tokio::spawn(history.clone().watcher(seed ^ (n + 100) << 32))).collect();
    let mut calls = Vec::new();
    for client in clients {
        calls.extend(client.await.unwrap());
    }
    // A last write takes its place behind all that were given up.
    let newest = *store.revision().borrow();
    history.cache.wait_for(newest).await.unwrap();
    let last =
        Op::Put { key: Key::new("v1/nodes", "", "end"), expect: Expect::Absent, value: object(&keys()[0], 0), index: Index::default() };
    history.cache.commit(vec![last]).await.unwrap();
    history.over.cancel();
    let mut told = Vec::new();
    for watcher in watchers {
        told.push(watcher.await.unwrap());
    }
    let mut truth = Truth::of(&*store).await;
    check(&mut truth, &calls);
    for (selection, stretches) in &told {
        watch::check(&truth, RESOURCE, selection, stretches, true);
    }
    history.cache.close().await;
}

/// Runs histories until all seeds are done, a few at a time.
async fn histories(count: usize, make: impl Fn() -> (Arc<dyn Store>, Option<tempfile::TempDir>)) {
    let first: u64 = rand::random();
    for n in 0..count as u64 {
        let seed = first.wrapping_add(n);
        let (store, _dir) = make();
        let judged = tokio::spawn(history(store, seed));
        judged.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn answers_and_watches_over_the_store_in_memory_fit_one_order() {
    histories(rounds(400), || (Arc::new(MemoryStore::new()), None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn answers_and_watches_over_the_durable_store_fit_one_order() {
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path(), RedbConfig::default()).unwrap();
        (Arc::new(store) as Arc<dyn Store>, Some(dir))
    };
    histories(rounds(400), make).await;
}
