//! Unmodified kubectl against the TLS listener: every binary of 1.29 and later that is found on PATH, beside it, or in `KUBECTLS`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_tests::host::{Host, PATIENCE};
use gantry_tests::kubectl::{OLDEST_MINOR, kubectls};
use gantry_tests::wait::until;

const BUSYBOX: &str = "localhost/quickstart/busybox:1";
const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/quickstart");

struct Kubectl<'a> {
    host: &'a Host,
    binary: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.binary);
        command.arg("--kubeconfig").arg(self.host.data_dir().join("admin.kubeconfig")).args(arguments);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG");
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        gantry_tests::host::run(&mut self.command(arguments))
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run kubectl");
        assert!(!output.status.success(), "kubectl {arguments:?} should fail: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn unmodified_kubectl_applies_gets_watches_waits_and_deletes() {
    let all = kubectls();
    if all.is_empty() {
        eprintln!(
            "NOT RUN: no kubectl of 1.{OLDEST_MINOR} or later was found; put one on PATH, or name some in KUBECTLS (colon-separated)"
        );
        return;
    }
    let mut host = Host::new();
    host.serve();
    host.load_busybox(BUSYBOX);
    for (binary, minor) in all {
        eprintln!("kubectl 1.{minor}: {}", binary.display());
        let kubectl = Kubectl { host: &host, binary, home: tempfile::tempdir().unwrap() };
        main_job(&kubectl);
        core_kinds(&kubectl, minor);
        refusals(&kubectl);
    }
}

fn main_job(kubectl: &Kubectl<'_>) {
    let applied = kubectl.run(&["apply", "-f", QUICKSTART]);
    assert!(applied.contains("container.gantry.dev/web created"), "{applied}");
    let mut watch = kubectl.command(&["get", "containers", "-w"]).stdout(Stdio::piped()).spawn().expect("watch");
    kubectl.run(&["wait", "--for=condition=Ready", "container/web", "container/visitor", "--timeout=60s"]);
    let lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let seen = lines.map_while(Result::ok).find(|line| line.contains("web") && line.contains("Running"));
    watch.kill().expect("end the watch");
    watch.wait().expect("reap the watch");
    assert!(seen.is_some(), "the watch shows the container running");

    let again = kubectl.run(&["apply", "-f", QUICKSTART]);
    assert_eq!(again.matches("unchanged").count(), 5, "{again}");
    let table = kubectl.run(&["get", "ctr"]);
    assert!(table.starts_with("NAME") && table.contains("PHASE"), "{table}");
    assert!(kubectl.run(&["get", "all", "-A"]).contains("container.gantry.dev/web"));
    assert!(kubectl.run(&["get", "containers", "--sort-by=.metadata.name", "-o", "wide"]).contains("visitor"));
    let described = kubectl.run(&["describe", "container", "web"]);
    assert!(described.contains("Conditions") && described.contains("Image Name"), "{described}");
    assert!(kubectl.run(&["explain", "container.spec.ports"]).contains("hostPort"));
    until("the page", PATIENCE, || kubectl.host.fetch("http://127.0.0.1:8088/").map(|_| ()));

    pods(kubectl);

    kubectl.run(&["label", "container", "web", "tier=front"]);
    assert!(kubectl.run(&["get", "containers", "-l", "tier=front", "-o", "name"]).contains("container.gantry.dev/web"));
    assert!(kubectl.run(&["patch", "container", "web", "--type=merge", "-p", "{}"]).contains("no change"));
    let diff = kubectl.command(&["diff", "-f", QUICKSTART]).output().expect("diff");
    assert_eq!(diff.status.code(), Some(0), "{}{}", String::from_utf8_lossy(&diff.stdout), String::from_utf8_lossy(&diff.stderr));
    kubectl.run(&["apply", "--server-side", "--force-conflicts", "-f", QUICKSTART]);

    kubectl.run(&["delete", "-f", QUICKSTART, "--timeout=60s"]);
    assert_eq!(kubectl.run(&["get", "containers,volumes", "-o", "name"]), "");
}

