//! What stands in an Image's status when it cannot be pulled, and what ends the wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use gantry_client::{Api, Client, Informer, ListParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::controller::serve;
use super::real::{HTPASSWD, Served};
use super::{Node, small_image, small_image_of};

/// An API server with one Image, no Container and at most one Secret.
struct Server {
    image: watch::Sender<Value>,
    secret: watch::Sender<Value>,
}

impl Server {
    /// With an Image of the reference that this node, `n`, is to resolve.
    fn new(reference: &str) -> Arc<Self> {
        let image = json!({
            "apiVersion": "gantry.dev/v1", "kind": "Image",
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "generation": 1, "resourceVersion": "1"},
            "spec": {"source": {"registry": {"reference": reference, "pullSecretName": "login"}}},
            "status": {"resolverNodeName": "n"}
        });
        Arc::new(Self { image: watch::Sender::new(image), secret: watch::Sender::new(Value::Null) })
    }

    fn put_secret(&self, version: &str, registry: &str, password: &str) {
        let config = json!({"auths": {registry: {"username": "user", "password": password}}}).to_string();
        let data = base64::engine::general_purpose::STANDARD.encode(config);
        self.secret.send_replace(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login", "namespace": "default", "resourceVersion": version},
            "data": {".dockerconfigjson": data}
        }));
    }

    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let watches = head.uri.query().is_some_and(|query| query.contains("watch=true"));
        let json = |status: StatusCode, value: &Value| {
            Response::builder().status(status).header("content-type", "application/json").body(Body::from(value.to_string())).unwrap()
        };
        let list = |items: Vec<Value>| json(StatusCode::OK, &json!({"metadata": {"resourceVersion": "1"}, "items": items}));
        match (head.method.as_str(), head.uri.path(), watches) {
            ("GET", "/api/v1/namespaces/default/secrets", true) => Response::new(self.secret_events()),
            ("GET", _, true) => Response::new(Body::from_stream(futures_util::stream::pending::<Result<String, Infallible>>())),
            ("GET", "/api/v1/namespaces/default/secrets/login", _) => {
                let secret = self.secret.borrow().clone();
                let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
                if secret.is_null() { json(StatusCode::NOT_FOUND, &missing) } else { json(StatusCode::OK, &secret) }
            }
            ("GET", "/apis/gantry.dev/v1/images", _) => list(vec![self.image.borrow().clone()]),
            ("GET", ..) => list(Vec::new()),
            _ => {
                let patch = serde_json::from_slice(&axum::body::to_bytes(body, 1 << 20).await.unwrap()).unwrap();
                self.image.send_modify(|image| {
                    let next = image["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() + 1;
                    merge(image, &patch);
                    image["metadata"]["resourceVersion"] = next.to_string().into();
                });
                json(StatusCode::OK, &self.image.borrow())
            }
        }
    }

    fn secret_events(&self) -> Body {
        let mut secrets = self.secret.subscribe();
        secrets.mark_changed();
        Body::from_stream(futures_util::stream::unfold(secrets, |mut secrets| async move {
            secrets.changed().await.ok()?;
            let secret = secrets.wait_for(|secret| !secret.is_null()).await.ok()?.clone();
            let line = format!("{}\n", json!({"type": "MODIFIED", "object": secret}));
            Some((Ok::<_, Infallible>(line), secrets))
        }))
    }

    /// Waits until the Image is as wanted.
    async fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut images = self.image.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(30), images.wait_for(wanted)).await;
        match found {
            Ok(image) => image.unwrap().clone(),
            Err(_) => panic!("{what}: {:#}", *self.image.borrow()),
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], change);
        }
    }
}

