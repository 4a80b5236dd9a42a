//! Files of older and newer engines, and of none.

use std::io::Read as _;

use super::*;
use crate::store::record::Index;
use crate::store::redb::format::decode_record;

/// A store as the engine wrote it that knew format 1: 34 objects, 38 changes, compacted through 1.
fn format_1() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut contents = Vec::new();
    flate2::read::GzDecoder::new(&include_bytes!("format-1.redb.gz")[..]).read_to_end(&mut contents).unwrap();
    std::fs::write(dir.path().join("store.redb"), contents).unwrap();
    dir
}

#[tokio::test]
async fn a_store_of_format_1_is_migrated() {
    let dir = format_1();
    let store = open(&dir);
    let (revision, oldest) = (*store.revision().borrow(), store.oldest());
    assert_eq!((revision, oldest), (Revision(36), Revision(1)));
    let records = all(&*store.snapshot().await.unwrap(), None, 99).await;
    let web = store.get(&key("web")).await.unwrap().unwrap();
    assert_eq!((web.revision, web.index.owners.len(), &*web.index.fields[0].1), (Revision(4), 1, "b"));
    assert!(store.get(&key("gone")).await.unwrap().is_none());
    let events = store.events(oldest, 99).await.unwrap();
    assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), (2..=36).collect::<Vec<_>>());
    let stats = store.stats();
    let bytes: u64 = records.iter().map(|r| format::encode_record(r).len() as u64).sum();
    let logged: u64 = events.iter().map(|e| format::encode_event(e).len() as u64).sum();
    assert_eq!((stats.objects, stats.object_bytes, stats.log_bytes), (33, bytes, logged));
    assert_eq!(store.commit(vec![create("next")]).await.unwrap(), [Revision(37)]);
    store.close().await;
    let again = open(&dir);
    assert_eq!((*again.revision().borrow(), again.stats().objects), (Revision(37), 34));
}

/// A later release makes a field selectable: old objects can be selected by it, and no watch resumes with the old indexes.
#[tokio::test]
async fn objects_are_indexed_anew_when_the_rules_change() {
    fn image(_: &Key, bytes: &[u8]) -> Option<Index> {
        let object: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let image = object["spec"]["image"].as_str()?.to_owned();
        Some(Index { fields: vec![("spec.image".into(), image)], ..Index::default() })
    }
    let dir = format_1();
    let config = RedbConfig { indexer: Some(Indexer { version: 7, index: image }), ..RedbConfig::default() };
    for _ in 0..2 {
        let store = RedbStore::open(dir.path(), config.clone()).unwrap();
        let web = store.get(&key("web")).await.unwrap().unwrap();
        assert_eq!((web.revision, &*web.index.fields[0].0, &*web.index.fields[0].1), (Revision(4), "spec.image", "nginx:1"));
        let kept = store.get(&key("kept")).await.unwrap().unwrap();
        assert_eq!(&*kept.index, &crate::store::conformance::index(""), "an object that the rules do not know keeps its index");
        assert_eq!((*store.revision().borrow(), store.oldest()), (Revision(36), Revision(36)));
        assert!(matches!(store.events(Revision(35), 9).await, Err(ReadError::Compacted { .. })));
        let records = all(&*store.snapshot().await.unwrap(), None, 99).await;
        let bytes: u64 = records.iter().map(|r| format::encode_record(r).len() as u64).sum();
        assert_eq!((records.len(), store.stats().object_bytes), (33, bytes));
        store.close().await;
    }
}

/// Each step runs once, in order, and what is newer than the file only.
#[tokio::test]
async fn migrations_run_from_the_format_of_the_file() {
    fn rename(txn: &redb::WriteTransaction) -> Result<(), LookError> {
        let mut objects = txn.open_table(tables::OBJECTS)?;
        let old = key("kept").to_bytes();
        let value = objects.remove(&*old)?.map(|value| value.value().to_vec()).unwrap();
        objects.insert(&*key("renamed").to_bytes(), &*value)?;
        Ok(())
    }
    fn fail(txn: &redb::WriteTransaction) -> Result<(), LookError> {
        txn.open_table(tables::OBJECTS)?.remove(&*key("renamed").to_bytes())?;
        Err(format::corrupt("object", "x").into())
    }
    let dir = format_1();
    open(&dir).close().await;
    let database = redb::Database::open(dir.path().join("store.redb")).unwrap();
    let format = |database: &redb::Database| {
        let meta = database.begin_read().unwrap().open_table(tables::META).unwrap();
        meta.get("format").unwrap().unwrap().value()
    };
    assert_eq!(format(&database), 2);
    // The first step, from format 1, has run already.
    tables::migrate(&database, 2, &[fail, rename]).unwrap();
    assert_eq!(format(&database), 3);
    // All or nothing.
    assert!(tables::migrate(&database, 3, &[rename, rename, fail]).is_err());
    assert_eq!(format(&database), 3);
    let objects = database.begin_read().unwrap().open_table(tables::OBJECTS).unwrap();
    let renamed = key("renamed").to_bytes();
    assert!(decode_record(&renamed, objects.get(&*renamed).unwrap().unwrap().value()).is_ok());
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).close().await;
    let database = redb::Database::open(dir.path().join("store.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert("format", tables::FORMAT + 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    let refused = RedbStore::open(dir.path(), RedbConfig::default()).err().unwrap();
    let told =
        format!("the store in `{}` has format 3, this engine knows formats up to 2; use the engine that wrote it", dir.path().display());
    assert_eq!(refused.to_string(), told);

    std::fs::write(dir.path().join("store.redb"), b"something else entirely").unwrap();
    let refused = RedbStore::open(dir.path(), RedbConfig::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Database { .. }), "{refused}");
}
