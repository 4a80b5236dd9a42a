//! Unmodified kubectl adds a kind and works with its objects: columns, explain, apply of both sorts, patch, scale, wait, delete.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs")]

#[path = "../../tests/src/kubectl.rs"]
pub mod kubectl;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use gantry_apiserver::auth::FixedAuthorizer;
use gantry_apiserver::cache::{Cache, CacheConfig};
use gantry_apiserver::definitions;
use gantry_apiserver::server::{Listeners, ServerConfig};
use gantry_apiserver::store::memory::MemoryStore;
use gantry_apiserver::{ApiServer, router};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// As controller-gen writes them: descriptions everywhere, quantities, keyed lists, an embedded template.
const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: backups.storage.example.com
  annotations: {controller-gen.kubebuilder.io/version: v0.16.0}
spec:
  group: storage.example.com
  names: {kind: Backup, listKind: BackupList, plural: backups, singular: backup, shortNames: [bak], categories: [all]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {jsonPath: .spec.schedule, name: Schedule, type: string}
    - {jsonPath: '.status.conditions[?(@.type=="Ready")].status', name: Ready, type: string}
    - {jsonPath: .spec.replicas, name: Copies, type: integer, priority: 1}
    - {jsonPath: .metadata.creationTimestamp, name: Age, type: date}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        description: Backup keeps copies of volumes.
        type: object
        properties:
          apiVersion: {description: APIVersion defines the versioned schema., type: string}
          kind: {description: Kind is the REST resource., type: string}
          metadata: {type: object}
          spec:
            description: BackupSpec says what is kept.
            type: object
            required: [schedule]
            properties:
              schedule: {description: When copies are made., type: string, minLength: 1, pattern: '^(@(hourly|daily)|(\S+\s+){4}\S+)$'}
              replicas: {description: How many copies are kept., type: integer, format: int32, minimum: 0, default: 3}
              size:
                description: How large they may be.
                anyOf: [{type: integer}, {type: string}]
                pattern: '^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE])?$'
                x-kubernetes-int-or-string: true
              targets:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, path: {type: string}}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              replicas: {type: integer}
              selector: {type: string}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status]
                  properties: {type: {type: string}, status: {type: string, enum: ["True", "False", Unknown]}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn unmodified_kubectl_adds_a_kind_and_uses_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(Arc::new(MemoryStore::new()), CacheConfig::default()).await.expect("open the cache");
    let server = Arc::new(ApiServer::new(cache, Arc::new(FixedAuthorizer)));
    let mut config = ServerConfig::new(dir.path());
    config.socket = None;
    config.listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let listeners = Listeners::bind(&config, jiff::Timestamp::now()).await.expect("listen");
    let stop = CancellationToken::new();
    let kept = tokio::spawn(definitions::keep(server.clone(), stop.clone()));
    let served = tokio::spawn(listeners.serve(router(server), stop.clone()));
    let all = kubectl::kubectls();
    if all.is_empty() {
        eprintln!("NOT RUN: no kubectl of 1.{} or later was found", kubectl::OLDEST_MINOR);
    }
    for (binary, minor) in all {
        eprintln!("kubectl 1.{minor}");
        let kubeconfig = dir.path().join("admin.kubeconfig");
        let home = tempfile::tempdir().expect("a home for kubectl");
        let space = Space { binary, kubeconfig, home, namespace: format!("custom{minor}") };
        tokio::task::spawn_blocking(move || space.judge()).await.expect("kubectl is content");
    }
    stop.cancel();
    served.await.expect("the server ends");
    kept.await.expect("the keeper ends");
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
        let definition = self.file("definition.yaml", DEFINITION);
        assert!(self.run(&["apply", "-f", &definition]).contains("created"));
        self.run(&["wait", "--for=condition=established", "--timeout=10s", "crd/backups.storage.example.com"]);
        assert!(self.run(&["apply", "-f", &definition]).contains("unchanged"));
        self.explains();
        self.applies();
        self.applies_on_the_server();
        self.refuses();
        self.writes_status_and_scale();
        self.deletes();
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["-n", &self.namespace]).args(arguments);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG").stdin(std::process::Stdio::null());
        command.output().expect("run kubectl")
    }

    /// What it prints; panics when it fails.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?}: {out}{err}");
        out.into_owned()
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

    fn backup(&self, name: &str, spec: &str) -> String {
        let text = format!("apiVersion: storage.example.com/v1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n");
        self.file(&format!("{name}.yaml"), &text)
    }

    #[track_caller]
    fn field(&self, what: &str, path: &str) -> String {
        self.run(&["get", what, "-o", &format!("jsonpath={{{path}}}")])
    }

    fn explains(&self) {
        let root = self.run(&["explain", "backup"]);
        assert!(root.contains("Backup keeps copies of volumes.") && root.contains("storage.example.com"), "{root}");
        let spec = self.run(&["explain", "backups.spec"]);
        assert!(spec.contains("schedule") && spec.contains("-required-") && spec.contains("How many copies are kept."), "{spec}");
        assert!(self.run(&["api-resources", "--api-group=storage.example.com"]).contains("bak"));
        assert!(self.run(&["explain", "crd.spec.versions"]).contains("additionalPrinterColumns"));
    }

    fn applies(&self) {
        let file = self
            .backup("daily", "schedule: '@daily', size: 5Gi, targets: [{name: data}], template: {apiVersion: v1, kind: Pod, spec: {x: 1}}");
        assert!(self.run(&["apply", "-f", &file]).contains("created"));
        assert!(self.run(&["apply", "-f", &file]).contains("unchanged"));
        let table = self.run(&["get", "bak"]);
        let words: Vec<&str> = table.split_whitespace().collect();
        assert_eq!(words[..6], ["NAME", "SCHEDULE", "READY", "AGE", "daily", "@daily"], "{table}");
        assert!(self.run(&["get", "backups.storage.example.com", "-o", "wide"]).contains("COPIES"));
        assert!(self.run(&["get", "all"]).contains("backup.storage.example.com/daily"));
        assert_eq!(self.field("backup/daily", ".spec.replicas"), "3");

        assert!(self.run(&["diff", "-f", &file]).is_empty());
        let changed = self.backup("daily", "schedule: '@hourly', size: 6Gi, targets: [{name: data}]");
        assert!(self.run(&["apply", "-f", &changed]).contains("configured"));
        assert_eq!(self.field("backup/daily", ".spec.template"), "");
        self.run(&["patch", "backup", "daily", "--type=merge", "-p", r#"{"spec":{"replicas":2}}"#]);
        self.run(&["patch", "backup", "daily", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/size","value":7}]"#]);
        assert_eq!(self.field("backup/daily", ".spec.size"), "7");
        assert_eq!(self.field("backup/daily", ".metadata.generation"), "4");
        self.run(&["label", "backup", "daily", "tier=gold"]);
        assert!(self.run(&["get", "bak", "-l", "tier=gold", "-o", "name"]).contains("daily"));
        assert!(self.run(&["describe", "backup", "daily"]).contains("@hourly"));
    }

    fn applies_on_the_server(&self) {
        let first = self.backup("merged", "schedule: '@daily', targets: [{name: a}]");
        assert!(self.run(&["apply", "--server-side", "-f", &first]).contains("serverside-applied"));
        let version = self.field("backup/merged", ".metadata.resourceVersion");
        self.run(&["apply", "--server-side", "-f", &first]);
        assert_eq!(self.field("backup/merged", ".metadata.resourceVersion"), version, "the same again writes nothing");
        let second = self.backup("merged", "schedule: '@daily', targets: [{name: b}]");
        self.run(&["apply", "--server-side", "--field-manager=other", "-f", &second]);
        assert_eq!(self.field("backup/merged", ".spec.targets[*].name"), "a b");
        let third = self.backup("merged", "schedule: '@hourly'");
        assert!(self.fails(&["apply", "--server-side", "--field-manager=third", "-f", &third]).contains(".spec.schedule"));
    }

    fn refuses(&self) {
        let wrong = self.backup("wrong", "schedule: sometimes, replicas: -1");
        let error = self.fails(&["apply", "-f", &wrong]);
        assert!(error.contains("spec.schedule") && error.contains("spec.replicas"), "{error}");
        let unknown = self.backup("unknown", "schedule: '@daily', shedule: x");
        assert!(self.fails(&["create", "-f", &unknown]).contains("unknown field \"spec.shedule\""));
        let warned = self.output(&["create", "--validate=warn", "-f", &unknown]);
        assert!(warned.status.success() && String::from_utf8_lossy(&warned.stderr).contains("unknown field"), "{warned:?}");
        assert_eq!(self.field("backup/unknown", ".spec.shedule"), "");
        let rules =
            DEFINITION.replace("description: BackupSpec says what is kept.", "x-kubernetes-validations: [{rule: 'self.replicas > 0'}]");
        let error = self.fails(&["apply", "-f", &self.file("rules.yaml", &rules)]);
        assert!(error.contains("x-kubernetes-validations") && error.contains("CEL"), "{error}");
    }

    fn writes_status_and_scale(&self) {
        let status = r#"{"status":{"replicas":1,"selector":"a=b","conditions":[{"type":"Ready","status":"True"}]}}"#;
        self.run(&["patch", "backup", "daily", "--subresource=status", "--type=merge", "-p", status]);
        self.run(&["wait", "--for=condition=Ready", "--timeout=10s", "backup/daily"]);
        assert!(self.run(&["get", "backup", "daily"]).contains("True"));
        assert!(self.run(&["scale", "backup/daily", "--replicas=5"]).contains("scaled"));
        assert_eq!(self.field("backup/daily", ".spec.replicas"), "5");
        assert!(self.run(&["scale", "backup/daily", "--current-replicas=5", "--replicas=1"]).contains("scaled"));
    }

    fn deletes(&self) {
        assert!(self.run(&["delete", "backup", "merged"]).contains("deleted"));
        self.run(&["delete", "crd", "backups.storage.example.com", "--timeout=20s"]);
        self.fails(&["get", "backups"]);
        assert!(!self.run(&["api-resources"]).contains("backups"));
    }
}
