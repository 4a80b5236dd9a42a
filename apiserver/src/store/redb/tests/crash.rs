//! Power cuts at every write of a long run, and again in the recovery from each.
//!
//! The run is made once, on a disk that writes down what is done to it and what was acknowledged when. The trace is then walked
//! through; at every write what a machine may find is made up from it and opened.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::Disk;
use super::history::{History, Known, share};
use super::trace::{Step, Walk};
use super::*;

/// A short log, so that every transaction drops events and compactions are frequent.
fn config() -> RedbConfig {
    RedbConfig { log_events: 150, ..RedbConfig::default() }
}

/// So many operations in commits of one, of several and of many operations, alone and side by side, with compactions and restarts.
async fn run(operations: u64, random: &mut StdRng) -> (Vec<Step>, History) {
    let disk = Disk::recording(empty_file());
    let mut store = disk.try_start(config()).unwrap();
    let mut history = History::default();
    while history.revision().0 < operations {
        let commits = match random.random_range(0..10) {
            0 => random.random_range(2..12),
            _ => 1,
        };
        let mut side_by_side = Vec::new();
        for number in 0..commits {
            let count = match random.random_range(0..60) {
                0 => 60,
                1..15 => random.random_range(2..8),
                _ => 1,
            };
            side_by_side.push(history.random_ops(random, count, share(number, commits)));
        }
        let answers = join_all(side_by_side.iter().map(|ops| store.commit(ops.clone()))).await;
        for (ops, answer) in side_by_side.iter().zip(answers) {
            history.acknowledge(ops, &answer.unwrap());
        }
        disk.acknowledge(history.revision().0);
        match random.random_range(0..400) {
            0 => {
                store.close().await;
                store = disk.try_start(config()).unwrap();
            }
            1..10 => store.compact(Revision(random.random_range(0..=history.revision().0))).await.unwrap(),
            _ => {}
        }
    }
    store.close().await;
    (disk.take_trace(), history)
}

/// A file that is made, as the directory makes it before it gets its name.
fn empty_file() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    std::fs::read(dir.path().join("store.redb")).unwrap()
}

/// What was tried.
#[derive(Default)]
struct Tried {
    cuts: AtomicU64,
    /// In the recovery from the first.
    second_cuts: AtomicU64,
}

/// Every write whose number leaves `share` when divided by `shares`.
fn cut_at_every_write(trace: &[Step], history: &History, seed: u64, (share, shares): (u64, u64), tried: &Tried) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut walk = Walk::new(empty_file(), trace);
    for number in 0.. {
        if walk.next_write().is_none() {
            break;
        }
        if number % shares == share {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
            let outcome = runtime.block_on(cut(&walk, history, &mut random, tried));
            outcome.unwrap_or_else(|why| panic!("seed {seed}, cut at write {number}: {why}"));
        }
    }
}

/// A power cut here; the machine comes back, and has another one at some write of what it does then.
async fn cut(walk: &Walk<'_>, history: &History, random: &mut StdRng, tried: &Tried) -> Result<(), String> {
    let found = walk.cut(random);
    let disk = Disk::recording(found.clone());
    let (known, revision) = recover(&disk, history.known(), walk.acknowledged, "first").await?;
    tried.cuts.fetch_add(1, Ordering::Relaxed);

    let recovery = disk.take_trace();
    let writes = recovery.iter().filter(|step| step.is_write()).count();
    let mut second = Walk::new(found, &recovery);
    // What was acknowledged before is as safe in the second cut as in the first.
    second.acknowledged = walk.acknowledged;
    for _ in 0..random.random_range(1..=writes) {
        let _ = second.next_write();
    }
    let again = Disk::recording(second.cut(random));
    let outcome = recover(&again, known, second.acknowledged, "second").await;
    tried.second_cuts.fetch_add(1, Ordering::Relaxed);
    outcome.map(|_| ()).map_err(|why| format!("cut again in the recovery at {revision}: {why}"))
}

/// Opens, checks, and writes on: the next commit must get the next revision.
async fn recover<'a>(disk: &Disk, known: Known<'a>, acknowledged: u64, name: &str) -> Result<(Known<'a>, Revision), String> {
    let store = disk.try_start(config()).map_err(|error| format!("does not open: {error:?}"))?;
    let revision = known.check(&store, acknowledged).await?;
    // From the moment when it is told, it may not be gone again.
    disk.acknowledge(revision.0);
    let answer = store.commit(vec![create(name)]).await.map_err(|error| format!("takes no write: {error:?}"))?;
    if answer != [revision.next()] {
        return Err(format!("the revision after {revision} is {answer:?}"));
    }
    disk.acknowledge(revision.next().0);
    store.close().await;
    Ok((known.with_creation(revision, name), revision))
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let seed: u64 =
        std::env::var("GANTRY_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| rand::random::<u64>() >> 16);
    let operations = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 10_000 } else { 500 };
    println!("seed {seed}");
    let begun = std::time::Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (trace, history) = runtime.block_on(run(operations, &mut random));
    let writes = trace.iter().filter(|step| step.is_write()).count() as u64;
    println!("{} changes by {writes} writes, recorded in {:?}", history.revision(), begun.elapsed());
    let tried = Tried::default();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(2) as u64);
    std::thread::scope(|scope| {
        for share in 0..threads {
            let (trace, history, tried) = (&trace, &history, &tried);
            scope.spawn(move || cut_at_every_write(trace, history, seed, (share, threads), tried));
        }
    });
    let (cuts, second) = (tried.cuts.load(Ordering::Relaxed), tried.second_cuts.load(Ordering::Relaxed));
    println!("{cuts} power cuts, {second} more in recoveries, in {:?}", begun.elapsed());
    assert_eq!((cuts, second), (writes, writes));
}
