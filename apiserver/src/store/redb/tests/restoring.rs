//! Backups, and stores made from them.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::store::backup::{self, BackupError, Reader};

const TIME: Timestamp = Timestamp::UNIX_EPOCH;

async fn back_up(store: &RedbStore) -> Vec<u8> {
    let chunks: Vec<_> = backup::stream(store, TIME, "test").await.unwrap().try_collect().await.unwrap();
    chunks.concat()
}

fn read(bytes: &[u8]) -> Result<usize, BackupError> {
    let mut reader = Reader::open(bytes)?;
    let mut objects = 0;
    while reader.next_object()?.is_some() {
        objects += 1;
    }
    Ok(objects)
}

/// A store of a few objects, one of them gone.
async fn small(dir: &TempDir) -> RedbStore {
    let store = open(dir);
    store.commit((0..5).map(|n| create(&n.to_string())).collect()).await.unwrap();
    store.commit(vec![put("0", at(1), "new"), delete("1", 2)]).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_the_store_at_its_revision() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(open(&from));
    for n in 0..20 {
        store.commit((0..50).map(|m| create(&format!("{n}-{m}"))).collect()).await.unwrap();
    }
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    store.commit(vec![create(&format!("w{writer}-{n}"))]).await.unwrap();
                    let found = store.get(&key(&format!("{writer}-{}", n % 50))).await.unwrap();
                    if let Some(record) = found {
                        store.commit(vec![delete(&record.key.name, record.revision.0)]).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let bytes = back_up(&store).await;
    join_all(writers).await.into_iter().for_each(|ended| ended.unwrap());
    let restored = restore(to.path(), Cursor::new(&bytes), false, TIME).unwrap();
    assert!(restored.header.revision >= 1_000 && restored.kept.is_none());

    let mut wanted = BTreeMap::new();
    for event in store.events(Revision(0), usize::MAX).await.unwrap().iter().take_while(|e| e.record.revision.0 <= restored.header.revision)
    {
        match event.change {
            crate::store::Change::Put => drop(wanted.insert(event.record.key.clone(), event.record.bytes.clone())),
            crate::store::Change::Delete => drop(wanted.remove(&event.record.key)),
        }
    }
    let again = open(&to);
    let found = all(&*again.snapshot().await.unwrap(), None, 100).await;
    assert_eq!(found.iter().map(|r| (r.key.clone(), r.bytes.clone())).collect::<BTreeMap<_, _>>(), wanted);
    assert_eq!((again.stats().objects, restored.header.objects), (wanted.len() as u64, wanted.len() as u64));
    let bytes: u64 = found.iter().map(|r| format::encode_record(r).len() as u64).sum();
    assert_eq!(again.stats().object_bytes, bytes);
}

#[tokio::test]
async fn no_revision_comes_twice_and_every_watch_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = small(&dir).await;
    let bytes = back_up(&store).await;
    for n in 0..100 {
        store.commit(vec![create(&format!("later-{n}"))]).await.unwrap();
    }
    let seen = *store.revision().borrow();
    assert!(matches!(restore(dir.path(), &*bytes, true, TIME), Err(RestoreError::Open(OpenError::Locked { .. }))));
    store.close().await;
    assert!(matches!(restore(dir.path(), &*bytes, false, TIME), Err(RestoreError::Exists { .. })));
    let restored = restore(dir.path(), &*bytes, true, TIME).unwrap();
    assert_eq!(restored.revision, Revision(seen.0 + REVISIONS_SKIPPED));

    let store = open(&dir);
    assert_eq!((*store.revision().borrow(), store.oldest()), (restored.revision, restored.revision));
    assert!(matches!(store.events(seen, 9).await, Err(ReadError::Compacted { .. })));
    assert!(store.get(&key("later-0")).await.unwrap().is_none());
    assert_eq!(store.get(&key("0")).await.unwrap().unwrap().revision, Revision(6), "objects keep their own revisions");
    assert_eq!(store.commit(vec![put("0", at(6), "x")]).await.unwrap(), [restored.revision.next()]);
    store.close().await;

    // What was there is there still.
    let kept = restored.kept.unwrap();
    assert_eq!(kept.file_name().unwrap(), "store.redb.before-restore-19700101T000000000Z");
    std::fs::rename(kept, dir.path().join("store.redb")).unwrap();
    let store = open(&dir);
    assert_eq!(*store.revision().borrow(), seen);
    assert!(store.get(&key("later-99")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_store_that_cannot_be_read_any_more_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = small(&dir).await;
    let bytes = back_up(&store).await;
    store.close().await;
    std::fs::write(dir.path().join("store.redb"), vec![7; 10_000]).unwrap();
    let restored = restore(dir.path(), &*bytes, true, TIME).unwrap();
    assert_eq!((restored.revision, restored.header.objects), (Revision(7 + REVISIONS_SKIPPED), 4));
    assert!(open(&dir).get(&key("0")).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_not_a_whole_backup_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = small(&dir).await;
    let bytes = back_up(&store).await;
    store.close().await;
    assert_eq!(read(&bytes).unwrap(), 4);
    for cut in 0..bytes.len() {
        let error = read(&bytes[..cut]).unwrap_err();
        assert!(matches!(error, BackupError::Truncated { .. } | BackupError::Foreign), "{cut}: {error}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read(&changed).is_err(), "a flipped bit in byte {at} was not noticed");
    }
    let before = std::fs::read(dir.path().join("store.redb")).unwrap();
    let longer = [&bytes[..], b"x"].concat();
    for wrong in [&bytes[..bytes.len() / 2], &bytes[..bytes.len() - 1], &longer, b"", b"something else entirely"] {
        assert!(matches!(restore(dir.path(), wrong, true, TIME), Err(RestoreError::Backup(_))));
        assert_eq!(std::fs::read(dir.path().join("store.redb")).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
    }
}

#[tokio::test]
async fn a_backup_of_a_newer_engine_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = back_up(&small(&dir).await).await;
    let text = String::from_utf8_lossy(&bytes).replace("\"version\":1", "\"version\":9");
    let refused = Reader::open(text.as_bytes()).err().unwrap();
    assert_eq!(refused.to_string(), "the backup has version 9, this engine knows versions up to 1; use the engine that wrote it");
}

const DIR: &str = "STORE_RESTORE_TEST_DIR";

/// Not a test of its own: the process that is killed.
#[test]
fn restoring_child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let bytes = std::fs::read(Path::new(&dir).join("backup")).unwrap();
    restore(&Path::new(&dir).join("store"), &*bytes, true, TIME).unwrap();
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the process to kill is this test program itself")]
async fn a_killed_restore_leaves_the_old_store_or_the_new_one() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 100 } else { 10 };
    let (mut old, mut new) = (0, 0);
    for _ in 0..rounds {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = RedbStore::open(&dir, RedbConfig::default()).unwrap();
        store.commit((0..2_000).map(|n| create(&n.to_string())).collect()).await.unwrap();
        std::fs::write(base.path().join("backup"), back_up(&store).await).unwrap();
        store.commit(vec![create("later")]).await.unwrap();
        store.close().await;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::redb::tests::restoring::restoring_child", "--exact"])
            .env(DIR, base.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_micros(random.random_range(0..400_000));
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = RedbStore::open(&dir, RedbConfig::default()).unwrap();
        let revision = *store.revision().borrow();
        let has_later = store.get(&key("later")).await.unwrap().is_some();
        assert_eq!(store.stats().objects, 2_000 + u64::from(has_later));
        assert_eq!(revision, if has_later { Revision(2_001) } else { Revision(2_001 + REVISIONS_SKIPPED) });
        *(if has_later { &mut old } else { &mut new }) += 1;
    }
    println!("{old} times the old store, {new} times the new one");
}
