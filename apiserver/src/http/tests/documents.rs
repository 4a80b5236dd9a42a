//! Discovery, OpenAPI, health, and who may.

use axum::body::Body;
use serde_json::{Value, json};

use super::{CONTAINERS, Harness, container};
use crate::auth::Identity;

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[tokio::test]
async fn aggregated_discovery_by_version() {
    let api = Harness::new().await;
    let both = format!("{V2},{V2BETA1},application/json");
    let old = format!("{V2BETA1},application/json");
    for (accept, version) in [(both.as_str(), "v2"), (old.as_str(), "v2beta1")] {
        let answer = api.call("GET", "/apis?timeout=32s", &[("accept", accept)], Body::empty()).await;
        assert!(answer.headers["content-type"].to_str().unwrap().contains(&format!("v={version};as=")));
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        let document = answer.is(200);
        assert_eq!(document["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        for group in document["items"].as_array().unwrap() {
            for resource in group["versions"][0]["resources"].as_array().unwrap() {
                assert!(resource["responseKind"]["kind"].is_string() && !resource["verbs"].as_array().unwrap().is_empty(), "{resource}");
            }
        }
        let known = api.call("GET", "/apis", &[("accept", accept), ("if-none-match", tag.as_str())], Body::empty()).await;
        assert_eq!((known.status.as_u16(), known.text.as_str()), (304, ""));
    }
    let core = api.call("GET", "/api", &[("accept", V2)], Body::empty()).await.is(200);
    let names: Vec<&Value> = core["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().map(|r| &r["resource"]).collect();
    assert!(names.contains(&&json!("namespaces")) && names.contains(&&json!("services")), "{names:?}");
}

#[tokio::test]
async fn plain_discovery() {
    let api = Harness::new().await;
    assert_eq!(api.get("/api/").await.is(200)["versions"], json!(["v1"]));
    let groups = api.get("/apis").await.is(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "gantry.dev"), "{groups}");
    assert_eq!(api.get("/apis/gantry.dev").await.is(200)["preferredVersion"]["groupVersion"], "gantry.dev/v1");
    let list = api.get("/apis/gantry.dev/v1").await.is(200);
    let container = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "containers").unwrap();
    assert_eq!((&container["namespaced"], &container["shortNames"]), (&true.into(), &json!(["ctr"])));
    assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == "containers/status"));
    for path in
        ["/apis/none", "/apis/none/v1", "/apis/gantry.dev/v2/containers", "/apis/gantry.dev/v1/nones", "/api/v1/namespaces/default/nodes"]
    {
        assert_eq!(api.get(path).await.is(404)["reason"], "NotFound", "{path}");
    }
}

#[tokio::test]
async fn openapi_lets_kubectl_apply() {
    let api = Harness::new().await;
    let index = api.get("/openapi/v3").await.is(200);
    let url = index["paths"]["apis/gantry.dev/v1"]["serverRelativeURL"].as_str().unwrap();
    let answer = api.get(url).await;
    assert!(answer.headers["cache-control"].to_str().unwrap().contains("immutable"));
    let document = answer.is(200);
    let patch = &document["paths"]["/apis/gantry.dev/v1/namespaces/{namespace}/containers/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "gantry.dev", "version": "v1", "kind": "Container"}));
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
    assert_eq!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json"), None);
    let core = api.get(index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap()).await.is(200);
    assert!(
        core["paths"]["/api/v1/namespaces/{name}"]["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object()
    );
    let mut missing = Vec::new();
    references(&document, &mut missing);
    missing.retain(|name| document["components"]["schemas"].get(name).is_none());
    assert_eq!(missing, Vec::<String>::new());
    api.get("/openapi/v2").await.is(404);
}

fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            names.extend(map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/components/schemas/")).map(str::to_owned));
            map.values().for_each(|v| references(v, names));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, names)),
        _ => {}
    }
}

#[tokio::test]
async fn version_health_and_services() {
    let api = Harness::new().await;
    let version = api.get("/version/").await.is(200);
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.33."), "{version}");
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(api.get(path).await.text, "ok");
    }
    assert!(api.get("/readyz?verbose").await.text.contains("[+]watch-cache ok"));
    let services = api.get("/api/v1/namespaces/kube-system/services?labelSelector=a%3Db").await.is(200);
    assert_eq!((&services["kind"], &services["items"]), (&"ServiceList".into(), &json!([])));
}

#[tokio::test]
async fn who_may_what() {
    let mut api = Harness::new().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "create", "resource": "secrets", "namespace": "default"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.post(reviews, review).await.is(201)["status"]["allowed"], true);
    let me = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.is(201);
    assert_eq!(me["status"]["userInfo"]["username"], "admin");
    api.identity = Identity::node("a");
    assert_eq!(api.post(CONTAINERS, container("web")).await.is(403)["reason"], "Forbidden");
    api.get(CONTAINERS).await.is(200);
    api.identity = Identity::anonymous();
    assert_eq!(api.get(CONTAINERS).await.is(401)["reason"], "Unauthorized");
    api.get("/apis").await.is(401);
    assert_eq!(api.get("/livez").await.text, "ok");
}

#[tokio::test]
async fn methods_that_a_url_does_not_have() {
    let api = Harness::new().await;
    for (method, path) in [
        ("PUT", CONTAINERS.to_owned()),
        ("POST", format!("{CONTAINERS}/web")),
        ("POST", "/apis/gantry.dev/v1/containers".to_owned()),
        ("DELETE", "/apis/gantry.dev/v1/containers".to_owned()),
        ("POST", "/version".to_owned()),
        ("GET", format!("{CONTAINERS}/web/binding")),
    ] {
        assert_eq!(api.call(method, &path, &[], Body::empty()).await.is(405)["reason"], "MethodNotAllowed", "{method} {path}");
    }
}
