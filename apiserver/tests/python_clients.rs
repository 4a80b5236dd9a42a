//! Python programs as judges: the Kubernetes client of that language, and schemathesis, which reads our own OpenAPI documents and sends
//! what they allow and what they do not.
//!
//! They come from PyPI, pinned by version and hash (`python/requirements.txt`, made of `requirements.in` by `pip-compile
//! --generate-hashes`), into an environment in the target folder. Where pip cannot have them, the suite says so and ends.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test runs real programs and shows what they say"
)]

mod live;

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use live::Live;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
/// Documents that schemathesis judges the server by.
const DOCUMENTS: [&str; 3] = ["apis/gantry.dev/v1", "api/v1", "apis/coordination.k8s.io/v1"];

/// The Python of an environment that has what the suite needs; made at the first use. `None` where it cannot be had.
fn python() -> Option<PathBuf> {
    let requirements = std::fs::read(Path::new(SCRIPTS).join("requirements.txt")).expect("read the requirements");
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&dir).expect("make a folder");
    let lock = File::create(dir.join("lock")).expect("make a lock");
    let _locked = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("lock");
    let (python, complete) = (dir.join("venv/bin/python"), dir.join("complete"));
    if complete.exists() {
        return Some(python);
    }
    let environment = Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir.join("venv")).output();
    let install = || {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--require-hashes", "-r"]).arg(Path::new(SCRIPTS).join("requirements.txt")).output()
    };
    for step in [environment, install()] {
        match step {
            Ok(output) if output.status.success() => {}
            Ok(output) => return not_run(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => return not_run(&error.to_string()),
        }
    }
    File::create(complete).expect("mark it complete");
    Some(python)
}

fn not_run(why: &str) -> Option<PathBuf> {
    eprintln!("NOT RUN: Python's clients cannot be had here: {why}");
    None
}

#[track_caller]
fn content(what: &str, output: &Output) {
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{what} ended with {}: {complained}", output.status);
}

async fn with_namespace() -> Live {
    let live = Live::start().await;
    live.create("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn python_s_client_is_content() {
    let Some(python) = python() else { return };
    let live = with_namespace().await;
    // Its model of a Node wants all of `nodeInfo`, once there is a status.
    live.create("/api/v1/nodes", &json!({"metadata": {"name": "here"}})).await;
    let containers = "/apis/gantry.dev/v1/namespaces/default/containers";
    live.create(containers, &json!({"metadata": {"name": "bound"}, "spec": {"image": "localhost/busybox:1"}})).await;
    live.create(&format!("{containers}/bound/binding"), &json!({"nodeName": "here"})).await;
    let mut command = Command::new(python);
    command.arg(Path::new(SCRIPTS).join("kubernetes_client.py")).arg(live.kubeconfig());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("run Python");
    content("the client", &output);
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_what_our_own_documents_say() {
    let Some(python) = python() else { return };
    let full = std::env::var_os("GANTRY_TEST_FULL").is_some();
    let given = std::env::var("GANTRY_TEST_SEED").ok().and_then(|text| text.parse::<u32>().ok());
    let seed = given.unwrap_or_else(|| jiff::Timestamp::now().subsec_nanosecond().unsigned_abs());
    eprintln!("seed: GANTRY_TEST_SEED={seed}");
    for document in DOCUMENTS {
        let live = with_namespace().await;
        let mut command = Command::new(&python);
        command.arg(Path::new(SCRIPTS).join("judge_documents.py")).arg(live.kubeconfig()).arg(live.dir.path()).arg(document);
        command.arg(seed.to_string()).args(if full { ["200", "300"] } else { ["3", "8"] });
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("run Python");
        content(document, &output);
        live.stop().await;
    }
}