/// Serves the Image of `server` with a wait after failures that no test outlives, until the token is dropped.
fn run(server: &Arc<Server>, node: Node) -> (tokio_util::sync::DropGuard, tokio::task::JoinHandle<Node>) {
    let stop = CancellationToken::new();
    let api = server.clone();
    let router = axum::Router::new().fallback(move |request: Request| api.clone().answer(request));
    let client = Client::in_process(router, "test", |_| {});
    let guard = stop.clone().drop_guard();
    let Node { dir, content, service } = node;
    let service = Arc::new(service);
    let task = tokio::spawn(async move {
        let images = Informer::start(Api::all(&client), ListParams::default(), stop.clone());
        let containers = Informer::start(Api::all(&client), ListParams::default(), stop.clone());
        serve(client, service.clone(), "n".to_owned(), (images, containers), Duration::from_secs(3600), stop).await;
        let service = Arc::into_inner(service).expect("all workers have ended");
        Node { dir, content, service }
    });
    (guard, task)
}

/// The condition `Resolved`, as `reason: message`.
fn resolved(image: &Value) -> String {
    let conditions = image["status"]["conditions"].as_array().into_iter().flatten();
    let mut texts = conditions.filter(|condition| condition["type"] == "Resolved");
    texts.next().map(|c| format!("{}: {}", c["reason"].as_str().unwrap(), c["message"].as_str().unwrap())).unwrap_or_default()
}

fn phase(image: &Value) -> &str {
    image["status"]["nodes"][0]["phase"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_secret_that_appears_or_changes_ends_the_wait() {
    let registry = Served::start(Some(HTPASSWD)).await;
    let (layer, config) = small_image(b"x");
    registry.push("private:1", &layer, &config, &["--dest-creds", "user:secret"]);
    let reference = registry.reference("private:1");
    let host = reference.split('/').next().unwrap();
    let server = Server::new(&reference);
    let (guard, task) = run(&server, Node::new());
    let image = server.wait("refused without the Secret", |image| resolved(image).starts_with("Unauthorized")).await;
    for part in ["GET http://", "/v2/private/manifests/1: 401", "`login` is not in the namespace", "pullSecretName"] {
        assert!(resolved(&image).contains(part), "{part}: {}", resolved(&image));
    }
    server.put_secret("7", host, "wrong");
    let refused = |image: &Value| resolved(image).starts_with("Unauthorized") && !resolved(image).contains("not in the namespace");
    server.wait("refused with the wrong password", refused).await;
    server.put_secret("8", host, "secret");
    server.wait("present", |image| phase(image) == "Present" && resolved(image).starts_with("Resolved")).await;
    drop(guard);
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_no_container_could_use_is_named_with_its_remedy_and_not_kept() {
    let registry = Served::start(None).await;
    let (layer, config) = small_image_of(b"x", 70_000);
    registry.push("high:1", &layer, &config, &[]);
    let server = Server::new(&registry.reference("high:1"));
    let (guard, task) = run(&server, Node::new());
    let image = server.wait("failed", |image| phase(image) == "Failed").await;
    let message = image["status"]["nodes"][0]["message"].as_str().unwrap();
    for part in ["`bin/program`", "uid 70000 is above 65535", "`chown`", "nothing of the layer was kept"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    drop(guard);
    task.await.unwrap().assert_no_layer();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_registry_and_who_does_not_answer_stand_in_the_condition() {
    let registry = Served::start(None).await;
    let gone = registry.reference("gone:1");
    let server = Server::new(&gone);
    let (guard, task) = run(&server, Node::new());
    let image = server.wait("not found", |image| resolved(image).starts_with("ImageNotInRegistry")).await;
    assert!(resolved(&image).contains("/v2/gone/manifests/1: 404"), "{}", resolved(&image));
    drop((guard, registry));
    task.await.unwrap();
    let server = Server::new(&gone);
    let (guard, task) = run(&server, Node::new());
    let image = server.wait("unavailable", |image| resolved(image).starts_with("RegistryUnavailable")).await;
    assert!(resolved(&image).contains("GET http://127.0.0.1:"), "{}", resolved(&image));
    drop(guard);
    task.await.unwrap();
}
