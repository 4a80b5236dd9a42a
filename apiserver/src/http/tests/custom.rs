//! Kinds that are added at run time.

use axum::body::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Harness, JSON, MERGE};
use crate::store::memory::MemoryStore;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Widgets with two versions, both subresources, columns, a keyed list, and a selectable field.
fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["colour"], "properties": {
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "pattern": "^[a-z]+$"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "size": {"x-kubernetes-int-or-string": true}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}},
    }}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            "additionalPrinterColumns": [
                {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
                {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
            "selectableFields": [{"jsonPath": ".spec.colour"}]})
    };
    let mut old = version("v1beta1", false);
    old["deprecated"] = true.into();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [version("v1", true), old]}})
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"colour": "red"}})
}

async fn defined() -> Harness {
    let api = Harness::new().await;
    api.post(CRDS, definition()).await.is(201);
    api
}

fn condition(definition: &Value, type_: &str) -> String {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == type_).map(|c| c["status"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_definition_is_established_and_its_kind_is_served_at_once() {
    let api = defined().await;
    let found = api.get(&format!("{CRDS}/widgets.example.com")).await.is(200);
    assert_eq!((condition(&found, "NamesAccepted"), condition(&found, "Established")), ("True".into(), "True".into()));
    assert_eq!(found["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(found["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(found["metadata"]["generation"], 1);

    let made = api.post(WIDGETS, widget("a")).await.is(201);
    assert_eq!(made["spec"], json!({"colour": "red", "replicas": 1}), "defaults are filled in");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(api.get(WIDGETS).await.is(200)["kind"], "WidgetList");
    assert_eq!(api.post(WIDGETS, widget("a")).await.is(409)["reason"], "AlreadyExists");
    assert_eq!(api.get("/apis/example.com/v2/namespaces/default/widgets").await.status, 404);
    assert_eq!(api.get("/apis/other.com/v1/widgets").await.status, 404);
}

#[tokio::test]
async fn objects_are_held_to_their_schema() {
    let api = defined().await;
    for (change, path) in [
        (json!({"colour": "green"}), "spec.colour"),
        (json!({"colour": "red", "replicas": 11}), "spec.replicas"),
        (json!({"colour": "red", "replicas": "x"}), "spec.replicas"),
        (json!({"colour": "red", "tags": ["A"]}), "spec.tags[0]"),
        (json!({"colour": "red", "tags": ["a", "a"]}), "spec.tags[1]"),
        (json!({"colour": "red", "parts": [{"size": 1}]}), "spec.parts[0].name"),
        (json!({}), "spec.colour"),
    ] {
        let mut object = widget("bad");
        object["spec"] = change.clone();
        let status = api.post(WIDGETS, object).await.is(422);
        assert_eq!(status["details"]["causes"][0]["field"], path, "{change}: {status}");
    }
    let mut unknown = widget("u");
    unknown["spec"]["colr"] = json!(1);
    unknown["spec"]["free"] = json!({"any": {"thing": 1}});
    let strict = api.post(&format!("{WIDGETS}?fieldValidation=Strict"), unknown.clone()).await.is(400);
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"spec.colr\""), "{strict}");
    let warned = api.post(WIDGETS, unknown).await;
    assert!(warned.headers["warning"].to_str().unwrap().contains("spec.colr"));
    let made = warned.is(201);
    assert_eq!((made["spec"].get("colr"), &made["spec"]["free"]), (None, &json!({"any": {"thing": 1}})));
}

#[tokio::test]
async fn patches_status_and_scale() {
    let api = defined().await;
    api.post(WIDGETS, widget("a")).await.is(201);
    let path = format!("{WIDGETS}/a");
    let changed = api.merge(&path, json!({"spec": {"replicas": 2}, "status": {"phase": "ignored"}})).await.is(200);
    assert_eq!((changed["metadata"]["generation"].as_i64(), changed.get("status")), (Some(2), None));
    let status = api
        .merge(&format!("{path}/status"), json!({"spec": {"replicas": 9}, "status": {"phase": "Up", "replicas": 2, "selector": "a=b"}}))
        .await
        .is(200);
    assert_eq!((status["metadata"]["generation"].as_i64(), status["spec"]["replicas"].as_i64()), (Some(2), Some(2)));
    let json = [("content-type", "application/json-patch+json")];
    api.call(
        "PATCH",
        &path,
        &json,
        r#"[{"op":"test","path":"/spec/replicas","value":2},{"op":"replace","path":"/spec/colour","value":"blue"}]"#,
    )
    .await
    .is(200);
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    assert_eq!(api.call("PATCH", &path, &strategic, "{}").await.status, 415);

    let scale = api.get(&format!("{path}/scale")).await.is(200);
    assert_eq!(
        (&scale["apiVersion"], &scale["spec"], &scale["status"]),
        (&json!("autoscaling/v1"), &json!({"replicas": 2}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let scaled = api.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 5}})).await.is(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    assert_eq!(api.get(&path).await.is(200)["metadata"]["generation"], 4);
    assert_eq!(api.put(&format!("{path}/scale"), scale).await.is(409)["reason"], "Conflict");
    assert_eq!(api.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 11}})).await.status, 422);
    assert_eq!(api.merge(&format!("{path}/scale"), json!({"spec": {"replicas": -1}})).await.status, 422);
}

