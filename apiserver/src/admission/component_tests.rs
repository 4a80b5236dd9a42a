use gantry_api::registry::find_kind;
use serde_json::json;

use super::*;

fn object(kind: &str, status: &Value) -> Value {
    let api_version = if matches!(kind, "Node" | "Secret" | "Namespace") { "v1" } else { "gantry.dev/v1" };
    let spec = match kind {
        "Container" => json!({"image": "nginx"}),
        "Image" => json!({"source": {"registry": {"reference": "nginx"}}}),
        _ => json!({}),
    };
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": "x", "namespace": "default", "finalizers": ["gantry.dev/agent", "gantry.dev/volume-data", "mine"]},
        "spec": spec, "status": status,
    })
}

/// Whether the change of `old` by the merge patch `change` is allowed.
fn may(identity: &Identity, part: Part, old: &Value, change: &Value) -> bool {
    let kind = find_kind(old["apiVersion"].as_str().unwrap(), old["kind"].as_str().unwrap()).unwrap();
    let old = normalize(kind, old.clone()).unwrap();
    let new = normalize(kind, gantry_api::patch::merge_patch(&old, change).unwrap()).unwrap();
    let answer = check_write(identity, kind, part, Some(&old), &new);
    if let Err(error) = &answer {
        assert_eq!((error.code, error.reason), (StatusCode::FORBIDDEN, "Forbidden"));
    }
    answer.is_ok()
}

fn here() -> Identity {
    Identity::node("here")
}

#[test]
fn an_agent_takes_only_its_own_finalizers_off_what_is_bound_to_its_node() {
    for (kind, finalizer) in [("Container", "gantry.dev/agent"), ("Volume", "gantry.dev/volume-data")] {
        let left: Vec<&str> = ["gantry.dev/agent", "gantry.dev/volume-data", "mine"].into_iter().filter(|f| *f != finalizer).collect();
        let released = json!({"metadata": {"finalizers": left}});
        assert!(may(&here(), Part::Main, &object(kind, &json!({"nodeName": "here"})), &released), "{kind}");
        for node in [json!({"nodeName": "there"}), json!({})] {
            assert!(!may(&here(), Part::Main, &object(kind, &node), &released), "{kind} {node}");
        }
        for change in [
            json!({"metadata": {"finalizers": ["mine"]}}),
            json!({"metadata": {"finalizers": null}}),
            json!({"metadata": {"finalizers": [left[0], left[1], "new"]}}),
            json!({"metadata": {"finalizers": left, "labels": {"a": "b"}}}),
            json!({"metadata": {"finalizers": left, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]}}),
        ] {
            assert!(!may(&here(), Part::Main, &object(kind, &json!({"nodeName": "here"})), &change), "{kind} {change}");
        }
    }
    let container = object("Container", &json!({"nodeName": "here"}));
    assert!(!may(&here(), Part::Main, &container, &json!({"spec": {"image": "evil"}})));
    assert!(!may(&here(), Part::Main, &container, &json!({"spec": {"securityContext": {"privileged": true}}})));
}

#[test]
fn the_node_that_a_container_leaves_lets_go_of_it() {
    let released = json!({"metadata": {"finalizers": ["gantry.dev/volume-data", "mine"]}});
    for (status, allowed) in [
        (json!({"formerNodeName": "here"}), true),
        (json!({"formerNodeName": "there"}), false),
        (json!({"nodeName": "there", "formerNodeName": "here"}), false),
    ] {
        assert_eq!(may(&here(), Part::Main, &object("Container", &status), &released), allowed, "{status}");
    }
}