/// Containers as Pods, and the emptying of their node.
fn pods(kubectl: &Kubectl<'_>) {
    let wide = kubectl.run(&["get", "pods", "-o", "wide"]);
    assert!(wide.contains("web") && wide.contains("1/1") && wide.contains("Running") && wide.contains("10."), "{wide}");
    kubectl.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]);
    let described = kubectl.run(&["describe", "pod", "web"]);
    assert!(described.contains("Controlled By:") && described.contains("Container/web"), "{described}");
    assert!(kubectl.run(&["get", "pods", "--field-selector=spec.nodeName=node,status.phase=Running", "-o", "name"]).contains("pod/web"));
    assert!(kubectl.fails(&["delete", "pod", "web"]).contains("pods are views; use container/NAME"));

    let drained = kubectl.run(&["drain", "node", "--timeout=60s"]);
    assert!(drained.contains("node/node drained"), "{drained}");
    assert_eq!(kubectl.run(&["get", "pods", "-o", "name"]), "");
    let waiting = kubectl.run(&["get", "containers", "-o", "jsonpath={.items[*].status.nodeName}"]);
    assert_eq!(waiting, "", "no other node takes them");
    kubectl.run(&["uncordon", "node"]);
    kubectl.run(&["wait", "--for=condition=Ready", "container/web", "container/visitor", "--timeout=60s"]);
}

fn core_kinds(kubectl: &Kubectl<'_>, minor: u32) {
    let namespace = format!("team{minor}");
    kubectl.run(&["create", "namespace", &namespace]);
    until("the namespace's account", Duration::from_secs(30), || {
        let named = kubectl.command(&["-n", &namespace, "get", "serviceaccounts", "-o", "name"]).output().expect("get");
        let names = String::from_utf8_lossy(&named.stdout).into_owned();
        if names.contains("serviceaccount/default") { Ok(()) } else { Err(names) }
    });
    kubectl.run(&["-n", &namespace, "create", "configmap", "settings", "--from-literal=a=1"]);
    kubectl.run(&["-n", &namespace, "create", "secret", "generic", "key", "--from-literal=password=x"]);
    assert_eq!(kubectl.run(&["-n", &namespace, "get", "cm", "settings", "-o", "jsonpath={.data.a}"]), "1");
    let file = kubectl.home.path().join("cm.yaml");
    for value in ["2", "3"] {
        let text =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: {namespace}}}\ndata: {{a: '{value}'}}\n");
        std::fs::write(&file, text).unwrap();
        kubectl.run(&["apply", "-f", &file.display().to_string()]);
    }
    assert_eq!(kubectl.run(&["-n", &namespace, "get", "cm", "settings", "-o", "jsonpath={.data.a}"]), "3");
    kubectl.run(&["get", "nodes", "-o", "wide"]);
    kubectl.run(&["get", "events", "-A"]);
    kubectl.run(&["delete", "namespace", &namespace, "--timeout=60s"]);
    until("the namespace to be gone", Duration::from_secs(30), || {
        if kubectl.command(&["get", "namespace", &namespace]).output().expect("get").status.success() {
            Err("it is there".into())
        } else {
            Ok(())
        }
    });
}

fn refusals(kubectl: &Kubectl<'_>) {
    let file = kubectl.home.path().join("bad.yaml");
    let bad = "apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {name: bad}\nspec: {image: busybox, imagee: x, ports: [{containerPort: 80, hstPort: 1}]}\n";
    std::fs::write(&file, bad).unwrap();
    let error = kubectl.fails(&["apply", "-f", &file.display().to_string()]);
    assert!(error.contains("spec.imagee") && error.contains("spec.ports[0].hstPort"), "{error}");
    assert!(kubectl.fails(&["get", "container", "nobody"]).contains("NotFound"));
    assert!(kubectl.fails(&["patch", "container", "nobody", "-p", "{}"]).contains("nobody"));
}
