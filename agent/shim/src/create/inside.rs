//! In the container's new namespaces: its mounts are attached, its root becomes the root, the host's is dropped.
//!
//! Every target is opened in the new root as if that were `/` and then used by handle; nothing of the image is followed by name.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use gantry_sys::cgroup::Layout;
use gantry_sys::mount::{
    Change, FsContext, NODEV, NOEXEC, NOSUID, RDONLY, attach, change, clone_fd, clone_path, open_beneath, open_in_root,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Spec;

use super::mounts::{DEV_OPTIONS, Planned, Source, furnish_dev};
use crate::protocol::{Failure, SandboxFile, errno_step, step};

/// All that the container's side is given.
pub(super) struct World<'a> {
    pub(super) root: OwnedFd,
    pub(super) mounts: Vec<Planned>,
    pub(super) spec: &'a Spec,
    pub(super) files: &'a [(String, String)],
    pub(super) sandbox: &'a SandboxFile,
}

/// Most components of a mount's target.
const MAX_COMPONENTS: usize = 128;

/// Makes the world of the container; the result is a handle of its root, which is `/` now.
pub(super) fn enter(world: World<'_>) -> Result<OwnedFd, Failure> {
    become_root_inside()?;
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(errno_step("make a cgroup namespace"))?;
    let slash = open_path(Path::new("/"))?;
    let private = Change { propagation: MsFlags::MS_PRIVATE.bits(), recursive: true, ..Change::default() };
    change(slash.as_fd(), private).map_err(step("make the mounts private"))?;
    let ready: Vec<(PathBuf, Vec<Ready>)> =
        world.mounts.into_iter().map(|planned| Ok((planned.target.clone(), ready(planned)?))).collect::<Result<_, Failure>>()?;
    let root = world.root;
    attach(root.as_fd(), slash.as_fd()).map_err(step("attach the root file system"))?;
    for (target, mounts) in ready {
        for mount in mounts {
            mount.attach_at(&root, &target)?;
        }
    }
    attach_files(&root, world.files)?;
    nix::unistd::sethostname(&world.sandbox.hostname).map_err(errno_step("set the host name"))?;
    if let Some(domain) = world.spec.domainname() {
        gantry_sys::process::set_domain_name(domain).map_err(step("set the domain name"))?;
    }
    sysctls(&root, world.spec)?;
    hide_paths(&root, world.spec)?;
    change_root(&root)?;
    if world.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        change(root.as_fd(), Change { set: RDONLY, ..Change::default() }).map_err(step("make the root file system read-only"))?;
    }
    Ok(root)
}

/// Id 0 of the user namespace, with every capability over what it owns.
pub(super) fn become_root_inside() -> Result<(), Failure> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group).map_err(errno_step("become root inside"))?;
    nix::unistd::setgroups(&[]).map_err(errno_step("leave the host's groups"))?;
    nix::unistd::setresuid(user, user, user).map_err(errno_step("become root inside"))
}

fn open_path(path: &Path) -> Result<OwnedFd, Failure> {
    let opened = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    opened.map_err(errno_step(format!("open `{}`", path.display())))
}

/// A detached mount and where below its target it goes.
struct Ready {
    mount: OwnedFd,
    directory: bool,
    /// Made by the engine for the kernel's own file systems: may lie on procfs or below.
    below: Option<PathBuf>,
    link: Option<(String, String)>,
}

impl Ready {
    fn plain(mount: OwnedFd, directory: bool) -> Self {
        Self { mount, directory, below: None, link: None }
    }

    fn attach_at(&self, root: &OwnedFd, target: &Path) -> Result<(), Failure> {
        let target = self.below.as_ref().map_or_else(|| target.to_owned(), |below| target.join(below));
        let handle = ensure_target(root, &target, self.directory)?;
        refuse_proc(&handle, &target)?;
        attach(self.mount.as_fd(), handle.as_fd()).map_err(step(format!("mount `{}`", target.display())))?;
        let Some((name, points_to)) = &self.link else { return Ok(()) };
        let parent = ensure_target(root, target.parent().unwrap_or(Path::new("/")), true)?;
        match nix::unistd::symlinkat(points_to.as_str(), &parent, name.as_str()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno_step(format!("link `{name}`"))(errno)),
        }
    }
}