#[test]
fn an_agent_reports_only_its_own_fields_of_its_own_containers() {
    let ready = |type_: &str| json!({"status": {"conditions": [{"type": type_, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let bound = object("Container", &json!({"nodeName": "here"}));
    let elsewhere = object("Container", &json!({"nodeName": "there"}));
    for own in [
        json!({"status": {"phase": "Running", "pid": 7, "containerID": "c", "restartCount": 1, "observedGeneration": 2}}),
        json!({"status": {"exitCode": 1, "signal": "SIGKILL", "oomKilled": true, "finishedAt": "2026-01-01T00:00:00Z"}}),
        ready("Ready"),
        ready("ImageReady"),
    ] {
        assert!(may(&here(), Part::Status, &bound, &own), "{own}");
        assert!(!may(&here(), Part::Status, &elsewhere, &own), "{own}");
    }
    for foreign in [
        json!({"status": {"nodeName": "there"}}),
        json!({"status": {"nodeName": null}}),
        json!({"status": {"imageObjectName": "evil"}}),
        json!({"status": {"networks": [{"name": "n", "networkUid": "u", "ipv4Address": "10.0.0.1/8"}]}}),
        ready("Scheduled"),
    ] {
        assert!(!may(&here(), Part::Status, &bound, &foreign), "{foreign}");
    }
}

#[test]
fn an_agent_tells_of_an_image_where_it_stands_here_and_what_it_resolved_to_when_asked() {
    let entry = |node: &str| json!({"status": {"nodes": [{"name": "other", "phase": "Present"}, {"name": node, "phase": "Failed"}]}});
    let resolved = json!({"status": {"digest": "sha256:0", "references": ["a"], "sizeBytes": 1, "observedGeneration": 1}});
    let with = |resolver: &str| object("Image", &json!({"resolverNodeName": resolver, "nodes": [{"name": "other", "phase": "Present"}]}));
    assert!(may(&here(), Part::Status, &with("other"), &entry("here")));
    assert!(!may(&here(), Part::Status, &with("other"), &json!({"status": {"nodes": [{"name": "other", "phase": "Failed"}]}})));
    assert!(!may(&here(), Part::Status, &with("other"), &json!({"status": {"nodes": null}})));
    assert!(!may(&here(), Part::Status, &with("other"), &resolved));
    assert!(may(&here(), Part::Status, &with("here"), &resolved));
    assert!(!may(&here(), Part::Status, &with("here"), &json!({"status": {"resolverNodeName": "other"}})));
    assert!(!may(&here(), Part::Main, &with("here"), &json!({"spec": {"source": {"registry": {"reference": "evil"}}}})));
}

#[test]
fn an_agent_keeps_to_its_own_volumes_and_node() {
    let volume = object("Volume", &json!({"nodeName": "here", "phase": "Bound"}));
    let condition = |type_: &str| json!({"status": {"conditions": [{"type": type_, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    assert!(may(&here(), Part::Status, &volume, &condition("DataReady")));
    assert!(!may(&here(), Part::Status, &volume, &condition("Ready")));
    assert!(!may(&here(), Part::Status, &volume, &json!({"status": {"nodeName": "there"}})));
    assert!(!may(&here(), Part::Status, &object("Volume", &json!({"nodeName": "there"})), &condition("DataReady")));
    assert!(!may(&here(), Part::Status, &object("Network", &json!({})), &json!({"status": {"bridge": "eth0"}})));
    let node = object("Node", &json!({}));
    assert!(!may(&here(), Part::Main, &node, &json!({"metadata": {"labels": {"a": "b"}}})));
    assert!(may(&Identity::node("x"), Part::Main, &node, &json!({"metadata": {"labels": {"a": "b"}}})));
    let kind = find_kind("v1", "Node").unwrap();
    assert!(check_write(&here(), kind, Part::Main, None, &node).is_err());
    assert!(check_write(&Identity::node("x"), kind, Part::Main, None, &node).is_ok());
}

#[test]
fn controllers_complete_what_users_declared_and_change_no_wish() {
    let controllers = Identity::controllers();
    let container = object("Container", &json!({"phase": "Running"}));
    for (part, change, allowed) in [
        (Part::Main, json!({"metadata": {"finalizers": ["gantry.dev/volume-data", "mine"]}}), true),
        (Part::Main, json!({"metadata": {"finalizers": ["gantry.dev/volume-data", "gantry.dev/agent"]}}), false),
        (Part::Main, json!({"spec": {"hostname": "h"}}), false),
        (Part::Main, json!({"metadata": {"labels": {"a": "b"}}}), false),
        (Part::Status, json!({"status": {"imageObjectName": "nginx"}}), true),
        (Part::Status, json!({"status": {"phase": "Unknown"}}), true),
        (Part::Status, json!({"status": {"phase": "Failed"}}), false),
        (Part::Status, json!({"status": {"pid": 1}}), false),
    ] {
        assert_eq!(may(&controllers, part, &container, &change), allowed, "{change}");
    }
    let volume = object("Volume", &json!({}));
    let added = json!({"metadata": {"finalizers": ["gantry.dev/agent", "gantry.dev/volume-data", "mine", "gantry.dev/in-use"]}});
    assert!(may(&controllers, Part::Main, &volume, &added));
    assert!(may(&controllers, Part::Status, &volume, &json!({"status": {"nodeName": "here", "usedBy": ["web"]}})));
    let mut image = object("Image", &json!({}));
    let secret = json!({"spec": {"source": {"registry": {"pullSecretName": "s"}}}});
    assert!(!may(&controllers, Part::Main, &image, &secret), "a user's Image");
    image["metadata"]["labels"] = json!({"gantry.dev/generated": "true"});
    assert!(may(&controllers, Part::Main, &image, &secret));
    assert!(!may(&controllers, Part::Main, &image, &json!({"spec": {"source": {"registry": {"reference": "evil"}}}})));
}

#[test]
fn users_may_write_everything() {
    let container = object("Container", &json!({}));
    assert!(may(&Identity::admin(), Part::Main, &container, &json!({"spec": {"hostname": "h"}, "metadata": {"finalizers": null}})));
}
