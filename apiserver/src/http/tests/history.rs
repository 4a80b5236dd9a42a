//! Random histories of concurrent HTTP requests, judged by the model of [`crate::cache::history`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use http_body_util::BodyExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Harness, JSON, MERGE, container};
use crate::cache::history::watch::{self, Begin, Heard, Stretch, Type};
use crate::cache::history::{Call, Clock, Did, Outcome, Seen, Token, Truth, Wanted, What, Write, check, rounds, token_of};
use crate::cache::{CacheConfig, FieldSelector, LabelSelector, Selection};
use crate::store::Key;

const RESOURCE: &str = "gantry.dev/containers";
const ALL: &str = "/apis/gantry.dev/v1/containers";
const CLIENTS: u64 = 5;
const WATCHERS: u64 = 3;
const CALLS: usize = 25;
/// At a time; each waits for its watches most of the time.
const TOGETHER: usize = 10;

struct History {
    api: Harness,
    clock: Clock,
    tokens: AtomicU64,
    over: CancellationToken,
}

fn keys() -> Vec<Key> {
    ["shop", "yard"].iter().flat_map(|namespace| ["a", "b", "c"].map(|name| Key::new(RESOURCE, *namespace, name))).collect()
}

fn collection(key: &Key) -> String {
    format!("/apis/gantry.dev/v1/namespaces/{}/containers", key.namespace)
}

fn path(key: &Key) -> String {
    format!("{}/{}", collection(key), key.name)
}

fn object(rng: &mut StdRng, key: &Key, token: Token) -> Value {
    let (color, image) = (["red", "blue"].choose(rng).unwrap(), ["n1", "n2"].choose(rng).unwrap());
    let mut object = container(&key.name);
    object["metadata"]["namespace"] = (*key.namespace).into();
    object["metadata"]["labels"] = json!({"color": color});
    object["spec"] = json!({"hostname": format!("t{token}"), "imageName": image});
    object
}

/// A selection, and the URL that asks for it.
fn selection(rng: &mut StdRng) -> (Selection, String) {
    let (mut selection, mut url) = (Selection::default(), format!("{ALL}?"));
    if rng.random_bool(0.3) {
        (selection, url) = (Selection::namespace("shop"), format!("{}?", collection(&keys()[0])));
    }
    if rng.random_bool(0.4) {
        selection.labels = LabelSelector::parse("color=red").unwrap();
        url.push_str("labelSelector=color%3Dred&");
    }
    if rng.random_bool(0.3) {
        let field = ["spec.imageName=n1", "metadata.name=a"].choose(rng).unwrap();
        selection.fields = FieldSelector::parse(field).unwrap();
        url.push_str(&format!("fieldSelector={}&", field.replace('=', "%3D")));
    }
    (selection, url)
}

fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn seen(object: &Value) -> Seen {
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    let key = Key::new(RESOURCE, text("namespace"), text("name"));
    Seen { key, revision: revision_of(object), token: token_of(object.to_string().as_bytes()) }
}

