//! The Pod that stands for a Container, so that tools that know only Pods can look at it: read-only, made anew at each read.
//!
//! It exists from the binding to a node until that node's agent has let go, and has a uid of its own for each binding, as a Pod that
//! is evicted and replaced would. Its one container is called [`MAIN`].

use serde_json::{Map, Value, json};

use crate::kinds::container::AGENT_FINALIZER;
use crate::meta::{GROUP, VERSION};
use crate::registry::View;

/// Name of the one container in a Pod.
pub const MAIN: &str = "main";
/// What a write to a Pod is answered.
pub const READ_ONLY: &str = "pods are views; use container/NAME";
/// Field of a Container's index: the node of its Pod; absent when there is no Pod.
const NODE: &str = "view.pod.nodeName";
/// Field of a Container's index: the phase of its Pod.
const PHASE: &str = "view.pod.phase";

/// Pods, made of Containers.
pub(crate) static VIEW: View = View {
    of: "containers",
    exists: NODE,
    fields: &[("spec.nodeName", NODE), ("status.phase", PHASE)],
    index: |container| {
        let node = node_of(container);
        if node.is_empty() { Vec::new() } else { vec![(NODE, node.to_owned()), (PHASE, phase_of(container).to_owned())] }
    },
    render,
    read_only: READ_ONLY,
};

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Copies the fields that are there, under the names that a Pod gives them.
fn copy(from: &Value, fields: &[(&str, &str)], into: &mut Map<String, Value>) {
    for (pointer, name) in fields {
        if let Some(value) = from.pointer(pointer).filter(|value| !value.is_null()) {
            into.insert((*name).to_owned(), value.clone());
        }
    }
}

/// The node that has it: the one it is bound to, or the one that has not let go of it yet.
fn node_of(container: &Value) -> &str {
    let bound = text(container, "/status/nodeName");
    let holds_on = || list(container, "/metadata/finalizers").iter().any(|finalizer| *finalizer == AGENT_FINALIZER);
    if bound.is_empty() && holds_on() { text(container, "/status/formerNodeName") } else { bound }
}

fn phase_of(container: &Value) -> &'static str {
    match text(container, "/status/phase") {
        "Running" | "Restarting" | "Terminating" => "Running",
        "Exited" if text(container, "/spec/desiredState") == "Stopped" => "Succeeded",
        "Exited" if container.pointer("/status/exitCode").and_then(Value::as_i64) == Some(0) => "Succeeded",
        "Exited" | "Failed" => "Failed",
        "Unknown" => "Unknown",
        _ => "Pending",
    }
}

fn render(container: &Value) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": metadata(container),
        "spec": spec(container),
        "status": status(container),
    })
}

fn metadata(container: &Value) -> Value {
    let mut metadata = Map::new();
    let same = ["name", "namespace", "resourceVersion", "creationTimestamp", "labels", "annotations", "deletionTimestamp"];
    for name in same.into_iter().chain(["deletionGracePeriodSeconds"]) {
        copy(container, &[(&format!("/metadata/{name}"), name)], &mut metadata);
    }
    let own = text(container, "/metadata/uid");
    let of_binding = text(container, "/status/bindingUID");
    metadata.insert("uid".to_owned(), if of_binding.is_empty() { own } else { of_binding }.into());
    let owner = json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Container", "name": container["metadata"]["name"],
        "uid": own, "controller": true, "blockOwnerDeletion": true});
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    // The node is to let go of it: to whoever drains the node, this Pod is on its way out.
    if text(container, "/status/nodeName").is_empty() && !metadata.contains_key("deletionTimestamp") {
        let since = condition(container, "Scheduled").map(|unbound| unbound["lastTransitionTime"].clone());
        metadata.insert("deletionTimestamp".to_owned(), since.unwrap_or_else(|| container["metadata"]["creationTimestamp"].clone()));
    }
    Value::Object(metadata)
}

