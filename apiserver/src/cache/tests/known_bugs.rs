//! What went wrong in etcd's watch over the years, tried on ours. The numbers are those of etcd's issues.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::*;
use crate::cache::history::rounds;
use crate::store::redb::{RedbConfig, RedbStore};
use crate::store::{Capabilities, Event, Health, Record, Snapshot};

/// The revision of an event, which must belong to an object.
fn revision_of(event: &WatchEvent) -> u64 {
    match event {
        WatchEvent::Added(entry) | WatchEvent::Modified(entry) | WatchEvent::Deleted(entry) => entry.revision.0,
        WatchEvent::InitialEnd(_) => panic!("{event:?}"),
    }
}

/// Commits one object after another while `race` runs on the same cache.
async fn while_written<F: Future<Output = ()>>(count: usize, race: impl Fn(Arc<Cache>) -> F) {
    let cache = cache().await;
    let (writing, done) = (cache.clone(), Arc::new(AtomicBool::new(false)));
    let told = done.clone();
    let writer = tokio::spawn(async move {
        for n in 0..count {
            writing.commit(vec![put(&n.to_string(), Expect::Absent, ["in", "out"][n % 2])]).await.unwrap();
        }
        told.store(true, Ordering::Release);
    });
    while !done.load(Ordering::Acquire) {
        race(cache.clone()).await;
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

/// 15220: a progress notice took another way than the events, and overtook them. A bookmark of ours is read off the watcher's own
/// queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_bookmark_overtakes_an_event() {
    while_written(rounds(20_000), |cache| async move {
        let mut watcher = cache.watch(RESOURCE, labelled("in"), WatchStart::Now).unwrap();
        let mut promised = Revision(0);
        for _ in 0..200 {
            if let Some(event) = watcher.try_next().unwrap() {
                assert!(revision_of(&event) > promised.0, "{event:?} after the bookmark {promised}");
            }
            promised = watcher.bookmark().unwrap_or(promised);
        }
    })
    .await;
}

/// 17507: a watch from an old revision without any event to tell never got a progress notice.
#[tokio::test]
async fn a_watch_without_events_gets_bookmarks() {
    let cache = cache().await;
    cache.commit(vec![create("a"), create("b")]).await.unwrap();
    let watcher = cache.watch("gantry.dev/images", everything(), WatchStart::After(Revision(1))).unwrap();
    assert_eq!(watcher.bookmark(), Some(Revision(2)));
}

/// A store whose log can be held back from the cache that follows it.
struct HeldBack {
    store: MemoryStore,
    open: watch::Sender<bool>,
}

impl Store for HeldBack {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>> {
        self.store.commit(ops)
    }
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>> {
        self.store.get(key)
    }
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>> {
        self.store.snapshot()
    }
    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>> {
        async move {
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            self.store.events(after, limit).await
        }
        .boxed()
    }
    fn revision(&self) -> watch::Receiver<Revision> {
        self.store.revision()
    }
    fn oldest(&self) -> Revision {
        self.store.oldest()
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.store.health()
    }
    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>> {
        self.store.compact(through)
    }
}

/// 15271: a member that came back and loaded a snapshot told its watches what they had heard already. When our cache has to load
/// anew, the watches end, and a new one tells only what is newer than its start.
#[tokio::test]
async fn no_watch_goes_back_when_the_cache_is_loaded_anew() {
    let store = Arc::new(HeldBack { store: MemoryStore::new(), open: watch::Sender::new(true) });
    let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
    cache.commit(vec![create("a"), create("b")]).await.unwrap();
    let mut live = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(0))).unwrap();
    assert_eq!(waiting(&mut live), ["A a 1", "A b 2"]);

    store.open.send_replace(false);
    store.commit(vec![put("a", at(1), "x"), delete("b", 2), create("c")]).await.unwrap();
    store.compact(Revision(4)).await.unwrap();
    store.open.send_replace(true);
    cache.wait_for(Revision(5)).await.unwrap();

    assert_eq!(live.next().await.err(), Some(WatchEnd::Expired), "what it missed is lost: no word more");
    let expired = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(2))).err().unwrap();
    assert_eq!(expired, WatchError::Expired { after: Revision(2), oldest: Revision(4) });
    let mut resumed = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(4))).unwrap();
    let mut begun = cache.watch(RESOURCE, everything(), WatchStart::Initial).unwrap();
    assert_eq!(waiting(&mut resumed), ["A c 5"]);
    assert_eq!(waiting(&mut begun), ["A a 3", "A c 5", "E 5"]);
}

/// 17247: the same event told twice. With us that could only be where the history meets the queue: a watch that begins while
/// changes come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_is_told_twice_where_history_and_queue_meet() {
    while_written(rounds(20_000), |cache| async move {
        let after = cache.revision().0.saturating_sub(20);
        let mut watcher = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(after))).unwrap();
        for revision in after + 1..=cache.revision().0 {
            assert_eq!(revision_of(&watcher.next().await.unwrap()), revision, "after {after}");
        }
    })
    .await;
}

