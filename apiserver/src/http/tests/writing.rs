//! Create, update, patch, delete and what they do to metadata.

use axum::body::Body;
use serde_json::{Value, json};

use super::{CONTAINERS, Harness, MERGE, container};

fn web() -> String {
    format!("{CONTAINERS}/web")
}

#[tokio::test]
async fn create_fills_in_what_is_the_servers() {
    let api = Harness::new().await;
    let mut object = container("web");
    object["status"] = json!({"phase": "Running"});
    let made = api.post(CONTAINERS, object).await.is(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(made["status"]["phase"], Value::Null);
    assert_eq!(api.get(&web()).await.is(200), made);
    let again = api.post(CONTAINERS, container("web")).await.is(409);
    assert_eq!((&again["reason"], &again["message"]), (&"AlreadyExists".into(), &"containers.gantry.dev \"web\" already exists".into()));
    assert_eq!(again["details"], json!({"name": "web", "group": "gantry.dev", "kind": "containers"}));
}

#[tokio::test]
async fn create_is_refused_for_each_reason() {
    let api = Harness::new().await;
    let set = |pointer: &str, value: Value| {
        let mut object = container("web");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value;
        object
    };
    let refused = [
        (set("/metadata/resourceVersion", "1".into()), 400, "BadRequest", "resourceVersion"),
        (set("/metadata/namespace", "other".into()), 400, "BadRequest", "namespace"),
        (set("/kind", "Volume".into()), 400, "BadRequest", "kind"),
        (set("/apiVersion", "v1".into()), 400, "BadRequest", "apiVersion"),
        (set("/spec/imagee", "x".into()), 400, "BadRequest", "strict decoding error: unknown field \"spec.imagee\""),
        (set("/spec/command", 7.into()), 422, "Invalid", "spec.command"),
        (set("/metadata/name", "No_Name".into()), 422, "Invalid", "metadata.name"),
        (set("/metadata/name", "".into()), 422, "Invalid", "metadata.name"),
        (json!([1]), 400, "BadRequest", "not a Container"),
    ];
    for (object, status, reason, text) in refused {
        let error = api.post(CONTAINERS, object).await.is(status);
        assert_eq!(error["reason"], reason, "{error}");
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    }
    let nowhere = CONTAINERS.replace("default", "nowhere");
    assert_eq!(api.post(&nowhere, container("web")).await.is(404)["details"]["kind"], "namespaces");
    let text = api.call("POST", CONTAINERS, &[("content-type", "text/plain")], "x").await.is(415);
    assert_eq!(text["reason"], "UnsupportedMediaType");
    let large = vec![b' '; super::super::MAX_BODY_BYTES + 1];
    assert_eq!(api.call("POST", CONTAINERS, &[], large).await.is(413)["reason"], "RequestEntityTooLarge");
    let duplicate = r#"{"metadata":{"name":"web"},"spec":{"image":"a","image":"b"}}"#;
    let error = api.call("POST", CONTAINERS, &[], duplicate).await.is(400);
    assert!(error["message"].as_str().unwrap().contains("duplicate field \"spec.image\""), "{error}");
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_warning_when_asked() {
    let api = Harness::new().await;
    let mut object = container("web");
    object["spec"]["imagee"] = "x".into();
    let made = api.call("POST", &format!("{CONTAINERS}?fieldValidation=Warn"), &[], object.to_string()).await;
    assert!(made.headers["warning"].to_str().unwrap().contains("unknown field"), "{made:?}");
    assert_eq!(made.is(201)["spec"]["imagee"], Value::Null);
    let secret = json!({"metadata": {"name": "s"}, "nope": 1});
    let made = api.post("/api/v1/namespaces/default/secrets", secret).await;
    assert!(made.headers.contains_key("warning"), "Kubernetes' own kinds warn by default");
    made.is(201);
    api.post(&format!("{CONTAINERS}?fieldValidation=Maybe"), container("x")).await.is(422);
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let api = Harness::new().await;
    let mut object = container("");
    object["metadata"] = json!({"generateName": "web-"});
    let made = api.post(CONTAINERS, object.clone()).await.is(201);
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), "web-".len() + 5);
    let before = api.server.cache.revision();
    let made = api.post(&format!("{CONTAINERS}?dryRun=All"), container("dry")).await.is(201);
    assert_eq!(made["metadata"]["name"], "dry");
    api.get(&format!("{CONTAINERS}/dry")).await.is(404);
    assert_eq!(api.server.cache.revision(), before);
    api.post(&format!("{CONTAINERS}?dryRun=Some"), container("dry")).await.is(422);
}

