//! The main job: manifests in, a running, reachable, persistent, self-healing container out, and nothing left afterwards.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs, and waits for what no watch tells of")]

use gantry_tests::host::{Host, PATIENCE, run};
use gantry_tests::state::HostState;
use gantry_tests::wait::until;

const BUSYBOX: &str = "localhost/quickstart/busybox:1";
const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/quickstart");
const PAGE: &str = "http://127.0.0.1:8088/";

fn pid(object: &serde_json::Value) -> i64 {
    object["status"]["pid"].as_i64().expect("a running container has a pid")
}

fn quickstart(host: &mut Host) {
    host.serve();
    host.load_busybox(BUSYBOX);
    host.gantry(&["apply", "-f", QUICKSTART, "--wait", "--timeout", "60s"]);
}

#[track_caller]
fn wait_page(host: &Host, wanted: &str) {
    until("the page", PATIENCE, || host.fetch(PAGE).and_then(|page| if page.contains(wanted) { Ok(()) } else { Err(page) }));
}

#[test]
fn four_manifests_become_a_running_reachable_persistent_self_healing_container() {
    let mut host = Host::new();
    let before = HostState::of(&host);
    quickstart(&mut host);
    assert_eq!(host.fetch(PAGE).expect("the published port answers"), "<h1>Hello from Gantry</h1>\n");

    let found = host.gantry(&["exec", "visitor", "--", "wget", "-q", "-O", "-", "http://web/"]);
    assert_eq!(found, "<h1>Hello from Gantry</h1>\n", "containers find each other by name");

    let first = host.wait_running("web");
    run(std::process::Command::new("kill").args(["-9", &pid(&first).to_string()]));
    let second = host.wait_for("container", "web", "started again", |object| {
        object["status"]["restartCount"] == 1 && object["status"]["phase"] == "Running"
    });
    assert_ne!(pid(&first), pid(&second));
    assert_eq!(first["status"]["containerID"], second["status"]["containerID"], "a restart is no replacement");
    assert_eq!(first["status"]["networks"], second["status"]["networks"], "a restart keeps its addresses");
    wait_page(&host, "Hello");

    host.gantry(&["exec", "web", "--", "sh", "-c", "echo changed > /www/index.html; touch /gone"]);
    let edited =
        std::fs::read_to_string(format!("{QUICKSTART}/containers.yaml")).unwrap().replace("exec httpd", "export EDITED=1; exec httpd");
    host.apply(&edited);
    let third = host.wait_for("container", "web", "replaced", |object| {
        object["status"]["containerID"] != first["status"]["containerID"] && object["status"]["phase"] == "Running"
    });
    assert_eq!(third["status"]["restartCount"], 0);
    wait_page(&host, "changed");
    let listing = host.gantry(&["exec", "web", "--", "ls", "/"]);
    assert!(!listing.contains("gone"), "a replacement discards the writable layer: {listing}");

    host.gantry(&["delete", "-f", QUICKSTART]);
    for (kind, name) in [("container", "web"), ("container", "visitor"), ("volume", "pages"), ("network", "site")] {
        host.wait_gone(kind, name);
    }
    let retained: Vec<_> = std::fs::read_dir(host.data_dir().join("volumes/retained")).unwrap().flatten().collect();
    assert_eq!(retained.len(), 1, "the volume's data is retained");
    host.teardown(false);
    assert_eq!(HostState::of(&host).added_since(&before), Vec::<String>::new(), "nothing of the engine is left on the host");
}

#[test]
fn the_engine_s_death_disturbs_nothing_and_its_successor_adopts_everything() {
    let mut host = Host::new();
    quickstart(&mut host);
    let before = host.wait_running("web");
    host.kill_engine();
    assert!(host.fetch(PAGE).is_ok(), "the published port answers while no engine runs");
    let alive = format!("/proc/{}", pid(&before));
    assert!(std::path::Path::new(&alive).exists());
    host.serve();
    host.wait_running("web");
    let after = host.get("container", "web");
    for field in ["pid", "containerID", "restartCount", "networks", "ports", "startedAt"] {
        assert_eq!(before["status"][field], after["status"][field], "{field}");
    }
    assert!(host.fetch(PAGE).is_ok());
    until("the log to go on", PATIENCE, || {
        let log = host.gantry(&["logs", "visitor"]);
        if log.contains("Hello from Gantry") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn an_end_while_no_engine_runs_is_known_and_repaired_afterwards() {
    let mut host = Host::new();
    quickstart(&mut host);
    let before = host.wait_running("web");
    host.kill_engine();
    run(std::process::Command::new("kill").args(["-9", &pid(&before).to_string()]));
    host.serve();
    let after = host.wait_for("container", "web", "started again", |object| {
        object["status"]["restartCount"] == 1 && object["status"]["phase"] == "Running"
    });
    assert_ne!(pid(&before), pid(&after));
    wait_page(&host, "Hello");
}

#[test]
fn a_flushed_table_and_a_removed_bridge_come_back() {
    let mut host = Host::new();
    quickstart(&mut host);
    let before = host.wait_running("web");
    run(host.command("nft").args(["flush", "ruleset"]));
    wait_page(&host, "Hello");
    let bridge = host.get("network", "site")["status"]["bridge"].as_str().unwrap().to_owned();
    run(host.command("ip").args(["link", "del", &bridge]));
    wait_page(&host, "Hello");
    until("names to be answered again", PATIENCE, || {
        let output = host.gantry_output(&["exec", "visitor", "--", "wget", "-q", "-O", "-", "http://web/"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    assert_eq!(pid(&before), pid(&host.get("container", "web")), "repair needs no restart");
}

#[test]
fn limits_and_ports_change_live() {
    let mut host = Host::new();
    quickstart(&mut host);
    let before = host.wait_running("web");
    let manifest = std::fs::read_to_string(format!("{QUICKSTART}/containers.yaml")).unwrap();
    let edited = manifest.replace("memory: 64Mi, pids: 64", "memory: 80Mi, pids: 70").replace("hostPort: 8088", "hostPort: 8099");
    let plan_file = host.dir().join("plan.yaml");
    std::fs::write(&plan_file, &edited).unwrap();
    let plan = String::from_utf8(host.gantry_output(&["plan", "-f", &plan_file.display().to_string()]).stdout).unwrap();
    assert!(plan.contains("spec.resources.limits.memory"), "{plan}");
    host.apply(&edited);
    until("the new port", PATIENCE, || host.fetch("http://127.0.0.1:8099/").map(|_| ()));
    assert!(host.fetch(PAGE).is_err(), "the old port is closed");
    let after = host.wait_running("web");
    assert_eq!(pid(&before), pid(&after), "nothing was restarted");
    let uid = after["metadata"]["uid"].as_str().unwrap();
    let limit = |file: &str| {
        let (v1, v2) =
            (format!("/sys/fs/cgroup/memory/{}/{uid}/c/{file}", host.instance()), format!("/sys/fs/cgroup/{}/{uid}/c", host.instance()));
        std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(format!("{v2}/memory.max"))).unwrap_or_default()
    };
    until("the new memory limit", PATIENCE, || {
        let text = limit("memory.limit_in_bytes");
        if text.trim() == (80 << 20).to_string() { Ok(()) } else { Err(text) }
    });
}

#[test]
fn sigterm_ends_the_engine_and_leaves_containers_running() {
    let mut host = Host::new();
    quickstart(&mut host);
    let before = host.wait_running("web");
    assert!(host.stop_engine().success());
    assert!(host.fetch(PAGE).is_ok());
    host.serve();
    assert_eq!(pid(&before), pid(&host.wait_running("web")));
}
