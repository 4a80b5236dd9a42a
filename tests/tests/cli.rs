//! The command line for objects against a real engine: its output beside unmodified kubectl's, and what only it does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(clippy::print_stderr, reason = "a suite says loudly that it did not run")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use gantry_tests::host::{Host, PATIENCE, condition};
use gantry_tests::kubectl::kubectls;
use gantry_tests::wait::until;
use serde_json::Value;

const OBJECTS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web, example.com/tier: front}}
data: {a: \"1\", text: \"line one\\nline two\\n\", odd: \"yes\"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: x10, namespace: team, labels: {app: db}}
data: {size: 2Gi}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: x9, namespace: team}
data: {size: 500Mi}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hunter2}
---
apiVersion: gantry.dev/v1
kind: Volume
metadata: {name: data, labels: {app: web}}
spec: {capacity: 1Gi, nodeName: node}
---
apiVersion: gantry.dev/v1
kind: Container
metadata: {name: web, labels: {app: web}}
spec: {imageName: absent, ports: [{containerPort: 80}]}
---
apiVersion: gantry.dev/v1
kind: Container
metadata: {name: idle, labels: {app: web}}
spec: {imageName: absent, desiredState: Stopped}
";

/// An engine with the objects above, settled.
fn host() -> Host {
    let mut host = Host::new();
    host.serve();
    host.apply(OBJECTS);
    let settled = |object: &Value| condition(object, "NetworkAllocated") == Some("True") && condition(object, "Ready") == Some("False");
    host.wait_for("container", "web", "looked at", settled);
    host.wait_for("container", "idle", "looked at", |object| settled(object) && object["status"]["phase"] == "Exited");
    host.wait_for("volume", "data", "bound", |object| condition(object, "Ready") == Some("True"));
    host
}

/// The newest kubectl there is.
fn newest() -> Option<PathBuf> {
    let found = kubectls().into_iter().max_by_key(|(_, minor)| *minor).map(|(path, _)| path);
    if found.is_none() {
        eprintln!("NOT RUN: no kubectl was found; put one on PATH, or name some in KUBECTLS (colon-separated)");
    }
    found
}

fn kubectl(host: &Host, binary: &PathBuf) -> Command {
    let mut command = host.command(binary);
    command.arg("--kubeconfig").arg(host.data_dir().join("admin.kubeconfig")).env("HOME", host.dir()).env_remove("KUBECONFIG");
    command
}

/// The words of a command line; quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

fn is_age(word: &str) -> bool {
    word.ends_with(['s', 'm', 'h', 'd'])
        && word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c))
}

/// Lines without the blanks at their ends, ages masked.
fn masked(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let age = line.split_whitespace().filter(|word| is_age(word)).fold(line.to_owned(), |line, word| line.replacen(word, "AGE", 1));
        // What is right of an age moves with it.
        age.split("AGE").map(str::trim).collect::<Vec<_>>().join(" AGE ").trim_end().to_owned()
    };
    text.lines().map(line).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn output_is_kubectls() {
    let Some(binary) = newest() else { return };
    let host = host();
    let file = host.dir().join("manifest.yaml").display().to_string();
    let from_file = [format!("get -f {file}"), format!("get -f {file} -o name")];
    let same = [
        "get ctr",
        "get ctr -A",
        "get ctr,vol -o wide",
        "get all",
        "get all -A",
        "get ctr web idle",
        "get ctr/web vol/data ctr/idle",
        "get cm -A -L app,example.com/tier --show-labels",
        "get cm --show-kind --no-headers",
        "get ctr --sort-by=.status.phase",
        "get cm -A --sort-by={.data.size}",
        "get cm -A --sort-by=.metadata.name -o name",
        "get cm,secrets -l app=web",
        "get ctr --field-selector=status.phase=Exited",
        "get cm settings -o yaml",
        "get cm -A -o yaml",
        "get ns,nodes -o name",
        "get ctr -o jsonpath={.items[*].metadata.name}",
        "get ctr -o jsonpath='{range .items[*]}{.metadata.name}{\"\\t\"}{.status.phase}{\"\\n\"}{end}'",
        "get ctr web -o jsonpath={.spec.ports[0]}",
        "get ctr web -o jsonpath-as-json={.spec.ports[*].containerPort}",
        "get ctr -o custom-columns=N:.metadata.name,P:.spec.ports[*].containerPort,X:.nothing",
        "get cm -A -o custom-columns=NAMESPACE:.metadata.namespace,APP:.metadata.labels.app --no-headers",
        "get cm -A --chunk-size=1",
        "get ctr nobody",
        "get ctr nobody --ignore-not-found",
        "get ctr web nobody",
        "get cm -n nowhere",
        "get --raw /api/v1/namespaces/team/configmaps/x9",
        "events -A",
        "events --for ctr/web",
        "events --types=Warning --no-headers",
        "api-resources",
        "api-resources -o wide --sort-by=kind",
        "api-resources -o name --api-group=gantry.dev",
        "explain ctr",
        "explain ctr.spec.ports",
        "explain ctr.spec.ports.protocol",
        "explain volumes.gantry.dev --recursive",
        "explain secret.data",
        "delete cm nobody",
        "delete ctr web --dry-run=server",
        "delete cm -n team --all --dry-run=client -o name",
    ];
    let mut wrong = Vec::new();
    for line in same.into_iter().map(str::to_owned).chain(from_file) {
        let words = words(&line);
        let ours = host.gantry_output(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let theirs = kubectl(&host, &binary).args(&words).output().expect("run kubectl");
        if masked(&text(&ours)) != masked(&text(&theirs)) || ours.status.success() != theirs.status.success() {
            let said = String::from_utf8_lossy(&ours.stderr).into_owned();
            wrong.push(format!("{line}\ngantry:\n{}{said}kubectl:\n{}", text(&ours), text(&theirs)));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));

    // JSON may escape otherwise; what it says is the same.
    for line in ["get ctr web -o json", "get all -A -o json", "get secrets -o json --show-managed-fields"] {
        let ours = host.gantry(&line.split(' ').collect::<Vec<_>>());
        let theirs = gantry_tests::host::run(kubectl(&host, &binary).args(line.split(' ')));
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(&ours), parsed(&theirs), "{line}");
    }
}

