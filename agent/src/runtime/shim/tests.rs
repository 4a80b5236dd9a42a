//! Real containers of Debian's static busybox, with the kernel's own files as judge.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::ids::Instance;
use crate::runtime::{EtcFile, Exit, IdRange, LogTarget, defaults};
use crate::snapshot::Rootfs;

const RANGE: IdRange = IdRange { first: 300_000, count: 65_536 };

/// A host of its own: directories, instance name, one image.
struct Host {
    dir: tempfile::TempDir,
    instance: Instance,
}

impl Host {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        for sub in ["bin", "etc", "tmp", "home"] {
            fs::create_dir_all(layer.join(sub)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        for applet in
            ["sh", "true", "false", "cat", "id", "hostname", "sleep", "ls", "echo", "stat", "touch", "env", "kill", "tail", "mknod"]
        {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        fs::write(layer.join("bin/text"), "no program").unwrap();
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:4:web\n").unwrap();
        let instance = Instance {
            name: name.to_owned(),
            data_dir: dir.path().join("data"),
            run_dir: dir.path().join("run"),
            node_name: "here".to_owned(),
        };
        Self { dir, instance }
    }

    fn runtime(&self) -> ShimRuntime {
        ShimRuntime::new(self.instance.clone()).unwrap()
    }

    fn container(&self, name: &str) -> Container {
        let base = self.dir.path().join(name);
        for sub in ["upper", "work", "logs"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        Container { uid: ContainerUid::new(name).unwrap(), base, layer: self.dir.path().join("layer") }
    }

    /// Nothing of the instance is left on the host.
    fn assert_clean(&self) {
        let layout = Layout::probe().unwrap();
        assert_eq!(gantry_sys::cgroup::list(&layout, &self.instance.name), Vec::<String>::new());
        let left: Vec<_> = fs::read_dir(self.instance.run_dir.join("containers")).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
        let marker = self.dir.path().to_str().unwrap().to_owned();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            line.contains(&marker).then_some(line)
        });
        assert_eq!(processes.collect::<Vec<_>>(), Vec::<String>::new());
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&marker));
    }
}

struct Container {
    uid: ContainerUid,
    base: PathBuf,
    layer: PathBuf,
}

impl Container {
    fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            uid: self.uid.clone(),
            hostname: "inside".to_owned(),
            user_namespace: Some(RANGE),
            own_network: true,
            log: LogTarget { dir: self.base.join("logs"), max_size_bytes: 1 << 20, max_files: 3 },
            record: serde_json::json!({"made": "sandbox"}),
        }
    }

    fn bundle(&self, args: &[&str]) -> Bundle {
        let mut spec = defaults::base_spec();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_args(Some(args.iter().map(|&arg| arg.to_owned()).collect()));
        process.set_env(Some(vec!["PATH=/bin".to_owned(), "COLOUR=blue".to_owned()]));
        let mut resources = oci_spec::runtime::LinuxResources::default();
        resources.set_devices(Some(defaults::device_rules()));
        spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
        Bundle {
            spec,
            rootfs: Rootfs { lowers: vec![self.layer.clone()], upper: self.base.join("upper"), work: self.base.join("work") },
            files: vec![EtcFile { path: "/etc/hosts".to_owned(), text: "127.0.0.1 localhost\n".to_owned() }],
            user: None,
            init: false,
            record: serde_json::json!({"made": "start"}),
        }
    }

    fn shell(&self, script: &str) -> Bundle {
        self.bundle(&["sh", "-c", script])
    }

    /// The text of the log, without times.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.base.join("logs/current.log")).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

