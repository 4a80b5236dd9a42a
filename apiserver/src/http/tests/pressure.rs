//! More requests than can be served, disks that take long, clients that do not read: what is refused, and who is not held up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Answer, CONTAINERS, Harness, JSON, container};
use crate::auth::Identity;
use crate::cache::CacheConfig;
use crate::http::{FlowLimits, GateLimits};
use crate::server::{Listeners, ServerConfig};
use crate::store::memory::MemoryStore;
use crate::store::{Capabilities, CommitError, Event, Health, Key, Op, ReadError, Record, Revision, Snapshot, Store};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// A commit on the slow disk.
const COMMIT: Duration = Duration::from_millis(200);

/// A disk on which every commit takes [`COMMIT`].
struct SlowDisk(MemoryStore);

impl Store for SlowDisk {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>> {
        async move {
            tokio::time::sleep(COMMIT).await;
            self.0.commit(ops).await
        }
        .boxed()
    }
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>> {
        self.0.get(key)
    }
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>> {
        self.0.snapshot()
    }
    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>> {
        self.0.events(after, limit)
    }
    fn revision(&self) -> watch::Receiver<Revision> {
        self.0.revision()
    }
    fn oldest(&self) -> Revision {
        self.0.oldest()
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.0.health()
    }
    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.compact(through)
    }
}

fn limits(seats: usize, waiting: usize) -> FlowLimits {
    let gate = GateLimits { seats, seats_per_flow: seats, waiting, waiting_per_flow: waiting, patience: Duration::from_secs(5) };
    FlowLimits { reads: gate, writes: gate, engine_reads: gate, engine_writes: gate, watches: 2, engine_watches: 1 }
}

