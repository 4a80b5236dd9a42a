//! The engine's disk fills up: writes are refused with a sentence, everything else goes on, and space is all that it takes to recover.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test runs real programs, and fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_tests::host::{Host, PATIENCE, run};
use gantry_tests::wait::until;
use serde_json::Value;

const BUSYBOX: &str = "localhost/test/busybox:1";

/// A small file system under the engine's data directory.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn mount(dir: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=0711"), "gantry-disk-full"]).arg(&dir));
        Self { dir }
    }

    /// Fills it but for a few pages.
    fn fill(&self) {
        let file = self.filling();
        // It ends with an error: that is what it is for.
        let ended = Command::new("dd").args(["if=/dev/zero", "bs=64K"]).arg(format!("of={}", file.display())).output().unwrap();
        assert!(String::from_utf8_lossy(&ended.stderr).contains("No space left on device"), "the disk did not fill up");
    }

    fn free(&self) {
        std::fs::remove_file(self.filling()).unwrap();
    }

    fn filling(&self) -> PathBuf {
        self.dir.join("filling")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The host's directory goes with the test; a file system that is still in use may not keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}

fn container(name: &str) -> String {
    format!(
        "apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: {BUSYBOX}\n  command: [sh, -c, 'while true; do date; sleep 1; done']\n  networkMode: None\n  stop: {{gracePeriodSeconds: 0}}\n"
    )
}

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: value}}\n")
}

/// What the engine answers over HTTP: status and body.
fn post(host: &Host, path: &str, body: &str) -> (String, Value) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-w", "\n%{http_code}", "-H", "content-type: application/json", "-d", body, "--unix-socket"]);
    let text = run(command.arg(host.socket()).arg(format!("http://localhost{path}")));
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn is_alive(pid: &Value) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn apply_is_refused(host: &Host, yaml: &str) {
    let file = host.dir().join("refused.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = host.gantry_output(&["apply", "-f", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the disk is full"), "{said}");
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else_and_needs_no_help_to_recover() {
    let mut host = Host::new();
    let disk = SmallDisk::mount(host.data_dir(), "96m");
    host.serve();
    host.load_busybox(BUSYBOX);
    host.apply(&container("steady"));
    host.apply(&config_map("before"));
    let pid = host.wait_running("steady")["status"]["pid"].clone();

    disk.fill();
    let (code, status) = post(&host, "/api/v1/namespaces/default/configmaps", r#"{"metadata":{"name":"refused"}}"#);
    assert_eq!((code.as_str(), &status["reason"]), ("507", &"InsufficientStorage".into()), "{status}");
    assert!(status["message"].as_str().is_some_and(|message| message.starts_with("the disk is full")), "{status}");
    apply_is_refused(&host, &config_map("refused"));
    let kubectl = Command::new("kubectl").arg("version").arg("--client").output();
    if kubectl.is_ok_and(|output| output.status.success()) {
        kubectl_prints_a_sentence(&host);
    }
    assert!(host.find("configmap", "refused").is_none());
    assert_eq!(host.get("configmap", "before")["data"]["key"], "value");
    assert!(is_alive(&pid), "the container died with the disk");

    host.kill_engine();
    assert!(is_alive(&pid), "the container died with the engine");
    host.serve();
    assert_eq!(host.get("configmap", "before")["data"]["key"], "value");
    assert!(host.find("configmap", "refused").is_none());
    assert_eq!(host.get("container", "steady")["status"]["pid"], pid);
    assert!(is_alive(&pid), "the container died when the engine came back");
    apply_is_refused(&host, &config_map("refused"));

    disk.free();
    until("writes to be taken again", PATIENCE, || {
        let (code, status) = post(&host, "/api/v1/namespaces/default/configmaps", r#"{"metadata":{"name":"after"}}"#);
        if code == "201" { Ok(()) } else { Err(status.to_string()) }
    });
    host.apply(&container("new"));
    host.wait_running("new");
    assert_eq!(host.wait_running("steady")["status"]["pid"], pid);
    for name in ["new", "steady"] {
        host.gantry(&["delete", "container", name]);
        host.wait_gone("container", name);
    }
    host.teardown(false);
    drop(disk);
}

fn kubectl_prints_a_sentence(host: &Host) {
    let file = host.dir().join("refused.yaml");
    std::fs::write(&file, config_map("refused")).unwrap();
    let kubeconfig = host.data_dir().join("admin.kubeconfig");
    let mut command = host.command("kubectl");
    // Its caches would land on the root's home.
    command.env("KUBECONFIG", kubeconfig).env("HOME", host.dir()).args(["create", "-f"]).arg(file);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the disk is full"), "{said}");
}