async fn ended(events: &mut broadcast::Receiver<RuntimeEvent>) -> Exit {
    let wait = async {
        loop {
            if let RuntimeEvent::Exited { exit, .. } = events.recv().await.unwrap() {
                return exit;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("an end within 20 s")
}

/// Starts it in a new sandbox, waits for its end, removes it.
async fn run(host: &Host, container: &Container, bundle: &Bundle) -> Result<Exit, RuntimeError> {
    let runtime = host.runtime();
    let mut events = runtime.events();
    runtime.ensure_sandbox(&container.sandbox()).await?;
    let result = match runtime.start(&container.uid, bundle).await {
        Ok(_) => Ok(ended(&mut events).await),
        Err(error) => Err(error),
    };
    runtime.remove(&container.uid).await?;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_missing_programs() {
    let host = Host::new("tcodes");
    for (name, args, code) in [("yes", &["true"][..], 0), ("no", &["false"], 1), ("abs", &["/bin/true"], 0)] {
        let container = host.container(name);
        assert_eq!(run(&host, &container, &container.bundle(args)).await.unwrap().code, code, "{args:?}");
    }
    let container = host.container("killed");
    let exit = run(&host, &container, &container.shell("kill -9 $$; exit 3")).await.unwrap();
    assert_eq!((exit.code, exit.signal), (3, None), "PID 1 cannot kill itself, so it goes on");
    let container = host.container("missing");
    let error = run(&host, &container, &container.bundle(&["nothere"])).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::CommandNotFound { command } if command == "nothere"), "{error:?}");
    let error = run(&host, &container, &container.bundle(&["text"])).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::CommandNotExecutable { .. }), "{error:?}");
    let mut bundle = container.bundle(&["true"]);
    bundle.user = Some("nobody-here".to_owned());
    let error = run(&host, &container, &bundle).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::UserNotFound { .. }), "{error:?}");
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_says_it_is_isolated() {
    let host = Host::new("tiso");
    let container = host.container("iso");
    let script = "cat /proc/self/status | while read k v; do case $k in Seccomp:|CapEff:|CapInh:|CapAmb:) echo $k $v;; esac; done; \
        cat /proc/self/uid_map | { read a b c; echo $a $b $c; }; hostname; cat /proc/kcore | { read x; echo kcore:$x; }; cat /etc/hosts; \
        touch /home/made; ls /proc/self/fd; echo $COLOUR >&2; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
        echo x > /proc/sys/kernel/domainname || echo refused; ls /sys/firmware; echo pid $$; ls /dev";
    let exit = run(&host, &container, &container.shell(script)).await.unwrap();
    let log = container.log().join("\n");
    assert_eq!(exit.code, 0, "{log}");
    for line in [
        "stdout F Seccomp: 2",
        "stdout F CapEff: 00000000a80425fb",
        "stdout F CapInh: 0000000000000000",
        "stdout F CapAmb: 0000000000000000",
        "stdout F 0 300000 65536",
        "stdout F inside",
        "stdout F kcore:",
        "stdout F 127.0.0.1 localhost",
        "stderr F blue",
        "stdout F 0",
        "stdout F refused",
        "stdout F pid 1",
        "stdout F null",
    ] {
        assert!(log.lines().any(|have| have == line), "{line} is missing in:\n{log}");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(container.base.join("upper/home/made")).unwrap().uid(), 0, "ids on disk are the container's");
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_taken_from_the_image() {
    let host = Host::new("tuser");
    let container = host.container("user");
    let mut bundle = container.bundle(&["id"]);
    bundle.user = Some("web".to_owned());
    assert_eq!(run(&host, &container, &bundle).await.unwrap().code, 0);
    assert_eq!(container.log(), ["stdout F uid=33(web) gid=34(www) groups=4(log),34(www)"]);
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel_and_exec_gives_its_code() {
    let host = Host::new("tlimit");
    let container = host.container("limit");
    let runtime = host.runtime();
    let mut events = runtime.events();
    assert!(runtime.ensure_sandbox(&container.sandbox()).await.unwrap().created);
    assert!(!runtime.ensure_sandbox(&container.sandbox()).await.unwrap().created);
    let started = runtime.start(&container.uid, &container.bundle(&["sleep", "1000"])).await.unwrap();
    assert!(matches!(runtime.start(&container.uid, &container.bundle(&["true"])).await, Err(RuntimeError::AlreadyRunning { .. })));
    let limits = Limits { cpu_milli: Some(500), memory_bytes: Some(64 << 20), pids: Some(50) };
    runtime.update(&container.uid, &limits).await.unwrap();
    let layout = Layout::probe().unwrap();
    let file = |controller: &str, v1: &str, v2: &str| {
        let hierarchy = layout.with(controller).unwrap();
        let name = if hierarchy.v2 { v2 } else { v1 };
        fs::read_to_string(hierarchy.path.join("tlimit/limit/c").join(name)).unwrap().trim().to_owned()
    };
    assert_eq!(file("pids", "pids.max", "pids.max"), "50");
    assert_eq!(file("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert!(file("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let exec = ExecSpec {
        args: ["sh", "-c", "hostname; id -u; exit 7"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: None,
        user: Some("web".to_owned()),
        stdin: None,
        stdout: Some(OwnedFd::from(writer)),
        stderr: None,
    };
    let handle = runtime.exec(&container.uid, exec).await.unwrap();
    assert_eq!(handle.exit.await.unwrap().code, 7);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text, "inside\n33\n");
    let since = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(started.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = ended(&mut events).await;
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    runtime.start(&container.uid, &container.bundle(&["true"])).await.unwrap();
    assert_eq!(ended(&mut events).await.code, 0);
    runtime.remove(&container.uid).await.unwrap();
    runtime.remove(&container.uid).await.unwrap();
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_away_knows_what_happened() {
    let host = Host::new("taway");
    let (lives, ends) = (host.container("lives"), host.container("ends"));
    let first = host.runtime();
    for container in [&lives, &ends] {
        first.ensure_sandbox(&container.sandbox()).await.unwrap();
        first.start(&container.uid, &container.bundle(&["sleep", "1000"])).await.unwrap();
    }
    let ObservedState::Running(doomed) = first.inspect(&ends.uid).await.unwrap().unwrap().state else { panic!("runs") };
    drop(first);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(doomed.pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(doomed.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let second = host.runtime();
    let mut events = second.events();
    let observed = second.observe().await.unwrap();
    assert_eq!(observed.len(), 2);
    let of = |uid: &ContainerUid| observed.iter().find(|one| one.uid == *uid).unwrap().clone();
    assert!(matches!(of(&lives.uid).state, ObservedState::Running(_)));
    assert_eq!(of(&lives.uid).record, serde_json::json!({"made": "start"}));
    let exit = match of(&ends.uid).state {
        ObservedState::Exited(exit) => exit,
        _ => ended(&mut events).await,
    };
    assert_eq!(exit.signal, Some(9));
    for container in [&lives, &ends] {
        second.remove(&container.uid).await.unwrap();
    }
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_is_lost_and_can_be_removed() {
    let host = Host::new("tlost");
    let container = host.container("lost");
    let runtime = host.runtime();
    let mut events = runtime.events();
    runtime.ensure_sandbox(&container.sandbox()).await.unwrap();
    runtime.start(&container.uid, &container.bundle(&["sleep", "1000"])).await.unwrap();
    let (state, _) = runtime.shared.hello(&container.uid).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(state.shim_pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let wait = async { while !matches!(events.recv().await.unwrap(), RuntimeEvent::Lost { .. }) {} };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    let observed = runtime.inspect(&container.uid).await.unwrap().unwrap();
    assert!(matches!(observed.state, ObservedState::Lost { .. }), "{observed:?}");
    runtime.remove(&container.uid).await.unwrap();
    assert!(runtime.inspect(&container.uid).await.unwrap().is_none());
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_ends_at_once_is_not_lost() {
    let host = Host::new("tshort");
    let container = host.container("short");
    let runtime = host.runtime();
    runtime.ensure_sandbox(&container.sandbox()).await.unwrap();
    runtime.start(&container.uid, &container.bundle(&["sleep", "1000"])).await.unwrap();
    for round in 0..20 {
        let args = ["sh", "-c", "exit 9"].map(str::to_owned).to_vec();
        let exec = ExecSpec { args, env: Vec::new(), cwd: None, user: None, stdin: None, stdout: None, stderr: None };
        let handle = runtime.exec(&container.uid, exec).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(handle.exit.await.unwrap().code, 9, "round {round}");
        let gone = gantry_sys::process::pidfd_signal(handle.pidfd.as_fd(), 0).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ESRCH), "the handle means that process");
    }
    runtime.remove(&container.uid).await.unwrap();
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_memory_is_told() {
    let host = Host::new("toom");
    let container = host.container("oom");
    let mut bundle = container.bundle(&["tail", "/dev/zero"]);
    let mut memory = oci_spec::runtime::LinuxMemory::default();
    memory.set_limit(Some(16 << 20));
    bundle.spec.linux_mut().as_mut().unwrap().resources_mut().as_mut().unwrap().set_memory(Some(memory));
    let exit = run(&host, &container, &bundle).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true), "{exit:?}");
    host.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_not_granted_cannot_be_opened() {
    let host = Host::new("tdev");
    let script = "echo fine > /dev/null && echo null; mknod /tmp/d c 4 64 && echo made; cat /tmp/d; echo over";
    let container = host.container("dev");
    let runtime = host.runtime();
    let mut events = runtime.events();
    let sandbox = SandboxSpec { user_namespace: None, ..container.sandbox() };
    runtime.ensure_sandbox(&sandbox).await.unwrap();
    // Twice: the rules of the second start take the place of the first's.
    for _ in 0..2 {
        runtime.start(&container.uid, &container.shell(script)).await.unwrap();
        assert_eq!(ended(&mut events).await.code, 0);
        fs::remove_file(container.base.join("upper/tmp/d")).unwrap();
    }
    runtime.remove(&container.uid).await.unwrap();
    let once = ["stdout F null", "stdout F made", "stderr F cat: can't open '/tmp/d': Operation not permitted", "stdout F over"];
    let mut log = container.log();
    log.sort();
    let mut expected = [once, once].concat();
    expected.sort_unstable();
    assert_eq!(log, expected);
    host.assert_clean();
}

/// A figure, not a judgement: run it on a quiet machine with an optimised build.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn how_long_a_start_takes_and_what_a_shim_weighs() {
    const ROUNDS: usize = 60;
    let host = Host::new("tfast");
    let runtime = host.runtime();
    let mut events = runtime.events();
    let (mut both, mut again, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let container = host.container(&format!("c{round}"));
        let since = Instant::now();
        runtime.ensure_sandbox(&container.sandbox()).await.unwrap();
        runtime.start(&container.uid, &container.bundle(&["true"])).await.unwrap();
        both.push(since.elapsed());
        ended(&mut events).await;
        let since = Instant::now();
        runtime.start(&container.uid, &container.bundle(&["true"])).await.unwrap();
        again.push(since.elapsed());
        ended(&mut events).await;
    }
    for round in 0..ROUNDS {
        let uid = ContainerUid::new(&format!("c{round}")).unwrap();
        let (state, _) = runtime.shared.hello(&uid).await.unwrap();
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", state.shim_pid)).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        weights.push(pss.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
    }
    for round in 0..ROUNDS {
        runtime.remove(&ContainerUid::new(&format!("c{round}")).unwrap()).await.unwrap();
    }
    for (what, times) in [("sandbox and start", &mut both), ("start again", &mut again)] {
        times.sort();
        eprintln!("{what}: p50 {:?}, p95 {:?}, min {:?}", times[ROUNDS / 2], times[ROUNDS * 95 / 100], times[0]);
    }
    weights.sort_unstable();
    eprintln!("PSS of a shim among {ROUNDS}: {} KiB", weights[ROUNDS / 2]);
    host.assert_clean();
}
