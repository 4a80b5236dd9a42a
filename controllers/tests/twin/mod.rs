//! A small twin of the API server: objects in memory, versions, watches, status, binding, finalizers and preconditions; no validation.
//!
//! It lets the controllers run on paused time without a store or a socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use gantry_client::body::full;
use gantry_client::{Body, Client, ClientError, Transport};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// The server's state; cloned handles share it.
#[derive(Clone)]
pub(crate) struct Twin(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Path, Value>,
    log: Vec<(u64, Path, &'static str, Value)>,
    uids: u64,
    /// Requests that wrote something, for tests that count.
    writes: u64,
}

/// Collection, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    collection: String,
    namespace: String,
    name: String,
}

struct Target {
    path: Path,
    part: String,
}

impl Twin {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), revision: watch::Sender::new(0) }))
    }

    pub(crate) fn client(&self, manager: &str) -> Client {
        Client::new(Arc::new(self.clone()), manager).with_seed(1)
    }

    /// How many writes changed something so far.
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let query: BTreeMap<String, String> = query(head.uri.query().unwrap_or_default());
        let target = target(head.uri.path());
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        if head.method == Method::GET && query.get("watch").is_some_and(|value| value == "true") {
            return self.watch(target.path, query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0));
        }
        let result = match head.method {
            Method::GET if target.path.name.is_empty() => Ok(self.list(&target.path)),
            Method::GET => self.get(&target.path),
            Method::POST if target.part == "binding" => self.modify(&target.path, |object| bind(object, &body)),
            Method::POST => self.create(target.path, body),
            Method::PATCH => self.modify(&target.path, |object| patch(object, &target.part, &body)),
            Method::PUT => self.modify(&target.path, |object| patch(object, &target.part, &body)),
            Method::DELETE => self.delete(&target.path, &body),
            _ => Err((405, "MethodNotAllowed")),
        };
        match result {
            Ok(value) => respond(StatusCode::OK, &value),
            Err((code, reason)) => {
                let status = json!({"kind": "Status", "code": code, "reason": reason, "message": format!("{reason}: {}", head.uri.path())});
                respond(StatusCode::from_u16(code).unwrap(), &status)
            }
        }
    }

    fn list(&self, within: &Path) -> Value {
        let state = self.lock();
        let items: Vec<&Value> = state.objects.iter().filter(|(path, _)| path.is_in(within)).map(|(_, object)| object).collect();
        json!({"kind": "List", "metadata": {"resourceVersion": self.0.revision.borrow().to_string()}, "items": items})
    }

    fn get(&self, path: &Path) -> Result<Value, Refusal> {
        self.lock().objects.get(path).cloned().ok_or((404, "NotFound"))
    }

    fn create(&self, within: Path, mut object: Value) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let path = Path { name: object["metadata"]["name"].as_str().unwrap().to_owned(), ..within };
        if state.objects.contains_key(&path) {
            return Err((409, "AlreadyExists"));
        }
        state.uids += 1;
        object["metadata"]["uid"] = json!(format!("{:08x}-0000-4000-8000-000000000000", state.uids));
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!("2024-01-01T00:00:00Z");
        if path.collection.ends_with("/namespaces") {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
        } else {
            object["metadata"]["namespace"] = json!(path.namespace);
        }
        if path.collection != "api/v1/nodes" {
            object.as_object_mut().unwrap().remove("status");
        }
        Ok(self.commit(&mut state, path, "ADDED", object))
    }

    fn modify(&self, path: &Path, change: impl FnOnce(&mut Value) -> Result<(), Refusal>) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let old = state.objects.get(path).cloned().ok_or((404, "NotFound"))?;
        let mut new = old.clone();
        change(&mut new)?;
        if new == old {
            return Ok(new);
        }
        if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let gone = !new["metadata"]["deletionTimestamp"].is_null() && !is_held(&new);
        Ok(self.commit(&mut state, path.clone(), if gone { "DELETED" } else { "MODIFIED" }, new))
    }

    fn delete(&self, path: &Path, options: &Value) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let mut object = state.objects.get(path).cloned().ok_or((404, "NotFound"))?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err((409, "Conflict"));
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let leaving = !object["metadata"]["deletionTimestamp"].is_null();
        if let Some(finalizer) = finalizer.filter(|_| !leaving) {
            let mut all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            all.push(json!(finalizer));
            object["metadata"]["finalizers"] = json!(all);
        }
        if !is_held(&object) {
            return Ok(self.commit(&mut state, path.clone(), "DELETED", object));
        }
        if leaving {
            return Ok(object);
        }
        object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:01Z");
        Ok(self.commit(&mut state, path.clone(), "MODIFIED", object))
    }

    fn commit(&self, state: &mut State, path: Path, event: &'static str, mut object: Value) -> Value {
        let revision = *self.0.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        match event {
            "DELETED" => drop(state.objects.remove(&path)),
            _ => drop(state.objects.insert(path.clone(), object.clone())),
        }
        state.log.push((revision, path, event, object.clone()));
        state.writes += 1;
        self.0.revision.send_replace(revision);
        object
    }

    fn watch(&self, within: Path, after: u64) -> Response<Body> {
        let revision = self.0.revision.subscribe();
        let frames = stream::unfold((self.clone(), revision, within, after), |(twin, mut revision, within, after)| async move {
            loop {
                let now = *revision.borrow_and_update();
                let lines: Vec<u8> = {
                    let state = twin.lock();
                    let new = state.log.iter().filter(|(at, path, ..)| *at > after && *at <= now && path.is_in(&within));
                    new.flat_map(|(_, _, event, object)| format!("{}\n", json!({"type": event, "object": object})).into_bytes()).collect()
                };
                if !lines.is_empty() {
                    let frame = http_body::Frame::data(Bytes::from(lines));
                    return Some((Ok(frame), (twin, revision, within, now)));
                }
                revision.changed().await.ok()?;
            }
        });
        let mut response = Response::new(BodyExt::boxed(SyncStream::wrap(StreamBody::new(frames))));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }
}