fn spec(container: &Value) -> Value {
    let mut main = Map::new();
    main.insert("name".to_owned(), MAIN.into());
    main.insert("image".to_owned(), image_of(container).into());
    copy(
        container,
        &[
            ("/spec/command", "command"),
            ("/spec/args", "args"),
            ("/spec/workingDir", "workingDir"),
            ("/spec/env", "env"),
            ("/spec/tty", "tty"),
            ("/spec/stdin", "stdin"),
        ],
        &mut main,
    );
    let limits = container.pointer("/spec/resources/limits").and_then(Value::as_object).into_iter().flatten();
    let limits: Map<String, Value> =
        limits.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")).map(|(n, v)| (n.clone(), v.clone())).collect();
    main.insert("resources".to_owned(), if limits.is_empty() { json!({}) } else { json!({"limits": limits}) });
    let ports: Vec<Value> = list(container, "/spec/ports").iter().map(port).collect();
    let (mounts, volumes) = mounts(container);
    let lists = [("ports", ports), ("volumeMounts", mounts), ("envFrom", environments(container))];
    main.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), list.into())));
    let mut spec = Map::new();
    copy(
        container,
        &[
            ("/spec/nodeSelector", "nodeSelector"),
            ("/spec/hostname", "hostname"),
            ("/spec/restartPolicy", "restartPolicy"),
            ("/spec/stop/gracePeriodSeconds", "terminationGracePeriodSeconds"),
        ],
        &mut spec,
    );
    spec.insert("nodeName".to_owned(), node_of(container).into());
    spec.insert("containers".to_owned(), json!([main]));
    if !volumes.is_empty() {
        spec.insert("volumes".to_owned(), volumes.into());
    }
    if text(container, "/spec/networkMode") == "Host" {
        spec.insert("hostNetwork".to_owned(), true.into());
    }
    Value::Object(spec)
}

fn image_of(container: &Value) -> &str {
    let reference = text(container, "/spec/image");
    if reference.is_empty() { text(container, "/spec/imageName") } else { reference }
}

fn port(of_container: &Value) -> Value {
    let mut port = Map::new();
    copy(
        of_container,
        &[("/name", "name"), ("/containerPort", "containerPort"), ("/hostPort", "hostPort"), ("/hostIP", "hostIP")],
        &mut port,
    );
    let protocol = text(of_container, "/protocol");
    port.insert("protocol".to_owned(), if protocol.is_empty() { "TCP" } else { protocol }.into());
    Value::Object(port)
}

fn environments(container: &Value) -> Vec<Value> {
    let environment = |of_container: &Value| {
        let mut from = Map::new();
        copy(of_container, &[("/prefix", "prefix"), ("/secretRef", "secretRef"), ("/configMapRef", "configMapRef")], &mut from);
        Value::Object(from)
    };
    list(container, "/spec/envFrom").iter().map(environment).collect()
}

/// Mounts and the volumes that they are of. Memory file systems are left out: to `kubectl drain` they would be data to lose.
fn mounts(container: &Value) -> (Vec<Value>, Vec<Value>) {
    let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
    for (at, mount) in list(container, "/spec/mounts").iter().enumerate() {
        let source = match () {
            () if mount["volume"].is_object() => json!({"persistentVolumeClaim": {"claimName": mount["volume"]["name"]}}),
            () if mount["hostPath"].is_object() => json!({"hostPath": {"path": mount["hostPath"]["path"]}}),
            () if mount["configMap"].is_object() => json!({"configMap": {"name": mount["configMap"]["name"]}}),
            () if mount["secret"].is_object() => json!({"secret": {"secretName": mount["secret"]["name"]}}),
            () => continue,
        };
        let name = format!("mount-{at}");
        let mut volume = source;
        volume["name"] = name.clone().into();
        volumes.push(volume);
        let mut mounted = Map::new();
        mounted.insert("name".to_owned(), name.into());
        copy(mount, &[("/mountPath", "mountPath"), ("/subPath", "subPath"), ("/readOnly", "readOnly")], &mut mounted);
        mounts.push(Value::Object(mounted));
    }
    (mounts, volumes)
}

fn condition<'a>(container: &'a Value, type_: &str) -> Option<&'a Value> {
    list(container, "/status/conditions").iter().find(|condition| condition["type"] == type_)
}

fn holds(container: &Value, type_: &str) -> bool {
    condition(container, type_).is_some_and(|condition| condition["status"] == "True")
}

