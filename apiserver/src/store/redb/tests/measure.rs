//! How fast it is here and now: `--run-ignored only -E 'test(measure)'`, in release for figures that mean something.

use std::time::Instant;

use super::*;
use crate::cache::{Cache, CacheConfig};

const DATA: usize = 900;

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
    for quick_repair in [true, false] {
        let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
        let store = Arc::new(RedbStore::open(dir.path(), RedbConfig { quick_repair, ..RedbConfig::default() }).unwrap());
        let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
        for writers in [1, 8, 64, 256] {
            let puts = if writers == 1 { 2_000 } else { 30_000 / writers };
            let start = Instant::now();
            let tasks: Vec<_> =
                (0..writers).map(|n| tokio::spawn(write(cache.clone(), format!("{quick_repair}-{writers}-{n}"), puts))).collect();
            let mut took: Vec<u128> = join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
            let rate = took.len() as f64 / start.elapsed().as_secs_f64();
            took.sort_unstable();
            let at = |q: usize| took[took.len() * q / 100];
            println!(
                "quick_repair {quick_repair}: {writers} writers: {rate:.0}/s, p50 {} µs, p95 {} µs, p99 {} µs",
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
    let start = Instant::now();
    let store = Arc::new(open(&dir));
    let opened = start.elapsed();
    let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
    println!("100,000 objects: store open in {opened:?}, cache in {:?}; {:?}", start.elapsed(), store.stats());
    let start = Instant::now();
    let listed = cache.list("gantry.dev/containers", &crate::cache::Selection::default()).0.len();
    println!("list of {listed}: {:?}", start.elapsed());
}
