//! What Kubernetes' clients ask for besides objects: compression, reviews of one's own rights, kinds that are always there.

use std::io::Read as _;

use axum::body::Body;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{CONTAINERS, Harness, container};
use crate::auth::Identity;

const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

async fn fetch(api: &Harness, path: &str, headers: &[(&str, &str)]) -> (http::HeaderMap, Vec<u8>) {
    let (parts, body) = api.send("GET", path, headers, Body::empty()).await.into_parts();
    (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn large_lists_and_documents_are_compressed_for_who_offers_it() {
    let api = Harness::new().await;
    let offer = [("accept-encoding", "deflate, gzip;q=0.8")];
    let (headers, _) = fetch(&api, "/api/v1/namespaces/default/configmaps", &offer).await;
    assert!(headers.get("content-encoding").is_none() && headers["vary"] == "Accept-Encoding", "a small one goes as it is: {headers:?}");
    for n in 0..40 {
        let map = json!({"metadata": {"name": format!("m{n}")}, "data": {"text": "x".repeat(8 * 1024)}});
        api.post("/api/v1/namespaces/default/configmaps", map).await.is(201);
    }
    for path in ["/api/v1/namespaces/default/configmaps", "/api/v1/configmaps?limit=30"] {
        let (plain, whole) = fetch(&api, path, &[]).await;
        let (headers, packed) = fetch(&api, path, &offer).await;
        assert!(plain.get("content-encoding").is_none());
        assert_eq!(headers.get("content-encoding").unwrap_or_else(|| panic!("{path} of {} bytes", whole.len())), "gzip");
        assert!(packed.len() < whole.len() / 3, "{} of {}", packed.len(), whole.len());
        assert_eq!(unpacked(&packed), String::from_utf8(whole).unwrap(), "{path}");
    }
    let watch = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0";
    let (parts, mut body) = api.send("GET", watch, &offer, Body::empty()).await.into_parts();
    assert!(parts.headers.get("content-encoding").is_none());
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(frame.starts_with(b"{\"type\":\"ADDED\""));
}

#[tokio::test]
async fn rights_are_told_as_they_are() {
    let mut api = Harness::new().await;
    let all = api.post(RULES, json!({"spec": {"namespace": "default"}})).await.is(201);
    assert_eq!(all["status"]["resourceRules"], json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
    assert_eq!(all["status"]["incomplete"], false);

    api.identity = Identity::new("eve", &[]);
    let some = api.post(RULES, json!({"spec": {"namespace": "default"}})).await.is(201);
    let resources: Vec<&Value> = some["status"]["resourceRules"].as_array().unwrap().iter().map(|rule| &rule["resources"][0]).collect();
    assert_eq!(resources, ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"]);
    let paths = some["status"]["nonResourceRules"][0]["nonResourceURLs"].to_string();
    assert!(paths.contains("/version") && paths.contains("/apis/*") && !paths.contains("/metrics"), "{paths}");
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", "namespace": "default"}}});
    let answer = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.is(201);
    assert_eq!(answer["status"]["allowed"], false);

    api.identity = Identity::controllers();
    let part = api.post(RULES, json!({})).await.is(201);
    assert_eq!(part["status"]["incomplete"], true);
    assert!(
        part["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .contains(&json!({"verbs": ["create"], "apiGroups": ["gantry.dev"], "resources": ["containers/binding"]}))
    );
    api.identity = Identity::anonymous();
    api.post(RULES, json!({})).await.is(401);
}

#[tokio::test]
async fn services_are_listed_watched_and_never_made() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    let services = "/api/v1/namespaces/default/services";
    for path in [services, "/api/v1/services?limit=500", "/api/v1/namespaces/kube-system/services?labelSelector=a%3Db"] {
        let list = api.get(path).await.is(200);
        assert_eq!((&list["kind"], &list["items"]), (&"ServiceList".into(), &json!([])));
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows = api.call("GET", services, &table, Body::empty()).await.is(200);
    assert_eq!((&rows["kind"], &rows["rows"]), (&"Table".into(), &json!([])));
    let watch = api.get(&format!("{services}?watch=true&resourceVersion=0&timeoutSeconds=1")).await;
    assert_eq!((watch.status.as_u16(), watch.text.as_str()), (200, ""), "a container is no service");
    assert_eq!(api.get(&format!("{services}/web")).await.is(404)["details"]["kind"], "services");
    let refused = api.post(services, json!({"metadata": {"name": "web"}})).await.is(405);
    assert!(refused["message"].as_str().unwrap().contains("container.spec.ports"), "{refused}");
}

#[tokio::test]
async fn service_accounts_are_objects_like_others() {
    let api = Harness::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.post(accounts, json!({"metadata": {"name": "ci"}, "imagePullSecrets": [{"name": "a"}], "secrets": [{"name": "s"}]})).await.is(201);
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let patch = json!({"secrets": [{"name": "t"}], "imagePullSecrets": [{"name": "b"}]});
    let patched = api.call("PATCH", &format!("{accounts}/ci"), &strategic, patch.to_string()).await.is(200);
    // As `kubectl patch serviceaccount` does it with Kubernetes: pull secrets are replaced as one, secrets merge by name.
    assert_eq!(patched["imagePullSecrets"], json!([{"name": "b"}]));
    assert_eq!(patched["secrets"].as_array().unwrap().len(), 2);
    api.delete(&format!("{accounts}/ci"), json!({})).await.is(200);
}

#[tokio::test]
async fn leases_of_nodes_are_made_when_they_are_read() {
    let api = Harness::new().await;
    for (name, ready) in [("here", "True"), ("gone", "False")] {
        let made = api.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.is(201);
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "status": {"conditions": [condition]}});
        api.merge(&format!("/api/v1/nodes/{name}/status"), status).await.is(200);
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let list = api.get(leases).await.is(200);
    let renewed: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|lease| &lease["spec"]["renewTime"]).collect();
    assert_eq!(
        (&list["kind"], renewed),
        (&"LeaseList".into(), vec![&json!("2026-01-01T00:00:00.000000Z"), &json!("2026-01-02T03:04:05.000000Z")])
    );
    let lease = api.get(&format!("{leases}/here")).await.is(200);
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["metadata"]["ownerReferences"][0]["kind"]), (&"here".into(), &"Node".into()));
    assert_eq!(api.get(&format!("{leases}?fieldSelector=metadata.name%3Dhere")).await.is(200)["items"].as_array().unwrap().len(), 1);
    api.get(&format!("{leases}/nobody")).await.is(404);
    for (method, path) in [
        ("POST", leases.to_owned()),
        ("PUT", format!("{leases}/here")),
        ("DELETE", format!("{leases}/here")),
        ("PATCH", format!("{leases}/here")),
    ] {
        let refused = api.call(method, &path, &[("content-type", "application/json")], "{}").await.is(405);
        assert!(refused["message"].as_str().unwrap().contains("watch nodes"), "{method} {path}: {refused}");
    }
    api.get(&format!("{leases}?watch=true")).await.is(405);
    api.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", json!({"metadata": {"name": "leader"}})).await.is(201);
}

#[tokio::test]
async fn heads_are_answered_as_gets() {
    let api = Harness::new().await;
    for path in ["/version", "/apis", "/api/v1/namespaces/default", "/livez"] {
        assert_eq!(api.call("HEAD", path, &[], Body::empty()).await.status.as_u16(), 200, "{path}");
    }
    assert_eq!(api.call("HEAD", "/api/v1/namespaces/none/", &[], Body::empty()).await.status.as_u16(), 404);
}
