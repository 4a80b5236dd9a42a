//! What a server-side apply of a typical Container costs, beside reading the same object from JSON.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use gantry_api::patch::{Writer, apply, track_update};
use gantry_api::registry::find_word;
use jiff::Timestamp;
use serde_json::{Value, json};

/// An apply reads three objects and two records of owners and writes one: so many readings of one object it may cost at most.
const READINGS: u32 = 60;

fn typical() -> Value {
    let env: Vec<Value> = (0..12).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value of {n}")})).collect();
    json!({
        "apiVersion": "gantry.dev/v1", "kind": "Container",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}, "annotations": {"example.com/note": "x"}},
        "spec": {
            "image": "docker.io/library/nginx:1.27", "command": ["nginx", "-g", "daemon off;"], "env": env, "restartPolicy": "Always",
            "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 443, "hostPort": 8443}],
            "mounts": [{"mountPath": "/data", "volume": {"name": "data"}}, {"mountPath": "/tmp", "tmpfs": {"sizeLimit": "16Mi"}}],
            "resources": {"limits": {"cpu": "1", "memory": "256Mi"}}, "networks": [{"name": "default"}],
        },
    })
}

/// The least time of some runs: what it costs when nothing else happens on the machine.
fn least(mut run: impl FnMut()) -> Duration {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..20 {
            run();
        }
        start.elapsed() / 20
    };
    (0..20).map(|_| time(&mut run)).min().unwrap()
}

#[test]
fn an_apply_costs_little() {
    let kind = find_word("container").unwrap();
    let schema = kind.schema();
    let writer = |manager| Writer { manager, api_version: "gantry.dev/v1", subresource: "", time: Timestamp::UNIX_EPOCH, force: false };
    let config = typical();
    let mut live = kind.rules.normalize(apply(None, &config, schema, &writer("gantry")).unwrap()).unwrap();
    let before = live.clone();
    live["status"] =
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "Started", "status": "True"}]});
    track_update(Some(&before), &mut live, schema, &Writer { subresource: "status", ..writer("agent") });
    let text = live.to_string();
    let mut changed = config.clone();
    changed["spec"]["image"] = json!("docker.io/library/nginx:1.28");

    let reading = least(|| drop(black_box(serde_json::from_str::<Value>(&text).unwrap())));
    let same = least(|| drop(black_box(apply(Some(&live), &config, schema, &writer("gantry")).unwrap())));
    let other = least(|| drop(black_box(apply(Some(&live), &changed, schema, &writer("gantry")).unwrap())));
    let update = least(|| {
        let mut new = live.clone();
        new["spec"]["image"] = json!("x");
        track_update(Some(&live), &mut new, schema, &writer("hand"));
        drop(black_box(new));
    });
    eprintln!(
        "{} bytes: reading {reading:?}, apply of the same {same:?}, of a change {other:?}, record of an update {update:?}",
        text.len()
    );
    assert!(same < reading * READINGS && other < reading * READINGS && update < reading * READINGS);
}
