//! What a container gets when nothing else is said: Docker's defaults, as parts of an OCI spec.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Mount, MountBuilder,
    Process, Root, Spec,
};

use super::seccomp;

/// The capabilities that Docker grants: `CapEff` is 00000000a80425fb.
pub fn default_capabilities() -> HashSet<Capability> {
    HashSet::from([
        Capability::AuditWrite,
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::Mknod,
        Capability::NetBindService,
        Capability::NetRaw,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ])
}

/// Every capability that Linux has: a privileged container's.
pub fn all_capabilities() -> HashSet<Capability> {
    let further = [
        Capability::AuditControl,
        Capability::AuditRead,
        Capability::BlockSuspend,
        Capability::Bpf,
        Capability::CheckpointRestore,
        Capability::DacReadSearch,
        Capability::IpcLock,
        Capability::IpcOwner,
        Capability::Lease,
        Capability::LinuxImmutable,
        Capability::MacAdmin,
        Capability::MacOverride,
        Capability::NetAdmin,
        Capability::NetBroadcast,
        Capability::Perfmon,
        Capability::SysAdmin,
        Capability::SysBoot,
        Capability::SysModule,
        Capability::SysNice,
        Capability::SysPacct,
        Capability::SysPtrace,
        Capability::SysRawio,
        Capability::SysResource,
        Capability::SysTime,
        Capability::SysTtyConfig,
        Capability::Syslog,
        Capability::WakeAlarm,
    ];
    default_capabilities().into_iter().chain(further).collect()
}

/// Paths that are hidden: Docker's list, with the thermal and RAPL interfaces of its later releases.
pub fn masked_paths() -> Vec<String> {
    let paths = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    paths.map(str::to_owned).to_vec()
}

/// Paths that are read-only: Docker's list.
pub fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

/// What the devices cgroup lets through: nothing, then the nodes of `/dev`, pseudo-terminals and `mknod` of anything, as under Docker.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let rule = |allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
        if let Some(major) = major {
            builder = builder.major(major);
        }
        if let Some(minor) = minor {
            builder = builder.minor(minor);
        }
        builder.build().ok()
    };
    let nodes =
        [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(1)), (5, Some(2)), (136, None)];
    let allowed = nodes.map(|(major, minor)| rule(true, LinuxDeviceType::C, Some(major), minor, "rwm"));
    let first = [
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    first.into_iter().chain(allowed).flatten().collect()
}

/// The kernel's own file systems, `/dev` and shared memory.
pub fn mounts() -> Vec<Mount> {
    let list = [
        ("/proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ];
    let mounts = list.map(|(target, kind, options)| {
        let options: Vec<String> = options.split(',').map(str::to_owned).collect();
        MountBuilder::default().destination(target).typ(kind).source(kind).options(options).build().ok()
    });
    mounts.into_iter().flatten().collect()
}

/// A spec with all of these defaults; arguments, environment, limits and further mounts are for the caller to add.
pub fn base_spec() -> Spec {
    let capabilities = default_capabilities();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone())).set_permitted(Some(capabilities.clone())).set_effective(Some(capabilities.clone()));
    sets.set_inheritable(None).set_ambient(None);
    let mut process = Process::default();
    process.set_terminal(None).set_args(None).set_env(None).set_cwd(PathBuf::from("/")).set_capabilities(Some(sets));
    process.set_rlimits(None).set_no_new_privileges(Some(false));
    let mut root = Root::default();
    root.set_readonly(Some(false));
    let held: Vec<Capability> = capabilities.into_iter().collect();
    let linux = LinuxBuilder::default()
        .masked_paths(masked_paths())
        .readonly_paths(readonly_paths())
        .seccomp(seccomp::default_profile(&held))
        .build()
        .ok();
    let mut spec = Spec::default();
    spec.set_process(Some(process)).set_root(Some(root)).set_hostname(None).set_mounts(Some(mounts())).set_linux(linux);
    spec.set_annotations(None);
    spec
}
