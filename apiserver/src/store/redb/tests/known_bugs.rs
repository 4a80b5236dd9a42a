//! What went wrong with etcd, which the API of this store was taken from: each of its known bugs that a store could have, as a test.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::Disk;
use super::history::{History, share};
use super::past::until;
use super::trace::{Step, Walk};
use super::*;

/// Opens what a power cut at every write of the trace leaves, or at one in four; what follows is held against the revision then known to
/// be durable.
async fn at_every_write(start: Vec<u8>, trace: &[Step], check: impl AsyncFn(RedbStore, u64)) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut walk = Walk::new(start, trace);
    while walk.next_write().is_some() {
        if std::env::var_os("GANTRY_TEST_FULL").is_none() && random.random_bool(0.75) {
            continue;
        }
        let disk = Disk::recording(walk.cut(&mut random));
        check(disk.try_start(RedbConfig::default()).unwrap(), walk.acknowledged).await;
    }
}

/// etcd 13766: under load a crash came between the write of the data and that of the index that says how far they go, which were two
/// transactions, and changes were applied twice or never. Here a crash under load never parts the revision from the log and the objects.
#[tokio::test]
async fn etcd_13766_the_revision_is_that_of_the_data_after_a_crash_under_load() {
    let mut random = StdRng::seed_from_u64(rand::random());
    let disk = Disk::recording(Vec::new());
    let store = disk.start();
    let mut history = History::default();
    for _ in 0..4 {
        let ops: Vec<_> = (0..24).map(|number| history.random_ops(&mut random, 3, share(number, 24))).collect();
        let answers = join_all(ops.iter().map(|ops| store.commit(ops.clone()))).await;
        ops.iter().zip(answers).for_each(|(ops, answer)| history.acknowledge(ops, &answer.unwrap()));
        disk.acknowledge(history.revision().0);
    }
    store.close().await;
    let trace = disk.take_trace();
    // The file as it is made is whole before it gets its name.
    let made = trace.iter().position(|step| matches!(step, Step::Acknowledged(_))).unwrap();
    let mut start = Walk::new(Vec::new(), &trace[..made]);
    while start.next_write().is_some() {}
    let known = history.known();
    at_every_write(start.all(), &trace[made..], async |store, acknowledged| {
        known.check(&store, acknowledged).await.unwrap();
        store.close().await;
    })
    .await;
}

/// etcd 14370: a single node answered before the write was on its disk. Here whatever is not synced at the moment of an answer may be
/// lost, and the answered write is there.
#[tokio::test]
async fn etcd_14370_an_acknowledged_write_is_on_the_disk() {
    let disk = Disk::recording(Vec::new());
    let store = disk.start();
    for n in 0..40 {
        let revision = store.commit(vec![create(&n.to_string())]).await.unwrap()[0];
        let found = Disk::recording(disk.synced());
        let after = found.start();
        assert_eq!(after.get(&key(&n.to_string())).await.unwrap().map(|record| record.revision), Some(revision));
        assert_eq!(*after.revision().borrow(), revision);
    }
}

/// etcd 14685: a crash in the defragmentation left a file that was short of changes. Here the file is shrunk by the database itself,
/// step by step; a power cut at any write of that leaves everything.
#[tokio::test]
async fn etcd_14685_a_crash_while_the_file_is_shrunk_loses_nothing() {
    let mut random = StdRng::seed_from_u64(rand::random());
    let disk = Disk::recording(Vec::new());
    let store = disk.start();
    let mut history = History::default();
    while history.revision().0 < 400 {
        let ops = history.random_ops(&mut random, 20, share(0, 1));
        let answer = store.commit(ops.clone()).await.unwrap();
        history.acknowledge(&ops, &answer);
    }
    store.compact(history.revision()).await.unwrap();
    until(&store, |stats| stats.log_events == 0).await;
    store.close().await;
    let disk = Disk::recording(disk.synced());
    let start = disk.synced();
    disk.acknowledge(history.revision().0);
    let before = disk.file_bytes();
    let (mut database, _) = disk.clone().open(false).unwrap();
    database.compact().unwrap();
    drop(database);
    assert!(disk.file_bytes() < before / 2, "{} of {before} bytes", disk.file_bytes());
    let known = history.known();
    at_every_write(start, &disk.take_trace(), async |store, acknowledged| {
        assert_eq!(known.check(&store, acknowledged).await.unwrap(), known.revision());
        store.close().await;
    })
    .await;
}

