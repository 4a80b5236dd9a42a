//! v2 is written into a directory of plain files (this is what the kernel would be told); v1 and hybrid hosts are tested for real.

use std::time::Duration;

use super::*;

fn v2_in(dir: &Path) -> Layout {
    for level in ["", "i", "i/one", "i/one/shim", "i/one/c"] {
        fs::create_dir_all(dir.join(level)).unwrap();
        fs::write(dir.join(level).join("cgroup.subtree_control"), "").unwrap();
    }
    let controllers = ["cpuset", "cpu", "io", "memory", "pids"].map(str::to_owned).to_vec();
    Layout { hierarchies: vec![Hierarchy { path: dir.to_owned(), v2: true, controllers }] }
}

fn full() -> Resources {
    Resources {
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0".into()),
        memory_bytes: Some(64 << 20),
        memory_and_swap_bytes: Some(96 << 20),
        pids: Some(-1),
        ..Resources::default()
    }
}

#[test]
fn v2_files_say_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let layout = v2_in(dir.path());
    let cgroup = ContainerCgroup::new(&layout, "i", "one");
    cgroup.create(Part::Container).unwrap();
    cgroup.apply(&full()).unwrap();
    cgroup.join(Part::Container).unwrap();
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!(read("i/one/c/cpu.max"), "50000 100000");
    assert_eq!(read("i/one/c/cpu.weight"), "39");
    assert_eq!(read("i/one/c/memory.max"), "67108864");
    assert_eq!(read("i/one/c/memory.swap.max"), "33554432");
    assert_eq!(read("i/one/c/pids.max"), "max");
    assert_eq!(read("i/one/c/cpuset.cpus"), "0");
    assert_eq!(read("i/one/c/cgroup.procs"), "0");
    for level in [".", "i", "i/one"] {
        assert_eq!(read(&format!("{level}/cgroup.subtree_control")), "+cpu +cpuset +memory +pids +io", "{level}");
    }
    assert_eq!(read("i/one/c/cgroup.subtree_control"), "", "the leaf holds processes");
}

#[test]
fn a_limit_without_its_controller_is_an_error() {
    let layout = Layout { hierarchies: Vec::new() };
    let error = ContainerCgroup::new(&layout, "i", "one").apply(&full()).unwrap_err();
    assert!(error.step.contains("`cpu`"), "{error}");
}

#[test]
fn mountinfo_of_a_hybrid_host() {
    let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:29 / /mnt/again rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:30 /elsewhere /mnt/part rw,relatime - cgroup cgroup rw,memory\n\
        35 31 0:31 / /sys/fs/cgroup/perf_event rw,relatime - cgroup cgroup rw,perf_event\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n";
    let layout = Layout::parse(text);
    let paths: Vec<_> = layout.hierarchies.iter().map(|hierarchy| hierarchy.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"]);
    assert!(layout.with("cpu").is_some() && layout.with("memory").is_none() && !layout.is_pure_v2());
}

#[test]
fn processes_are_killed_and_cgroups_removed() {
    let layout = Layout::probe().unwrap();
    let instance = format!("sys{}", std::process::id());
    let cgroup = ContainerCgroup::new(&layout, &instance, "killed");
    cgroup.create(Part::Container).unwrap();
    cgroup.create(Part::Container).unwrap();
    cgroup.apply(&Resources { pids: Some(7), memory_bytes: Some(64 << 20), ..Resources::default() }).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a process to be killed")]
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for hierarchy in &layout.hierarchies {
        fs::write(cgroup.part(hierarchy, Part::Container).join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    assert_eq!(cgroup.pids(Part::Container), [i32::try_from(child.id()).unwrap()]);
    assert_eq!(list(&layout, &instance), ["killed"]);
    cgroup.freeze(true).unwrap();
    let reaper = std::thread::spawn(move || child.wait());
    cgroup.kill_all(Part::Container, Duration::from_secs(10)).unwrap();
    assert!(!reaper.join().unwrap().unwrap().success());
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.exists() && list(&layout, &instance).is_empty());
}
