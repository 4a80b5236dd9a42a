//! Pods: views of Containers.

use axum::body::Body;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{CONTAINERS, Harness, JSON, container};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn web() -> String {
    format!("{CONTAINERS}/web")
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect()
}

async fn pod(api: &Harness) -> Pod {
    serde_json::from_value(api.get(&format!("{PODS}/web")).await.is(200)).unwrap()
}

#[tokio::test]
async fn a_pod_is_there_while_its_container_is_bound() {
    let api = Harness::new().await;
    for name in ["web", "free"] {
        api.post(CONTAINERS, container(name)).await.is(201);
    }
    api.get(&format!("{PODS}/web")).await.is(404);
    assert!(names(&api.get("/api/v1/pods").await.is(200)).is_empty());
    api.post(&format!("{}/binding", web()), json!({"nodeName": "a"})).await.is(201);
    api.merge(&format!("{}/status", web()), json!({"status": {"phase": "Running"}})).await.is(200);

    let first = pod(&api).await;
    assert_eq!(first.spec.unwrap().node_name.as_deref(), Some("a"));
    for (selector, found) in [
        ("spec.nodeName=a", true),
        ("spec.nodeName=b", false),
        ("spec.nodeName!=a", false),
        ("status.phase=Running,metadata.name=web", true),
        ("status.phase!=Running", false),
    ] {
        let list = api.get(&format!("/api/v1/pods?fieldSelector={}", selector.replace('=', "%3D"))).await.is(200);
        assert_eq!((names(&list), &list["kind"]), (if found { vec!["web"] } else { vec![] }, &json!("PodList")), "{selector}");
    }
    api.get(&format!("{PODS}?fieldSelector=status.nodeName%3Da")).await.is(400);
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let rows = api.call("GET", PODS, &table, Body::empty()).await.is(200)["rows"].clone();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["cells"][2]), (1, &json!("Running")));
}

#[tokio::test]
async fn pods_are_read_only_and_can_be_evicted() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    api.post(&format!("{}/binding", web()), json!({"nodeName": "a"})).await.is(201);
    for (method, path) in
        [("POST", PODS.to_owned()), ("PUT", format!("{PODS}/web")), ("DELETE", format!("{PODS}/web")), ("DELETE", PODS.to_owned())]
    {
        let refused = api.call(method, &path, &[("content-type", JSON)], Body::from("{}")).await.is(405);
        assert_eq!(refused["message"], "pods are views; use container/NAME", "{method} {path}");
    }
    let first = pod(&api).await.metadata.uid.unwrap();
    let eviction = |uid: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}, "deleteOptions": {"preconditions": {"uid": uid}}});
    let path = format!("{PODS}/web/eviction");
    api.post(&path, eviction("another")).await.is(409);
    api.post(&format!("{path}?dryRun=All"), eviction(&first)).await.is(201);
    let mut dry = eviction(&first);
    dry["deleteOptions"]["dryRun"] = json!(["All"]);
    api.post(&path, dry).await.is(201);
    assert_eq!(api.get(&web()).await.is(200)["status"]["nodeName"], "a");
    api.post(&path, eviction(&first)).await.is(201);
    assert_eq!(api.get(&web()).await.is(200)["status"]["formerNodeName"], "a");
    // The node has still to stop it.
    let leaving = pod(&api).await;
    assert_eq!((leaving.metadata.uid.as_deref(), leaving.spec.unwrap().node_name.as_deref()), (Some(&*first), Some("a")));
    assert!(leaving.metadata.deletion_timestamp.is_some());
    api.post(&path, eviction(&first)).await.is(404);
    api.merge(&web(), json!({"metadata": {"finalizers": null}})).await.is(200);
    api.get(&format!("{PODS}/web")).await.is(404);
    api.post(&format!("{}/binding", web()), json!({"nodeName": "a"})).await.is(201);
    assert_ne!(pod(&api).await.metadata.uid.unwrap(), first, "another binding is another pod");
}