/// A mount over anything inside /proc would let the image redirect what is written there (CVE-2019-19921).
fn refuse_proc(handle: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let stat = fstatfs(handle).map_err(errno_step(format!("look at `{}`", target.display())))?;
    if stat.filesystem_type() == PROC_SUPER_MAGIC {
        return Err(Failure::Unsupported {
            what: format!("mount at `{}`", target.display()),
            reason: "nothing is mounted over procfs".to_owned(),
        });
    }
    Ok(())
}

fn ready(planned: Planned) -> Result<Vec<Ready>, Failure> {
    let name = planned.target.display().to_string();
    match planned.source {
        Source::Detached { mount, directory } => Ok(vec![Ready::plain(mount, directory)]),
        Source::Nodes { nodes, .. } => device_nodes(nodes, planned.attributes, &name),
        Source::Host { path } => {
            let clone = clone_path(&path, true).map_err(step(format!("copy the host's `{}`", path.display())))?;
            let set = Change { set: planned.attributes, recursive: true, ..Change::default() };
            change(clone.as_fd(), set).map_err(step(format!("set the options of `{name}`")))?;
            Ok(vec![Ready::plain(clone, true)])
        }
        Source::Inside { kind, options } => {
            let context = FsContext::new(&kind).map_err(step(format!("make a {kind} for `{name}`")))?;
            for (key, value) in &options {
                let set = value.as_ref().map_or_else(|| context.set_flag(key), |value| context.set(key, value));
                set.map_err(step(format!("set the option `{key}` of `{name}`")))?;
            }
            Ok(vec![Ready::plain(made(&context, planned.attributes, &name)?, true)])
        }
        Source::Cgroup(layout) => cgroups(&layout, planned.attributes),
    }
}

/// A tmpfs of the container's own user namespace, on which no node would work; those that do are mounted over empty files.
fn device_nodes(nodes: Vec<(PathBuf, OwnedFd)>, attributes: u64, name: &str) -> Result<Vec<Ready>, Failure> {
    let context = FsContext::new("tmpfs").map_err(step("make /dev"))?;
    for (key, value) in DEV_OPTIONS {
        context.set(key, value).map_err(step("set up /dev"))?;
    }
    let dev = made(&context, (attributes | NOEXEC) & !(NODEV | RDONLY), name)?;
    furnish_dev(&dev)?;
    let nodes = nodes.into_iter().map(|(name, mount)| Ready { mount, directory: false, below: Some(name), link: None });
    Ok(std::iter::once(Ready::plain(dev, true)).chain(nodes).collect())
}

fn made(context: &FsContext, attributes: u64, name: &str) -> Result<OwnedFd, Failure> {
    context.create().map_err(|error| {
        let said = context.message().unwrap_or_default();
        step(format!("make the file system of `{name}`: {said}"))(error)
    })?;
    context.mount(attributes).map_err(step(format!("mount `{name}`")))
}

