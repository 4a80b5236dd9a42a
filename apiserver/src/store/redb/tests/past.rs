//! How much of the past is kept: by number, bytes, age and request.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::*;

/// Waits until the figures are as wanted: the writer drops old events when nobody waits for it.
pub(super) async fn until(store: &RedbStore, wanted: impl Fn(&Stats) -> bool) {
    for _ in 0..2_000 {
        if wanted(&store.stats()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited for something else than {:?}", store.stats());
}

/// A clock that a test sets.
#[derive(Clone)]
struct Hands(Arc<AtomicI64>);

impl Hands {
    fn at(seconds: i64) -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000 + seconds)))
    }

    fn turn(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let hands = self.0.clone();
        Arc::new(move || Timestamp::from_second(hands.load(Ordering::Relaxed)).unwrap())
    }
}

#[tokio::test]
async fn events_go_when_they_are_old() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::at(0));
    let config = RedbConfig { log_age: Duration::from_secs(600), clock: hands.clock(), ..RedbConfig::default() };
    let store = RedbStore::open(dir.path(), config.clone()).unwrap();
    for n in 0..20 {
        store.commit(vec![create(&n.to_string())]).await.unwrap();
        hands.turn(60);
    }
    // The events of the last ten minutes, the present one, and at most a sixtieth more.
    let stats = store.stats();
    assert!((10..=12).contains(&stats.log_events), "{stats:?}");
    assert_eq!(stats.log_since_millis, u64::try_from(1_800_000_000 + 60 * (20 - stats.log_events.cast_signed())).unwrap() * 1_000);
    store.close().await;

    // The times are remembered over a restart.
    let store = RedbStore::open(dir.path(), config).unwrap();
    assert_eq!(store.stats().log_since_millis, stats.log_since_millis);
    hands.turn(300);
    store.commit(vec![create("later")]).await.unwrap();
    let left = store.stats().log_events;
    assert!((5..=8).contains(&left), "{left}");
    assert_eq!(store.events(store.oldest(), 99).await.unwrap().len() as u64, left);
}

#[tokio::test]
async fn a_clock_that_is_set_back_drops_nothing_and_holds_nothing_for_ever() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::at(0));
    let config = RedbConfig { log_age: Duration::from_secs(600), clock: hands.clock(), ..RedbConfig::default() };
    let store = RedbStore::open(dir.path(), config).unwrap();
    for n in 0..10 {
        store.commit(vec![create(&n.to_string())]).await.unwrap();
    }
    hands.turn(-100_000);
    store.commit(vec![create("back")]).await.unwrap();
    assert_eq!(store.stats().log_events, 11);
    hands.turn(601);
    store.commit(vec![create("later")]).await.unwrap();
    assert_eq!(store.stats().log_events, 1);
}

/// A commit larger than the log may be: whoever follows closely sees it all the same.
#[tokio::test]
async fn a_commit_does_not_drop_its_own_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path(), RedbConfig { log_events: 10, ..RedbConfig::default() }).unwrap();
    store.commit(vec![create("a")]).await.unwrap();
    let ops = (0..100).map(|n| create(&n.to_string())).collect();
    store.commit(ops).await.unwrap();
    assert!(*store.revision().borrow() == Revision(101) && store.oldest() >= Revision(1));
    until(&store, |stats| stats.log_events == 10).await;
}

#[tokio::test]
async fn the_log_is_bounded_by_number_and_by_bytes() {
    for (log_events, log_bytes) in [(100, u64::MAX), (u64::MAX, 100 * 250)] {
        let dir = tempfile::tempdir().unwrap();
        let config = RedbConfig { log_events, log_bytes, ..RedbConfig::default() };
        let store = RedbStore::open(dir.path(), config.clone()).unwrap();
        store.commit(vec![create("a")]).await.unwrap();
        for n in 1..300 {
            store.commit(vec![put("a", at(n), "x")]).await.unwrap();
        }
        let stats = store.stats();
        assert!(stats.log_events <= 150 && stats.log_events > 50 && stats.log_bytes <= log_bytes, "{stats:?}");
        assert_eq!(store.oldest().0 + stats.log_events, 300);
        assert!(matches!(store.events(Revision(0), 1).await, Err(ReadError::Compacted { .. })));
        assert_eq!(store.events(store.oldest(), 999).await.unwrap().len() as u64, stats.log_events);
        store.close().await;
        let again = RedbStore::open(dir.path(), config.clone()).unwrap();
        let reopened = again.stats();
        assert_eq!((reopened.log_events, reopened.log_bytes), (stats.log_events, stats.log_bytes));
        assert!(again.stats().file_bytes < 8 << 20);
    }
}

#[tokio::test]
async fn what_was_compacted_leaves_the_file_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit((0..500).map(|n| create(&n.to_string())).collect()).await.unwrap();
    store.compact(Revision(400)).await.unwrap();
    until(&store, |stats| stats.log_events == 100).await;
    assert_eq!(store.stats().transactions, 3, "in slices of at most 256");
    store.compact(Revision(500)).await.unwrap();
    until(&store, |stats| (stats.log_events, stats.log_bytes) == (0, 0)).await;
    store.close().await;
    let store = open(&dir);
    assert_eq!((*store.revision().borrow(), store.oldest()), (Revision(500), Revision(500)));
    assert_eq!(store.commit(vec![create("next")]).await.unwrap(), [Revision(501)]);
}