/// A server on the slow disk, with a namespace.
async fn slow(limits: &FlowLimits) -> Arc<Harness> {
    let api = Harness::over(Arc::new(SlowDisk(MemoryStore::new())), CacheConfig::default(), limits).await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    Arc::new(api)
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

/// Begins to create; `agent` tells programs apart.
fn creates(api: &Arc<Harness>, agent: &'static str, names: std::ops::Range<usize>) -> Vec<JoinHandle<(Answer, Instant)>> {
    let create = |name: usize| {
        let api = api.clone();
        async move {
            let headers = [("content-type", JSON), ("user-agent", agent)];
            let answer = api.call("POST", MAPS, &headers, map(&format!("{agent}-{name}")).to_string()).await;
            (answer, Instant::now())
        }
    };
    names.map(|name| tokio::spawn(create(name))).collect()
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn reads_do_not_wait_for_a_slow_disk() {
    let api = slow(&FlowLimits::default()).await;
    let writes = creates(&api, "flood", 0..400);
    settle().await;
    let begin = Instant::now();
    for _ in 0..100 {
        api.get("/api/v1/namespaces/default").await.is(200);
        api.get(MAPS).await.is(200);
    }
    assert_eq!(begin.elapsed(), Duration::ZERO, "time stands still while there is something to do");
    assert!(writes.iter().all(|write| !write.is_finished()));
    for write in writes {
        write.await.unwrap().0.is(201);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_soon_is_refused_with_a_time_to_try_again() {
    let api = slow(&limits(2, 3)).await;
    let mut answers = Vec::new();
    for write in creates(&api, "flood", 0..9) {
        answers.push(write.await.unwrap().0);
    }
    let (refused, served): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 429);
    assert_eq!((served.len(), refused.len()), (5, 4));
    served.into_iter().for_each(|answer| drop(answer.is(201)));
    for answer in refused {
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        let status = answer.is(429);
        assert_eq!((&status["reason"], &status["details"]["retryAfterSeconds"]), (&"TooManyRequests".into(), &1.into()), "{status}");
    }
    api.post(MAPS, map("later")).await.is(201);
}

#[tokio::test(start_paused = true)]
async fn who_floods_keeps_nobody_else_waiting() {
    let limits = limits(4, 400);
    let api = slow(&limits).await;
    let flood = creates(&api, "flood", 0..200);
    settle().await;
    let begin = Instant::now();
    let mut other = creates(&api, "other", 0..1);
    let (answer, at) = other.remove(0).await.unwrap();
    answer.is(201);
    assert!(at - begin <= 2 * COMMIT, "{:?}", at - begin);
    assert!(flood.iter().filter(|write| write.is_finished()).count() <= 8);
    flood.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn users_cannot_keep_the_engine_from_its_work() {
    let api = slow(&limits(2, 2)).await;
    let flood = creates(&api, "flood", 0..4);
    settle().await;
    api.post(MAPS, map("one-more")).await.is(429);
    let begin = Instant::now();
    let controllers = api.seen_by(Identity::controllers());
    controllers.post("/api/v1/namespaces", json!({"metadata": {"name": "made-by-controllers"}})).await.is(201);
    assert!(begin.elapsed() <= COMMIT);
    for path in ["/livez", "/readyz", "/version"] {
        assert_eq!(api.seen_by(Identity::anonymous()).get(path).await.status, 200, "{path}");
    }
    for write in flood {
        write.await.unwrap().0.is(201);
    }
}

#[tokio::test]
async fn watches_take_no_seat_and_are_bounded() {
    let api = Harness::over(Arc::new(MemoryStore::new()), CacheConfig::default(), &limits(1, 1)).await;
    let watch = |api: Harness| async move { api.send("GET", "/api/v1/configmaps?watch=true", &[], Body::empty()).await };
    let first = watch(api.seen_by(Identity::admin())).await;
    let second = watch(api.seen_by(Identity::admin())).await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let third = api.get("/api/v1/configmaps?watch=true").await;
    assert_eq!(third.headers[header::RETRY_AFTER], "1");
    assert_eq!(third.is(429)["reason"], "TooManyRequests");
    assert_eq!(watch(api.seen_by(Identity::controllers())).await.status(), 200, "the engine has its own");
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    drop(first);
    assert_eq!(watch(api.seen_by(Identity::admin())).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_gives_its_seat_back() {
    let api = Arc::new(Harness::over(Arc::new(MemoryStore::new()), CacheConfig::default(), &limits(1, 1)).await);
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    let never = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>());
    let stuck = api.call("POST", MAPS, &[("content-type", JSON)], never).await;
    assert_eq!(stuck.is(408)["reason"], "Timeout");
    api.post(MAPS, map("a")).await.is(201);
}

#[tokio::test]
async fn objects_too_large_are_refused_with_a_sentence() {
    let api = Harness::new().await;
    let large = |kib: usize| {
        let mut object = container("large");
        object["spec"]["args"] = json!(["x".repeat(kib * 1024)]);
        object
    };
    let status = api.post(CONTAINERS, large(1_600)).await.is(413);
    assert_eq!(status["reason"], "RequestEntityTooLarge");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("the object has 16") && message.ends_with("bytes, at most 1572864 are possible"), "{message}");
    let status = api.post(CONTAINERS, large(3_200)).await.is(413);
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
    api.get(&format!("{CONTAINERS}/large")).await.is(404);
}

/// A server on a real socket.
struct Served {
    api: Harness,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn new(config: CacheConfig) -> Self {
        let api = Harness::over(Arc::new(MemoryStore::new()), config, &FlowLimits::default()).await;
        api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path());
        config.socket = Some(dir.path().join("socket"));
        config.grace = Duration::from_millis(100);
        let listeners = Listeners::bind(&config, jiff::Timestamp::now()).await.unwrap();
        let stop = CancellationToken::new();
        // Whoever runs the test is the administrator.
        let router = api.router.clone().layer(axum::Extension(Identity::admin()));
        let task = tokio::spawn(listeners.serve(router, stop.clone()));
        Self { api, dir, stop, task }
    }

    /// Opens a watch and reads nothing of its answer.
    async fn watch(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("socket")).await.unwrap();
        let request = format!("GET {MAPS}?watch=true HTTP/1.1\r\nhost: gantry\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// The events in an HTTP answer of chunks.
fn events(answer: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(answer);
    text.lines().filter(|line| line.starts_with("{\"type\"")).map(|line| serde_json::from_str(line.trim_end()).unwrap()).collect()
}

/// The client gets all that fits into its queue, then a 410, and others do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_gets_no_gap_and_holds_up_nobody() {
    const EVENTS: usize = 400;
    let served = Served::new(CacheConfig { watcher_events: 50, ..CacheConfig::default() }).await;
    let mut stalled = served.watch().await;
    let mut quick = served.api.send("GET", &format!("{MAPS}?watch=true"), &[], Body::empty()).await.into_body();
    while served.api.server.cache.watchers() < 2 {
        tokio::task::yield_now().await;
    }
    for n in 0..EVENTS {
        let object = json!({"metadata": {"name": format!("m{n}")}, "data": {"text": "x".repeat(8 * 1024)}});
        served.api.post(MAPS, object).await.is(201);
        let frame = quick.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(event["object"]["metadata"]["name"], format!("m{n}"));
    }
    assert_eq!(served.api.server.cache.watchers(), 1, "the one that does not read was ended");
    let mut answer = Vec::new();
    stalled.read_to_end(&mut answer).await.unwrap();
    let told = events(&answer);
    let (last, before) = told.split_last().unwrap();
    assert_eq!((&last["type"], &last["object"]["code"]), (&"ERROR".into(), &410.into()), "{last}");
    assert!(before.len() >= 50 && before.len() < EVENTS, "{}", before.len());
    for (n, event) in before.iter().enumerate() {
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &format!("m{n}").into()));
    }
    served.stop.cancel();
    served.task.await.unwrap();
}

/// Each event is encoded once for each form, however many watch.
#[tokio::test]
async fn watchers_of_one_form_share_its_encoding() {
    let api = Harness::new().await;
    let forms = [
        "application/json",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ];
    let mut watchers = Vec::new();
    for form in forms {
        for _ in 0..20 {
            let watch = api.send("GET", &format!("{CONTAINERS}?watch=true"), &[("accept", form)], Body::empty()).await;
            watchers.push((form, watch.into_body()));
        }
    }
    let mut before = 0;
    for n in 0..10 {
        let name = format!("c{n}");
        api.post(CONTAINERS, container(&name)).await.is(201);
        for (form, watch) in &mut watchers {
            let frame = watch.frame().await.unwrap().unwrap().into_data().unwrap();
            let event: Value = serde_json::from_slice(&frame).unwrap();
            let is_table = form.contains("Table");
            let object = if is_table { &event["object"]["rows"][0]["object"] } else { &event["object"] };
            assert_eq!((&event["type"], &object["metadata"]["name"]), (&"ADDED".into(), &name.as_str().into()), "{event}");
            assert_eq!(event["object"]["columnDefinitions"].is_array(), is_table && n == 0, "only the first table names its columns");
        }
        if n == 0 {
            before = api.server.frames.encoded();
        }
    }
    assert_eq!(api.server.frames.encoded() - before, 9 * forms.len() as u64);
}