/// The container's own part of each hierarchy: its cgroup namespace makes that the root.
fn cgroups(layout: &Layout, attributes: u64) -> Result<Vec<Ready>, Failure> {
    if layout.is_pure_v2() {
        let context = FsContext::new("cgroup2").map_err(step("make a cgroup2"))?;
        return Ok(vec![Ready::plain(made(&context, attributes, "cgroup2")?, true)]);
    }
    let top = FsContext::new("tmpfs").map_err(step("make the cgroup directory"))?;
    top.set("mode", "0755").map_err(step("set up the cgroup directory"))?;
    let top = made(&top, attributes & !RDONLY, "cgroup")?;
    let mut all = vec![Ready::plain(top, true)];
    for hierarchy in layout.hierarchies.iter().filter(|hierarchy| !hierarchy.v2) {
        let name = hierarchy.controllers.join(",");
        let context = FsContext::new("cgroup").map_err(step("make a cgroup hierarchy"))?;
        for controller in &hierarchy.controllers {
            match controller.split_once('=') {
                Some((key, value)) => {
                    context.set_flag("none").map_err(step(format!("mount the hierarchy `{name}`")))?;
                    context.set(key, value)
                }
                None => context.set_flag(controller),
            }
            .map_err(step(format!("mount the hierarchy `{name}`")))?;
        }
        let dir = name.strip_prefix("name=").unwrap_or(&name).to_owned();
        let link = hierarchy.controllers.iter().find(|_| hierarchy.controllers.len() > 1).map(|first| (first.clone(), dir.clone()));
        let mount = made(&context, attributes, &name)?;
        all.push(Ready { mount, directory: true, below: Some(dir.into()), link });
    }
    Ok(all)
}

/// Opens a target in the root, making what is missing of it.
fn ensure_target(root: &OwnedFd, target: &Path, directory: bool) -> Result<OwnedFd, Failure> {
    let named = |what: &str| format!("{what} the mount point `{}`", target.display());
    match open_in_root(root.as_fd(), target, OFlag::O_PATH) {
        Ok(handle) => return Ok(handle),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
        Err(error) => return Err(step(named("open"))(error)),
    }
    let names: Vec<&OsStr> = target
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    if names.len() > MAX_COMPONENTS || target.components().any(|component| component == Component::ParentDir) {
        return Err(Failure::Step { step: named("make"), errno: nix::libc::EINVAL });
    }
    let mut path = PathBuf::from("/");
    let mut parent = open_in_root(root.as_fd(), &path, OFlag::O_PATH).map_err(step(named("make")))?;
    for (index, name) in names.iter().enumerate() {
        path.push(name);
        let last = index + 1 == names.len();
        let made = if last && !directory { make_file(parent.as_fd(), name) } else { make_directory(parent.as_fd(), name) };
        made.map_err(errno_step(named("make")))?;
        parent = open_in_root(root.as_fd(), &path, OFlag::O_PATH).map_err(step(named("make")))?;
    }
    Ok(parent)
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
    match nix::fcntl::openat(parent, name, flags, Mode::from_bits_truncate(0o644)) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes a directory of the image if it is missing, as Docker does with a working directory.
pub(super) fn ensure_directory(root: &OwnedFd, path: &Path) -> Result<(), Failure> {
    ensure_target(root, path, true).map(drop)
}

/// Small files on a tmpfs of their own, each mounted over its place.
fn attach_files(root: &OwnedFd, files: &[(String, String)]) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let context = FsContext::new("tmpfs").map_err(step("make a tmpfs for the engine's files"))?;
    for (key, value) in [("mode", "0755"), ("size", "4m")] {
        context.set(key, value).map_err(step("set up the engine's files"))?;
    }
    let holder = made(&context, NOSUID | NODEV | NOEXEC, "the engine's files")?;
    // A clone of a part needs an attached mount before Linux 6.15; the place is dropped with the host's root.
    let place = open_path(Path::new("/proc"))?;
    let mut handles = Vec::new();
    for (index, (path, text)) in files.iter().enumerate() {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
        let file = open_beneath(holder.as_fd(), Path::new(&index.to_string()), flags, Mode::from_bits_truncate(0o644));
        let mut file = std::fs::File::from(file.map_err(step(format!("make `{path}`")))?);
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(step(format!("write `{path}`")))?;
        handles.push((path, index));
    }
    attach(holder.as_fd(), place.as_fd()).map_err(step("attach the engine's files"))?;
    for (path, index) in handles {
        let file = open_beneath(holder.as_fd(), Path::new(&index.to_string()), OFlag::O_PATH, Mode::empty());
        let file = file.map_err(step(format!("open `{path}`")))?;
        let clone = clone_fd(file.as_fd(), false).map_err(step(format!("copy `{path}`")))?;
        Ready::plain(clone, false).attach_at(root, Path::new(path))?;
    }
    Ok(())
}

