//! Watches: what they begin with, tell and end with.

use axum::body::Body;
use axum::http::Response;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::cache::CacheConfig;

use super::{CONTAINERS, Harness, container};

/// Reads events as they come.
struct Events(Body, Vec<u8>);

impl Events {
    async fn open(api: &Harness, query: &str) -> Self {
        let response: Response<Body> = api.send("GET", &format!("{CONTAINERS}?watch=true&{query}"), &[], Body::empty()).await;
        assert_eq!(response.status(), 200);
        Self(response.into_body(), Vec::new())
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.1.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.0.frame().await?.unwrap();
            self.1.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    async fn is(&mut self, type_: &str, name: &str) -> Value {
        let event = self.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&type_.into(), &name.into()), "{event}");
        event["object"].clone()
    }
}

#[tokio::test]
async fn begins_with_everything_or_after_a_revision() {
    let api = Harness::new().await;
    let made = api.post(CONTAINERS, container("a")).await.is(201);
    for query in ["", "resourceVersion=0", "resourceVersion=1"] {
        assert_eq!(Events::open(&api, query).await.is("ADDED", "a").await, made, "{query}");
    }
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = Events::open(&api, &format!("resourceVersion={revision}")).await;
    api.merge(&format!("{CONTAINERS}/a"), json!({"spec": {"hostname": "h"}})).await.is(200);
    events.is("MODIFIED", "a").await;
    api.delete(&format!("{CONTAINERS}/a"), json!({})).await.is(200);
    let last = events.is("DELETED", "a").await;
    assert_eq!(last["metadata"]["resourceVersion"], api.server.cache.revision().to_string());
}

#[tokio::test]
async fn a_selection_is_entered_and_left() {
    let api = Harness::new().await;
    let mut events = Events::open(&api, "labelSelector=on").await;
    api.post(CONTAINERS, container("a")).await.is(201);
    api.merge(&format!("{CONTAINERS}/a"), json!({"metadata": {"labels": {"on": "1"}}})).await.is(200);
    events.is("ADDED", "a").await;
    api.merge(&format!("{CONTAINERS}/a"), json!({"metadata": {"labels": null}})).await.is(200);
    events.is("DELETED", "a").await;
}

#[tokio::test(start_paused = true)]
async fn streaming_lists_bookmarks_and_the_end() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("a")).await.is(201);
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=90";
    let mut events = Events::open(&api, query).await;
    events.is("ADDED", "a").await;
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.is(201);
    let bookmark = events.next().await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&"BOOKMARK".into(), &"Container".into()));
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], api.server.cache.revision().to_string());
    assert_eq!(events.next().await, None, "time is up");
}

#[tokio::test]
async fn watches_of_other_forms() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("a")).await.is(201);
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
    ] {
        let response = api.send("GET", &format!("{CONTAINERS}?watch=1"), &[("accept", accept)], Body::empty()).await;
        let event = Events(response.into_body(), Vec::new()).next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["kind"]), (&"ADDED".into(), &kind.into()));
    }
}

#[tokio::test]
async fn impossible_starts() {
    let api = Harness::new().await;
    for (query, status) in [("resourceVersion=x", 400), ("resourceVersionMatch=NotOlderThan", 422), ("sendInitialEvents=true", 422)] {
        api.get(&format!("{CONTAINERS}?watch=true&{query}")).await.is(status);
    }
}

#[tokio::test]
async fn a_watch_from_before_the_history_says_that_it_is_gone() {
    let api = Harness::empty(CacheConfig { history_events: 2, ..CacheConfig::default() }).await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    for name in ["a", "b", "c"] {
        api.post(CONTAINERS, container(name)).await.is(201);
    }
    let mut events = Events::open(&api, "resourceVersion=1").await;
    let error = events.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!((&error["object"]["kind"], &error["object"]["code"]), (&"Status".into(), &410.into()), "{error}");
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_told_so_after_all_it_got() {
    let api = Harness::empty(CacheConfig { watcher_events: 2, ..CacheConfig::default() }).await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    let mut events = Events::open(&api, "resourceVersion=1").await;
    for name in ["a", "b", "c", "d"] {
        api.post(CONTAINERS, container(name)).await.is(201);
    }
    events.is("ADDED", "a").await;
    events.is("ADDED", "b").await;
    let error = events.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&"ERROR".into(), &410.into()), "{error}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn stopping_ends_watches_without_an_error() {
    let api = Harness::new().await;
    let mut events = Events::open(&api, "").await;
    api.stopping.cancel();
    assert_eq!(events.next().await, None);

    let api = Harness::new().await;
    let mut events = Events::open(&api, "").await;
    api.server.cache.close().await;
    assert_eq!(events.next().await, None);
}

/// etcd's 20221, seen by a client: a watch from a revision that lies ahead tells nothing from before it.
#[tokio::test]
async fn a_watch_from_the_future_begins_when_it_comes() {
    let api = std::sync::Arc::new(Harness::new().await);
    let ahead = api.server.cache.revision().0 + 2;
    let watching = api.clone();
    let open = tokio::spawn(async move { Events::open(&watching, &format!("resourceVersion={ahead}&allowWatchBookmarks=true")).await });
    // The watch has asked, and waits.
    tokio::task::yield_now().await;
    for name in ["a", "b", "c"] {
        api.post(CONTAINERS, container(name)).await.is(201);
    }
    open.await.unwrap().is("ADDED", "c").await;
}

#[tokio::test]
async fn a_watch_cut_after_every_event_of_an_applied_file_resumes_without_gap_or_repeat() {
    const OBJECTS: usize = 50;
    let api = Harness::new().await;
    let before = api.server.cache.revision().0;
    let objects: Vec<Value> = (0..OBJECTS).map(|n| container(&format!("c{n:02}"))).collect();
    let request = json!({"spec": {"objects": objects, "fieldManager": "test"}});
    api.post("/apis/gantry.dev/v1/applyrequests", request).await.is(201);
    assert_eq!(api.server.cache.revision().0, before + OBJECTS as u64, "a number for each");
    for cut in 0..=OBJECTS {
        let mut seen = Vec::new();
        let mut after = before;
        for (begin, end) in [(0, cut), (cut, OBJECTS)] {
            let mut events = Events::open(&api, &format!("resourceVersion={after}")).await;
            for n in begin..end {
                let object = events.is("ADDED", &format!("c{n:02}")).await;
                after = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                seen.push(after);
            }
        }
        assert_eq!(seen, (before + 1..=before + OBJECTS as u64).collect::<Vec<_>>(), "cut after {cut}");
    }
}
