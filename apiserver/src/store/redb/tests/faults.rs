//! The storage fails: at every operation once, for good, and by filling up.
//!
//! Whatever is answered is true: an acknowledged commit is there, a refused one is not, and one whose outcome was unknown is there as
//! a whole or not at all, which the log then tells. The store gets out of it by itself.

use std::time::Duration;

use super::disk::{Access, Disk, Fault};
use super::history::{History, share};
use super::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Commits in a run.
const COMMITS: u64 = 24;
/// Within which a store must have noticed that its storage works again.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Refused,
    Unknown,
}

/// What a run with a fault came to.
#[derive(Debug, Default)]
struct Outcome {
    failed: Vec<Access>,
    acknowledged: u64,
    unknown: u64,
    found_later: u64,
}

fn config() -> RedbConfig {
    RedbConfig { log_events: 12, retry: Duration::from_millis(1), ..RedbConfig::default() }
}

/// A run of commits with the fault in it. What is told is held against what turns out to be there.
async fn run_with(fault: Fault, seed: u64) -> Result<Outcome, String> {
    let disk = Disk::uncached();
    let store = disk.try_start(config()).map_err(|error| format!("{error:?}"))?;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut history, mut outcome) = (History::default(), Outcome::default());
    disk.plan(fault);
    for number in 0..COMMITS {
        let ops = history.random_ops(&mut random, 1 + (number % 3) as usize, share(0, 8));
        let answer = store.commit(ops.clone()).await;
        let fate = match &answer {
            Ok(revisions) => {
                history.acknowledge(&ops, revisions);
                Fate::Acknowledged
            }
            Err(CommitError::Full) => Fate::Refused,
            Err(CommitError::Storage(_)) => Fate::Unknown,
            // An unknown one turned out to be there: the next one learns of it as of any other's.
            Err(CommitError::Conflict { .. }) => return Err(format!("commit {number}: {answer:?}")),
            Err(error) => return Err(format!("commit {number}: {error:?}")),
        };
        outcome.acknowledged += u64::from(fate == Fate::Acknowledged);
        outcome.unknown += u64::from(fate == Fate::Unknown);
        if fate != Fate::Acknowledged {
            if number % 5 == 4 {
                // The fault lasts at most until here.
                outcome.failed.extend(disk.mend());
            }
            settle(&disk, &store, &mut history, &ops, fate, &mut outcome).await?;
        }
        if number == COMMITS / 2 {
            store.compact(Revision(history.revision().0 / 2)).await.map_err(|error| format!("{error:?}"))?;
        }
    }
    outcome.failed.extend(disk.mend());
    healthy(&store).await?;
    history.known().check(&store, history.revision().0).await?;
    store.close().await;
    Ok(outcome)
}

/// Waits until the storage works again, and learns what became of a commit that was not acknowledged.
async fn settle(
    disk: &Disk,
    store: &RedbStore,
    history: &mut History,
    ops: &[Op],
    fate: Fate,
    outcome: &mut Outcome,
) -> Result<(), String> {
    if *store.health().borrow() != Health::Healthy {
        outcome.failed.extend(disk.mend());
    }
    healthy(store).await?;
    let before = history.revision();
    let now = *store.revision().borrow();
    let changed = ops.iter().filter(|op| op.is_change()).count() as u64;
    match (now.0 - before.0, fate) {
        (0, _) => Ok(()),
        (grown, Fate::Unknown) if grown == changed => {
            outcome.found_later += 1;
            history.acknowledge(ops, &(before.0 + 1..=now.0).map(Revision).collect::<Vec<_>>());
            Ok(())
        }
        (grown, _) => Err(format!("a commit of {changed} changes was answered with {fate:?}, and the revision grew by {grown}")),
    }
}

async fn healthy(store: &RedbStore) -> Result<(), String> {
    let mut health = store.health();
    let waited = tokio::time::timeout(PATIENCE, health.wait_for(|health| *health == Health::Healthy)).await;
    waited.map(|_| ()).map_err(|_| format!("it does not get well again: {:?}", store.health().borrow()))
}