/// etcd 17780: the revision was learnt from the newest key that was kept. When that was a deletion, and compaction had removed it, a
/// crash took the revision back, and it was given out again.
#[tokio::test]
async fn etcd_17780_compacting_a_deletion_at_the_end_does_not_take_the_revision_back() {
    let disk = Disk::recording(Vec::new());
    let store = disk.start();
    store.commit((0..300).map(|n| create(&n.to_string())).collect()).await.unwrap();
    store.commit((0..300).map(|n| delete(&n.to_string(), n + 1)).collect()).await.unwrap();
    store.close().await;
    let start = disk.synced();
    let disk = Disk::recording(start.clone());
    disk.acknowledge(600);
    let store = disk.start();
    store.compact(Revision(600)).await.unwrap();
    until(&store, |stats| stats.log_events == 0).await;
    store.close().await;
    at_every_write(start, &disk.take_trace(), async |store, acknowledged| {
        assert_eq!((*store.revision().borrow(), acknowledged), (Revision(600), 600));
        assert_eq!(store.commit(vec![create("next")]).await.unwrap(), [Revision(601)]);
        store.close().await;
    })
    .await;
}

/// etcd 18667: a transaction that looked at a compacted revision was carried out in part before that was noticed. Here a commit is
/// compared with the objects as they stand and never with the past: compaction neither fails it nor makes it half.
#[tokio::test]
async fn etcd_18667_a_commit_that_names_a_compacted_revision_is_carried_out_or_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit(vec![create("a"), create("b")]).await.unwrap();
    store.commit(vec![put("b", at(2), "new")]).await.unwrap();
    store.compact(Revision(3)).await.unwrap();
    until(&store, |stats| stats.log_events == 0).await;
    let check = |name: &str, revision| Op::Check { key: key(name), expect: at(revision) };
    let refused = store.commit(vec![put("a", at(1), "x"), create("c"), check("b", 2)]).await;
    assert!(matches!(refused, Err(CommitError::Conflict { op: 2, .. })), "{refused:?}");
    assert_eq!(*store.revision().borrow(), Revision(3));
    let done = store.commit(vec![put("a", at(1), "x"), create("c"), check("b", 3)]).await.unwrap();
    assert_eq!(done, [Revision(4), Revision(5), Revision(3)]);
}

/// etcd 18089: compaction at the revision of a deletion removed its event, and a watch from there was told of what came after as if
/// nothing were missing. Here every start tells all that came after it, or is refused.
#[tokio::test]
async fn etcd_18089_a_deletion_at_the_revision_of_the_compaction_is_told_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.commit(vec![create("k")]).await.unwrap();
    for n in 1..4 {
        store.commit(vec![put("k", at(n), "v")]).await.unwrap();
    }
    store.commit(vec![delete("k", 4)]).await.unwrap();
    store.commit(vec![create("k")]).await.unwrap();
    for through in [4, 5] {
        store.compact(Revision(through)).await.unwrap();
        until(&store, |stats| stats.log_events == 6 - through).await;
        for after in 0..=6 {
            match store.events(Revision(after), 9).await {
                Ok(events) => {
                    let told: Vec<_> = events.iter().map(|e| e.record.revision.0).collect();
                    assert_eq!(told, (after + 1..=6).collect::<Vec<_>>(), "after {after}, compacted through {through}");
                }
                Err(ReadError::Compacted { oldest, .. }) => assert!(after < through && oldest == Revision(through)),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// etcd 19179: a watch that began while the compaction of its revision ran missed the deletion. Here readers race with compactions, and
/// no answer leaves anything out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_19179_no_event_is_left_out_while_a_compaction_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir));
    const CHANGES: u64 = 2_000;
    let reader = |store: Arc<RedbStore>, seed| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut answers, mut refused) = (0, 0);
        while *store.revision().borrow() < Revision(CHANGES) {
            tokio::task::yield_now().await;
            let current = store.revision().borrow().0;
            // Near the edge, where the two meet.
            let after = Revision(store.oldest().0.saturating_sub(2) + random.random_range(0..5)).min(Revision(current));
            match store.events(after, 50).await {
                Ok(events) => {
                    let told: Vec<_> = events.iter().map(|e| e.record.revision.0).collect();
                    assert_eq!(told, (after.0 + 1..).take(told.len()).collect::<Vec<_>>(), "after {after}");
                    assert!(told.len() as u64 >= (current - after.0).min(50), "after {after}: {} of {current}", told.len());
                    answers += 1;
                }
                Err(ReadError::Compacted { .. }) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        (answers, refused)
    };
    let readers: Vec<_> = (0..3).map(|seed| tokio::spawn(reader(store.clone(), seed))).collect();
    let mut revision = 0;
    while revision < CHANGES {
        let name = (revision % 50).to_string();
        store.commit(vec![create(&name)]).await.unwrap();
        store.commit(vec![delete(&name, revision + 1)]).await.unwrap();
        revision += 2;
        if revision % 20 == 0 {
            store.compact(Revision(revision - 10)).await.unwrap();
        }
    }
    for reader in readers {
        let (answers, refused) = tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
        assert!(answers > 10, "{answers} answers, {refused} refusals");
    }
}