fn status(container: &Value) -> Value {
    let mut status = Map::new();
    status.insert("phase".to_owned(), phase_of(container).into());
    status.insert("conditions".to_owned(), conditions(container).into());
    status.insert("containerStatuses".to_owned(), json!([container_status(container)]));
    status.insert("qosClass".to_owned(), "BestEffort".into());
    copy(container, &[("/status/startedAt", "startTime")], &mut status);
    let bare = |address: &Value| address.as_str().map(|address| address.split('/').next().unwrap_or_default().to_owned());
    let endpoints = list(container, "/status/networks").iter();
    let addresses: Vec<String> =
        endpoints.flat_map(|endpoint| [bare(&endpoint["ipv4Address"]), bare(&endpoint["ipv6Address"])]).flatten().collect();
    if let Some(first) = addresses.first() {
        status.insert("podIP".to_owned(), first.as_str().into());
        status.insert("podIPs".to_owned(), addresses.iter().map(|ip| json!({"ip": ip})).collect());
    }
    if phase_of(container) != "Running" {
        let why = condition(container, "Ready").filter(|ready| ready["status"] != "True");
        for field in ["reason", "message"] {
            status.extend(why.and_then(|why| why.get(field)).map(|text| (field.to_owned(), text.clone())));
        }
    }
    Value::Object(status)
}

/// A Pod's conditions, each from ours that says the same.
fn conditions(container: &Value) -> Vec<Value> {
    let same = [("PodScheduled", "Scheduled"), ("Initialized", "VolumesReady"), ("ContainersReady", "Ready"), ("Ready", "Ready")];
    let made = same.into_iter().filter_map(|(theirs, ours)| {
        let mut found = condition(container, ours)?.clone();
        let fields = found.as_object_mut()?;
        fields.retain(|name, _| matches!(name.as_str(), "status" | "reason" | "message" | "lastTransitionTime"));
        fields.insert("type".to_owned(), theirs.into());
        Some(found)
    });
    made.collect()
}

fn container_status(container: &Value) -> Value {
    let ready = holds(container, "Ready");
    let phase = text(container, "/status/phase");
    let running = matches!(phase, "Running" | "Terminating");
    let mut status = json!({
        "name": MAIN, "image": image_of(container), "ready": ready, "started": running,
        "restartCount": container.pointer("/status/restartCount").cloned().unwrap_or_else(|| 0.into()),
        "imageID": text(container, "/status/imageDigest"), "state": {}, "lastState": {},
    });
    let id = text(container, "/status/containerID");
    if !id.is_empty() {
        status["containerID"] = format!("gantry://{id}").into();
    }
    let terminated = terminated(container);
    if running {
        status["state"] = json!({"running": {"startedAt": container["status"]["startedAt"]}});
    } else if matches!(phase, "Exited" | "Failed") && terminated.is_some() {
        status["state"] = json!({"terminated": terminated});
        return status;
    } else {
        status["state"] = json!({"waiting": waiting(container, phase)});
    }
    if let Some(terminated) = terminated {
        status["lastState"] = json!({"terminated": terminated});
    }
    status
}

fn waiting(container: &Value, phase: &str) -> Value {
    let why = condition(container, "Ready");
    let reason = match (phase, why.and_then(|why| why["reason"].as_str())) {
        // As kubectl's users know it.
        ("Restarting", _) => "CrashLoopBackOff",
        (_, Some(reason)) => reason,
        _ => "ContainerCreating",
    };
    json!({"reason": reason, "message": why.map_or("", |why| why["message"].as_str().unwrap_or_default())})
}

