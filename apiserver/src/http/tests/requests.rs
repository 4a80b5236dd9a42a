//! ApplyRequests: whole files, plans, sets and what is pruned from them.

use gantry_api::apply_set;
use serde_json::{Value, json};

use super::{Answer, CONTAINERS, Harness, JSON, container};

const REQUESTS: &str = "/apis/gantry.dev/v1/applyrequests";

fn request(objects: &[Value]) -> Value {
    json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": {}, "spec": {"objects": objects, "fieldManager": "gantry"}})
}

/// A request about a set, pruning.
fn pruning(set: &str, objects: &[Value]) -> Value {
    let mut request = request(objects);
    request["spec"]["set"] = set.into();
    request["spec"]["prune"] = true.into();
    request
}

fn actions(answer: &Value) -> Vec<(String, String)> {
    let results = answer["status"]["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results.iter().map(|r| (r["name"].as_str().unwrap().to_owned(), r["action"].as_str().unwrap().to_owned())).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(name, action)| ((*name).to_owned(), (*action).to_owned())).collect()
}

async fn exists(api: &Harness, name: &str) -> bool {
    api.get(&format!("{CONTAINERS}/{name}")).await.status == 200
}

async fn post(api: &Harness, request: Value) -> Answer {
    api.post(REQUESTS, request).await
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

#[tokio::test]
async fn a_set_prunes_what_has_left_it_and_nothing_else() {
    let api = Harness::new().await;
    post(&api, request(&[container("stranger")])).await.is(201);
    let first = post(&api, pruning("shop", &[container("a"), container("b")])).await.is(201);
    assert_eq!(actions(&first), pairs(&[("a", "Created"), ("b", "Created")]));
    let id = apply_set::id("shop", "default", "Secret", "");
    assert_eq!(first["status"]["set"], json!({"name": "shop", "namespace": "default", "parentKind": "Secret", "id": id}));
    let member = api.get(&format!("{CONTAINERS}/a")).await.is(200);
    assert_eq!(member["metadata"]["labels"], json!({apply_set::PART_OF_LABEL: id}));
    let parent = api.get("/api/v1/namespaces/default/secrets/shop").await.is(200);
    assert_eq!(parent["metadata"]["labels"], json!({apply_set::ID_LABEL: id}));
    assert_eq!(parent["metadata"]["annotations"][apply_set::KINDS_ANNOTATION], "Container.gantry.dev");
    post(&api, pruning("other", &[container("c")])).await.is(201);

    let second = pruning("shop", &[container("b")]);
    let plan = api.post(&format!("{REQUESTS}?dryRun=All"), second.clone()).await.is(201);
    assert!(exists(&api, "a").await, "a plan changes nothing");
    let done = post(&api, second.clone()).await.is(201);
    assert_eq!(plan["status"], done["status"]);
    assert_eq!(actions(&done), pairs(&[("b", "Unchanged"), ("a", "Deleted")]));
    assert_eq!(done["status"]["results"][1]["effectMessage"], "stops and removes a; discards its writable layer");
    assert!(!exists(&api, "a").await);
    for kept in ["b", "c", "stranger"] {
        assert!(exists(&api, kept).await, "{kept} is not the set's to prune");
    }
    let before = api.server.cache.revision();
    assert_eq!(actions(&post(&api, second).await.is(201)), pairs(&[("b", "Unchanged")]));
    assert_eq!(api.server.cache.revision(), before, "nothing is written again, the parent neither");
}

#[tokio::test]
async fn a_set_without_prune_remembers_what_it_held() {
    let api = Harness::new().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "data": {"a": "eA=="}});
    post(&api, pruning("shop", &[container("a"), secret])).await.is(201);
    let mut grow = pruning("shop", &[container("b")]);
    grow["spec"]["prune"] = false.into();
    assert_eq!(actions(&post(&api, grow).await.is(201)), pairs(&[("b", "Created")]));
    let done = post(&api, pruning("shop", &[container("b")])).await.is(201);
    assert_eq!(actions(&done), pairs(&[("b", "Unchanged"), ("a", "Deleted"), ("key", "Deleted")]));
    let parent = api.get("/api/v1/namespaces/default/secrets/shop").await.is(200);
    assert_eq!(parent["metadata"]["annotations"][apply_set::KINDS_ANNOTATION], "Container.gantry.dev");
}

#[tokio::test]
async fn a_set_reaches_into_other_namespaces_and_keeps_its_promise_there() {
    let api = Harness::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let mut there = container("web");
    there["metadata"]["namespace"] = "team".into();
    post(&api, pruning("configmaps/shop", &[namespace.clone(), there])).await.is(201);
    let parent = api.get("/api/v1/namespaces/default/configmaps/shop").await.is(200);
    assert_eq!(parent["metadata"]["annotations"][apply_set::NAMESPACES_ANNOTATION], "team");
    let done = post(&api, pruning("configmaps/shop", &[namespace])).await.is(201);
    assert_eq!(actions(&done), pairs(&[("team", "Unchanged"), ("web", "Deleted")]));
}

