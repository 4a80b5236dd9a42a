//! Server-side apply.

use serde_json::{Value, json};

use super::{Answer, CONTAINERS, Harness, container};

async fn apply(api: &Harness, query: &str, object: &Value) -> Answer {
    let headers = [("content-type", "application/apply-patch+yaml")];
    api.call("PATCH", &format!("{CONTAINERS}/web?{query}"), &headers, object.to_string()).await
}

#[tokio::test]
async fn apply_creates_keeps_and_conflicts() {
    let api = Harness::new().await;
    let made = apply(&api, "fieldManager=a", &container("web")).await.is(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "a");
    assert_eq!(apply(&api, "fieldManager=a", &container("web")).await.is(200), made, "the same again changes nothing");
    let mut other = container("web");
    other["spec"]["image"] = "localhost/other:1".into();
    let conflict = apply(&api, "fieldManager=b", &other).await.is(409);
    assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"a\": .spec.image");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(apply(&api, "fieldManager=b&force=true", &other).await.is(200)["spec"]["image"], "localhost/other:1");
    apply(&api, "", &other).await.is(422);
    other["metadata"]["managedFields"] = json!([{}]);
    apply(&api, "fieldManager=b", &other).await.is(400);
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn with(spec: &Value) -> Value {
    let mut object = container("web");
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

fn owner<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|entry| entry["manager"] == manager).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn unknown_fields_of_a_configuration_are_nobodys() {
    let api = Harness::new().await;
    let strange = with(&json!({"imagee": "x"}));
    let refused = apply(&api, "fieldManager=a", &strange).await.is(400);
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.imagee\""), "{refused}");
    let warned = apply(&api, "fieldManager=a&fieldValidation=Warn", &strange).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.imagee\\\"\"");
    let made = warned.is(201);
    assert_eq!(owner(&made, "a")["fieldsV1"]["f:spec"], json!({"f:image": {}, "f:command": {}}), "{made}");
    let ignored = apply(&api, "fieldManager=a&fieldValidation=Ignore", &strange).await;
    assert!(ignored.headers.get("warning").is_none());
    assert_eq!(ignored.is(200), made);
}

