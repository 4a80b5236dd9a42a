//! Power cuts at any write: nothing acknowledged is lost, every file opens, no revision goes back.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::*;

/// Some commits, until the machine stops; what was acknowledged.
async fn work(store: &RedbStore) -> BTreeMap<String, Revision> {
    let mut acknowledged = BTreeMap::new();
    for n in 0..12_u64 {
        let name = (n % 5).to_string();
        let expect = acknowledged.get(&name).map_or(Expect::Absent, |revision| Expect::At(*revision));
        match store.commit(vec![put(&name, expect, &"x".repeat(3_000))]).await {
            Ok(revisions) => drop(acknowledged.insert(name, revisions[0])),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn cut(crash_at: u64, seed: u64) {
    let disk = Disk::default();
    let store = disk.start();
    disk.crash_at(crash_at);
    let acknowledged = work(&store).await;
    let told = *store.revision().borrow();
    store.close().await;
    drop(store);

    // A second power cut, in the middle of recovery.
    let again = disk.reboot(seed);
    again.crash_at(seed % 40);
    drop(again.try_start());
    let again = again.reboot(seed + 1);
    let case = format!("cut at operation {crash_at}, seed {seed}");
    let store = again.try_start().unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let revision = *store.revision().borrow();
    assert!(revision >= told, "{case}: {revision} after {told}");
    for (name, acknowledged) in &acknowledged {
        let found = store.get(&key(name)).await.unwrap().unwrap_or_else(|| panic!("{case}: {name} is lost"));
        assert!(found.revision >= *acknowledged, "{case}: {name} went back");
    }
    let events = store.events(Revision(0), 99).await.unwrap();
    assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), (1..=revision.0).collect::<Vec<_>>(), "{case}");
    assert_eq!(store.commit(vec![create("after")]).await.unwrap(), [revision.next()], "{case}");
    store.close().await;
}

async fn operations_in_all() -> u64 {
    let disk = Disk::default();
    let store = disk.start();
    let before = disk.operations();
    work(&store).await;
    disk.operations() - before
}

#[tokio::test]
async fn power_cuts_lose_nothing_acknowledged() {
    let seed: u64 = rand::random::<u64>() / 2;
    println!("seed {seed}");
    for crash_at in 0..operations_in_all().await {
        cut(crash_at, seed + crash_at).await;
    }
}

#[tokio::test]
#[ignore = "long: every operation with many outcomes"]
async fn power_cuts_lose_nothing_acknowledged_at_length() {
    for round in 0..200 {
        for crash_at in 0..operations_in_all().await {
            cut(crash_at, round * 10_000 + crash_at).await;
        }
    }
}