#[tokio::test]
async fn sets_are_safe() {
    let api = Harness::new().await;
    post(&api, pruning("shop", &[container("a")])).await.is(201);
    let stolen = post(&api, pruning("thief", &[container("a")])).await.is(409);
    assert!(stolen["message"].as_str().unwrap().contains("it is in another set"), "{stolen}");
    let empty = post(&api, pruning("shop", &[])).await.is(422);
    assert_eq!(empty["details"]["causes"][0]["field"], "spec.objects");
    let mut nameless = request(&[container("a")]);
    nameless["spec"]["prune"] = true.into();
    post(&api, nameless).await.is(422);
    let mut misspelt = request(&[container("a")]);
    misspelt["spec"]["prun"] = true.into();
    assert!(post(&api, misspelt).await.is(422)["message"].as_str().unwrap().contains("spec.prun"));
    post(&api, pruning("pods/shop", &[container("a")])).await.is(422);
    let broken = |name: &str| {
        let mut broken = container(name);
        broken["spec"]["imagee"] = 1.into();
        broken
    };
    let refused = post(&api, pruning("shop", &[broken("b")])).await.is(422);
    assert_eq!(refused["details"]["results"][1]["action"], "Deleted", "what would have been pruned is told");
    let refused = post(&api, pruning("shop", &[broken("a")])).await.is(422);
    assert_eq!(refused["details"]["results"].as_array().map(Vec::len), Some(1), "what stands in the file has not left it: {refused}");
    assert!(exists(&api, "a").await, "and was not");
    let parent = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"}});
    post(&api, pruning("shop", &[container("a"), parent.clone()])).await.is(400);

    api.post("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "plain"}})).await.is(201);
    let taken = post(&api, pruning("configmaps/plain", &[container("x")])).await.is(409);
    assert!(taken["message"].as_str().unwrap().contains("the parent of no set"), "{taken}");
    let tool = json!({"metadata": {"annotations": {apply_set::TOOLING_ANNOTATION: "kubectl/v1.33"}}});
    api.merge("/api/v1/namespaces/default/secrets/shop", tool).await.is(200);
    let foreign = post(&api, pruning("shop", &[container("b")])).await.is(409);
    assert!(foreign["message"].as_str().unwrap().contains("kept by \"kubectl/v1.33\""), "{foreign}");
    let mut forced = pruning("shop", &[]);
    forced["spec"]["force"] = true.into();
    assert_eq!(actions(&post(&api, forced).await.is(201)), pairs(&[("a", "Deleted")]), "everything, when forced");
}

#[tokio::test]
async fn the_whole_file_is_looked_at() {
    let api = Harness::new().await;
    let mut web = container("web");
    web["spec"]["mounts"] = json!([{"mountPath": "/data", "volume": {"name": "data"}}, {"mountPath": "/x", "volume": {"name": "nowhere"}}]);
    web["spec"]["ports"] = json!([{"containerPort": 80, "hostPort": 80, "exposure": "Public"}]);
    let volume = json!({"apiVersion": "gantry.dev/v1", "kind": "Volume", "metadata": {"name": "data"}, "spec": {}});
    let done = post(&api, request(&[web, volume])).await.is(201);
    let result = &done["status"]["results"][0];
    let warning = "spec.mounts[1].volume.name: there is no Volume \"nowhere\", neither in this request nor on the server";
    assert_eq!(result["warnings"], json!([warning]));
    assert_eq!(result["effectMessage"], "starts web; opens port 80 to every network");

    let image = |name: &str| json!({"apiVersion": "gantry.dev/v1", "kind": "Image", "metadata": {"name": name}, "spec": {"source": {"registry": {"reference": "nginx:1"}}}});
    let both = post(&api, request(&[image("one"), image("two")])).await.is(409);
    assert!(both["message"].as_str().unwrap().contains("already claims the reference"), "{both}");
    post(&api, pruning("images", &[image("one")])).await.is(201);
    let moved = post(&api, pruning("images", &[image("two")])).await.is(201);
    assert_eq!(actions(&moved), pairs(&[("two", "Created"), ("one", "Deleted")]), "a claim that is given up in the same file is free");
}

#[tokio::test]
async fn fields_that_stand_twice_are_refused_where_they_stand() {
    let api = Harness::new().await;
    let object = r#"{"apiVersion":"gantry.dev/v1","kind":"Container","metadata":{"name":"web"},"spec":{"image":"a","image":"b"}}"#;
    let body = format!(r#"{{"spec":{{"objects":[{object}],"fieldManager":"gantry"}}}}"#);
    let refused = api.call("POST", REQUESTS, &[("content-type", JSON)], body).await.is(422);
    assert!(refused["message"].as_str().unwrap().contains("duplicate field \"spec.image\""), "{refused}");
    let body = r#"{"spec":{"objects":[],"set":"a","set":"b"}}"#;
    assert_eq!(api.call("POST", REQUESTS, &[("content-type", JSON)], body).await.is(422)["details"]["causes"][0]["field"], "spec.set");
}
