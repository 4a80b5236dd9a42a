//! The rules that the tree keeps: who may depend on whom, and where unsafe code and the database may stand.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs, and waits for what no watch tells of")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Crate -> what it may use of ours. A crate that is not listed fails the test.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("gantry-api", &[][..]),
        ("gantry-content", &[]),
        ("gantry-sys", &[]),
        ("gantry-shim", &["gantry-sys"]),
        ("gantry-netd", &["gantry-sys"]),
        ("gantry-client", &["gantry-api"]),
        ("gantry-apiserver", &["gantry-api", "gantry-content"]),
        ("gantry-controllers", &["gantry-api", "gantry-client"]),
        ("gantry-agent", &["gantry-api", "gantry-client", "gantry-content", "gantry-sys", "gantry-shim", "gantry-netd"]),
        (
            "gantry",
            &["gantry-api", "gantry-content", "gantry-sys", "gantry-client", "gantry-apiserver", "gantry-controllers", "gantry-agent"],
        ),
    ])
}

fn metadata() -> Value {
    let output =
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root()).output().expect("run cargo");
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Names of the normal dependencies of a package.
fn dependencies(package: &Value) -> BTreeSet<&str> {
    let all = package["dependencies"].as_array().expect("a list");
    all.iter().filter(|dependency| dependency["kind"].is_null()).filter_map(|dependency| dependency["name"].as_str()).collect()
}

#[test]
fn the_arrows_of_dependency_do_not_turn() {
    let metadata = metadata();
    let allowed = allowed();
    for package in metadata["packages"].as_array().expect("a list") {
        let name = package["name"].as_str().expect("a name");
        if name == "gantry-tests" {
            continue;
        }
        let may = allowed.get(name).unwrap_or_else(|| panic!("crate {name} has no row in the table of arrows"));
        for dependency in dependencies(package).into_iter().filter(|dependency| dependency.starts_with("gantry")) {
            assert!(may.contains(&dependency), "{name} may not depend on {dependency}");
        }
    }
}

#[test]
fn the_pure_and_the_small_crates_know_no_runtime() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("a list") {
        let name = package["name"].as_str().expect("a name");
        let all = dependencies(package);
        if ["gantry-api", "gantry-sys", "gantry-shim", "gantry-netd"].contains(&name) {
            assert!(!all.contains("tokio"), "{name} may not use tokio");
        }
        assert!(name == "gantry-apiserver" || !all.contains("redb"), "{name} may not use redb");
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("read a source folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_and_the_database_stay_where_they_belong() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("read a source file");
        let path = file.display().to_string();
        let code = || text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let in_sys = path.contains("agent/sys/") || path.ends_with("tests/architecture.rs");
        assert!(in_sys || !code().any(|line| line.contains("unsafe {") || line.contains("unsafe fn")), "{path}: unsafe outside sys");
        let in_server = path.contains("apiserver/src/") && !path.contains("apiserver/src/store/");
        assert!(
            !in_server || !code().any(|line| line.contains("use redb") || line.contains("redb::Database")),
            "{path}: redb outside the store"
        );
    }
}
