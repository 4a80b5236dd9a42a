mod crash;
mod disk;
mod faults;
mod history;
mod kill;
mod known_bugs;
mod measure;
mod past;
mod restoring;
mod trace;
mod upgrade;

use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::store::Expect;
use crate::store::conformance::{Made, all, at, conformance, create, delete, key, put};

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

/// The length that redb itself would refuse.
#[tokio::test]
async fn a_file_that_was_growing_when_the_machine_stopped_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a")]).await.unwrap();
    store.close().await;
    let path = dir.path().join("store.redb");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length + 10_000).unwrap();
    let store = open(&dir);
    assert!(store.get(&key("a")).await.unwrap().is_some());
}

/// A file gets its name only when it is whole: what a crash left of its making is in nobody's way.
#[tokio::test]
async fn a_file_that_was_left_half_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.redb.new"), vec![0; 100_000]).unwrap();
    let store = open(&dir);
    assert_eq!(store.commit(vec![create("a")]).await.unwrap(), [Revision(1)]);
    assert!(!dir.path().join("store.redb.new").exists());
}
