//! Takes everything of one instance off the host.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use gantry_agent::ids::{Instance, chain};
use gantry_agent::network::NetworkDriver as _;
use gantry_agent::network::bridge::BridgeDriver;
use gantry_agent::runtime::Runtime as _;
use gantry_agent::runtime::shim::ShimRuntime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::lock::{self, Lock, Taken};

/// How long a running engine may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks at a lock: the kernel tells nobody when one is released.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the engine, its containers and its helpers, and removes what they made; with `purge` the data too. Goes on after an error and
/// reports all of them.
pub(crate) async fn run(data_dir: &Path, run_dir: &Path, instance: &str, purge: bool) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "teardown needs root; try: sudo gantry teardown");
    let _locks = [end_engine(data_dir).await?, end_engine(run_dir).await?];
    let instance =
        Instance { name: instance.to_owned(), data_dir: data_dir.to_owned(), run_dir: run_dir.to_owned(), node_name: String::new() };
    let mut errors = Vec::new();
    let runtime = ShimRuntime::new(instance.clone()).context("set up the runtime")?;
    match runtime.observe().await {
        Ok(all) => {
            let removed = futures_util::future::join_all(all.iter().map(|observed| runtime.remove(&observed.uid))).await;
            errors.extend(removed.into_iter().filter_map(|outcome| Some(chain(&outcome.err()?))));
        }
        Err(error) => errors.push(chain(&error)),
    }
    let network = BridgeDriver::new(&instance).context("set up the network")?;
    errors.extend(network.teardown().await.err().map(|error| chain(&error)));
    errors.extend(remove_cgroups(&instance.name));
    errors.extend(remove(run_dir).await);
    if purge {
        errors.extend(remove(data_dir).await);
    }
    anyhow::ensure!(errors.is_empty(), "not everything could be taken off the host: {}", errors.join("; "));
    Ok(())
}

/// The lock of a directory, after the engine that held it has ended.
async fn end_engine(dir: &Path) -> anyhow::Result<Lock> {
    let end = Instant::now() + STOP_PATIENCE;
    let mut told = None;
    loop {
        match lock::take(dir)? {
            Taken::Ours(lock) => return Ok(lock),
            Taken::Other(Some(pid)) if told != Some(pid) => {
                kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("end the engine, process {pid}"))?;
                told = Some(pid);
            }
            Taken::Other(_) => {}
        }
        anyhow::ensure!(Instant::now() < end, "the engine that uses `{}` does not end; kill it and try again", dir.display());
        sleep(LOOK).await;
    }
}

/// Removes the instance's own, now empty, cgroup in every hierarchy: one below each mount of v1, or below the one of v2.
fn remove_cgroups(instance: &str) -> Option<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut failed = Vec::new();
    for cgroup in hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(instance)) {
        match std::fs::remove_dir(&cgroup) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound && error.kind() != std::io::ErrorKind::NotADirectory => {
                failed.push(format!("remove cgroup `{}`: {error}", cgroup.display()));
            }
            _ => {}
        }
    }
    (!failed.is_empty()).then(|| failed.join("; "))
}

async fn remove(dir: &Path) -> Option<String> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Some(format!("remove `{}`: {error}", dir.display())),
        _ => None,
    }
}