/// 17529: when a slow watcher's stream was full, and what it had missed was compacted, it went on after the compaction without a
/// word. Ours is told what fits its queue, then its end; to begin again where it stopped is refused.
#[tokio::test]
async fn a_starved_watch_ends_where_its_events_end() {
    const WATCHERS: usize = 800;
    let cache = cache_with(CacheConfig { watcher_events: 4, ..CacheConfig::default() }).await;
    let mut starved: Vec<_> = (0..WATCHERS).map(|_| cache.watch(RESOURCE, everything(), WatchStart::Now).unwrap()).collect();
    for n in 1..=50 {
        cache.commit(vec![create(&n.to_string())]).await.unwrap();
    }
    cache.compact(Revision(40)).await.unwrap();
    cache.commit(vec![create("51")]).await.unwrap();
    for watcher in &mut starved {
        for n in 1..=4 {
            assert_eq!(next(watcher).await, format!("A {n} {n}"));
        }
        assert_eq!((watcher.next().await.err(), watcher.bookmark()), (Some(WatchEnd::Expired), None));
    }
    let again = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(4))).err();
    assert_eq!(again, Some(WatchError::Expired { after: Revision(4), oldest: Revision(40) }));
}

/// 18089: compaction took away a deletion at its own revision, and a watch from before it was none the wiser.
#[tokio::test]
async fn a_deletion_is_told_or_refused_wherever_compaction_meets_it() {
    for through in 0..=4 {
        let cache = cache().await;
        cache.commit(vec![create("k")]).await.unwrap();
        cache.commit(vec![put("k", at(1), "x")]).await.unwrap();
        cache.commit(vec![delete("k", 2)]).await.unwrap();
        cache.commit(vec![create("k")]).await.unwrap();
        cache.compact(Revision(through)).await.unwrap();
        for after in 0..=4 {
            let all = ["A k 1", "M k 2", "D k 3", "A k 4"];
            match cache.watch(RESOURCE, everything(), WatchStart::After(Revision(after))) {
                Ok(mut watcher) => {
                    assert!(after >= through, "a watch after {after} of what is compacted through {through}");
                    assert_eq!(waiting(&mut watcher), all[usize::try_from(after).unwrap()..]);
                }
                Err(error) => {
                    assert_eq!(error, WatchError::Expired { after: Revision(after), oldest: Revision(through) });
                    assert!(after < through);
                }
            }
        }
    }
}

/// 19179: a deletion that was all that compaction had left of an object was lost in a restart. 17780: so was its number.
#[tokio::test]
async fn a_deletion_that_is_all_that_is_left_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for through in [2, 3] {
        let dir = dir.path().join(through.to_string());
        std::fs::create_dir(&dir).unwrap();
        let store = Arc::new(RedbStore::open(&dir, RedbConfig::default()).unwrap());
        let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
        cache.commit(vec![create("k"), create("other")]).await.unwrap();
        cache.commit(vec![delete("k", 1)]).await.unwrap();
        cache.compact(Revision(through)).await.unwrap();
        // The next write carries the compaction into the file.
        cache.commit(vec![delete("other", 2)]).await.unwrap();
        cache.close().await;
        store.close().await;
        drop((cache, store));

        let store = Arc::new(RedbStore::open(&dir, RedbConfig::default()).unwrap());
        let cache = Cache::open(store, CacheConfig::default()).await.unwrap();
        let mut watcher = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(through))).unwrap();
        let all = ["D k 3", "D other 4"];
        assert_eq!(waiting(&mut watcher), all[usize::try_from(through - 2).unwrap()..]);
        assert_eq!(cache.commit(vec![create("k")]).await.unwrap(), [Revision(5)]);
    }
}

/// 20221: a watch from a revision that lay ahead told progress and events from before it.
#[tokio::test]
async fn a_watch_from_the_future_waits_or_is_refused() {
    let cache = cache().await;
    cache.commit(vec![create("a")]).await.unwrap();
    let refused = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(3))).err();
    assert_eq!(refused, Some(WatchError::Future { after: Revision(3), current: Revision(1) }));
    let (waiting_for, ahead) = (cache.clone(), Revision(3));
    let watcher = tokio::spawn(async move {
        waiting_for.wait_for(ahead).await.unwrap();
        waiting_for.watch(RESOURCE, everything(), WatchStart::After(ahead)).unwrap()
    });
    for name in ["b", "c", "d", "e"] {
        cache.commit(vec![create(name)]).await.unwrap();
    }
    let mut watcher = watcher.await.unwrap();
    assert!(watcher.bookmark().is_none_or(|bookmark| bookmark >= ahead));
    assert_eq!(waiting(&mut watcher), ["A d 4", "A e 5"]);
}

/// Not etcd's: transactions are larger than what a cache might take in at a time, and no list shows half of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_list_shows_half_of_a_transaction() {
    const OBJECTS: usize = 3_000;
    let cache = cache().await;
    let listing = cache.clone();
    let lister = tokio::spawn(async move {
        loop {
            let (entries, revision) = listing.list(RESOURCE, &everything());
            assert_eq!((entries.len() % OBJECTS, revision.0 as usize % OBJECTS), (0, 0), "at {revision}");
            if revision.0 as usize == 5 * OBJECTS {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    for round in 0..5 {
        cache.commit((0..OBJECTS).map(|n| create(&format!("{round}-{n}"))).collect()).await.unwrap();
    }
    lister.await.unwrap();
}
