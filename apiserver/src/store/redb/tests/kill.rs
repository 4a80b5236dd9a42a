//! `kill -9` of a process that writes: what it had acknowledged is there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const DIR: &str = "STORE_KILL_TEST_DIR";
const WRITERS: u64 = 8;

/// Not a test of its own: the process that is killed. It says what was acknowledged, after the fact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Arc::new(
        RedbStore::open(Path::new(&dir), RedbConfig { log_events: u64::MAX, log_bytes: u64::MAX, ..RedbConfig::default() }).unwrap(),
    );
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let name = writer.to_string();
            let mut expect = store.get(&key(&name)).await.unwrap().map_or(Expect::Absent, |record| Expect::At(record.revision));
            loop {
                let revision = store.commit(vec![put(&name, expect, &"x".repeat(500))]).await.unwrap()[0];
                println!("acknowledged {name} {revision}");
                expect = Expect::At(revision);
            }
        })
    });
    join_all(writers).await;
}

#[expect(clippy::disallowed_methods, reason = "the process to kill is this test program itself")]
fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::redb::tests::kill::writing_child", "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child after so many acknowledgements, and gives all that it said.
fn kill_after(mut child: Child, acknowledgements: usize) -> BTreeMap<u64, String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut line) = (BTreeMap::new(), String::new());
    while lines.read_line(&mut line).unwrap() > 0 {
        if let (Some(words), true) = (line.trim_end().split_once("acknowledged "), line.ends_with('\n')) {
            let (name, revision) = words.1.split_once(' ').unwrap();
            said.insert(revision.parse().unwrap(), name.to_owned());
        }
        line.clear();
        if said.len() == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_writers_lose_nothing_acknowledged() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut before = 0;
    for _ in 0..4 {
        let child = start_child(dir.path());
        let kill_at = random.random_range(1..400);
        let said = spawn_blocking(move || kill_after(child, kill_at)).await.unwrap();
        assert!(said.len() >= kill_at, "the child ended by itself");
        assert!(said.keys().next().is_none_or(|first| *first > before), "a revision came twice");
        acknowledged.extend(said);

        let store = RedbStore::open(dir.path(), RedbConfig { log_events: u64::MAX, log_bytes: u64::MAX, ..RedbConfig::default() }).unwrap();
        before = store.revision().borrow().0;
        let events = store.events(Revision(0), usize::MAX).await.unwrap();
        assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), (1..=before).collect::<Vec<_>>());
        for (revision, name) in &acknowledged {
            let event = events.get(usize::try_from(*revision).unwrap() - 1).unwrap_or_else(|| panic!("{revision} of {name} is lost"));
            assert_eq!(event.record.key, key(name));
        }
        store.close().await;
    }
}
