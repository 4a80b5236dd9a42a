//! Bad input gets a clear error, and nothing is lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use gantry_tests::host::{Host, busybox_archive, condition, reason};
use gantry_tests::registry::Registry;
use serde_json::Value;

const BUSYBOX: &str = "localhost/test/busybox:1";

fn container(name: &str, fields: &str) -> String {
    format!("apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  stop: {{gracePeriodSeconds: 0}}\n{fields}")
}

fn refused(host: &Host, yaml: &str) -> String {
    let file = host.dir().join("bad.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = host.gantry_output(&["apply", "-f", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn message<'a>(object: &'a Value, type_: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == type_).unwrap()["message"].as_str().unwrap()
}

/// Waits until the container says why it does not run, and returns the message.
fn blocked(host: &Host, name: &str, wanted: &str) -> String {
    let object = host.wait_for("container", name, wanted, |object| reason(object, "Ready") == Some(wanted));
    message(&object, "Ready").to_owned()
}

#[test]
fn every_wrong_field_is_named_at_once_and_nothing_is_stored() {
    let mut host = Host::new();
    host.serve();
    let error = refused(&host, &container("a", "  image: busybox\n  imag: x\n  ports: [{containerPort: 80, hostprt: 1}]\n  tty: 3\n"));
    for path in ["spec.imag", "spec.ports[0].hostprt", "spec.tty"] {
        assert!(error.contains(path), "{path} is not named in: {error}");
    }
    let error = refused(
        &host,
        &container("a", "  image: busybox\n  workingDir: relative\n  env: [{name: ''}]\n  resources: {limits: {cpu: lots}}\n"),
    );
    for path in ["spec.workingDir", "spec.env[0].name", "spec.resources.limits.cpu"] {
        assert!(error.contains(path), "{path} is not named in: {error}");
    }
    assert!(host.find("container", "a").is_none());
}

#[test]
fn one_bad_object_keeps_the_whole_file_out() {
    let mut host = Host::new();
    host.serve();
    let good = "apiVersion: gantry.dev/v1\nkind: Volume\nmetadata: {name: good}\nspec: {}\n---\n";
    refused(&host, &format!("{good}{}", container("bad", "  image: 'UPPER CASE'\n")));
    assert!(host.find("volume", "good").is_none(), "all or nothing");
}

#[test]
fn what_is_missing_is_waited_for_and_named() {
    let mut host = Host::new();
    host.serve();
    host.load_busybox(BUSYBOX);
    let image = format!(
        "apiVersion: gantry.dev/v1\nkind: Image\nmetadata: {{name: bb}}\nspec: {{source: {{registry: {{reference: '{BUSYBOX}'}}}}, imagePullPolicy: Never}}\n"
    );
    host.apply(&container("no-image", "  imageName: bb\n  command: [sleep, '1000']\n"));
    assert!(blocked(&host, "no-image", "ImageNotFound").contains("`bb`"));
    host.apply(&image);
    host.wait_running("no-image");

    host.apply(&container(
        "no-volume",
        "  imageName: bb\n  command: [sleep, '1000']\n  mounts: [{mountPath: /d, volume: {name: later}}]\n",
    ));
    assert!(blocked(&host, "no-volume", "VolumeNotFound").contains("`later`"));
    host.apply("apiVersion: gantry.dev/v1\nkind: Volume\nmetadata: {name: later}\nspec: {}\n");
    host.wait_running("no-volume");

    host.apply(&container("no-network", "  imageName: bb\n  command: [sleep, '1000']\n  networks: [{name: later}]\n"));
    assert!(blocked(&host, "no-network", "NetworkNotFound").contains("`later`"));
    host.apply("apiVersion: gantry.dev/v1\nkind: Network\nmetadata: {name: later}\nspec: {}\n");
    host.wait_running("no-network");
}

#[test]
fn a_command_that_is_missing_or_not_executable_is_named_with_its_exit_code() {
    let mut host = Host::new();
    host.serve();
    host.load_busybox(BUSYBOX);
    host.apply(&format!("apiVersion: gantry.dev/v1\nkind: Image\nmetadata: {{name: bb}}\nspec: {{source: {{registry: {{reference: '{BUSYBOX}'}}}}, imagePullPolicy: Never}}\n"));
    for (name, command, wanted, code) in
        [("missing", "/no/such", "CommandNotFound", 127), ("plain", "/etc/passwd", "CommandNotExecutable", 126)]
    {
        host.apply(&container(name, &format!("  imageName: bb\n  command: ['{command}']\n  restartPolicy: Never\n")));
        let object = host.wait_for("container", name, wanted, |object| reason(object, "Started") == Some(wanted));
        assert!(message(&object, "Started").contains(command));
        let object = host.wait_for("container", name, "its exit code", |object| object["status"]["exitCode"] == code);
        assert_eq!(condition(&object, "Ready"), Some("False"));
    }
}

#[test]
fn a_taken_port_is_named_and_free_again_later() {
    let mut host = Host::new();
    host.serve();
    host.load_busybox(BUSYBOX);
    host.apply(&format!("apiVersion: gantry.dev/v1\nkind: Image\nmetadata: {{name: bb}}\nspec: {{source: {{registry: {{reference: '{BUSYBOX}'}}}}, imagePullPolicy: Never}}\n"));
    let with_port =
        |name: &str| container(name, "  imageName: bb\n  command: [httpd, -f, -p, '80']\n  ports: [{containerPort: 80, hostPort: 8070}]\n");
    host.apply(&with_port("first"));
    host.wait_running("first");
    host.apply(&with_port("second"));
    assert!(blocked(&host, "second", "PortTaken").contains("8070"));
    host.gantry(&["delete", "container", "first"]);
    host.wait_running("second");
}

#[test]
fn registry_troubles_are_named_with_a_remedy() {
    let mut host = Host::new();
    let archive = host.dir().join("bb.tar");
    busybox_archive(&archive, "localhost/x:1");
    let users = host.dir().join("htpasswd");
    // user `u`, password `right`, bcrypt.
    std::fs::write(&users, gantry_tests::registry::htpasswd_line("u", "right")).unwrap();
    let open = Registry::start(&host, 5000, None);
    let closed = Registry::start(&host, 5001, Some(&users));
    open.push(&host, &archive, "bb:1", None);
    closed.push(&host, &archive, "bb:1", Some("u:right"));
    host.serve();
    host.apply(&container("open", "  image: 127.0.0.1:5000/bb:1\n  command: [sleep, '1000']\n"));
    host.wait_running("open");

    host.apply(&container("absent", "  image: 127.0.0.1:5000/none:1\n"));
    let said = blocked(&host, "absent", "ImageNotInRegistry");
    assert!(said.contains("none"), "{said}");
    host.apply(&container("down", "  image: 127.0.0.1:5009/bb:1\n"));
    assert!(blocked(&host, "down", "RegistryUnavailable").contains("127.0.0.1:5009"));
    host.apply(&container("locked", "  image: 127.0.0.1:5001/bb:1\n  command: [sleep, '1000']\n  pullSecretName: login\n"));
    let said = blocked(&host, "locked", "Unauthorized");
    assert!(said.contains("pullSecretName"), "{said}");
    for (password, works) in [("wrong", false), ("right", true)] {
        let config = serde_json::json!({"auths": {"127.0.0.1:5001": {"username": "u", "password": password}}}).to_string();
        let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}});
        host.apply(&secret.to_string());
        if works {
            host.wait_running("locked");
        } else {
            blocked(&host, "locked", "Unauthorized");
        }
    }
}

#[test]
fn a_second_engine_on_the_same_data_is_refused_in_one_sentence() {
    let mut host = Host::new();
    host.serve();
    let (data, run) = (host.data_dir().display().to_string(), host.dir().join("run2").display().to_string());
    let output = host.gantry_output(&["serve", "--data-dir", &data, "--run-dir", &run, "--instance", host.instance(), "--listen", "none"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("another engine") && error.lines().count() <= 2, "{error}");
}
