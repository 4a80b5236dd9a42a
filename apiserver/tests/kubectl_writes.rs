//! Unmodified kubectl writes to the API server alone, over TLS: server-side apply, its conflicts, the way from client-side apply and
//! back, patches of each type, edits, sets.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs")]

#[path = "../../tests/src/kubectl.rs"]
pub mod kubectl;

mod live;

use std::path::PathBuf;
use std::process::{Command, Output};

use live::Live;
use serde_json::Value;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn unmodified_kubectl_applies_patches_and_prunes() {
    let live = Live::start().await;
    let all = kubectl::kubectls();
    if all.is_empty() {
        eprintln!("NOT RUN: no kubectl of 1.{} or later was found", kubectl::OLDEST_MINOR);
    }
    for (binary, minor) in all {
        eprintln!("kubectl 1.{minor}");
        let kubeconfig = live.kubeconfig();
        let home = tempfile::tempdir().expect("a home for kubectl");
        let space = Space { binary, kubeconfig, home, namespace: format!("apply{minor}") };
        tokio::task::spawn_blocking(move || space.judge()).await.expect("kubectl is content");
    }
    live.stop().await;
}

/// One kubectl in a namespace of its own.
struct Space {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
    namespace: String,
}

impl Space {
    fn judge(&self) {
        self.run(&["create", "namespace", &self.namespace]);
        self.applies_on_the_server();
        self.hands_over_from_client_side_apply();
        self.patches();
        self.edits();
        self.prunes_a_set();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["-n", &self.namespace]).args(arguments);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG").stdin(std::process::Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run kubectl")
    }

    /// What it prints; panics when it fails.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.command(arguments))
    }

    /// What it says when it fails; panics when it does not.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} should fail: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }

    #[track_caller]
    fn object(&self, what: &str) -> Value {
        let text = self.run(&["get", what, "-o", "json", "--show-managed-fields"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// A Container that does not run, as only its fields matter.
    fn container(&self, file: &str, spec: &str) -> String {
        let text =
            format!("apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec: {{desiredState: Stopped, {spec}}}\n");
        self.file(file, &text)
    }

    fn settings(&self, file: &str, name: &str, data: &str) -> String {
        self.file(file, &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{{data}}}\n"))
    }

    fn applies_on_the_server(&self) {
        let first = self.container("first.yaml", "image: 'a:1', user: '1', ports: [{containerPort: 80, protocol: TCP}]");
        assert!(self.run(&["apply", "--server-side", "-f", &first]).contains("serverside-applied"));
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let before = version(&self.object("container/web"));
        self.run(&["apply", "--server-side", "-f", &first]);
        assert_eq!(version(&self.object("container/web")), before, "the same again writes nothing");

        let other = self.container("other.yaml", "image: 'b:1', ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]");
        let error = self.fails(&["apply", "--server-side", "--field-manager=second", "-f", &other]);
        assert!(error.contains("conflict with \"kubectl\": .spec.image") && error.contains("--force-conflicts"), "{error}");
        let diff = self.command(&["diff", "--server-side", "--force-conflicts", "-f", &other]).output();
        let diff = diff.expect("kubectl diff");
        assert_eq!(diff.status.code(), Some(1), "{}", String::from_utf8_lossy(&diff.stderr));
        assert!(String::from_utf8_lossy(&diff.stdout).contains("+  image: b:1"), "{}", String::from_utf8_lossy(&diff.stdout));
        assert_eq!(version(&self.object("container/web")), before, "a diff writes nothing");
        self.run(&["apply", "--server-side", "--field-manager=second", "--force-conflicts", "-f", &other]);
        let object = self.object("container/web");
        let managers: Vec<&str> =
            object["metadata"]["managedFields"].as_array().expect("owners").iter().filter_map(|e| e["manager"].as_str()).collect();
        assert!(managers.contains(&"kubectl") && managers.contains(&"second"), "{managers:?}");
        assert_eq!((&object["spec"]["image"], &object["spec"]["user"]), (&"b:1".into(), &"1".into()));
        assert_eq!(object["spec"]["ports"].as_array().map(Vec::len), Some(2), "{object}");
        // The first gives up what it alone had, and keeps away from the rest.
        let less = self.container("less.yaml", "ports: [{containerPort: 80, protocol: TCP}], image: 'b:1'");
        self.run(&["apply", "--server-side", "-f", &less]);
        assert!(self.object("container/web")["spec"].get("user").is_none());
    }

    fn hands_over_from_client_side_apply(&self) {
        for (file, name, change) in [("cm1.yaml", "settings", "a: '1', b: '1'"), ("cm2.yaml", "settings", "a: '2', b: '1'")] {
            self.run(&["apply", "-f", &self.settings(file, name, change)]);
        }
        let next = self.settings("cm3.yaml", "settings", "a: '3'");
        let mut command = self.command(&["apply", "--server-side", "-f", &next]);
        let output = command.output().expect("kubectl apply");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("migrat"), "{said}");
        let object = self.object("configmap/settings");
        assert_eq!(object["data"], serde_json::json!({"a": "3"}), "what client-side apply had wished goes with the wish");
        let owners: Vec<(&str, &str)> = object["metadata"]["managedFields"]
            .as_array()
            .expect("owners")
            .iter()
            .filter_map(|e| Some((e["manager"].as_str()?, e["operation"].as_str()?)))
            .collect();
        assert!(owners.contains(&("kubectl", "Apply")) && !owners.iter().any(|o| o.0 == "kubectl-client-side-apply"), "{owners:?}");
        assert!(self.run(&["apply", "view-last-applied", "configmap/settings"]).contains("a: \"3\""));
        // And back: client-side apply goes on from what server-side apply noted.
        let back = self.settings("cm4.yaml", "settings", "c: '4'");
        self.run(&["apply", "-f", &back]);
        assert_eq!(self.object("configmap/settings")["data"], serde_json::json!({"c": "4"}));
        self.run(&["apply", "set-last-applied", "-f", &back]);
    }

    fn patches(&self) {
        let value = |path: &str| self.run(&["get", "configmap", "settings", "-o", &format!("jsonpath={{{path}}}")]);
        self.run(&["patch", "configmap", "settings", "--type=json", "-p", r#"[{"op": "add", "path": "/data/json", "value": "1"}]"#]);
        self.run(&["patch", "configmap", "settings", "--type=merge", "-p", r#"{"data": {"merge": "1", "c": null}}"#]);
        self.run(&[
            "patch",
            "configmap",
            "settings",
            "-p",
            r#"{"metadata": {"finalizers": ["example.com/a"]}, "data": {"strategic": "1"}}"#,
        ]);
        self.run(&["patch", "configmap", "settings", "-p", r#"{"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}"#]);
        assert_eq!(value(".data"), r#"{"json":"1","merge":"1","strategic":"1"}"#);
        assert_eq!(value(".metadata.finalizers"), "");
        let failed =
            self.fails(&["patch", "configmap", "settings", "--type=json", "-p", r#"[{"op": "test", "path": "/data/json", "value": "2"}]"#]);
        assert!(failed.contains("/data/json"), "{failed}");
        let refused = self.fails(&["patch", "container", "web", "-p", r#"{"spec": {"user": "2"}}"#]);
        assert!(refused.contains("application/merge-patch+json") && refused.contains("application/apply-patch+yaml"), "{refused}");
        self.run(&["patch", "container", "web", "--type=merge", "-p", r#"{"spec": {"user": "2"}}"#]);
        self.run(&["patch", "container", "web", "--subresource=status", "--type=merge", "-p", r#"{"status": {"exitCode": 3}}"#]);
        assert_eq!(self.object("container/web")["status"]["exitCode"], 3);
    }

    fn edits(&self) {
        self.run(&["label", "configmap", "settings", "tier=front"]);
        assert!(self.fails(&["label", "configmap", "settings", "tier=back"]).contains("--overwrite"));
        self.run(&["label", "configmap", "settings", "tier-"]);
        self.run(&["annotate", "container", "web", "example.com/note=1"]);
        for (what, from, to) in [("configmap/settings", "merge: \"1\"", "merge: \"2\""), ("container/web", "user: \"2\"", "user: \"3\"")] {
            let mut command = self.command(&["edit", what]);
            command.env("KUBE_EDITOR", format!("sed -i 's/{from}/{to}/'"));
            let said = succeeded(&mut command);
            assert!(said.contains("edited"), "{said}");
        }
        assert_eq!(self.object("container/web")["spec"]["user"], "3");
        let text = self.run(&["get", "configmap", "settings", "-o", "yaml"]).replace("strategic: \"1\"", "strategic: \"5\"");
        assert!(self.run(&["replace", "-f", &self.file("replace.yaml", &text)]).contains("replaced"));
        let stale = self.fails(&["replace", "-f", &self.file("stale.yaml", &text)]);
        assert!(stale.contains("the object has been modified"), "{stale}");
    }

    fn prunes_a_set(&self) {
        let both = |first: &str, second: &str| {
            format!("{}---\n{}", std::fs::read_to_string(first).expect("read"), std::fs::read_to_string(second).expect("read"))
        };
        let (one, two) = (self.settings("one.yaml", "one", "a: '1'"), self.settings("two.yaml", "two", "a: '1'"));
        let applyset = |file: &str| {
            let mut command = self.command(&["apply", "--server-side", "--prune", "--applyset=configmaps/shop", "-f", file]);
            command.env("KUBECTL_APPLYSET", "true");
            command
        };
        let set = |file: &str| succeeded(&mut applyset(file));
        set(&self.file("both.yaml", &both(&one, &two)));
        set(&one);
        let names = self.run(&["get", "configmaps", "-o", "name"]);
        assert!(names.contains("configmap/one") && !names.contains("configmap/two"), "{names}");

        let owner = r#"{"metadata": {"annotations": {"applyset.kubernetes.io/tooling": "gantry/v0.1.0"}}}"#;
        self.run(&["patch", "configmap", "shop", "--type=merge", "-p", owner]);
        let output = applyset(&one).output().expect("run kubectl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("gantry"), "a set that we keep is not kubectl's: {said}");
    }
}

/// What a program prints; panics when it fails.
#[track_caller]
fn succeeded(command: &mut Command) -> String {
    let output = command.output().expect("run kubectl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
