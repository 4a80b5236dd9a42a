//! `kill -9` of a process that writes: what it had acknowledged is there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::history::whole_log;
use super::*;

const DIR: &str = "STORE_KILL_TEST_DIR";
const MODE: &str = "STORE_KILL_TEST_MODE";
const WRITERS: u64 = 8;

/// What the process does that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Writes, and keeps the whole log.
    Write,
    /// Writes, and gives up the log all the time.
    Compact,
    /// Opens, writes once and closes, again and again.
    Reopen,
}

const MODES: [Mode; 3] = [Mode::Write, Mode::Compact, Mode::Reopen];

fn config(mode: Mode) -> RedbConfig {
    match mode {
        Mode::Write => RedbConfig { log_events: u64::MAX, log_bytes: u64::MAX, ..RedbConfig::default() },
        Mode::Compact | Mode::Reopen => RedbConfig { log_events: 2_000, ..RedbConfig::default() },
    }
}

/// Not a test of its own: the process that is killed. It says what was acknowledged, after the fact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_child() {
    let (Ok(dir), Ok(mode)) = (std::env::var(DIR), std::env::var(MODE)) else { return };
    let mode = MODES.into_iter().find(|known| format!("{known:?}") == mode).unwrap();
    loop {
        let store = Arc::new(RedbStore::open(Path::new(&dir), config(mode)).unwrap());
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer.to_string(), mode)));
        for ended in join_all(writers).await {
            ended.unwrap();
        }
        store.close().await;
    }
}

async fn write(store: Arc<RedbStore>, name: String, mode: Mode) {
    let mut expect = store.get(&key(&name)).await.unwrap().map_or(Expect::Absent, |record| Expect::At(record.revision));
    loop {
        let revision = store.commit(vec![put(&name, expect, &"x".repeat(500))]).await.unwrap()[0];
        println!("acknowledged {name} {revision}");
        expect = Expect::At(revision);
        match mode {
            Mode::Write => {}
            Mode::Compact => store.compact(revision).await.unwrap(),
            Mode::Reopen => return,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the process to kill is this test program itself")]
fn start_child(dir: &Path, mode: Mode) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::redb::tests::kill::writing_child", "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(MODE, format!("{mode:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child so long after so many acknowledgements, and gives all that it said.
fn kill_after(mut child: Child, acknowledgements: usize, then: Duration) -> BTreeMap<u64, String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut line) = (BTreeMap::new(), String::new());
    let kill = |child: &mut Child| {
        let end = Instant::now() + then;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
    };
    if acknowledgements == 0 {
        kill(&mut child);
    }
    while lines.read_line(&mut line).unwrap() > 0 {
        if let (Some(words), true) = (line.trim_end().split_once("acknowledged "), line.ends_with('\n')) {
            let (name, revision) = words.1.split_once(' ').unwrap();
            said.insert(revision.parse().unwrap(), name.to_owned());
            if said.len() == acknowledgements {
                kill(&mut child);
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    said
}

/// What is known of the file from all rounds on it.
#[derive(Default)]
struct Told {
    /// The last acknowledged revision of each object.
    acknowledged: BTreeMap<String, u64>,
    revision: u64,
    all: u64,
}

impl Told {
    async fn check(&mut self, store: &RedbStore, said: &BTreeMap<u64, String>) {
        assert!(said.keys().next().is_none_or(|first| *first > self.revision), "a revision came twice");
        for (revision, name) in said {
            self.acknowledged.insert(name.clone(), *revision);
        }
        let now = store.revision().borrow().0;
        let told = self.acknowledged.values().copied().max().unwrap_or_default();
        assert!(now >= self.revision.max(told), "the revision went back from {} and {told} to {now}", self.revision);
        for (name, acknowledged) in &self.acknowledged {
            let record = store.get(&key(name)).await.unwrap().unwrap_or_else(|| panic!("{name} is lost"));
            assert!(record.revision.0 >= *acknowledged, "{name} went back from {acknowledged} to {}", record.revision);
        }
        let (oldest, events) = whole_log(store).await.unwrap();
        assert_eq!(events.iter().map(|e| e.record.revision.0).collect::<Vec<_>>(), (oldest.0 + 1..=now).collect::<Vec<_>>());
        for event in events.iter().filter(|event| said.contains_key(&event.record.revision.0)) {
            assert_eq!(event.record.key, key(&said[&event.record.revision.0]));
        }
        self.revision = now;
        self.all += said.len() as u64;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_writers_lose_nothing_acknowledged() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 200 } else { 12 };
    let (mut dir, mut told, mut all) = (tempfile::tempdir().unwrap(), Told::default(), 0);
    for round in 0..rounds {
        let mode = MODES[round % MODES.len()];
        if random.random_bool(0.1) {
            // From nothing: the first opening is killed too.
            all += told.all;
            (dir, told) = (tempfile::tempdir().unwrap(), Told::default());
        }
        let child = start_child(dir.path(), mode);
        let is_early = random.random_bool(0.2);
        let kill_at = if is_early { 0 } else { random.random_range(1..400) };
        let then = Duration::from_micros(random.random_range(0..if is_early { 40_000 } else { 3_000 }));
        let said = spawn_blocking(move || kill_after(child, kill_at, then)).await.unwrap();
        assert!(said.len() >= kill_at, "the child ended by itself");
        let store = RedbStore::open(dir.path(), config(mode)).unwrap_or_else(|error| panic!("round {round}, {mode:?}: {error:?}"));
        told.check(&store, &said).await;
        store.close().await;
    }
    println!("{rounds} kills, {} acknowledgements, none lost", all + told.all);
}
