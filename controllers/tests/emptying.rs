//! A Namespace full of objects is emptied in few requests, with one write for each object, and others are served meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::time::{Duration, Instant};

use gantry_api::kinds::core::{ConfigMap, Namespace};
use gantry_apiserver::auth::Identity;
use gantry_client::{Api, Client, DeleteParams, Lines, Patch, WriteParams};
use gantry_controllers::{Config, run};
use http::Method;
use serde_json::{Value, json};
use server::Server;
use tokio_util::sync::CancellationToken;

/// Longest wait for a Namespace to come or go.
const PATIENCE: Duration = Duration::from_secs(300);

/// Of every ten objects one is a Container.
fn object(n: usize) -> Value {
    let metadata = json!({"name": format!("o{n}"), "namespace": "full"});
    if n.is_multiple_of(10) {
        json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": metadata, "spec": {"imageName": "none"}})
    } else {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": "x".repeat(512)}})
    }
}

async fn namespace(client: &Client, name: &str) {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    Api::<Namespace>::all(client).create(&namespace, &WriteParams::default()).await.unwrap();
}

/// Requests of a verb so far.
async fn requests(client: &Client, verb: &str) -> f64 {
    let answer = client.request_raw(Method::GET, "/metrics", None, gantry_client::body::empty()).await.unwrap();
    let mut lines = Lines::new(answer.into_body(), 1 << 20);
    let mut sum = 0.0;
    while let Some(line) = lines.next().await.unwrap() {
        let line = String::from_utf8(line.to_vec()).unwrap();
        if line.starts_with(&format!("apiserver_request_total{{verb=\"{verb}\"")) {
            sum += line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    sum
}

/// Writes one object again and again until told to stop; gives back how long each took.
async fn bystander(client: Client, stop: CancellationToken) -> Vec<Duration> {
    let api = Api::<ConfigMap>::namespaced(&client, "other");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("mine".to_owned());
    api.create(&map, &WriteParams::default()).await.unwrap();
    let mut took = Vec::new();
    while !stop.is_cancelled() {
        let begin = Instant::now();
        let patch = Patch::Merge(json!({"data": {"n": took.len().to_string()}}));
        api.patch("mine", &patch, &WriteParams::default()).await.unwrap();
        took.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_namespace_is_emptied_without_a_storm() {
    let objects = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 10_000 } else { 600 };
    let server = Server::start().await;
    let client = server.client(Identity::admin(), "test");
    namespace(&client, "full").await;
    namespace(&client, "other").await;
    let all: Vec<Value> = (0..objects).map(object).collect();
    for some in all.chunks(500) {
        let request = json!({"spec": {"objects": some, "fieldManager": "test"}});
        client.request_json(Method::POST, "/apis/gantry.dev/v1/applyrequests", Some(&request)).await.unwrap();
    }
    let stop = CancellationToken::new();
    let controllers = tokio::spawn(run(server.client(Identity::controllers(), "controllers"), Config::default(), stop.clone()));
    let namespaces = Api::<Namespace>::all(&client);
    let waits = |name: &'static str, there: bool| {
        let namespaces = namespaces.clone();
        async move {
            tokio::time::timeout(PATIENCE, namespaces.wait_for(name, |namespace| namespace.is_some() == there)).await.unwrap().unwrap()
        }
    };
    waits("default", true).await;

    let (quiet, before) = (CancellationToken::new(), server.revision());
    let bystander = tokio::spawn(bystander(server.client(Identity::admin(), "bystander"), quiet.clone()));
    let begin = Instant::now();
    namespaces.delete("full", &DeleteParams::default()).await.unwrap();
    waits("full", false).await;
    let took = begin.elapsed();
    quiet.cancel();
    let others = bystander.await.unwrap();
    let writes = (server.revision() - before) as usize - others.len() - 1;
    let slices = requests(&client, "DELETECOLLECTION").await;
    let p99 = others[others.len() * 99 / 100];
    eprintln!("{objects} objects: {took:?}, {writes} writes, {slices} requests; others' writes: p99 {p99:?}, most {:?}", others.last());
    // One for each object, a status for each Container, and the Namespace's own few.
    assert!(writes <= objects + 3 * objects / 10 + 20, "{writes} writes");
    // Seven kinds and Events, each looked at again a few times while the informers follow.
    assert!(slices <= objects as f64 / 500.0 * 3.0 + 40.0, "{slices} requests");
    stop.cancel();
    controllers.await.unwrap();
}