/// How the last process ended; `None` when none has.
fn terminated(container: &Value) -> Option<Value> {
    let code = container.pointer("/status/exitCode")?.as_i64()?;
    let oom = container.pointer("/status/oomKilled") == Some(&Value::Bool(true));
    let reason = match code {
        _ if oom => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    let mut ended = Map::new();
    ended.insert("exitCode".to_owned(), code.into());
    ended.insert("reason".to_owned(), reason.into());
    copy(container, &[("/status/startedAt", "startedAt"), ("/status/finishedAt", "finishedAt")], &mut ended);
    Some(Value::Object(ended))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn container(status: &Value) -> Value {
        json!({
            "apiVersion": "gantry.dev/v1", "kind": "Container",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "labels": {"app": "web"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": [AGENT_FINALIZER]},
            "spec": {"image": "nginx:1", "args": ["-g"], "restartPolicy": "Always", "stop": {"gracePeriodSeconds": 10},
                "env": [{"name": "A", "value": "b"}], "envFrom": [{"secretRef": {"name": "s", "optional": true}}],
                "ports": [{"containerPort": 80, "hostPort": 8080, "exposure": "LAN"}],
                "mounts": [{"mountPath": "/data", "volume": {"name": "d"}}, {"mountPath": "/tmp", "tmpfs": {}},
                    {"mountPath": "/etc/x", "secret": {"name": "s"}, "readOnly": true}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "pids": 100}}},
            "status": status,
        })
    }

    fn running() -> Value {
        json!({"phase": "Running", "nodeName": "n1", "bindingUID": "b-1", "containerID": "abc", "restartCount": 2, "exitCode": 137,
            "oomKilled": true, "startedAt": "2026-01-01T00:00:05Z", "finishedAt": "2026-01-01T00:00:04Z",
            "networks": [{"name": "default", "networkUid": "x", "ipv4Address": "10.88.0.3/20"}],
            "conditions": [
                {"type": "Scheduled", "status": "True", "reason": "Bound", "message": "", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                {"type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:05Z"}]})
    }

    fn typed(status: &Value) -> Pod {
        serde_json::from_value((VIEW.render)(&container(status))).unwrap()
    }

    #[test]
    fn a_running_container_is_a_running_pod() {
        let pod = typed(&running());
        assert_eq!((pod.metadata.uid.as_deref(), pod.metadata.resource_version.as_deref()), (Some("b-1"), Some("7")));
        let owner = &pod.metadata.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Container", "u-1", Some(true)));
        let spec = pod.spec.unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.termination_grace_period_seconds), (Some("n1"), Some(10)));
        let main = &spec.containers[0];
        assert_eq!((main.name.as_str(), main.image.as_deref()), (MAIN, Some("nginx:1")));
        assert_eq!(main.ports.as_ref().unwrap()[0].host_port, Some(8080));
        assert_eq!(main.volume_mounts.as_ref().unwrap().len(), 2);
        assert_eq!(main.resources.as_ref().unwrap().limits.as_ref().unwrap().len(), 2);
        let status = pod.status.unwrap();
        assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.88.0.3")));
        let main = &status.container_statuses.unwrap()[0];
        assert!(main.ready && main.state.as_ref().unwrap().running.is_some());
        assert_eq!(main.last_state.as_ref().unwrap().terminated.as_ref().unwrap().reason.as_deref(), Some("OOMKilled"));
        assert_eq!((main.restart_count, main.container_id.as_deref()), (2, Some("gantry://abc")));
        assert!(pod.metadata.deletion_timestamp.is_none());
    }

    #[test]
    fn every_phase_has_one() {
        for (phase, code, pod, state) in [
            ("", None, "Pending", "waiting"),
            ("Pending", None, "Pending", "waiting"),
            ("Creating", None, "Pending", "waiting"),
            ("Running", None, "Running", "running"),
            ("Restarting", Some(1), "Running", "waiting"),
            ("Exited", Some(0), "Succeeded", "terminated"),
            ("Exited", Some(3), "Failed", "terminated"),
            ("Failed", None, "Failed", "waiting"),
            ("Terminating", None, "Running", "running"),
            ("Unknown", None, "Unknown", "waiting"),
        ] {
            let mut status = json!({"phase": phase, "nodeName": "n1"});
            if let Some(code) = code {
                status["exitCode"] = json!(code);
            }
            let rendered = (VIEW.render)(&container(&status));
            serde_json::from_value::<Pod>(rendered.clone()).unwrap();
            assert_eq!(rendered["status"]["phase"], pod, "{phase}");
            assert!(rendered["status"]["containerStatuses"][0]["state"][state].is_object(), "{phase}: {rendered}");
            assert_eq!((VIEW.index)(&container(&status)), [(NODE, "n1".to_owned()), (PHASE, pod.to_owned())]);
        }
    }

    #[test]
    fn it_is_there_until_the_node_has_let_go() {
        assert!((VIEW.index)(&container(&json!({"phase": "Pending"}))).is_empty());
        let mut evicted = running();
        (evicted["nodeName"], evicted["formerNodeName"]) = (Value::Null, json!("n1"));
        assert_eq!((VIEW.index)(&container(&evicted))[0], (NODE, "n1".to_owned()));
        let mut let_go = container(&evicted);
        let_go["metadata"]["finalizers"] = json!([]);
        assert!((VIEW.index)(&let_go).is_empty());
        let pod = typed(&evicted);
        assert_eq!((pod.spec.unwrap().node_name.as_deref(), pod.metadata.uid.as_deref()), (Some("n1"), Some("b-1")));
        assert!(pod.metadata.deletion_timestamp.is_some());
    }
}