#[tokio::test]
async fn members_with_defaults_are_shared_although_they_are_not_stored() {
    let api = Harness::new().await;
    let config = with(&json!({"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 8080}], "args": []}));
    let made = apply(&api, "fieldManager=a", &config).await.is(201);
    assert_eq!(made["spec"]["ports"][0].get("protocol"), None, "left out of what is stored");
    let shared = apply(&api, "fieldManager=b", &config).await.is(200);
    assert_eq!(owner(&shared, "a")["fieldsV1"], owner(&shared, "b")["fieldsV1"]);
    assert_eq!(apply(&api, "fieldManager=a", &config).await.is(200), shared);
}

#[tokio::test]
async fn the_status_is_applied_apart() {
    let api = Harness::new().await;
    apply(&api, "fieldManager=a", &container("web")).await.is(201);
    let headers = [("content-type", "application/apply-patch+yaml")];
    let status = |phase: &str, image: &str| json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web", "labels": {"x": "y"}}, "spec": {"image": image}, "status": {"phase": phase}});
    let url = |manager: &str| format!("{CONTAINERS}/web/status?fieldManager={manager}");
    let running = api.call("PATCH", &url("agent"), &headers, status("Running", "other").to_string()).await.is(200);
    assert_eq!((&running["status"]["phase"], &running["spec"]["image"]), (&json!("Running"), &json!("localhost/busybox:1")));
    assert_eq!(running["metadata"].get("labels"), None);
    let entry = owner(&running, "agent");
    assert_eq!((&entry["subresource"], &entry["fieldsV1"]), (&json!("status"), &json!({"f:status": {"f:phase": {}}})));
    let conflict = api.call("PATCH", &url("other"), &headers, status("Exited", "x").to_string()).await.is(409);
    assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"agent\" with subresource \"status\": .status.phase");
    // What is applied to the object says nothing of the status.
    let mut both = container("web");
    both["status"] = json!({"phase": "Failed"});
    assert_eq!(apply(&api, "fieldManager=a", &both).await.is(200), running);
    api.call("PATCH", &format!("{CONTAINERS}/none/status?fieldManager=a"), &headers, both.to_string()).await.is(400);
}

#[tokio::test]
async fn client_side_apply_hands_over_to_server_side_apply() {
    let api = Harness::new().await;
    let mut first = with(&json!({"user": "1"}));
    first["metadata"]["annotations"] = json!({LAST_APPLIED: container("web").to_string()});
    api.post(&format!("{CONTAINERS}?fieldManager=kubectl-client-side-apply"), first).await.is(201);
    let next = with(&json!({"image": "localhost/other:1"}));
    let others = apply(&api, "fieldManager=somebody", &next).await.is(409);
    assert!(
        others["message"].as_str().unwrap().contains("conflict with \"kubectl-client-side-apply\" using gantry.dev/v1 at "),
        "{others}"
    );
    let taken = apply(&api, "fieldManager=kubectl", &next).await.is(200);
    assert_eq!(taken["spec"]["image"], "localhost/other:1", "what client-side apply noted may be taken");
    let noted: Value = serde_json::from_str(taken["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(noted["spec"]["image"], "localhost/other:1", "so that client-side apply can go on");
    let more = apply(&api, "fieldManager=kubectl", &with(&json!({"image": "localhost/third:1", "user": "2"}))).await.is(409);
    let message = more["message"].as_str().unwrap();
    assert!(
        message.starts_with("Apply failed with 1 conflict") && message.ends_with(": .spec.user"),
        "what it did not note may not: {message}"
    );
}

#[tokio::test]
async fn owners_can_be_rewritten_kept_and_cleared() {
    let api = Harness::new().await;
    let made = apply(&api, "fieldManager=a", &container("web")).await.is(201);
    let url = format!("{CONTAINERS}/web?fieldManager=kubectl");
    let headers = [("content-type", "application/json-patch+json")];
    let version = &made["metadata"]["resourceVersion"];
    let mut entry = owner(&made, "a").clone();
    entry["manager"] = "b".into();
    let patch = |version: &Value| json!([{"op": "replace", "path": "/metadata/managedFields", "value": [entry]}, {"op": "replace", "path": "/metadata/resourceVersion", "value": version}]);
    let moved = api.call("PATCH", &url, &headers, patch(version).to_string()).await.is(200);
    assert_eq!(moved["metadata"]["managedFields"], json!([entry]), "kubectl's migration");
    api.call("PATCH", &url, &headers, patch(version).to_string()).await.is(409);

    let mut put = moved.clone();
    put["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(api.put(&url, put.clone()).await.is(200), moved, "leaving them out keeps them");
    put["metadata"]["managedFields"] =
        json!([{"manager": "x", "operation": "Apply", "apiVersion": "gantry.dev/v1", "fieldsV1": {}}, {"operation": "?"}]);
    assert_eq!(api.put(&url, put.clone()).await.is(200), moved, "what cannot be read too");
    api.merge(&format!("{CONTAINERS}/web/status"), json!({"metadata": {"managedFields": []}})).await.is(200);
    assert_eq!(api.get(&format!("{CONTAINERS}/web")).await.is(200), moved, "a status write cannot touch them");
    for cleared in [json!([{}]), json!([])] {
        let applied = apply(&api, "fieldManager=a", &container("web")).await.is(200);
        assert!(applied["metadata"]["managedFields"].is_array());
        let cleared = api.merge(&url, json!({"metadata": {"managedFields": cleared}})).await.is(200);
        assert_eq!(cleared["metadata"].get("managedFields"), None);
    }
}

#[tokio::test]
async fn the_manager_is_named_or_the_first_word_of_the_agent() {
    let api = Harness::new().await;
    let agent = [("content-type", super::JSON), ("user-agent", "curl/8.5 (x)")];
    let made = api.call("POST", CONTAINERS, &agent, container("web").to_string()).await.is(201);
    let fields = owner(&made, "curl");
    assert_eq!((&fields["operation"], &fields["fieldsV1"]["f:spec"]["f:image"]), (&json!("Update"), &json!({})));
    let named = api.merge(&format!("{CONTAINERS}/web?fieldManager=hand"), json!({"spec": {"user": "1"}})).await.is(200);
    assert_eq!(owner(&named, "hand")["fieldsV1"], json!({"f:spec": {"f:user": {}}}));
    let long = "m".repeat(129);
    let refused = api.merge(&format!("{CONTAINERS}/web?fieldManager={long}"), json!({})).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "fieldManager");
    let forced = api.merge(&format!("{CONTAINERS}/web?force=true"), json!({})).await.is(422);
    assert_eq!(forced["details"]["causes"][0]["message"], "Forbidden: may not be specified for non-apply patch");
}