impl History {
    fn token(&self) -> Token {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    async fn write(&self, rng: &mut StdRng) -> Call {
        let key = keys().choose(rng).unwrap().clone();
        let token = self.token();
        let current = self.api.server.cache.get(&key).map(|entry| entry.revision.0.saturating_sub(u64::from(rng.random_bool(0.1))));
        let mut body = object(rng, &key, token);
        let json = [("content-type", JSON)];
        let one = |wanted, what| vec![Write { key: key.clone(), wanted, what }];
        let choice = rng.random_range(0..10);
        let invoked;
        let (writes, answer) = match current {
            _ if choice < 2 => {
                let mut keys = keys();
                keys.shuffle(rng);
                keys.truncate(rng.random_range(1..=4));
                let tokens: Vec<Token> = keys.iter().map(|_| self.token()).collect();
                let objects: Vec<Value> = keys.iter().zip(&tokens).map(|(key, token)| object(rng, key, *token)).collect();
                let request = json!({"spec": {"objects": objects, "force": true, "fieldManager": "history"}});
                invoked = self.clock.now();
                let answer = self.api.post("/apis/gantry.dev/v1/applyrequests", request).await;
                let put = |(key, token): (Key, Token)| Write { key, wanted: Wanted::Any, what: What::Put(token) };
                (keys.into_iter().zip(tokens).map(put).collect(), answer)
            }
            Some(at) if choice < 4 => {
                let options = json!({"preconditions": {"resourceVersion": at.to_string()}}).to_string();
                invoked = self.clock.now();
                (one(Wanted::At(at), What::Delete(None)), self.api.call("DELETE", &path(&key), &json, options).await)
            }
            Some(_) if choice < 6 => {
                let patch = json!({"spec": body["spec"], "metadata": {"labels": body["metadata"]["labels"]}}).to_string();
                invoked = self.clock.now();
                (one(Wanted::Present, What::Put(token)), self.api.call("PATCH", &path(&key), &[("content-type", MERGE)], patch).await)
            }
            Some(at) => {
                body["metadata"]["resourceVersion"] = at.to_string().into();
                invoked = self.clock.now();
                (one(Wanted::At(at), What::Put(token)), self.api.call("PUT", &path(&key), &json, body.to_string()).await)
            }
            None => {
                invoked = self.clock.now();
                (one(Wanted::Absent, What::Put(token)), self.api.call("POST", &collection(&key), &json, body.to_string()).await)
            }
        };
        let returned = self.clock.now();
        let outcome = match answer.status.as_u16() {
            200 | 201 => {
                let body = answer.json();
                Outcome::Done((body["kind"] == "Container").then(|| vec![revision_of(&body)]))
            }
            // The server gave up after so many races: nothing was done, though nothing stood against it.
            409 if writes.iter().all(|write| matches!(write.wanted, Wanted::Any | Wanted::Present)) => Outcome::Unknown,
            404 | 409 => Outcome::Refused,
            other => panic!("{other}: {}", answer.text),
        };
        Call { invoked, returned, did: Did::Write(writes, outcome) }
    }

    async fn read(&self, rng: &mut StdRng) -> Call {
        if rng.random_bool(0.4) {
            let key = keys().choose(rng).unwrap().clone();
            let invoked = self.clock.now();
            let answer = self.api.get(&path(&key)).await;
            let returned = self.clock.now();
            let found = (answer.status != 404).then(|| seen(&answer.is(200)));
            return Call { invoked, returned, did: Did::Get(key, found) };
        }
        let (selection, url) = selection(rng);
        let limit = if rng.random_bool(0.5) { 2 } else { 0 };
        let (mut token, mut found, mut revision, mut returned) = (String::new(), Vec::new(), 0, 0);
        let invoked = self.clock.now();
        loop {
            let list = self.api.get(&format!("{url}limit={limit}&continue={token}")).await.is(200);
            returned = if returned == 0 { self.clock.now() } else { returned };
            assert!(revision == 0 || revision == revision_of(&list), "pages of different revisions");
            revision = revision_of(&list);
            found.extend(list["items"].as_array().unwrap().iter().map(seen));
            match list["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        Call { invoked, returned, did: Did::List { resource: RESOURCE, selection, revision, found, fresh: true } }
    }

    async fn client(self: Arc<Self>, seed: u64) -> Vec<Call> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            calls.push(if rng.random_bool(0.6) { self.write(&mut rng).await } else { self.read(&mut rng).await });
            tokio::task::yield_now().await;
        }
        calls
    }

    async fn watcher(self: Arc<Self>, seed: u64) -> (Selection, Vec<Stretch>) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (selection, url) = selection(&mut rng);
        let mut stretches: Vec<Stretch> = Vec::new();
        loop {
            let resume = stretches.last().and_then(Stretch::reached);
            let (begin, start) = match resume {
                Some(revision) => (Begin::After(revision), format!("resourceVersion={revision}")),
                None => (Begin::Initial, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned()),
            };
            // A watch that begins when all is over is the last one: it ends with a bookmark.
            let last = self.over.is_cancelled();
            let url = format!("{url}watch=true&allowWatchBookmarks=true&timeoutSeconds=1&{start}");
            let response = self.api.send("GET", &url, &[], Body::empty()).await;
            let heard = hear(&mut rng, response.into_body(), last).await;
            stretches.push(Stretch { begin, heard });
            if last && matches!(stretches.last().and_then(|s| s.heard.last()), Some(Heard::Bookmark(_))) {
                return (selection, stretches);
            }
        }
    }
}

/// Reads a watch to its end, or until it is cut.
async fn hear(rng: &mut StdRng, mut body: Body, last: bool) -> Vec<Heard> {
    let (mut heard, mut text) = (Vec::new(), Vec::new());
    let cut = rng.random_range(0..30);
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            let object = &event["object"];
            heard.push(match event["type"].as_str().unwrap() {
                "ADDED" => Heard::Event(Type::Added, seen(object)),
                "MODIFIED" => Heard::Event(Type::Modified, seen(object)),
                "DELETED" => Heard::Event(Type::Deleted, seen(object)),
                "BOOKMARK" if object["metadata"]["annotations"].is_object() => Heard::InitialEnd(revision_of(object)),
                "BOOKMARK" => Heard::Bookmark(revision_of(object)),
                // Too slow: it begins anew, from what it has.
                _ => return heard,
            });
            if heard.len() >= cut && !last {
                return heard;
            }
        }
    }
    heard
}

async fn history(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let config = CacheConfig { watcher_events: *[5, 1_000].choose(&mut rng).unwrap(), ..CacheConfig::default() };
    let api = Harness::empty(config).await;
    let namespaces: BTreeSet<String> = keys().iter().map(|key| key.namespace.to_string()).collect();
    for namespace in namespaces {
        api.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.is(201);
    }
    let history = Arc::new(History { api, clock: Clock::default(), tokens: AtomicU64::new(1), over: CancellationToken::new() });
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(history.clone().client(seed ^ (n + 1) << 32))).collect();
    let watchers: Vec<_> = (0..WATCHERS).map(|n| tokio::spawn(history.clone().watcher(seed ^ (n + 100) << 32))).collect();
    let mut calls = Vec::new();
    for client in clients {
        calls.extend(client.await.unwrap());
    }
    history.over.cancel();
    let mut truth = Truth::of(&**history.api.server.cache.store()).await;
    check(&mut truth, &calls);
    for watcher in watchers {
        let (selection, stretches) = watcher.await.unwrap();
        watch::check(&truth, RESOURCE, &selection, &stretches, true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn answers_and_watches_over_http_fit_one_order() {
    let first: u64 = rand::random();
    let seeds: Vec<u64> = (0..rounds(400) as u64).map(|n| first.wrapping_add(n)).collect();
    for some in seeds.chunks(TOGETHER) {
        let histories: Vec<_> = some.iter().map(|seed| (*seed, tokio::spawn(history(*seed)))).collect();
        for (seed, history) in histories {
            history.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}
