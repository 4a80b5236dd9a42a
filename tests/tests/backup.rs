//! `gantry backup` of a running engine, and `gantry restore` without one.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test runs real programs, and fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use gantry_tests::host::{Host, condition, run};
use serde_json::Value;

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: test}}}}\ndata: {{key: value}}\n")
}

fn restore(host: &Host, file: &Path, more: &[&str]) -> Output {
    let mut command = host.command(Host::binary());
    command.arg("restore").arg(file).arg("--data-dir").arg(host.data_dir()).args(more);
    command.output().unwrap()
}

#[track_caller]
fn is_refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{said}");
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Status code of a request without any identity.
fn anonymous(host: &Host, url: &str) -> String {
    run(host.command("curl").args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", url]))
}

#[test]
fn a_backup_brings_back_what_was_and_nothing_that_was_seen_since() {
    let mut host = Host::new();
    host.serve();
    for name in ["one", "two"] {
        host.apply(&config_map(name));
    }
    let file = host.dir().join("store.backup");
    let said = host.gantry(&["backup", &file.display().to_string()]);
    assert!(said.contains("objects at revision"), "{said}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let piped = run(Command::new("sh").arg("-c").arg(format!(
        "'{}' -H unix://{} backup - | head -c 8",
        Host::binary().display(),
        host.socket().display()
    )));
    assert_eq!(piped, "GANTRYBK");
    assert_eq!(anonymous(&host, "https://127.0.0.1:7443/backup"), "401");

    host.gantry(&["delete", "configmap", "one"]);
    host.apply(&config_map("later"));
    let seen = revision(&host.get("configmap", "later"));
    is_refused(&restore(&host, &file, &["--force"]), "is running on");
    assert!(host.stop_engine().success());

    is_refused(&restore(&host, &file, &[]), "--force");
    let whole = std::fs::read(&file).unwrap();
    let cut = host.dir().join("cut.backup");
    std::fs::write(&cut, &whole[..whole.len() - 7]).unwrap();
    is_refused(&restore(&host, &cut, &["--force"]), "truncated");
    host.serve();
    assert!(host.find("configmap", "later").is_some(), "a refused restore changed the store");
    assert!(host.stop_engine().success());

    let output = restore(&host, &file, &["--force"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("kept in"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    host.serve();
    assert!(host.find("configmap", "one").is_some() && host.find("configmap", "later").is_none());
    // The index was made anew: labels select.
    let listed = host.gantry(&["get", "configmaps", "-l", "app=test", "-o", "name"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    host.apply(&config_map("after"));
    assert!(revision(&host.get("configmap", "after")) > seen + 1_000_000);
    let watch = format!("http://localhost/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={seen}");
    let answer = run(host.command("curl").arg("-s").arg("--unix-socket").arg(host.socket()).arg(watch));
    assert!(answer.contains("\"code\":410"), "{answer}");
    // The agent and the server each write their own condition, in no order.
    host.wait_for("node", "node", "ready, and its store too", |node| {
        ["Ready", "StoreReady"].iter().all(|kind| condition(node, kind) == Some("True"))
    });
}
