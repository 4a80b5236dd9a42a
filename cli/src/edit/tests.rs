//! Edits against a server that plays its part from a list.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use gantry_client::{Body, Client, Resource, Transport, body};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;

/// Answers with what comes next, and remembers what was sent.
struct Script {
    answers: Mutex<VecDeque<(u16, Value)>>,
    patches: Mutex<Vec<Value>>,
}

impl Transport for Script {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(async move {
            let is_patch = request.method() == Method::PATCH;
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            if is_patch {
                self.patches.lock().unwrap().push(serde_json::from_slice(&sent).unwrap());
            }
            let (code, answer) = self.answers.lock().unwrap().pop_front().expect("no more was to be asked");
            Ok(Response::builder().status(code).body(body::full(answer.to_string())).unwrap())
        })
    }
}

fn object(version: &str, image: &str, phase: &str) -> Value {
    json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": version,
        "managedFields": [{"manager": "x"}]}, "spec": {"image": image}, "status": {"phase": phase}})
}

fn status(code: u16, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "code": code, "reason": if code == 409 { "Conflict" } else { "Invalid" }, "message": message,
        "details": {"causes": [{"field": "spec.image", "message": "too odd"}]}}),
    )
}

/// Runs an edit whose editor is a shell script that gets the file as `$1`; what came of it and the patches.
async fn edit(script: &str, answers: Vec<(u16, Value)>) -> (Result<bool>, Vec<Value>) {
    let server = Arc::new(Script { answers: Mutex::new(answers.into()), patches: Mutex::default() });
    let resource = Resource { group: "gantry.dev".into(), version: "v1".into(), plural: "containers".into(), namespaced: true };
    let api = DynamicApi::new(&Client::new(server.clone(), "test"), resource, Some("a"));
    let line = format!("sh -c '{script}' --");
    let editor = Editor::find(|_| Some(line.clone())).unwrap();
    let result = one(&api, "web", &editor, false).await;
    let patches = std::mem::take(&mut *server.patches.lock().unwrap());
    (result, patches)
}

#[tokio::test]
async fn only_the_difference_is_sent_on_the_version_that_was_edited() {
    let (done, patches) = edit("sed -i s/nginx/apache/ $1", vec![(200, object("1", "nginx", "Running")), (200, json!({}))]).await;
    assert!(done.unwrap());
    assert_eq!(patches, [json!({"spec": {"image": "apache"}, "metadata": {"resourceVersion": "1"}})]);
}

#[tokio::test]
async fn no_change_and_an_empty_file_cancel() {
    for script in ["true", "echo > $1", "sed -i \"s/^# Edit/# x/\" $1"] {
        let (done, patches) = edit(script, vec![(200, object("1", "nginx", "Running"))]).await;
        assert!(!done.unwrap() && patches.is_empty(), "{script}");
    }
}

#[tokio::test]
async fn a_change_elsewhere_is_no_conflict() {
    let answers = vec![
        (200, object("1", "nginx", "Running")),
        status(409, "the object has been modified"),
        (200, object("2", "nginx", "Exited")),
        (200, json!({})),
    ];
    let (done, patches) = edit("sed -i s/nginx/apache/ $1", answers).await;
    assert!(done.unwrap());
    assert_eq!(patches[1], json!({"spec": {"image": "apache"}, "metadata": {"resourceVersion": "2"}}));
}

#[tokio::test]
async fn a_change_of_the_same_is_shown_and_overwritten_only_when_it_is_saved_again() {
    let answers = vec![
        (200, object("1", "nginx", "Running")),
        status(409, "the object has been modified"),
        (200, object("2", "caddy", "Running")),
        (200, json!({})),
    ];
    let script = "if grep -q \"# spec.image is now .caddy\" $1; then grep -q \"image: apache\" $1; else sed -i s/nginx/apache/ $1; fi";
    let (done, patches) = edit(script, answers).await;
    assert!(done.unwrap());
    assert_eq!(patches[1], json!({"spec": {"image": "apache"}, "metadata": {"resourceVersion": "2"}}));
}

#[tokio::test]
async fn a_refusal_opens_the_editor_again_with_its_reasons() {
    let answers = vec![(200, object("1", "nginx", "Running")), status(422, "Container is invalid"), (200, json!({}))];
    let script = "if grep -q \"# spec.image: too odd\" $1; then sed -i s/odd$/good/ $1; else sed -i \"s/image: nginx/image: odd/\" $1; fi";
    let (done, patches) = edit(script, answers).await;
    assert!(done.unwrap());
    assert_eq!(patches[1]["spec"], json!({"image": "good"}));
}

#[tokio::test]
async fn what_is_no_object_or_another_one_opens_the_editor_again() {
    let answers = vec![(200, object("1", "nginx", "Running"))];
    for script in [
        "if grep -q \"# .*not an object\" $1; then echo > $1; else echo 7 > $1; fi",
        "if grep -q \"# metadata.name cannot\" $1; then echo > $1; else sed -i s/web/db/ $1; fi",
    ] {
        let (done, patches) = edit(script, answers.clone()).await;
        assert!(!done.unwrap() && patches.is_empty(), "{script}");
    }
}

#[tokio::test]
async fn nothing_is_lost_when_it_cannot_be_sent() {
    for (script, answers, why) in [
        (
            "sed -i s/nginx/apache/ $1",
            vec![(200, object("1", "nginx", "Running")), (403, json!({"kind": "Status", "code": 403, "message": "you may not"}))],
            "you may not",
        ),
        (
            "sed -i s/nginx/apache/ $1",
            vec![(200, object("1", "nginx", "Running")), status(422, "Container is invalid")],
            "no valid change was saved",
        ),
        ("sed -i s/nginx/apache/ $1; exit 3", vec![(200, object("1", "nginx", "Running"))], "ended with"),
    ] {
        let (done, _) = edit(script, answers).await;
        let error = done.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(why), "{text}");
        let file = text.strip_prefix("the edit is kept in ").and_then(|rest| rest.split(": ").next()).unwrap_or_else(|| panic!("{text}"));
        assert!(std::fs::read_to_string(file).unwrap().contains("image: apache"), "{text}");
        std::fs::remove_file(Path::new(file)).unwrap();
    }
}
