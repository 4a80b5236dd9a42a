//! The engine's own identities over HTTP, health, and why a stream cannot be had.

use serde_json::{Value, json};

use super::{CONTAINERS, Harness, container};
use crate::auth::Identity;
use crate::cache::CacheConfig;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const IMAGES: &str = "/apis/gantry.dev/v1/namespaces/default/images";

/// Makes a container of this spec that is bound to the node `here`.
async fn bound(api: &Harness, name: &str, spec: Value) {
    let mut object = container(name);
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    api.post(CONTAINERS, object).await.is(201);
    api.post(&format!("{CONTAINERS}/{name}/binding"), json!({"nodeName": "here"})).await.is(201);
}

#[tokio::test]
async fn an_agent_reads_only_secrets_that_its_containers_refer_to() {
    let api = Harness::new().await;
    for name in ["pull", "from", "value", "mount", "map", "image", "resolve", "other"] {
        api.post(SECRETS, json!({"metadata": {"name": name}, "stringData": {"k": "v"}})).await.is(201);
        api.post(MAPS, json!({"metadata": {"name": name}, "data": {"k": "v"}})).await.is(201);
    }
    let (here, there) = (api.seen_by(Identity::node("here")), api.seen_by(Identity::node("there")));
    here.get(&format!("{SECRETS}/pull")).await.is(403);
    bound(&api, "a", json!({"pullSecretName": "pull", "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "map"}}]}))
        .await;
    let value = json!([{"name": "V", "valueFrom": {"secretKeyRef": {"name": "value", "key": "k"}}}]);
    bound(&api, "b", json!({"env": value, "mounts": [{"mountPath": "/m", "secret": {"name": "mount"}}]})).await;
    let registry = |secret: &str| json!({"source": {"registry": {"reference": secret, "pullSecretName": secret}}});
    for name in ["image", "resolve"] {
        api.post(IMAGES, json!({"apiVersion": "gantry.dev/v1", "kind": "Image", "metadata": {"name": name}, "spec": registry(name)}))
            .await
            .is(201);
    }
    api.merge(&format!("{IMAGES}/resolve/status"), json!({"status": {"resolverNodeName": "here"}})).await.is(200);
    bound(&api, "c", json!({"image": null, "imageName": "image"})).await;

    for name in ["pull", "from", "value", "mount", "image", "resolve"] {
        here.get(&format!("{SECRETS}/{name}")).await.is(200);
        there.get(&format!("{SECRETS}/{name}")).await.is(403);
        here.get(&format!("{SECRETS}?fieldSelector=metadata.name={name}")).await.is(200);
    }
    here.get(&format!("{MAPS}/map")).await.is(200);
    for refused in
        ["secrets/map", "secrets/other", "configmaps/from", "secrets", "secrets?watch=true", "secrets?fieldSelector=metadata.name!=x"]
    {
        let message = here.get(&format!("/api/v1/namespaces/default/{refused}")).await.is(403)["message"].clone();
        assert!(message.as_str().unwrap().contains("system:node:here"), "{message}");
    }
    here.get("/api/v1/secrets?fieldSelector=metadata.name=pull").await.is(403);
    api.seen_by(Identity::controllers()).get(SECRETS).await.is(200);
}

#[tokio::test]
async fn an_agent_changes_no_wish_by_any_verb() {
    let api = Harness::new().await;
    bound(&api, "a", json!({})).await;
    let here = api.seen_by(Identity::node("here"));
    let url = format!("{CONTAINERS}/a");
    let message = here.merge(&url, json!({"spec": {"hostname": "evil"}})).await.is(403)["message"].clone();
    assert_eq!(message, "containers.gantry.dev \"a\" is forbidden: User \"system:node:here\": it may not change spec.hostname");
    let mut object = api.get(&url).await.is(200);
    object["spec"]["hostname"] = "evil".into();
    here.put(&url, object).await.is(403);
    let headers = [("content-type", "application/apply-patch+yaml")];
    let applied = json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "spec": {"hostname": "evil"}});
    here.call("PATCH", &format!("{url}?fieldManager=x"), &headers, applied.to_string()).await.is(403);
    here.merge(&format!("{url}/status"), json!({"status": {"phase": "Running"}})).await.is(200);
    here.merge(&url, json!({"metadata": {"finalizers": null}})).await.is(200);
    here.post(CONTAINERS, container("b")).await.is(403);
    api.seen_by(Identity::node("there")).merge(&format!("{url}/status"), json!({"status": {"phase": "Failed"}})).await.is(403);
}

#[tokio::test]
async fn ready_means_that_something_can_be_applied() {
    let api = Harness::empty(CacheConfig::default()).await;
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text.contains("[-]namespace-default failed"), "{}", answer.text);
    assert_eq!(api.get("/livez").await.status, 200);
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    assert_eq!(api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn streams_that_cannot_be_had_say_why() {
    let api = Harness::new().await;
    api.get(&format!("{CONTAINERS}/a/log")).await.is(404);
    api.post(CONTAINERS, container("a")).await.is(201);
    let condition = |type_: &str, message: &str| {
        let time = "2026-01-01T00:00:00Z";
        json!([{"type": type_, "status": "False", "reason": "R", "message": message, "lastTransitionTime": time}])
    };
    let status = json!({"status": {"conditions": condition("Scheduled", "no node has room")}});
    api.merge(&format!("{CONTAINERS}/a/status"), status).await.is(200);
    let said = |answer: Value| answer["message"].as_str().unwrap().to_owned();
    let message = said(api.get(&format!("{CONTAINERS}/a/log")).await.is(409));
    assert!(message.ends_with("the container is not bound to a node yet: no node has room"), "{message}");
    api.post(&format!("{CONTAINERS}/a/binding"), json!({"nodeName": "here"})).await.is(201);
    let message = said(api.get(&format!("{CONTAINERS}/a/log")).await.is(503));
    assert_eq!(message, "node \"here\", which runs the container, is not connected");
    let status = json!({"status": {"phase": "Restarting", "conditions": condition("Ready", "the image is not there")}});
    api.merge(&format!("{CONTAINERS}/a/status"), status).await.is(200);
    let message = said(api.get(&format!("{CONTAINERS}/a/exec?command=true")).await.is(409));
    assert!(message.ends_with("the container is Restarting, not Running: the image is not there"), "{message}");
}
