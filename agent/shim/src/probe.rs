//! What this kernel offers the runtime, found by doing it: `gantry-shim --probe DIRECTORY`.
//!
//! In the shim because making a user namespace to map with, and a mount namespace to try names in, wants a process with one thread that
//! ends afterwards.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_sys::cgroup::Layout;
use gantry_sys::fd::take_inherited_listener;
use gantry_sys::mount::{Change, FsContext, change, clone_path};
use gantry_sys::process::SingleThread;
use nix::libc;
use nix::mount::MsFlags;

use crate::create::Stage;
use crate::protocol::{Failure, IdRange, errno_step, step};
use crate::sandbox::{make_id_map, range_map};

/// What was looked at, whether it is as needed, and a sentence about it.
pub type Finding = (String, bool, String);

/// A range to try mapping with.
const TRIED: IdRange = IdRange { first: 100_000, count: 65_536 };

const HOST_MODE: &str = "or set securityContext.userNamespace.mode: Host on each container";

/// Looks at everything, with `dir` standing for the file system of the data directory, and writes the findings as JSON to the inherited
/// descriptor.
///
/// # Errors
/// What kept it from looking or from telling.
pub fn run(dir: &Path) -> Result<(), Failure> {
    let single = SingleThread::claim().map_err(step("be single-threaded"))?;
    let mut out = File::from(take_inherited_listener().map_err(step("take the pipe"))?);
    let text = serde_json::to_vec(&findings(&single, dir)).map_err(|error| step("write the findings")(error.into()))?;
    out.write_all(&text).map_err(step("write the findings"))
}

fn findings(single: &SingleThread, dir: &Path) -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut all = vec![finding("kernel", true, format!("Linux {}", release.trim()))];
    let map = range_map(TRIED);
    let user = make_id_map(single, &map, &map);
    all.push(match &user {
        Ok(_) => finding("user namespaces", true, "containers get host ids of their own"),
        Err(error) => finding("user namespaces", false, format!("{error}; raise user.max_user_namespaces, {HOST_MODE}")),
    });
    all.push(seccomp());
    all.extend(cgroups());
    let user = user.ok();
    all.extend(mounts(dir, user.as_ref().map(AsFd::as_fd)));
    all
}

fn finding(what: &str, good: bool, sentence: impl Into<String>) -> Finding {
    (what.to_owned(), good, sentence.into())
}

fn seccomp() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        return finding("seccomp", true, "system calls are filtered");
    }
    finding(
        "seccomp",
        false,
        "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER); set securityContext.seccompProfile.type: Unconfined",
    )
}

fn cgroups() -> Vec<Finding> {
    let layout = match Layout::probe() {
        Ok(layout) => layout,
        Err(error) => return vec![finding("cgroups", false, format!("{error}; mount cgroup2 at /sys/fs/cgroup"))],
    };
    let kind = match (layout.is_pure_v2(), layout.unified()) {
        (true, _) => "v2",
        (false, Some(_)) => "v1, with v2 beside it",
        (false, None) => "v1",
    };
    let missing: Vec<&str> = ["cpu", "memory", "pids"].into_iter().filter(|name| layout.with(name).is_none()).collect();
    let sentence = if missing.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}, without {}: such limits cannot be set; enable them on the kernel command line", missing.join(", "))
    };
    let mut all = vec![finding("cgroups", missing.is_empty(), sentence)];
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !layout.is_pure_v2() && !mounts.contains("favordynmods") {
        let place =
            layout.unified().or_else(|| layout.hierarchies.first()).map_or("/sys/fs/cgroup", |one| one.path.to_str().unwrap_or_default());
        let sentence = format!(
            "starts may wait 10 ms each to join cgroups of v1; until the next boot this helps: mount -o remount,favordynmods {place}"
        );
        all.push(finding("favordynmods", true, sentence));
    }
    all
}

/// A directory that is gone in the end.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mounts(dir: &Path, user: Option<BorrowedFd<'_>>) -> Vec<Finding> {
    let scratch = Scratch(dir.join(format!(".gantry-probe-{}", std::process::id())));
    for name in ["a", "b", "stage"] {
        if let Err(error) = fs::create_dir_all(scratch.0.join(name)) {
            return vec![finding("data directory", false, format!("nothing can be made in `{}`: {error}", dir.display()))];
        }
    }
    let mapped = |name: &str| -> std::io::Result<OwnedFd> {
        let clone = clone_path(&scratch.0.join(name), false)?;
        change(clone.as_fd(), Change { id_map: user, propagation: MsFlags::MS_PRIVATE.bits(), ..Change::default() })?;
        Ok(clone)
    };
    let mut all = Vec::new();
    let layers = match (mapped("a"), mapped("b")) {
        (Ok(a), Ok(b)) => [a, b],
        (Err(error), _) | (_, Err(error)) => {
            let help = "move the data directory to ext4, xfs or btrfs";
            return vec![finding(
                "ID-mapped mounts",
                false,
                format!("not on the file system of `{}` ({error}); {help}, {HOST_MODE}", dir.display()),
            )];
        }
    };
    if user.is_some() {
        all.push(finding("ID-mapped mounts", true, format!("files below `{}` keep the container's ids", dir.display())));
    }
    all.push(overlay(&layers, &scratch.0.join("stage")));
    all.push(dev(user));
    all
}

fn overlay(layers: &[OwnedFd; 2], place: &Path) -> Finding {
    let by_handle = || -> std::io::Result<()> {
        let overlay = FsContext::new("overlay")?;
        for layer in layers {
            overlay.set_fd("lowerdir+", layer.as_fd())?;
        }
        overlay.create()
    };
    match by_handle() {
        Ok(()) => finding("overlay", true, "layers are passed by handle"),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            finding("overlay", false, "the kernel has no overlay; run: modprobe overlay")
        }
        Err(_) => match by_name(layers, place) {
            Ok(()) => finding("overlay", true, "layers are passed by name in a mount namespace of ours (this kernel takes no handles)"),
            Err(error) => {
                finding("overlay", false, format!("ID-mapped layers are refused ({error}); Linux 6.1 or newer takes them, {HOST_MODE}"))
            }
        },
    }
}

fn by_name(layers: &[OwnedFd; 2], place: &Path) -> Result<(), Failure> {
    let mut stage = None;
    let made = stack(Stage::of(&mut stage, place)?, layers);
    let left = stage.map_or(Ok(()), Stage::leave);
    made.and(left)
}

fn stack(stage: &Stage, layers: &[OwnedFd; 2]) -> Result<(), Failure> {
    for (layer, name) in layers.iter().zip(["0", "1"]) {
        stage.attach(layer, name)?;
    }
    stage.directory("m")?;
    let mounted = nix::mount::mount(Some("overlay"), "m", Some("overlay"), MsFlags::empty(), Some("lowerdir=0:1"));
    mounted.map_err(errno_step("mount an overlay of two layers"))
}

fn dev(user: Option<BorrowedFd<'_>>) -> Finding {
    let tried = || -> std::io::Result<()> {
        let tmpfs = FsContext::new("tmpfs")?;
        tmpfs.create()?;
        let mount = tmpfs.mount(0)?;
        change(mount.as_fd(), Change { id_map: user, ..Change::default() })
    };
    match tried() {
        Ok(()) => finding("/dev of containers", true, "one ID-mapped tmpfs"),
        Err(_) => {
            finding("/dev of containers", true, "a tmpfs of the container with device nodes mounted on it (tmpfs cannot be ID-mapped here)")
        }
    }
}
