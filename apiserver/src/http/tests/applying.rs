//! Server-side apply, and ApplyRequests.

use serde_json::{Value, json};

use super::{Answer, CONTAINERS, Harness, container};

const REQUESTS: &str = "/apis/gantry.dev/v1/applyrequests";

async fn apply(api: &Harness, query: &str, object: &Value) -> Answer {
    let headers = [("content-type", "application/apply-patch+yaml")];
    api.call("PATCH", &format!("{CONTAINERS}/web?{query}"), &headers, object.to_string()).await
}

fn request(objects: &[Value]) -> Value {
    json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": {}, "spec": {"objects": objects, "fieldManager": "gantry"}})
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

#[tokio::test]
async fn a_whole_file_or_nothing() {
    let api = Harness::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let mut inside = container("web");
    inside["metadata"]["namespace"] = "team".into();
    let mut broken = container("b");
    broken["spec"]["imagee"] = 1.into();
    let refused = api.post(REQUESTS, request(&[namespace.clone(), inside.clone(), broken])).await.is(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.objects[2].spec.imagee", "{refused}");
    assert_eq!(refused["details"]["results"][2]["action"], "Invalid");
    api.get("/api/v1/namespaces/team").await.is(404);

    let file = request(&[namespace, inside]);
    let before = api.server.cache.revision();
    let plan = api.post(&format!("{REQUESTS}?dryRun=All"), file.clone()).await.is(201);
    assert_eq!(api.server.cache.revision(), before);
    let done = api.post(REQUESTS, file.clone()).await.is(201);
    assert_eq!(plan["status"], done["status"]);
    assert_eq!((&done["status"]["results"][1]["action"], &done["status"]["results"][1]["effect"]), (&"Created".into(), &"Start".into()));
    let again = api.post(REQUESTS, file).await.is(201);
    assert_eq!(again["status"]["results"][1]["action"], "Unchanged", "{again}");
}

#[tokio::test]
async fn the_plan_says_what_happens_to_processes() {
    let api = Harness::new().await;
    api.post(REQUESTS, request(&[container("web")])).await.is(201);
    for (field, value, effect) in
        [("command", json!(["true"]), "Replace"), ("restartPolicy", json!("Never"), "Live"), ("desiredState", json!("Stopped"), "Stop")]
    {
        let mut changed = container("web");
        changed["spec"][field] = value.clone();
        let plan = api.post(&format!("{REQUESTS}?dryRun=All"), request(&[changed])).await.is(201);
        let result = &plan["status"]["results"][0];
        assert_eq!((&result["action"], &result["effect"]), (&"Updated".into(), &effect.into()), "{result}");
        assert_eq!((&result["changes"][0]["path"], &result["changes"][0]["new"]), (&format!("spec.{field}").into(), &value));
    }
    let twice = api.post(REQUESTS, request(&[container("a"), container("a")])).await.is(422);
    assert!(twice["message"].as_str().unwrap().contains("stands twice"), "{twice}");
}