#[tokio::test]
async fn apply_merges_lists_by_the_schema() {
    let api = defined().await;
    let apply = async |manager: &str, spec: Value| {
        let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec});
        let path = format!("{WIDGETS}/a?fieldManager={manager}");
        api.call("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], body.to_string()).await
    };
    apply("one", json!({"colour": "red", "parts": [{"name": "x", "size": 1}], "tags": ["a"]})).await.is(201);
    let both = apply("two", json!({"colour": "red", "parts": [{"name": "y", "size": "50%"}], "tags": ["b"]})).await.is(200);
    assert_eq!(both["spec"]["parts"], json!([{"name": "x", "size": 1}, {"name": "y", "size": "50%"}]));
    assert_eq!(both["spec"]["tags"], json!(["a", "b"]));
    let less = apply("two", json!({"colour": "red"})).await.is(200);
    assert_eq!(less["spec"]["parts"], json!([{"name": "x", "size": 1}]));
    let again = apply("two", json!({"colour": "red"})).await.is(200);
    assert_eq!(again["metadata"]["resourceVersion"], less["metadata"]["resourceVersion"], "nothing changed");
    assert_eq!(apply("two", json!({"colour": "blue"})).await.is(409)["reason"], "Conflict");
}

#[tokio::test]
async fn tables_selectors_and_forms() {
    let api = defined().await;
    api.post(WIDGETS, widget("a")).await.is(201);
    let mut blue = widget("b");
    blue["spec"]["colour"] = json!("blue");
    api.post(WIDGETS, blue).await.is(201);
    let table = api.call("GET", WIDGETS, &[("accept", TABLE)], Body::empty()).await.is(200);
    let names: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(json!(names), json!(["Name", "Colour", "Replicas", "Age"]));
    assert_eq!(table["rows"][1]["cells"], json!(["b", "blue", 1, "0s"]));
    let found = api.get(&format!("{WIDGETS}?fieldSelector=spec.colour%3Dblue")).await.is(200);
    assert_eq!((found["items"].as_array().unwrap().len(), &found["items"][0]["metadata"]["name"]), (1, &json!("b")));
    assert_eq!(api.get(&format!("{WIDGETS}?fieldSelector=spec.replicas%3D1")).await.status, 400);
    let partial = [("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    let partial = api.call("GET", &format!("{WIDGETS}/a"), &partial, Body::empty()).await.is(200);
    assert_eq!((&partial["kind"], partial.get("spec")), (&json!("PartialObjectMetadata"), None));
    assert_eq!(api.delete(WIDGETS, json!({})).await.is(200)["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(WIDGETS).await.is(200)["items"], json!([]));
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let api = defined().await;
    let old = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let mut object = widget("a");
    object["apiVersion"] = json!("example.com/v1beta1");
    let made = api.post(old, object.clone()).await;
    assert!(made.headers["warning"].to_str().unwrap().contains("example.com/v1beta1 Widget is deprecated"));
    assert_eq!(made.is(201)["apiVersion"], "example.com/v1beta1");
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.is(200)["apiVersion"], "example.com/v1");
    assert_eq!(api.get(old).await.is(200)["items"][0]["apiVersion"], "example.com/v1beta1");
    assert_eq!(api.merge(&format!("{old}/a"), json!({"spec": {"colour": "blue"}})).await.is(200)["apiVersion"], "example.com/v1beta1");
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.is(200)["spec"]["colour"], "blue");
    assert_eq!(api.post(WIDGETS, object).await.status, 400, "the version of the body is that of the URL");
}

#[tokio::test]
async fn discovery_and_openapi_follow_at_once() {
    let api = Harness::new().await;
    let v2 = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let before = api.call("GET", "/apis", &v2, Body::empty()).await.headers["etag"].clone();
    api.post(CRDS, definition()).await.is(201);
    let known = [v2[0], ("if-none-match", before.to_str().unwrap())];
    let after = api.call("GET", "/apis", &known, Body::empty()).await.is(200);
    let group = after["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "example.com").unwrap();
    let versions: Vec<&Value> = group["versions"].as_array().unwrap().iter().map(|version| &version["version"]).collect();
    assert_eq!(json!(versions), json!(["v1", "v1beta1"]));
    let resource = &group["versions"][0]["resources"][0];
    assert_eq!((&resource["shortNames"], &resource["categories"]), (&json!(["wd"]), &json!(["all"])));
    let parts: Vec<&Value> = resource["subresources"].as_array().unwrap().iter().map(|part| &part["responseKind"]["kind"]).collect();
    assert_eq!(json!(parts), json!(["Scale", "Widget"]));
    assert_eq!(api.get("/apis/example.com").await.is(200)["preferredVersion"]["version"], "v1");
    assert_eq!(api.get("/apis/example.com/v1").await.is(200)["resources"][1]["name"], "widgets/scale");
    let index = api.get("/openapi/v3").await.is(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = api.get(&url).await.is(200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["colour"]["enum"], json!(["red", "blue"]));
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());

    let mut changed = definition();
    changed["spec"]["names"]["shortNames"] = json!(["wdg"]);
    api.call("PATCH", &format!("{CRDS}/widgets.example.com"), &[("content-type", MERGE)], changed.to_string()).await.is(200);
    assert_eq!(api.get("/apis/example.com/v1").await.is(200)["resources"][0]["shortNames"], json!(["wdg"]));
}

#[tokio::test]
async fn names_in_use_are_refused_until_they_are_free() {
    let api = defined().await;
    let mut second = definition();
    second["metadata"]["name"] = json!("gadgets.example.com");
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    api.post(CRDS, second).await.is(201);
    let found = api.get(&format!("{CRDS}/gadgets.example.com")).await.is(200);
    assert_eq!((condition(&found, "NamesAccepted"), condition(&found, "Established")), ("False".into(), "False".into()));
    assert_eq!(api.get("/apis/example.com/v1/gadgets").await.status, 404);
    api.merge(&format!("{CRDS}/widgets.example.com"), json!({"spec": {"names": {"shortNames": null}}})).await.is(200);
    let found = api.get(&format!("{CRDS}/gadgets.example.com")).await.is(200);
    assert_eq!((condition(&found, "NamesAccepted"), condition(&found, "Established")), ("True".into(), "True".into()));
    assert_eq!(api.get("/apis/example.com/v1/gadgets").await.status, 200);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along_and_waits_for_them() {
    let api = defined().await;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(crate::definitions::keep(api.server.clone(), stop.clone()));
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(WIDGETS, held).await.is(201);
    api.post(WIDGETS, widget("free")).await.is(201);
    let path = format!("{CRDS}/widgets.example.com");
    let answer = api.delete(&path, json!({})).await.is(200);
    assert!(answer["metadata"]["deletionTimestamp"].is_string(), "{answer}");
    assert_eq!(api.post(WIDGETS, widget("new")).await.status, 405);
    until(&api, || async { api.get(&format!("{WIDGETS}/free")).await.status == 404 }).await;
    until(&api, || async { condition(&api.get(&path).await.is(200), "Terminating") == "True" }).await;
    api.merge(&format!("{WIDGETS}/held"), json!({"metadata": {"finalizers": null}})).await.is(200);
    until(&api, || async { api.get(&path).await.status == 404 }).await;
    assert_eq!(api.get(WIDGETS).await.status, 404);
    // What is made anew under the same name has nothing of the old one.
    api.post(CRDS, definition()).await.is(201);
    assert_eq!(api.get(WIDGETS).await.is(200)["items"], json!([]));
    stop.cancel();
    keeper.await.unwrap();
}

/// Looks again after every change of the store.
async fn until<F: Future<Output = bool>>(api: &Harness, holds: impl Fn() -> F) {
    let waiting = async {
        loop {
            let revision = api.server.cache.revision();
            if holds().await {
                return;
            }
            api.server.cache.wait_for(crate::store::Revision(revision.0 + 1)).await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("it came to hold");
}

#[tokio::test]
async fn a_restart_keeps_kinds_and_a_change_makes_fields_selectable() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let start = async || Harness::over(store.clone(), crate::cache::CacheConfig::default(), &super::FlowLimits::default()).await;
    let api = start().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    let mut first = definition();
    for version in first["spec"]["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().remove("selectableFields");
    }
    api.post(CRDS, first).await.is(201);
    api.post(WIDGETS, widget("a")).await.is(201);
    let api = start().await;
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.is(200)["spec"]["colour"], "red");
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(crate::definitions::keep(api.server.clone(), stop.clone()));
    let mut second = definition();
    second["metadata"]["resourceVersion"] =
        api.get(&format!("{CRDS}/widgets.example.com")).await.is(200)["metadata"]["resourceVersion"].clone();
    api.put(&format!("{CRDS}/widgets.example.com"), second).await.is(200);
    let selected =
        || async { api.get(&format!("{WIDGETS}?fieldSelector=spec.colour%3Dred")).await.is(200)["items"].as_array().unwrap().len() == 1 };
    until(&api, selected).await;
    stop.cancel();
    keeper.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_field() {
    let api = Harness::new().await;
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    for (pointer, value, field, word) in [
        (format!("{schema}/x-kubernetes-validations"), json!([{"rule": "self.replicas > 0"}]), "x-kubernetes-validations", "CEL"),
        ("/spec/conversion".to_owned(), json!({"strategy": "Webhook"}), "spec.conversion.strategy", "webhooks"),
        ("/spec/group".to_owned(), json!("gantry.dev"), "spec.group", "own kinds"),
    ] {
        let mut object = definition();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[name] = value;
        let status = api.post(CRDS, object).await.is(422);
        let causes = status["details"]["causes"].as_array().unwrap();
        let told = |cause: &&Value| cause["field"].as_str().unwrap().contains(field) && cause["message"].as_str().unwrap().contains(word);
        assert!(causes.iter().any(|cause| told(&cause)), "{status}");
    }
    let mut unknown = definition();
    unknown["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["propertie"] = json!({});
    let status = api.call("POST", &format!("{CRDS}?fieldValidation=Strict"), &[("content-type", JSON)], unknown.to_string()).await.is(400);
    assert!(status["message"].as_str().unwrap().contains("openAPIV3Schema.propertie"), "{status}");
    assert_eq!(api.post(CRDS, unknown).await.is(201)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].get("propertie"), None);
}

#[tokio::test]
async fn metrics_have_one_series_for_all_custom_kinds() {
    let api = defined().await;
    api.get(WIDGETS).await.is(200);
    api.get("/apis/example.com/v1beta1/widgets").await.is(200);
    let page = api.get("/metrics").await.text;
    assert!(
        page.contains("resource=\"customresources\"")
            && !page.lines().any(|line| line.starts_with("apiserver_request") && line.contains("widgets"))
    );
}

#[tokio::test]
async fn a_file_defines_a_kind_and_its_objects_at_once_or_nothing() {
    let api = Harness::new().await;
    let requests = "/apis/gantry.dev/v1/applyrequests?fieldManager=test";
    let request = |objects: Vec<Value>| json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "spec": {"objects": objects}});
    let refused = api.post(requests, request(vec![widget("a")])).await.is(422);
    assert!(refused["message"].as_str().unwrap().contains("no kind \"Widget\" in version \"example.com/v1\""), "{refused}");
    let mut wrong = widget("a");
    wrong["spec"]["colour"] = json!("green");
    api.post(requests, request(vec![definition(), wrong])).await.is(422);
    assert_eq!(api.get(&format!("{CRDS}/widgets.example.com")).await.status, 404, "nothing of it was done");

    let both = request(vec![widget("a"), definition()]);
    let planned = api.post(&format!("{requests}&dryRun=All"), both.clone()).await.is(201);
    assert_eq!(planned["status"]["results"][0]["action"], "Created");
    assert_eq!(api.get(WIDGETS).await.status, 404);
    api.post(requests, both.clone()).await.is(201);
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.is(200)["spec"]["replicas"], 1);
    let again = api.post(requests, both).await.is(201);
    let actions: Vec<&Value> = again["status"]["results"].as_array().unwrap().iter().map(|result| &result["action"]).collect();
    assert_eq!(json!(actions), json!(["Unchanged", "Unchanged"]));

    let mut taken = definition();
    taken["metadata"]["name"] = json!("gadgets.example.com");
    taken["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let mut gadget = widget("g");
    gadget["kind"] = json!("Gadget");
    let refused = api.post(requests, request(vec![taken, gadget])).await.is(422);
    assert!(
        refused["message"].as_str().unwrap().contains("not all names of the CustomResourceDefinition \"gadgets.example.com\" are free"),
        "{refused}"
    );
}
