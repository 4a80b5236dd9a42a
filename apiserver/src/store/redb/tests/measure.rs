//! How fast it is here and now: `--run-ignored only -E 'test(measure)'`, in release for figures that mean something.

use std::time::Instant;

use super::*;
use crate::cache::{Cache, CacheConfig};
use crate::store::conformance::{index, object};

const DATA: usize = 900;

/// As `put` of the conformance suite, which repeats the data in the index: here the index is as small as real ones.
fn put(name: &str, expect: Expect, data: &str) -> Op {
    Op::Put { key: key(name), expect, value: object(name, data), index: index("web") }
}

/// One put after another, each of one writer's own object.
async fn write(cache: Arc<Cache>, name: String, puts: u64) -> Vec<u128> {
    let mut expect = Expect::Absent;
    let data = "x".repeat(DATA);
    let mut took = Vec::new();
    for _ in 0..puts {
        let op = put(&name, expect, &data);
        let start = Instant::now();
        expect = Expect::At(cache.commit(vec![op]).await.unwrap()[0]);
        took.push(start.elapsed().as_micros());
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_puts_through_the_cache() {
    for (two_phase, quick_repair) in [(true, true), (true, false), (false, false)] {
        let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
        let store = Arc::new(RedbStore::open(dir.path(), RedbConfig { quick_repair, two_phase, ..RedbConfig::default() }).unwrap());
        let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
        for writers in [1, 8, 64, 256] {
            let puts = if writers == 1 { 2_000 } else { 30_000 / writers };
            let start = Instant::now();
            let tasks: Vec<_> = (0..writers).map(|n| tokio::spawn(write(cache.clone(), format!("{writers}-{n}"), puts))).collect();
            let mut took: Vec<u128> = join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
            let rate = took.len() as f64 / start.elapsed().as_secs_f64();
            took.sort_unstable();
            let at = |q: usize| took[took.len() * q / 100];
            println!(
                "two_phase {two_phase}, quick_repair {quick_repair}: {writers} writers: {rate:.0}/s, p50 {} µs, p95 {} µs, p99 {} µs",
                at(50),
                at(95),
                at(99)
            );
        }
        println!("{:?}", store.stats());
        cache.close().await;
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_a_start_with_many_objects() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = "x".repeat(DATA);
    for n in 0..100 {
        store.commit((0..1_000).map(|m| put(&format!("{n}-{m}"), Expect::Absent, &data)).collect()).await.unwrap();
    }
    store.close().await;
    let before = resident_kib();
    let start = Instant::now();
    let store = Arc::new(open(&dir));
    let opened = start.elapsed();
    let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
    println!("100,000 objects: store open in {opened:?}, cache in {:?}; {:?}", start.elapsed(), store.stats());
    println!("{:.2} KiB resident for each", (resident_kib() - before) as f64 / 100_000.0);
    let start = Instant::now();
    let listed = cache.list("gantry.dev/containers", &crate::cache::Selection::default()).0.len();
    println!("list of {listed}: {:?}", start.elapsed());
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// One writer, before and while 100,000 events are given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_puts_during_a_compaction() {
    let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
    let config = RedbConfig { log_events: u64::MAX, log_bytes: u64::MAX, ..RedbConfig::default() };
    let store = RedbStore::open(dir.path(), config).unwrap();
    let data = "x".repeat(DATA);
    for n in 0..100 {
        store.commit((0..1_000).map(|m| put(&format!("{n}-{m}"), Expect::Absent, &data)).collect()).await.unwrap();
    }
    let (mut expect, mut before, mut during) = (Expect::Absent, Vec::new(), Vec::new());
    for number in 0.. {
        if number == 2_000 {
            store.compact(*store.revision().borrow()).await.unwrap();
        }
        let begun = Instant::now();
        expect = Expect::At(store.commit(vec![put("writer", expect, &data)]).await.unwrap()[0]);
        let took = begun.elapsed().as_micros();
        if number < 2_000 {
            before.push(took);
        } else if store.stats().log_events > 3_000 {
            during.push(took);
        } else {
            break;
        }
        // So that the writer has time of its own, as it has of a store that is not busy all the time.
        tokio::time::sleep(std::time::Duration::from_micros(500)).await;
    }
    for (when, mut took) in [("before", before), ("while 100,000 events go", during)] {
        took.sort_unstable();
        let at = |q: usize| took[took.len() * q / 100];
        println!("{when}: {} puts, p50 {} µs, p95 {} µs, p99 {} µs", took.len(), at(50), at(95), at(99));
    }
}

/// The file under changes of the same objects for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_the_file_under_churn() {
    let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
    let store = open(&dir);
    let data = "x".repeat(DATA);
    let mut known: Vec<Revision> = Vec::new();
    for n in 0..10 {
        known.extend(store.commit((0..1_000).map(|m| put(&format!("{n}-{m}"), Expect::Absent, &data)).collect()).await.unwrap());
    }
    for round in 1..=40 {
        for batch in 0..500_usize {
            let ops = (0..20).map(|m| (batch * 20 + m) * 7919 % known.len()).collect::<Vec<_>>();
            let puts = ops.iter().map(|n| put(&format!("{}-{}", n / 1_000, n % 1_000), Expect::At(known[*n]), &data)).collect();
            for (n, revision) in ops.iter().zip(store.commit(puts).await.unwrap()) {
                known[*n] = revision;
            }
        }
        if round % 8 == 0 {
            let stats = store.stats();
            let live = stats.object_bytes + stats.log_bytes;
            println!(
                "{} changes: file {} KiB, live {} KiB, {:.2} times",
                round * 10_000,
                stats.file_bytes / 1024,
                live / 1024,
                stats.file_bytes as f64 / live as f64
            );
        }
    }
    store.compact(*store.revision().borrow()).await.unwrap();
    super::past::until(&store, |stats| stats.log_events == 0).await;
    store.close().await;
    drop(store);
    tell("churned, the log given up", &dir);
}

/// What the file takes beside what is in it: after a bulk load, after as many changes again, and after all is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_the_growth_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = "x".repeat(DATA);
    let commits: u64 = std::env::var("MEASURE_COMMITS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let names = |n: u64| (0..1_000).map(move |m| format!("{n}-{m}"));
    let mut revisions: Vec<Vec<Revision>> = Vec::new();
    let store = open(&dir);
    for n in 0..commits {
        revisions.push(store.commit(names(n).map(|name| put(&name, Expect::Absent, &data)).collect()).await.unwrap());
    }
    store.close().await;
    drop(store);
    tell("objects of 1 KiB made, 1,000 in a commit", &dir);

    let store = open(&dir);
    for n in 0..commits {
        let known = std::mem::take(&mut revisions[n as usize]);
        let ops = names(n).zip(known).map(|(name, at)| put(&name, Expect::At(at), &data)).collect();
        revisions[n as usize] = store.commit(ops).await.unwrap();
    }
    store.close().await;
    drop(store);
    tell("each changed once", &dir);

    let store = open(&dir);
    for n in 0..commits {
        let known = std::mem::take(&mut revisions[n as usize]);
        let ops = names(n).zip(known).map(|(name, at)| delete(&name, at.0)).collect();
        store.commit(ops).await.unwrap();
    }
    store.close().await;
    drop(store);
    tell("all deleted", &dir);
}

fn tell(when: &str, dir: &TempDir) {
    use std::os::unix::fs::MetadataExt as _;
    let path = dir.path().join("store.redb");
    let file = std::fs::metadata(&path).unwrap();
    let database = redb::Database::open(&path).unwrap();
    let stats = database.begin_write().unwrap().stats().unwrap();
    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!(
        "{when}: file {} MiB, on disk {} MiB, pages in use {} MiB, stored {} MiB, fragmented {} MiB",
        mib(file.len()),
        mib(file.blocks() * 512),
        mib(stats.allocated_pages() * 4096),
        mib(stats.stored_bytes()),
        mib(stats.fragmented_bytes()),
    );
}