#[test]
fn watches_are_kubectls() {
    let Some(binary) = newest() else { return };
    let host = host();
    for line in [
        "get cm -w",
        "get cm --watch-only",
        "get cm -w --output-watch-events",
        "get cm -w -o name",
        "get cm -w -o custom-columns=N:.metadata.name,L:.metadata.labels.x",
    ] {
        let theirs = kubectl(&host, &binary).args(line.split(' ')).stdout(Stdio::piped()).spawn().expect("run kubectl");
        let mut ours = host.command(Host::binary());
        ours.args(line.split(' ')).env("GANTRY_HOST", format!("unix://{}", host.socket().display()));
        let ours = ours.stdout(Stdio::piped()).spawn().expect("run gantry");
        // Both see the same when both have begun: the object that ends the watching comes after that which begins it.
        until("both to watch", PATIENCE, || watchers(&host, 2));
        host.gantry_output(&["apply", "-f", &file(&host, "first", "{a: '1'}")]);
        host.gantry(&["apply", "-f", &file(&host, "first", "{a: '1', b: '2'}")]);
        host.gantry(&["delete", "cm", "first"]);
        host.gantry(&["apply", "-f", &file(&host, "last", "{}")]);
        let seen: Vec<Vec<String>> = [ours, theirs].into_iter().map(seen).collect();
        host.gantry(&["delete", "cm", "last"]);
        assert_eq!(seen[0], seen[1], "{line}");
    }
}

/// Whether that many watches of users go on.
fn watchers(host: &Host, wanted: usize) -> Result<(), String> {
    let metrics = host.gantry(&["get", "--raw", "/metrics"]);
    let line = metrics.lines().find(|line| line.starts_with("apiserver_longrunning_requests") && line.contains("who=\"users\""));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    if count.is_some_and(|count| count >= wanted as f64) { Ok(()) } else { Err(format!("{line:?}")) }
}

/// A file with a config map.
fn file(host: &Host, name: &str, data: &str) -> String {
    let path = host.dir().join(format!("{name}.yaml"));
    std::fs::write(&path, format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{x: y}}}}, data: {data}}}"))
        .unwrap();
    path.display().to_string()
}

/// What a watch prints up to the line about `last`.
fn seen(mut watch: std::process::Child) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(watch.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        let ends = line.contains("last");
        lines.extend(masked(&line));
        if ends {
            break;
        }
    }
    watch.kill().expect("end the watch");
    watch.wait().expect("reap the watch");
    lines
}