/// The fault at every operation of the run, until it comes too late to be met.
fn at_every_operation(fault: impl Fn(u64) -> Fault) -> (u64, Outcome) {
    let seed = rand::random();
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut all = Outcome::default();
    // Every operation takes long where operations are many and all alike; the share is drawn, so that in time all are tried.
    let (first, step) = if std::env::var_os("GANTRY_TEST_FULL").is_some() { (0, 1) } else { (seed % 7, 7) };
    for number in (first..).step_by(step) {
        let fault = fault(number);
        let outcome = runtime.block_on(run_with(fault, seed)).unwrap_or_else(|why| panic!("seed {seed}, {fault:?}: {why}"));
        if outcome.failed.is_empty() {
            println!(
                "{number} operations: {} acknowledged, {} unknown, of them {} in the file",
                all.acknowledged, all.unknown, all.found_later
            );
            return (number, all);
        }
        all.failed.extend(outcome.failed);
        all.acknowledged += outcome.acknowledged;
        all.unknown += outcome.unknown;
        all.found_later += outcome.found_later;
    }
    unreachable!("there is an end to all operations")
}

#[test]
fn any_operation_may_fail_once() {
    let (operations, all) = at_every_operation(|first| Fault { first, count: 1, no_space: false });
    assert!(operations > 100, "{operations}");
    for access in [Access::Read, Access::Write, Access::Sync, Access::SetLen, Access::Len] {
        assert!(all.failed.contains(&access) || std::env::var_os("GANTRY_TEST_FULL").is_none(), "{access:?} never failed");
    }
}

/// The reopening after the failure fails too, at any of its operations.
#[test]
fn the_reopening_may_fail_too() {
    for count in [2, 5, 11] {
        at_every_operation(|first| Fault { first, count, no_space: false });
    }
}

/// It fails until somebody mends the disk.
#[test]
fn a_failure_may_last() {
    let (_, all) = at_every_operation(|first| Fault { first, count: u64::MAX, no_space: false });
    assert!(all.unknown > 0, "no outcome was ever unknown");
}

/// The disk is full from some operation on, and has room again later.
#[test]
fn the_disk_may_fill_up_anywhere() {
    at_every_operation(|first| Fault { first, count: u64::MAX, no_space: true });
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let disk = Disk::default();
    let store = disk.start();
    store.commit(vec![create("before")]).await.unwrap();
    disk.plan(Fault { first: 0, count: u64::MAX, no_space: true });
    // The first one was begun, and nobody can look what became of it.
    assert!(matches!(store.commit(vec![create("during")]).await, Err(CommitError::Storage(_))));
    assert!(matches!(store.commit(vec![create("refused")]).await, Err(CommitError::Full)));
    assert_eq!(*store.health().borrow(), Health::DiskFull);
    disk.mend();
    healthy(&store).await.unwrap();
    assert_eq!(store.commit(vec![create("after")]).await.unwrap(), [Revision(2)]);
    assert_eq!(store.events(Revision(0), 9).await.unwrap().len(), 2);

    disk.set_used_bytes(u64::MAX);
    assert!(matches!(store.commit(vec![create("refused")]).await, Err(CommitError::Full)));
    assert_eq!((store.health().borrow().clone(), store.stats().refused_full), (Health::DiskFull, 1));
    assert!(store.get(&key("after")).await.unwrap().is_some(), "the file stays open");
    disk.set_used_bytes(0);
    healthy(&store).await.unwrap();
    assert_eq!(store.commit(vec![create("at last")]).await.unwrap(), [Revision(3)]);
}

/// A commit that found a conflict with one that came to nothing was told of a state that never was.
#[tokio::test]
async fn no_answer_tells_of_what_came_to_nothing() {
    for first in 0.. {
        let disk = Disk::default();
        let store = disk.start();
        store.commit(vec![create("a")]).await.unwrap();
        disk.plan(Fault { first, count: 1, no_space: false });
        // One transaction: the second finds the first's change.
        let (won, lost) = (store.commit(vec![put("a", at(1), "x")]), store.commit(vec![put("a", at(1), "y")]));
        let (won, lost) = futures_util::future::join(won, lost).await;
        let revision = *store.revision().borrow();
        match &lost {
            Err(CommitError::Conflict { current, .. }) => assert!(current.as_ref().is_some_and(|r| r.revision <= revision), "{first}"),
            Err(CommitError::Storage(_)) | Ok(_) => {}
            Err(error) => panic!("{first}: {error:?}"),
        }
        assert!(won.is_ok() == (revision == Revision(2)) || lost.is_ok(), "{first}: {won:?} at {revision}");
        if disk.mend().is_empty() {
            assert!(first > 5, "nothing was tried");
            return;
        }
    }
}
