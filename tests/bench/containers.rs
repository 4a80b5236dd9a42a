//! Containers: one started and removed in turns by each peer, then fifty at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use gantry_api::Container;
use gantry_api::kinds::container::{ContainerPhase, ContainerSpec};
use gantry_client::{Api, Client, DeleteParams, WatchEvent, WatchParams, WriteParams};
use gantry_tests::host::{Host, run};

use crate::memory;
use crate::table::Table;

/// What every peer runs.
pub(crate) const IMAGE: &str = "localhost/bench/busybox:1";
const MANY: usize = 50;
const IDLE: Duration = Duration::from_secs(5);

fn container(name: &str) -> Container {
    let mut spec = ContainerSpec { image: Some(IMAGE.to_owned()), ..Default::default() };
    spec.command = ["/bin/sh", "-c", "echo up; exec sleep 100000"].map(str::to_owned).to_vec();
    spec.stop.grace_period_seconds = 0;
    Container::new("default", name, spec)
}

/// Milliseconds of something.
fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// One after the other: start until it runs, remove until it is gone.
pub(crate) async fn one_by_one(host: &Host, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let api: Api<Container> = Api::namespaced(&Client::unix(&host.socket(), "bench"), "default");
    let bundle = Bundle::new(host)?;
    gantry_once(host, &api, "warm-up", &mut Table::default()).await?;
    for round in 0..rounds {
        gantry_once(host, &api, &format!("one-{round}"), table).await?;
        for runtime in ["crun", "runc"] {
            bundle.once(runtime, table)?;
        }
        podman_once(host, table)?;
    }
    Ok(())
}

async fn gantry_once(host: &Host, api: &Api<Container>, name: &str, table: &mut Table) -> anyhow::Result<()> {
    let begin = jiff::Timestamp::now();
    let since = Instant::now();
    let created = api.create(&container(name), &WriteParams::default()).await?;
    table.add("object accepted by the API", "gantry", "ms", ms(since));
    wait(api, name, |object| object.status.as_ref().is_some_and(|status| status.phase == Some(ContainerPhase::Running))).await?;
    table.add("start one: asked for -> reported running", "gantry", "ms", ms(since));
    if let Some(at) = first_line(host, created.metadata.uid.as_deref().unwrap_or_default()) {
        let took = at.duration_since(begin).as_secs_f64() * 1000.0;
        table.add("start one: asked for -> the process has spoken", "gantry", "ms", took);
    }
    let since = Instant::now();
    api.delete(name, &DeleteParams::default()).await?;
    wait_gone(api, name).await?;
    table.add("remove one that runs, until gone", "gantry", "ms", ms(since));
    Ok(())
}

