//! Every command of unmodified kubectl that reads or writes objects, row by row, against the API server alone: what it must print, and
//! for what does not apply the words with which it must fail. Writing in depth is `kubectl_writes.rs`, containers that really run are
//! `tests/tests/kubectl.rs`.

#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a test runs real programs and says which")]

#[path = "../../tests/src/kubectl.rs"]
pub mod kubectl;
mod live;

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use live::Live;
use serde_json::json;
use tempfile::TempDir;

/// How long a watch is listened to before something is done again, and how often.
const TURN: Duration = Duration::from_millis(500);
const TRIES: usize = 60;

/// What kubectl cannot do here, the words it must say so with, and why it cannot.
const NOT_APPLICABLE: &[(&[&str], &str, &str)] = &[
    (&["top", "pod"], "Metrics API not available", "usage is not measured for this API: the group is left out of discovery"),
    (&["top", "node"], "Metrics API not available", "usage is not measured for this API: the group is left out of discovery"),
    (&["logs", "web"], "is not connected", "there is no agent here; `tests/tests/kubectl.rs` has one"),
    (&["logs", "container/web"], "no kind", "kubectl knows only kinds compiled into it here"),
    (&["run", "x", "--image=a:1"], "pods are views; use container/NAME", "Pods are views"),
    (&["delete", "pod", "web"], "pods are views; use container/NAME", "Pods are views"),
    (&["label", "pod", "web", "a=b"], "pods are views; use container/NAME", "Pods are views"),
    (&["scale", "container/web", "--replicas=2"], "could not find the requested resource", "a Container is one; Workloads come later"),
    (&["rollout", "status", "container/web"], "no kind", "kubectl knows only kinds compiled into it here"),
    (&["set", "image", "container/web", "main=b:1"], "no kind", "kubectl knows only kinds compiled into it here"),
    (&["expose", "container", "web", "--port=80"], "no kind", "kubectl knows only kinds compiled into it here"),
    (&["autoscale", "container", "web", "--max=2"], "scale subresource", "there is no autoscaler"),
    (&["create", "deployment", "x", "--image=a:1"], "could not find the requested resource", "Workloads come later"),
    (&["create", "job", "x", "--image=a:1"], "could not find the requested resource", "a Container with restartPolicy Never is one"),
    (&["create", "role", "x", "--verb=get", "--resource=pods"], "could not find the requested resource", "roles come later"),
    (&["create", "quota", "x"], "could not find the requested resource", "there are no quotas"),
    (&["create", "service", "clusterip", "x", "--tcp=80"], "container.spec.ports", "containers publish their ports themselves"),
    (&["create", "token", "default"], "could not find the requested resource", "there are no tokens yet"),
    (&["certificate", "approve", "x"], "doesn't have a resource type", "certificates are the engine's own"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_kubectl_does_its_work_or_says_why_not() {
    let all = kubectl::kubectls();
    if all.is_empty() {
        eprintln!("NOT RUN: no kubectl of 1.{} or later was found", kubectl::OLDEST_MINOR);
    }
    let mut problems = Vec::new();
    for (binary, minor) in all {
        eprintln!("kubectl 1.{minor}");
        let live = Live::start().await;
        set_the_scene(&live).await;
        let shell = Shell {
            binary,
            minor,
            kubeconfig: live.kubeconfig(),
            home: tempfile::tempdir().expect("a home for kubectl"),
            problems: RefCell::default(),
        };
        problems.extend(tokio::task::spawn_blocking(move || shell.judge()).await.expect("kubectl was asked"));
        live.stop().await;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// What controllers and an agent would have made of a container.
async fn set_the_scene(live: &Live) {
    for namespace in ["default", "other"] {
        live.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await;
    }
    live.create("/api/v1/nodes", &json!({"metadata": {"name": "here"}})).await;
    let container = |name: &str| json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"image": "a:1"}});
    live.create("/apis/gantry.dev/v1/namespaces/default/containers", &container("job")).await;
    let web = live.create("/apis/gantry.dev/v1/namespaces/default/containers", &container("web")).await;
    live.create("/apis/gantry.dev/v1/namespaces/default/containers/web/binding", &json!({"nodeName": "here"})).await;
    let event = json!({"metadata": {"name": "web.1"}, "reason": "Started", "message": "it runs", "type": "Normal",
        "involvedObject": {"apiVersion": "gantry.dev/v1", "kind": "Container", "namespace": "default", "name": "web", "uid": web["metadata"]["uid"]}});
    live.create("/api/v1/namespaces/default/events", &event).await;
}

/// One kubectl.
struct Shell {
    binary: PathBuf,
    minor: u32,
    kubeconfig: PathBuf,
    home: TempDir,
    problems: RefCell<Vec<String>>,
}

impl Shell {
    /// Everything that is wrong.
    fn judge(self) -> Vec<String> {
        self.reads();
        self.describes();
        self.finds_its_way();
        self.watches();
        self.creates();
        self.applies();
        self.waits_and_deletes();
        self.tends_nodes();
        for (arguments, words, why) in NOT_APPLICABLE {
            eprintln!("kubectl {arguments:?} must fail: {why}");
            self.refuses(arguments, words);
        }
        self.problems.into_inner()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG").stdin(Stdio::null());
        command
    }

    /// Notes what is wrong; all of it is told at the end.
    fn expect(&self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.borrow_mut().push(format!("1.{}: {}", self.minor, problem()));
        }
    }

    /// What it prints, when it does not fail.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run kubectl");
        let complained = String::from_utf8_lossy(&output.stderr);
        let content = output.status.success() && !complained.to_lowercase().contains("error");
        self.expect(content, || format!("kubectl {arguments:?} ended with {}: {complained}", output.status));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a line of words; what it prints must contain each of `expected`.
    fn says(&self, line: &str, expected: &[&str]) -> String {
        let said = self.run(&line.split(' ').collect::<Vec<_>>());
        for words in expected {
            self.expect(said.contains(words), || format!("kubectl {line} should say {words:?}: {said}"));
        }
        said
    }

    /// What it says when it fails, as it must.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run kubectl");
        self.expect(!output.status.success(), || format!("kubectl {arguments:?} should fail: {}", String::from_utf8_lossy(&output.stdout)));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// It must fail with these words.
    fn refuses(&self, arguments: &[&str], words: &str) {
        let said = self.fails(arguments);
        self.expect(said.contains(words), || format!("kubectl {arguments:?} should fail with {words:?}: {said}"));
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }

    fn reads(&self) {
        self.says("get containers", &["NAME", "PHASE", "web", "job"]);
        self.says("get ctr -A", &["NAMESPACE", "default"]);
        let lines = self.says("get containers web job", &["web", "job"]).lines().count();
        self.expect(lines == 3, || format!("three lines, not {lines}"));
        self.says("get containers -o json", &["\"kind\": \"List\"", "\"image\": \"a:1\""]);
        self.says("get container web -o yaml", &["image: a:1"]);
        self.says("get containers -o name", &["container.gantry.dev/web"]);
        self.says("get containers -o jsonpath={.items[*].metadata.name}", &["job web"]);
        self.says("get containers -o custom-columns=N:.metadata.name,I:.spec.image", &["N ", "web", "a:1"]);
        self.says("get containers --server-print=false", &["AGE", "web"]);
        self.says("get containers --chunk-size=1", &["web", "job"]);
        self.says("get containers --sort-by=.spec.image -o wide", &["web", "job"]);
        self.shows_only_web("get containers -l app=web");
        self.shows_only_web("get containers --field-selector=status.nodeName=here");
        self.says("get containers -L app", &["APP", "job"]);
        self.says("get containers --show-labels", &["app=web"]);
        self.says("get all -A", &["container.gantry.dev/web"]);
        self.says("get gantry", &["container.gantry.dev/web"]);
        self.says("get container web --subresource=status -o jsonpath={.status.nodeName}", &["here"]);
        self.says("get --raw /readyz?verbose", &["[+]ping ok"]);
        self.says("get pods -o wide", &["web", "here"]);
        self.says("get sa,secrets,configmaps,services,leases,events,nodes,namespaces -A", &["node/here"]);
        self.refuses(&["get", "containers", "nobody"], "(NotFound): containers.gantry.dev \"nobody\" not found");
    }

    fn shows_only_web(&self, line: &str) {
        let said = self.says(line, &["web"]);
        self.expect(!said.contains("job"), || format!("kubectl {line} shows more than it should: {said}"));
    }

    fn describes(&self) {
        self.says("describe container web", &["Image:", "Events:", "it runs"]);
        self.says("describe pod web", &["Controlled By:", "Container/web"]);
        self.says("describe node here", &["HolderIdentity:  here", "RenewTime", "web"]);
        self.says("describe namespace default", &["Status:", "Active"]);
        self.says("events", &["it runs"]);
        self.says("events --for container/web", &["it runs"]);
        self.says("get events --field-selector=involvedObject.name=web", &["it runs"]);
        self.says("explain container.spec.ports", &["hostPort"]);
        self.says("explain secret.stringData", &["FIELD: stringData"]);
        self.says("explain container --recursive", &["containerPort"]);
    }

    fn finds_its_way(&self) {
        self.says("version", &["Server Version: v1."]);
        self.says("api-resources", &["containers", "ctr", "gantry.dev/v1", "serviceaccounts", "services"]);
        self.says("api-resources --api-group=gantry.dev -o name", &["containers.gantry.dev"]);
        self.says("api-versions", &["gantry.dev/v1", "coordination.k8s.io/v1", "authorization.k8s.io/v1"]);
        self.says("cluster-info", &["control plane", "is running at"]);
        self.says("auth can-i create containers.gantry.dev", &["yes"]);
        self.says("auth can-i get pods --subresource=log", &["yes"]);
        self.says("auth can-i --list", &["*.*", "[*]"]);
        self.says("auth whoami", &["admin", "gantry:admins"]);
    }

    /// Watches until a line has `words`, and does something meanwhile, again and again: what happens before the watch has begun is not
    /// shown by all of kubectl's forms.
    fn sees(&self, line: &str, words: &'static str, meanwhile: impl Fn(usize)) {
        let mut command = self.command(&line.split(' ').collect::<Vec<_>>());
        let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("watch");
        let lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let (tell, told) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            if lines.into_iter().any(|line| line.contains(words)) {
                // Nobody listens any more when it took too long.
                let _ = tell.send(());
            }
        });
        let seen = (0..TRIES).any(|turn| {
            meanwhile(turn);
            told.recv_timeout(TURN).is_ok()
        });
        watch.kill().expect("end the watch");
        watch.wait().expect("reap the watch");
        reader.join().expect("the reader ends with it");
        self.expect(seen, || format!("kubectl {line} should show {words:?}"));
    }

    fn watches(&self) {
        let label = |name: &str, value: &str, turn: usize| {
            self.run(&["label", "container", name, &format!("seen={value}{turn}"), "--overwrite"]);
        };
        self.sees("get containers -w -L seen", "first", |turn| label("web", "first", turn));
        self.sees("get container web -w -L seen", "second", |turn| label("web", "second", turn));
        self.sees("get containers -w -o json", "third", |turn| label("web", "third", turn));
        self.sees("get containers --watch-only -L seen -l app=job", "fourth", |turn| label("job", "fourth", turn));
        self.sees("events -w", "it runs", |_| ());
    }

    fn creates(&self) {
        self.says("create namespace team", &["namespace/team created"]);
        self.says("create secret generic key --from-literal=a=1", &["secret/key created"]);
        self.says("create secret docker-registry reg --docker-username=u --docker-password=p --docker-server=r", &["created"]);
        self.says("create configmap settings --from-literal=a=1", &["configmap/settings created"]);
        self.says("create serviceaccount ci", &["serviceaccount/ci created"]);
        self.refuses(&["create", "configmap", "settings"], "already exists");
        self.says("create configmap dry --from-literal=a=1 --dry-run=server -o jsonpath={.data.a}", &["1"]);
        self.refuses(&["get", "configmap", "dry"], "NotFound");
        let one = "apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {generateName: many-}\nspec: {image: 'a:1'}\n";
        let file = self.file("generate.yaml", one);
        for _ in 0..2 {
            self.says(&format!("create -f {file}"), &["container.gantry.dev/many-"]);
        }
        let raw = self.file("raw.json", r#"{"metadata": {"name": "raw"}, "data": {"a": "1"}}"#);
        self.says(&format!("create --raw /api/v1/namespaces/default/configmaps -f {raw}"), &["\"name\":\"raw\""]);
        let lost = self.file("lost.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n");
        self.refuses(&["create", "-f", &lost], "namespaces \"nowhere\" not found");
    }

    fn applies(&self) {
        let text = |user: &str, more: &str| {
            format!("apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: mine}}\nspec: {{image: 'a:1', user: '{user}'{more}}}\n")
        };
        let (first, second) = (self.file("first.yaml", &text("1", "")), self.file("second.yaml", &text("2", "")));
        self.says(&format!("apply -f {first}"), &["created"]);
        self.says(&format!("apply -f {first}"), &["unchanged"]);
        self.says(&format!("apply -f {second} --dry-run=server"), &["configured (server dry run)"]);
        let diff = self.command(&["diff", "-f", &second]).output().expect("run kubectl");
        let lines = String::from_utf8_lossy(&diff.stdout);
        let changes = |line: &str| line.starts_with(['+', '-']);
        let quiet = lines.contains("+  user: \"2\"") && !lines.lines().any(|line| changes(line) && line.contains("resourceVersion"));
        self.expect(diff.status.code() == Some(1) && quiet, || format!("the difference is one field: {lines}"));
        self.says(&format!("apply -f {second}"), &["configured"]);
        self.says(&format!("replace -f {first}"), &["replaced"]);
        self.says(&format!("replace --force -f {second}"), &["replaced"]);
        let unknown = self.file("unknown.yaml", &text("1", ", usr: x"));
        self.refuses(&["apply", "-f", &unknown], "unknown field \"spec.usr\"");
        let warned = self.command(&["apply", "--validate=warn", "-f", &unknown]).output().expect("run kubectl");
        let warning = String::from_utf8_lossy(&warned.stderr);
        self.expect(warned.status.success() && warning.contains("Warning: unknown field \"spec.usr\""), || format!("a warning: {warning}"));
        self.says(&format!("apply --validate=ignore -f {unknown}"), &["container.gantry.dev/mine"]);
        self.says("annotate container mine note=1", &["annotated"]);
        self.says("label containers --all tier=1", &["container.gantry.dev/mine labeled"]);
        self.says("patch container mine --type=merge -p {}", &["patched (no change)"]);
    }

    fn waits_and_deletes(&self) {
        let status = r#"{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
        self.run(&["patch", "container", "web", "--subresource=status", "--type=merge", "-p", status]);
        self.says("wait --for=condition=Ready container/web --timeout=20s", &["condition met"]);
        self.says("wait --for=jsonpath={.status.nodeName}=here container/web --timeout=20s", &["condition met"]);
        self.refuses(&["wait", "--for=condition=Ready", "container/job", "--timeout=1s"], "timed out");
        if self.minor >= 31 {
            self.says("wait --for=create container/web --timeout=20s", &["condition met"]);
        }
        self.says("delete container mine", &["\"mine\" deleted"]);
        self.says("wait --for=delete container/mine --timeout=20s", &[]);
        self.refuses(&["delete", "container", "mine"], "NotFound");
        self.says("delete container mine --ignore-not-found", &[]);
        for name in ["a", "b", "c", "d", "e"] {
            self.run(&["create", "configmap", name, "--from-literal=a=1"]);
            self.run(&["label", "configmap", name, &format!("group={}", if name < "c" { "one" } else { "two" })]);
        }
        self.says("delete configmap c --dry-run=server", &["deleted (server dry run)"]);
        self.says("delete configmap c --now", &["\"c\" deleted"]);
        self.says("delete configmap d --cascade=orphan --wait=false", &["\"d\" deleted"]);
        self.says("get configmap d -o jsonpath={.metadata.finalizers}", &["[\"orphan\"]"]);
        self.run(&["patch", "configmap", "d", "--type=merge", "-p", r#"{"metadata": {"finalizers": null}}"#]);
        self.command(&["delete", "configmap", "e", "--grace-period=0", "--force"]).output().expect("run kubectl");
        self.refuses(&["get", "configmap", "e"], "NotFound");
        self.says("delete configmaps -l group=one", &["\"a\" deleted", "\"b\" deleted"]);
        self.says("delete configmaps --all -n default", &["\"settings\" deleted", "\"raw\" deleted"]);
    }

    fn tends_nodes(&self) {
        self.says("cordon here", &["node/here cordoned"]);
        self.says("get nodes", &["SchedulingDisabled"]);
        self.says("uncordon here", &["node/here uncordoned"]);
        self.says("taint nodes here a=b:NoSchedule", &["node/here tainted"]);
        self.says("taint nodes here a=b:NoSchedule-", &["node/here untainted"]);
        self.run(&["drain", "here", "--dry-run=server"]);
        self.says("get pods -o jsonpath={.items[*].metadata.name}", &["web"]);
        self.says("get container web -o jsonpath={.status.nodeName}", &["here"]);
    }
}