impl Transport for Twin {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(async move { Ok(self.answer(request).await) })
    }
}

/// Gives a body that is only `Send` the `Sync` that boxed bodies ask for.
struct SyncStream<B>(Mutex<std::pin::Pin<Box<B>>>);

impl<B> SyncStream<B> {
    fn wrap(body: B) -> Self {
        Self(Mutex::new(Box::pin(body)))
    }
}

impl<B: http_body::Body> http_body::Body for SyncStream<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.0.lock().unwrap().as_mut().poll_frame(context)
    }
}

type Refusal = (u16, &'static str);

impl Path {
    fn is_in(&self, within: &Self) -> bool {
        self.collection == within.collection && (within.namespace.is_empty() || self.namespace == within.namespace)
    }
}

fn respond(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `/api/v1/…` and `/apis/GROUP/VERSION/…`, with or without `namespaces/NAME`.
fn target(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (prefix, rest) = parts.split_at(if parts[0] == "api" { 2 } else { 3 });
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, ..] if !matches!(*plural, "status" | "finalize") => (*namespace, &rest[2..]),
        _ => ("", rest),
    };
    let at = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    let path = Path { collection: format!("{}/{}", prefix.join("/"), at(0)), namespace: namespace.to_owned(), name: at(1) };
    Target { path, part: at(2) }
}

fn is_held(object: &Value) -> bool {
    let any = |value: &Value| value.as_array().is_some_and(|all| !all.is_empty());
    any(&object["metadata"]["finalizers"]) || (object["kind"] == "Namespace" && any(&object["spec"]["finalizers"]))
}

fn patch(object: &mut Value, part: &str, change: &Value) -> Result<(), Refusal> {
    for field in ["uid", "resourceVersion"] {
        let wanted = &change["metadata"][field];
        if !wanted.is_null() && *wanted != object["metadata"][field] {
            return Err((409, "Conflict"));
        }
    }
    let mut merged = object.clone();
    merge(&mut merged, change);
    match part {
        "" => {
            merged["status"] = object["status"].take();
            if merged["status"].is_null() {
                merged.as_object_mut().unwrap().remove("status");
            }
            *object = merged;
        }
        "status" => object["status"] = merged["status"].take(),
        "finalize" => object["spec"]["finalizers"] = change["spec"]["finalizers"].clone(),
        _ => return Err((404, "NotFound")),
    }
    Ok(())
}

fn bind(object: &mut Value, body: &Value) -> Result<(), Refusal> {
    let node = body["nodeName"].as_str().unwrap();
    let current = object["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
    if !current.is_empty() && !node.is_empty() && current != node {
        return Err((409, "Conflict"));
    }
    if current == node {
        return Ok(());
    }
    merge(object, &json!({"status": {"nodeName": if node.is_empty() { Value::Null } else { json!(node) }}}));
    if !node.is_empty() {
        merge(object, &json!({"metadata": {"finalizers": ["gantry.dev/agent"]}}));
    }
    Ok(())
}

/// RFC 7386.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in change {
        match value {
            Value::Null => drop(target.remove(name)),
            value => merge(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}