/// Kernel parameters of the container's own namespaces, before /proc/sys is closed.
fn sysctls(root: &OwnedFd, spec: &Spec) -> Result<(), Failure> {
    let Some(sysctls) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    let sys = open_in_root(root.as_fd(), Path::new("/proc/sys"), OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(step("open /proc/sys"))?;
    refuse_other_than_proc(&sys)?;
    for (name, value) in sysctls {
        // Docker's and the kernel's notation: dots for slashes; no way up or out.
        let path = PathBuf::from(name.replace('.', "/"));
        let file = open_beneath(sys.as_fd(), &path, OFlag::O_WRONLY, Mode::empty());
        let written = file.and_then(|file| std::io::Write::write_all(&mut std::fs::File::from(file), value.as_bytes()));
        written.map_err(step(format!("set the sysctl `{name}`")))?;
    }
    Ok(())
}

fn refuse_other_than_proc(handle: &OwnedFd) -> Result<(), Failure> {
    let stat = fstatfs(handle).map_err(errno_step("look at /proc"))?;
    if stat.filesystem_type() == PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Failure::Step { step: "find procfs at /proc".to_owned(), errno: nix::libc::ENOTSUP })
}

fn hide_paths(root: &OwnedFd, spec: &Spec) -> Result<(), Failure> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        let Some(target) = open_existing(root, path)? else { continue };
        let clone = clone_fd(target.as_fd(), true).map_err(step(format!("make `{path}` read-only")))?;
        let set = Change { set: RDONLY, recursive: true, ..Change::default() };
        change(clone.as_fd(), set).map_err(step(format!("make `{path}` read-only")))?;
        attach(clone.as_fd(), target.as_fd()).map_err(step(format!("make `{path}` read-only")))?;
    }
    for path in linux.masked_paths().iter().flatten() {
        let Some(target) = open_existing(root, path)? else { continue };
        let cover = cover(root, &target).map_err(step(format!("mask `{path}`")))?;
        attach(cover.as_fd(), target.as_fd()).map_err(step(format!("mask `{path}`")))?;
    }
    Ok(())
}

fn open_existing(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, Failure> {
    match open_in_root(root.as_fd(), Path::new(path), OFlag::O_PATH) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(step(format!("open `{path}`"))(error)),
    }
}

/// An empty read-only directory over a directory, the null device over anything else.
fn cover(root: &OwnedFd, target: &OwnedFd) -> std::io::Result<OwnedFd> {
    let kind = nix::sys::stat::fstat(target)?.st_mode & nix::libc::S_IFMT;
    if kind == nix::libc::S_IFDIR {
        let context = FsContext::new("tmpfs")?;
        context.set("size", "0")?;
        context.create()?;
        return context.mount(RDONLY | NOSUID | NODEV | NOEXEC);
    }
    let null = open_in_root(root.as_fd(), Path::new("/dev/null"), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    let stat = nix::sys::stat::fstat(&null)?;
    // An image without our /dev could hold anything under that name (CVE-2025-31133).
    if stat.st_mode & nix::libc::S_IFMT != nix::libc::S_IFCHR || stat.st_rdev != nix::sys::stat::makedev(1, 3) {
        return Err(std::io::Error::from_raw_os_error(nix::libc::ENODEV));
    }
    clone_fd(null.as_fd(), false)
}

/// The new root takes the place of `/`; the old one is dropped with all that is mounted below it.
fn change_root(root: &OwnedFd) -> Result<(), Failure> {
    nix::unistd::fchdir(root).map_err(errno_step("enter the root file system"))?;
    nix::unistd::pivot_root(".", ".").map_err(errno_step("make it the root"))?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).map_err(errno_step("drop the host's root"))?;
    nix::unistd::chdir("/").map_err(errno_step("enter the new root"))
}