#[tokio::test]
async fn put_compares_and_swaps() {
    let api = Harness::new().await;
    let made = api.post(CONTAINERS, container("web")).await.is(201);
    let mut next = made.clone();
    next["spec"]["command"] = json!(["sleep", "2d"]);
    next["status"] = json!({"phase": "Failed"});
    let put = api.put(&web(), next.clone()).await.is(200);
    assert_eq!((&put["metadata"]["generation"], &put["status"]), (&2.into(), &made["status"]));
    let stale = api.put(&web(), next).await.is(409);
    assert_eq!(stale["reason"], "Conflict");
    assert!(stale["message"].as_str().unwrap().contains("the object has been modified; please apply your changes to the latest version"));
    let unchanged = api.put(&web(), put.clone()).await.is(200);
    assert_eq!(unchanged, put, "a write that changes nothing bumps nothing");
    let mut without = put.clone();
    without["metadata"]["resourceVersion"] = "".into();
    api.put(&web(), without).await.is(422);
    let mut other = put.clone();
    other["metadata"]["uid"] = "other".into();
    api.put(&web(), other).await.is(409);
    let mut renamed = put;
    renamed["metadata"]["name"] = "web2".into();
    api.put(&web(), renamed.clone()).await.is(400);
    api.put(&format!("{CONTAINERS}/web2"), renamed).await.is(404);
}

#[tokio::test]
async fn status_and_spec_do_not_touch_each_other() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    let status = format!("{}/status", web());
    let patched = api.merge(&status, json!({"spec": {"image": "evil"}, "status": {"phase": "Running"}})).await.is(200);
    assert_eq!((&patched["status"]["phase"], &patched["spec"]["image"]), (&"Running".into(), &"localhost/busybox:1".into()));
    assert_eq!(patched["metadata"]["generation"], 1);
    let patched = api.merge(&web(), json!({"status": {"phase": "Failed"}, "spec": {"hostname": "h"}})).await.is(200);
    assert_eq!((&patched["status"]["phase"], &patched["metadata"]["generation"]), (&"Running".into(), &2.into()));
    let labelled = api.merge(&web(), json!({"metadata": {"labels": {"a": "b"}}})).await.is(200);
    assert_eq!(labelled["metadata"]["generation"], 2, "metadata is no new wish");
    assert_eq!(api.merge(&web(), json!({})).await.is(200), labelled);
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "c"}}});
    api.merge(&web(), stale).await.is(409);
    assert_eq!(api.get(&status).await.is(200), labelled);
}

#[tokio::test]
async fn unsupported_patches_are_415() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    for media in ["application/strategic-merge-patch+json", "application/json", "text/plain"] {
        let error = api.call("PATCH", &web(), &[("content-type", media)], "{}").await.is(415);
        assert_eq!(error["reason"], "UnsupportedMediaType", "{media}");
    }
    let charset = format!("{MERGE}; charset=utf-8");
    api.call("PATCH", &web(), &[("content-type", charset.as_str())], "{}").await.is(200);
}