#[test]
fn an_edit_is_sent_refused_kept_and_merged() {
    let host = host();
    let edit = |editor: &str, what: &str| {
        let mut command = host.command(Host::binary());
        command.args(["edit", what]).env("GANTRY_HOST", format!("unix://{}", host.socket().display()));
        command.env("VISUAL", format!("sh -c '{editor}' --")).env("TMPDIR", host.dir()).output().expect("run gantry")
    };
    let done = edit("sed -i \"s/a: .1./a: changed/\" $1", "cm/settings");
    assert_eq!(text(&done), "configmap/settings edited\n", "{done:?}");
    assert_eq!(host.get("cm", "settings")["data"]["a"], "changed");
    assert_eq!(text(&edit("true", "cm/settings")), "");

    // A change by somebody else while the editor is open.
    let socket = host.socket().display().to_string();
    let theirs = host.dir().join("other.yaml");
    std::fs::write(&theirs, "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {b: theirs}}").unwrap();
    let other = format!("{} -H {socket} apply --field-manager other -f {}", Host::binary().display(), theirs.display());
    let done = edit(&format!("{other} >&2; sed -i s/changed/mine/ $1"), "cm/settings");
    assert!(done.status.success(), "{done:?}");
    let settings = host.get("cm", "settings");
    assert_eq!((&settings["data"]["a"], &settings["data"]["b"]), (&"mine".into(), &"theirs".into()));

    // What is refused comes back with the reasons; saved again as it is, it is kept.
    let refused = edit("sed -i \"s/containerPort: 80/containerPort: 99999/\" $1", "ctr/web");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let kept = said.split("the edit is kept in ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_else(|| panic!("{said}"));
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(kept.starts_with("# ") && kept.contains("spec.ports[0].containerPort") && kept.contains("containerPort: 99999"), "{kept}");
}

#[test]
fn deletion_waits_selects_and_says_what_it_did() {
    let host = host();
    assert_eq!(host.gantry(&["delete", "cm", "-n", "team", "-l", "app=db"]), "configmap \"x10\" deleted\n");
    assert_eq!(host.gantry(&["delete", "cm", "-A", "--field-selector", "metadata.name=x9", "-o", "name"]), "configmap/x9\n");
    let all = host.gantry(&["delete", "ctr,vol", "--all", "--timeout=60s"]);
    assert_eq!(all.lines().count(), 3, "{all}");
    assert_eq!(host.gantry(&["get", "ctr,vol", "-o", "name"]), "");
    let usage = host.gantry_output(&["delete", "ctr", "web", "--grace-period=0"]);
    assert_eq!(usage.status.code(), Some(2));
    let several = host.gantry_output(&["delete", "cm", "nobody", "settings"]);
    assert_eq!((several.status.code(), text(&several).as_str()), (Some(1), "configmap \"settings\" deleted\n"));
}

#[test]
fn requests_are_shown_and_secrets_are_not() {
    let host = host();
    let file = host.dir().join("manifest.yaml").display().to_string();
    for line in ["get secret key -o json -v=9", "apply -f FILE -v=9", "get secrets -v=9"] {
        let line = line.replace("FILE", &file);
        let output = host.gantry_output(&line.split(' ').collect::<Vec<_>>());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(" in ") && told.contains("response body: "), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("aHVudGVyMg"), "{told}");
    }
}

#[test]
fn causes_contexts_and_completion_come_from_the_engine() {
    let host = host();
    let why = host.gantry(&["why", "ctr/web"]);
    assert!(
        why.contains("container.gantry.dev/web: Ready is False") && why.contains("because image.gantry.dev/absent does not exist"),
        "{why}"
    );

    let config = host.dir().join("config");
    let run = |arguments: &[&str]| {
        let mut command = host.command(Host::binary());
        command.args(arguments).env("XDG_CONFIG_HOME", &config).env_remove("GANTRY_HOST").env_remove("GANTRY_KUBECONFIG");
        gantry_tests::host::run(&mut command)
    };
    run(&["context", "add", "lab", "--host", &host.socket().display().to_string(), "--namespace", "team"]);
    run(&["context", "add", "tls", "--kubeconfig", &host.data_dir().join("admin.kubeconfig").display().to_string()]);
    run(&["context", "use", "lab"]);
    assert_eq!(run(&["get", "cm", "-o", "name"]), "configmap/x10\nconfigmap/x9\n");
    assert_eq!(run(&["--context", "tls", "get", "cm", "-o", "name"]), "configmap/settings\n");

    let complete = |line: &str| {
        let script = format!(
            "PATH={}:$PATH; source <(gantry completion bash); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _gantry gantry; echo \"${{COMPREPLY[*]}}\"",
            Host::binary().parent().unwrap().display()
        );
        let mut command = host.command("bash");
        command.args(["-c", &script]).env("XDG_CONFIG_HOME", &config).env_remove("GANTRY_HOST");
        gantry_tests::host::run(&mut command).trim().to_owned()
    };
    for (line, expected) in [
        ("gantry get cm ", "x10 x9"),
        ("gantry get -n default cm ", "settings"),
        ("gantry --context tls get ctr/w", "ctr/web"),
        ("gantry get volu", "volumes"),
        ("gantry get cm -n te", "team"),
        ("gantry context use ", "lab tls"),
        ("gantry --context nobody get cm ", ""),
    ] {
        assert_eq!(complete(line), expected, "{line}");
    }
}
