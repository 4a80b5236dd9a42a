//! The store of blobs: what it verifies, resumes, shares and keeps.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::io::Read as _;
use std::time::Duration;

use gantry_content::{ContentError, ContentStore, Digest};

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn a_blob_is_here_only_once_it_is_verified() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello");
    let mut ingest = store.writer("k", Some(digest), 5).unwrap();
    ingest.write(b"hel").unwrap();
    assert!(!store.has(&digest));
    ingest.write(b"lo").unwrap();
    assert!(matches!(ingest.write(b"!"), Err(ContentError::TooLarge { limit: 5, .. })));
    assert_eq!(ingest.commit().unwrap(), digest);
    assert_eq!(store.size(&digest).unwrap(), Some(5));
    let mut text = String::new();
    store.reader(&digest).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(matches!(store.read_small(&digest, 4), Err(ContentError::TooLarge { .. })));
    assert!(matches!(store.reader(&Digest::of(b"no")), Err(ContentError::NotFound { .. })));
}

#[test]
fn a_mismatch_leaves_nothing() {
    let (dir, store) = store();
    let mut ingest = store.writer("k", Some(Digest::of(b"good")), 100).unwrap();
    ingest.write(b"evil").unwrap();
    assert!(matches!(ingest.commit(), Err(ContentError::DigestMismatch { .. })));
    assert_eq!(store.list_blobs().unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn an_ingest_resumes_by_key_and_has_one_writer() {
    let (dir, store) = store();
    let mut first = store.writer("k", None, 100).unwrap();
    first.write(b"hel").unwrap();
    let other_process = ContentStore::open(dir.path()).unwrap();
    assert!(matches!(other_process.writer("k", None, 100), Err(ContentError::Busy { .. })));
    drop(first);
    let mut second = other_process.writer("k", None, 100).unwrap();
    assert_eq!(second.offset(), 3);
    second.write(b"lo").unwrap();
    assert_eq!(second.commit().unwrap(), Digest::of(b"hello"));
    assert!(store.has(&Digest::of(b"hello")));
}

#[tokio::test(flavor = "current_thread")]
async fn asynchronous_writers_commit_the_same() {
    let (_dir, store) = store();
    let chunk = bytes::Bytes::from(vec![7; 700_000]);
    let mut ingest = store.async_writer("k", None, 1 << 30).await.unwrap();
    for _ in 0..3 {
        ingest.write(chunk.clone()).await.unwrap();
    }
    let (digest, size) = ingest.commit().await.unwrap();
    assert_eq!((digest, size), (Digest::of(&vec![7; 2_100_000]), 2_100_000));
    assert_eq!(store.async_reader(&digest).await.unwrap().1, size);
}

#[test]
fn references_are_kept_by_namespace() {
    let (_dir, store) = store();
    let digest = Digest::of(b"m");
    store.record_reference("a", "docker.io/library/x:1", digest, "m").unwrap();
    store.record_reference("a", "docker.io/library/x:1", digest, "n").unwrap();
    assert_eq!(store.find_reference("a", "docker.io/library/x:1").unwrap().unwrap().media_type, "n");
    assert_eq!(store.find_reference("b", "docker.io/library/x:1").unwrap(), None);
    assert_eq!(store.list_references("a").unwrap().len(), 1);
    assert_eq!(store.list_namespaces().unwrap(), ["a"]);
    store.remove_reference("a", "docker.io/library/x:1").unwrap();
    store.remove_reference("a", "docker.io/library/x:1").unwrap();
    assert_eq!(store.list_references("a").unwrap(), []);
    for namespace in ["", "..", "a/b", "A"] {
        assert!(matches!(store.list_references(namespace), Err(ContentError::InvalidNamespace { .. })), "{namespace}");
    }
}

#[test]
fn a_sweep_takes_only_what_is_old_and_unwanted() {
    let (dir, store) = store();
    let [wanted, old, kept, young] = [b"1", b"2", b"3", b"4"].map(|bytes| store.put(bytes).unwrap());
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for digest in [wanted, old, kept] {
        let path = dir.path().join("blobs/sha256").join(digest.hex());
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    assert!(store.keep(&kept).unwrap());
    assert_eq!(store.sweep(&HashSet::from([wanted]), Duration::ZERO).unwrap(), 1);
    assert!(!store.has(&old));
    for digest in [wanted, kept, young] {
        assert!(store.has(&digest));
    }
}