/// When the shim received the first line of output.
fn first_line(host: &Host, uid: &str) -> Option<jiff::Timestamp> {
    let log = host.data_dir().join("logs").join(uid).join("current.log");
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if let Some(at) = text.split(' ').next().and_then(|time| time.parse().ok()) {
            return Some(at);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

async fn wait(api: &Api<Container>, name: &str, holds: impl Fn(&Container) -> bool) -> anyhow::Result<()> {
    let params = WatchParams { fields: Some(format!("metadata.name={name}")), ..Default::default() };
    let mut events = api.watch(&params).await?;
    while let Some(event) = events.next().await {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event?
            && holds(&object)
        {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of {name} ended")
}

async fn wait_gone(api: &Api<Container>, name: &str) -> anyhow::Result<()> {
    let params = WatchParams { fields: Some(format!("metadata.name={name}")), ..Default::default() };
    let mut events = api.watch(&params).await?;
    if api.find(name).await?.is_none() {
        return Ok(());
    }
    while let Some(event) = events.next().await {
        if let WatchEvent::Deleted(_) = event? {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of {name} ended")
}

/// Fifty at once: all running, memory and idleness, all gone.
pub(crate) async fn fifty(host: &Host, table: &mut Table) -> anyhow::Result<()> {
    let api: Api<Container> = Api::namespaced(&Client::unix(&host.socket(), "bench"), "default");
    let names: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
    let since = Instant::now();
    let created = futures_util::future::join_all(names.iter().map(|name| {
        let api = api.clone();
        async move { api.create(&container(name), &WriteParams::default()).await }
    }));
    for outcome in created.await {
        outcome?;
    }
    for name in &names {
        wait(&api, name, |object| object.status.as_ref().is_some_and(|status| status.phase == Some(ContainerPhase::Running))).await?;
    }
    table.add("50 started, all running", "gantry", "ms", ms(since));
    let engine = host.engine_pid();
    let before = memory::cpu_seconds(engine)?;
    tokio::time::sleep(IDLE).await;
    table.add("engine idle with 50: CPU", "gantry", "% of a core", (memory::cpu_seconds(engine)? - before) / IDLE.as_secs_f64() * 100.0);
    table.add("engine with 50: PSS", "gantry", "MiB", memory::pss_mib(engine)?);
    let shims = memory::shims(host);
    let total: f64 = shims.iter().filter_map(|pid| memory::pss_mib(*pid).ok()).sum();
    table.add("one shim of 50: PSS", "gantry", "MiB", total / shims.len().max(1) as f64);
    let since = Instant::now();
    for name in &names {
        api.delete(name, &DeleteParams::default()).await?;
    }
    for name in &names {
        wait_gone(&api, name).await?;
    }
    table.add("50 removed, all gone", "gantry", "ms", ms(since));
    Ok(())
}

/// A bundle for bare OCI runtimes: the same busybox, no image, no network set-up.
struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    fn new(host: &Host) -> anyhow::Result<Self> {
        let dir = host.dir().join("bundle");
        let root = dir.join("rootfs");
        std::fs::create_dir_all(root.join("bin"))?;
        for made in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(root.join(made))?;
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for applet in ["sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        if installed("runc") {
            run(Command::new("runc").arg("spec").current_dir(&dir));
            let file = dir.join("config.json");
            let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            spec["process"]["terminal"] = false.into();
            spec["process"]["args"] = serde_json::json!(["/bin/true"]);
            spec["root"]["readonly"] = false.into();
            std::fs::write(file, serde_json::to_vec(&spec)?)?;
        }
        Ok(Self { dir })
    }

    /// `run` of `true` with a bare runtime. crun refuses a hybrid hierarchy with controllers on its v2 side: that side is hidden from it.
    fn once(&self, runtime: &str, table: &mut Table) -> anyhow::Result<()> {
        if !installed(runtime) || !self.dir.join("config.json").exists() {
            return Ok(());
        }
        let id = format!("bench-{}", std::process::id());
        let line = format!(
            "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; cd {}; t0=$EPOCHREALTIME; {runtime} run {id}; echo $t0 $EPOCHREALTIME",
            shell_path(&self.dir)?
        );
        let output = Command::new("unshare").args(["-m", "bash", "-c", &line]).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [begin, end] = times[..] {
            table.add("run true, bare runtime (no image, no network)", runtime, "ms", (end - begin) * 1000.0);
        }
        Ok(())
    }
}

fn shell_path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().filter(|text| !text.contains([' ', '\'', '"', '$', ';'])).context("a plain path")
}

fn installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).exists())
}

/// podman, if it is installed and has the image (`podman load`).
fn podman_once(host: &Host, table: &mut Table) -> anyhow::Result<()> {
    if !installed("podman") {
        return Ok(());
    }
    let podman = |arguments: &[&str]| -> anyhow::Result<bool> {
        let root = host.dir().join("podman");
        let mut command = host.command("podman");
        command
            .arg("--root")
            .arg(&root)
            .arg("--runroot")
            .arg(root.join("run"))
            .args(["--cgroup-manager=cgroupfs", "--runtime=runc"])
            .args(arguments);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    };
    if !podman(&["image", "exists", IMAGE])? && !podman(&["load", "-i", &host.dir().join("busybox.tar").display().to_string()])? {
        return Ok(());
    }
    let since = Instant::now();
    let limits = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=30000:30000"];
    let mut arguments = vec!["run", "-d", "--name", "bench"];
    arguments.extend(limits);
    arguments.extend([IMAGE, "sleep", "100000"]);
    if podman(&arguments)? {
        table.add("start one: asked for -> reported running", "podman", "ms", ms(since));
        let since = Instant::now();
        if podman(&["rm", "-f", "-t", "0", "bench"])? {
            table.add("remove one that runs, until gone", "podman", "ms", ms(since));
        }
    }
    Ok(())
}