#[tokio::test]
async fn json_patches() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    let patch =
        async |operations: &str| api.call("PATCH", &web(), &[("content-type", "application/json-patch+json")], operations.to_owned()).await;
    let done =
        patch(r#"[{"op":"test","path":"/spec/image","value":"localhost/busybox:1"},{"op":"add","path":"/spec/hostname","value":"h"}]"#)
            .await;
    assert_eq!(done.is(200)["spec"]["hostname"], "h");
    patch(r#"[{"op":"test","path":"/spec/image","value":"x"}]"#).await.is(422);
    patch(r#"[{"op":"remove","path":"/spec/none"}]"#).await.is(422);
    patch(r#"{"op":"remove"}"#).await.is(400);
    patch("[").await.is(400);
    patch(r#"[{"op":"replace","path":"","value":[]}]"#).await;
}

#[tokio::test]
async fn deletion_waits_for_finalizers() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    let gone = api.delete(&web(), json!({"propagationPolicy": "Background", "delete_options": null})).await.is(200);
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&"Success".into(), &"containers".into()));
    api.get(&web()).await.is(404);

    let mut held = container("web");
    held["metadata"]["finalizers"] = json!(["gantry.dev/agent"]);
    api.post(CONTAINERS, held).await.is(201);
    let marked = api.delete(&web(), json!({"gracePeriodSeconds": 5})).await.is(200);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!((&marked["metadata"]["generation"], &marked["metadata"]["deletionGracePeriodSeconds"]), (&2.into(), &5.into()));
    assert_eq!(api.delete(&web(), json!({})).await.is(200), marked, "asking again changes nothing");
    assert_eq!(api.delete(&web(), json!({"gracePeriodSeconds": 9})).await.is(200), marked, "grace only shortens");
    let more = api.merge(&web(), json!({"metadata": {"finalizers": ["gantry.dev/agent", "a.b/c"]}})).await.is(422);
    assert_eq!(more["details"]["causes"][0]["reason"], "FieldValueForbidden");
    api.merge(&web(), json!({"metadata": {"deletionTimestamp": null, "finalizers": null}})).await.is(200);
    api.get(&web()).await.is(404);
}

#[tokio::test]
async fn delete_options() {
    let api = Harness::new().await;
    let made = api.post(CONTAINERS, container("web")).await.is(201);
    api.delete(&web(), json!({"preconditions": {"uid": "other"}})).await.is(409);
    api.delete(&web(), json!({"preconditions": {"resourceVersion": "1"}})).await.is(409);
    api.delete(&web(), json!({"propagationPolicy": "Sideways"})).await.is(422);
    api.delete(&web(), json!({"dryRun": ["All"], "preconditions": {"uid": made["metadata"]["uid"]}})).await.is(200);
    let marked = api.delete(&web(), json!({"propagationPolicy": "Foreground"})).await.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let marked = api.delete(&web(), json!({"propagationPolicy": "Orphan"})).await.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    api.post(CONTAINERS, container("b")).await.is(201);
    let list = api.call("DELETE", &format!("{CONTAINERS}?fieldSelector=metadata.name%3Db"), &[], Body::empty()).await.is(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    api.get(&format!("{CONTAINERS}/b")).await.is(404);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_empty_and_takes_nothing_new_before() {
    let api = Harness::new().await;
    let path = "/api/v1/namespaces/default";
    let made = api.get(path).await.is(200);
    assert_eq!((&made["status"]["phase"], &made["spec"]["finalizers"]), (&"Active".into(), &json!(["kubernetes"])));
    let mut going = api.delete(path, json!({})).await.is(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = api.post(CONTAINERS, container("web")).await.is(403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    going["spec"] = json!({"finalizers": []});
    api.put(&format!("{path}/finalize"), going).await.is(200);
    api.get(path).await.is(404);
}

#[tokio::test]
async fn binding_is_said_once() {
    let api = Harness::new().await;
    api.post(CONTAINERS, container("web")).await.is(201);
    let binding = format!("{}/binding", web());
    let bound = api.post(&binding, json!({"nodeName": "a"})).await.is(201);
    assert_eq!((&bound["status"]["nodeName"], &bound["metadata"]["finalizers"]), (&"a".into(), &json!(["gantry.dev/agent"])));
    assert_eq!((&bound["status"]["conditions"][0]["type"], &bound["metadata"]["generation"]), (&"Scheduled".into(), &1.into()));
    assert_eq!(api.post(&binding, json!({"nodeName": "a"})).await.is(201), bound);
    api.post(&binding, json!({"nodeName": "b"})).await.is(409);
    let free = api.post(&binding, json!({"nodeName": ""})).await.is(201);
    assert_eq!((&free["status"]["nodeName"], &free["status"]["conditions"][0]["status"]), (&Value::Null, &"False".into()));
    assert_eq!(free["status"]["formerNodeName"], "a");
    api.post(&binding, json!({"nodeName": "b"})).await.is(409);
    api.merge(&web(), json!({"metadata": {"finalizers": null}})).await.is(200);
    let again = api.post(&binding, json!({"nodeName": "b"})).await.is(201);
    assert_eq!(again["status"]["formerNodeName"], Value::Null);
    api.post(&binding, json!({})).await.is(400);
    api.post(&format!("{CONTAINERS}/none/binding"), json!({"nodeName": "a"})).await.is(404);
}

#[tokio::test]
async fn two_images_cannot_claim_one_reference() {
    let api = Harness::new().await;
    let images = "/apis/gantry.dev/v1/namespaces/default/images";
    let image =
        |name: &str, reference: &str| json!({"metadata": {"name": name}, "spec": {"source": {"registry": {"reference": reference}}}});
    api.post(images, image("a", "nginx")).await.is(201);
    let refused = api.post(images, image("b", "docker.io/library/nginx:latest")).await.is(409);
    assert!(refused["message"].as_str().unwrap().contains("\"a\" already claims"), "{refused}");
    api.post(images, image("b", "nginx:1")).await.is(201);
    api.merge(&format!("{images}/b"), json!({"spec": {"tags": ["nginx:latest"]}})).await.is(409);
    let mut generated = image("ref-x", "nginx");
    generated["metadata"]["labels"] = json!({"gantry.dev/generated": "true"});
    api.post(images, generated).await.is(201);
}

#[tokio::test]
async fn yaml_bodies() {
    let api = Harness::new().await;
    let yaml = "apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {name: web}\nspec:\n  image: localhost/b:1\n  command: ['yes']\n  hostname: \"no\"\n";
    let post = async |text: &str| api.call("POST", CONTAINERS, &[("content-type", "application/yaml")], text.to_owned()).await;
    assert_eq!(post(yaml).await.is(201)["spec"]["command"], json!(["yes"]));
    let bomb = format!("a: &a [{}]\n", "x,".repeat(100))
        + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    for bad in ["a: [", "\u{0}", bomb.as_str(), "a: 1\n---\nb: 2\n"] {
        post(bad).await.is(400);
    }
    let twice = yaml.replace("web}", "two}") + "  image: localhost/c:1\n";
    let refused = post(&twice).await.is(400);
    assert!(refused["message"].as_str().unwrap().contains("duplicate field \"spec.image\""), "{refused}");
    let warned = api.call("POST", &format!("{CONTAINERS}?fieldValidation=Warn"), &[("content-type", "application/yaml")], twice).await;
    assert_eq!(warned.headers["warning"], "299 - \"duplicate field \\\"spec.image\\\"\"");
    assert_eq!(warned.is(201)["spec"]["image"], "localhost/c:1", "the last one counts");
}

#[tokio::test]
async fn protobuf_bodies_of_kubectl_create() {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
    }
    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let version: &[u8] = if kind == "Lease" { b"coordination.k8s.io/v1" } else { b"v1" };
        let type_meta = [field(1, version), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &type_meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }
    const PROTOBUF: (&str, &str) = ("content-type", "application/vnd.kubernetes.protobuf");
    let api = Harness::new().await;
    let meta = field(1, &[field(1, b"n"), field(2, b""), field(3, b"")].concat());
    let entry = [field(1, b"user"), field(2, b"bob")].concat();
    api.call("POST", "/api/v1/namespaces", &[PROTOBUF], envelope("Namespace", &meta)).await.is(201);
    let secret = [meta.clone(), field(2, &entry), field(3, b"Opaque")].concat();
    let made = api.call("POST", "/api/v1/namespaces/n/secrets", &[PROTOBUF], envelope("Secret", &secret)).await.is(201);
    assert_eq!(made["data"], json!({"user": "Ym9i"}));
    let owner = [field(1, b"Secret"), field(3, b"n"), field(4, b"some-uid"), field(5, b"v1"), vec![6 << 3, 1]].concat();
    let meta = field(1, &[field(1, b"n"), field(13, &owner), field(14, b"example.com/f")].concat());
    let account = [meta.clone(), field(2, &field(3, b"key")), field(3, &field(1, b"pull")), vec![4 << 3, 0]].concat();
    let made = api.call("POST", "/api/v1/namespaces/n/serviceaccounts", &[PROTOBUF], envelope("ServiceAccount", &account)).await.is(201);
    assert_eq!((&made["secrets"], &made["imagePullSecrets"]), (&json!([{"name": "key"}]), &json!([{"name": "pull"}])));
    assert_eq!((&made["automountServiceAccountToken"], &made["metadata"]["finalizers"]), (&false.into(), &json!(["example.com/f"])));
    let owner = json!({"kind": "Secret", "name": "n", "uid": "some-uid", "apiVersion": "v1", "controller": true});
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
    let time = [vec![1 << 3, 0x80, 0x95, 0xdc, 0xca, 0x06], vec![2 << 3, 0xc0, 0x84, 0x3d]].concat();
    let spec = [field(1, b"me"), vec![2 << 3, 15], field(3, b""), field(4, &time), vec![5 << 3, 2]].concat();
    let lease = [meta.clone(), field(2, &spec)].concat();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases";
    let made = api.call("POST", leases, &[PROTOBUF], envelope("Lease", &lease)).await.is(201);
    let spec =
        json!({"holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 2, "renewTime": "2026-01-02T00:00:00.001000Z"});
    assert_eq!(made["spec"], spec);
    let map = [meta, field(2, &entry)].concat();
    let made = api.call("POST", "/api/v1/namespaces/n/configmaps", &[PROTOBUF], envelope("ConfigMap", &map)).await.is(201);
    assert_eq!(made["data"], json!({"user": "bob"}));
    api.call("POST", "/api/v1/namespaces", &[PROTOBUF], envelope("Pod", b"")).await.is(415);
    api.call("POST", "/api/v1/namespaces", &[PROTOBUF], b"k8s\0\x0a\xff\xff\xff\xff\xff\xff".to_vec()).await.is(400);
}
