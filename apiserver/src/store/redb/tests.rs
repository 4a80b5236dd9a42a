mod crash;
mod disk;
mod kill;
mod measure;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::store::Expect;
use crate::store::conformance::{Made, all, at, conformance, create, delete, key, put};
use disk::Disk;

async fn make() -> Made {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(open(&dir)), Box::new(dir))
}

conformance!(make);

fn open(dir: &TempDir) -> RedbStore {
    RedbStore::open(dir.path(), RedbConfig::default()).unwrap()
}

#[tokio::test]
async fn everything_is_there_again_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a"), create("b")]).await.unwrap();
    store.commit(vec![put("a", at(1), "new"), delete("b", 2)]).await.unwrap();
    store.close().await;
    assert!(matches!(store.commit(vec![create("c")]).await, Err(CommitError::Closed)));
    assert!(matches!(store.get(&key("a")).await, Err(ReadError::Closed)));

    let store = open(&dir);
    assert_eq!(*store.revision().borrow(), Revision(4));
    let records = all(&*store.snapshot().await.unwrap(), None, 9).await;
    assert_eq!(records.iter().map(|r| (r.key.clone(), r.revision)).collect::<Vec<_>>(), [(key("a"), Revision(3))]);
    assert_eq!(records[0].index.labels["app"], "new");
    assert_eq!(store.events(Revision(0), 9).await.unwrap().len(), 4);
    assert_eq!(store.events(Revision(3), 9).await.unwrap()[0].record.key, key("b"));
    assert_eq!(store.commit(vec![create("c")]).await.unwrap(), [Revision(5)]);
    // Over the border between the file and the memory.
    assert_eq!(store.events(Revision(0), 9).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_second_engine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let refused = RedbStore::open(dir.path(), RedbConfig::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }));
    assert_eq!(refused.to_string(), format!("another engine is using the store in `{}`", dir.path().display()));
    store.close().await;
    open(&dir);
}

#[tokio::test]
async fn only_root_reads_the_files() {
    use std::os::unix::fs::MetadataExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/store");
    let _store = RedbStore::open(&dir, RedbConfig::default()).unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).close().await;
    let database = Database::open(dir.path().join("store.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(file::META).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    let refused = RedbStore::open(dir.path(), RedbConfig::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Format { found: 2, known: 1, .. }), "{refused}");

    std::fs::write(dir.path().join("store.redb"), b"something else entirely").unwrap();
    let refused = RedbStore::open(dir.path(), RedbConfig::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Database { .. }), "{refused}");
}

#[tokio::test]
async fn the_log_is_bounded_by_number_and_by_bytes() {
    for (log_events, log_bytes) in [(100, u64::MAX), (u64::MAX, 100 * 250)] {
        let dir = tempfile::tempdir().unwrap();
        let config = RedbConfig { log_events, log_bytes, ..RedbConfig::default() };
        let store = RedbStore::open(dir.path(), config).unwrap();
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
        let again = RedbStore::open(dir.path(), config).unwrap();
        let reopened = again.stats();
        assert_eq!((reopened.log_events, reopened.log_bytes), (stats.log_events, stats.log_bytes));
        assert!(again.stats().file_bytes < 8 << 20);
    }
}

#[tokio::test]
async fn what_was_compacted_leaves_the_file_with_later_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit((0..500).map(|n| create(&n.to_string())).collect()).await.unwrap();
    store.compact(Revision(400)).await.unwrap();
    assert_eq!(store.stats().log_events, 500);
    for n in 500..520 {
        store.commit(vec![create(&n.to_string())]).await.unwrap();
    }
    assert_eq!(store.stats().log_events, 120);
}

#[tokio::test]
async fn waiting_commits_share_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let commits = (0..200).map(|n| store.commit(vec![create(&n.to_string())]));
    let mut revisions: Vec<_> = join_all(commits).await.into_iter().map(|r| r.unwrap()[0].0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
    assert!(store.stats().transactions < 50, "{:?}", store.stats());
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let disk = Disk::default();
    let store = disk.start();
    store.commit(vec![create("before")]).await.unwrap();
    disk.set_no_space(true);
    assert!(matches!(store.commit(vec![create("during")]).await, Err(CommitError::Full)));
    assert!(matches!(store.commit(vec![create("during")]).await, Err(CommitError::Full)));
    disk.set_no_space(false);
    assert_eq!(store.commit(vec![create("after")]).await.unwrap(), [Revision(2)]);
    assert_eq!(store.events(Revision(0), 9).await.unwrap().len(), 2);

    disk.set_free_bytes(0);
    assert!(matches!(store.commit(vec![create("refused")]).await, Err(CommitError::Full)));
    assert!(store.get(&key("after")).await.unwrap().is_some(), "the file stays open");
    disk.set_free_bytes(u64::MAX);
    assert_eq!(store.commit(vec![create("at last")]).await.unwrap(), [Revision(3)]);
}

/// The n-th storage operation fails, for every n: what was acknowledged is there, what was told stays told, and the store
/// goes on by itself.
#[tokio::test]
async fn any_operation_may_fail_once() {
    for fail_at in 0.. {
        let disk = Disk::default();
        let store = disk.start();
        let mut signal = store.revision();
        disk.fail_at(fail_at);
        let mut known = BTreeMap::new();
        for n in 0..6 {
            let name = n.to_string();
            match store.commit(vec![create(&name)]).await {
                Ok(revisions) => drop(known.insert(name, revisions[0])),
                Err(CommitError::Storage(_)) => {}
                Err(error) => panic!("operation {fail_at}: {error:?}"),
            }
        }
        let failed = disk.has_failed();
        let last = store.commit(vec![create("last")]).await;
        if last.is_err() {
            // The failure waited for this one; whether it is there shows now.
            let again = store.commit(vec![create("last")]).await;
            assert!(matches!(again, Ok(_) | Err(CommitError::Conflict { .. })), "operation {fail_at}: {again:?}");
        }
        for (name, revision) in &known {
            assert_eq!(store.get(&key(name)).await.unwrap().unwrap().revision, *revision, "operation {fail_at}");
        }
        let told = *signal.borrow_and_update();
        let events = store.events(Revision(0), 99).await.unwrap();
        assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), (1..=told.0).collect::<Vec<_>>());
        assert!(known.len() >= 5, "operation {fail_at}: one failure, {} acknowledged", known.len());
        store.close().await;
        if !failed {
            assert!(fail_at > 10, "nothing was tried");
            return;
        }
    }
}

#[tokio::test]
async fn a_put_that_expects_absence_fails_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a")]).await.unwrap();
    store.close().await;
    let store = open(&dir);
    match store.commit(vec![put("a", Expect::Absent, "x")]).await {
        Err(CommitError::Conflict { op: 0, current: Some(record) }) => assert_eq!(record.revision, Revision(1)),
        other => panic!("{other:?}"),
    }
}
