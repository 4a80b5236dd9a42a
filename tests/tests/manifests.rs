//! `gantry serve --manifests DIR`: the folder is applied at start and whenever it changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use gantry_tests::host::{Host, PATIENCE};
use gantry_tests::wait::until;

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: {value}}}\n")
}

fn host_with_folder() -> (Host, PathBuf) {
    let mut host = Host::new();
    let folder = host.dir().join("manifests");
    fs::create_dir(&folder).unwrap();
    host.set_env("GANTRY_MANIFESTS", &folder.display().to_string());
    (host, folder)
}

fn wait_value(host: &Host, name: &str, value: &str) {
    host.wait_for("configmap", name, value, |object| object["data"]["key"] == value);
}

fn wait_logged(host: &Host, words: &str) {
    until(&format!("`{words}` in the engine's log"), PATIENCE, || {
        let log = fs::read_to_string(host.engine_log()).unwrap();
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_folder_is_applied_at_start_and_after_each_change() {
    let (mut host, folder) = host_with_folder();
    fs::write(folder.join("a.yaml"), config_map("a", "one")).unwrap();
    host.serve();
    wait_value(&host, "a", "one");

    fs::write(folder.join("a.yaml"), config_map("a", "two")).unwrap();
    wait_value(&host, "a", "two");
    // As editors and deployments do it: whole, by a rename.
    fs::write(folder.join("b.part"), config_map("b", "new")).unwrap();
    fs::rename(folder.join("b.part"), folder.join("b.yml")).unwrap();
    wait_value(&host, "b", "new");
    // A folder below, made later.
    fs::create_dir(folder.join("team")).unwrap();
    fs::write(folder.join("team/c.yaml"), config_map("c", "below")).unwrap();
    wait_value(&host, "c", "below");
    fs::write(folder.join("team/c.yaml"), config_map("c", "again")).unwrap();
    wait_value(&host, "c", "again");

    // What somebody else set of its fields does not stand against the folder; it stays until the folder changes.
    host.apply(&config_map("other", "x"));
    host.gantry(&["apply", "--force", "-f", &{
        let file = host.dir().join("theirs.yaml");
        fs::write(&file, config_map("a", "theirs")).unwrap();
        file.display().to_string()
    }]);
    fs::write(folder.join("a.yaml"), config_map("a", "three")).unwrap();
    wait_value(&host, "a", "three");

    // A file that goes away takes nothing with it, and a restart applies what changed meanwhile.
    fs::remove_file(folder.join("b.yml")).unwrap();
    assert!(host.stop_engine().success());
    fs::write(folder.join("a.yaml"), config_map("a", "while away")).unwrap();
    host.serve();
    wait_value(&host, "a", "while away");
    wait_value(&host, "b", "new");
}

#[test]
fn a_mistake_in_one_file_keeps_the_folder_out_until_it_is_mended() {
    let (mut host, folder) = host_with_folder();
    fs::write(folder.join("good.yaml"), config_map("good", "one")).unwrap();
    fs::write(folder.join("wrong.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong\n").unwrap();
    host.serve();
    wait_logged(&host, "wrong.yaml");
    assert!(host.find("configmap", "good").is_none());
    fs::write(folder.join("wrong.yaml"), config_map("wrong", "mended")).unwrap();
    wait_value(&host, "good", "one");
    wait_value(&host, "wrong", "mended");

    // What the server refuses may pass: the namespace is made by somebody else.
    fs::write(folder.join("wrong.yaml"), config_map("later, namespace: team", "there")).unwrap();
    wait_logged(&host, "namespaces \"team\" not found");
    host.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n");
    until("the object in the namespace", PATIENCE, || {
        let output = host.gantry_output(&["get", "configmap", "later", "-n", "team"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
}

#[test]
fn a_folder_that_is_not_there_is_refused_at_start() {
    let host = Host::new();
    let output = host.command(Host::binary()).args(["serve", "--manifests", "/no/such/folder"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--manifests `/no/such/folder` is no folder"), "{output:?}");
}
