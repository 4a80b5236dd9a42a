//! The mounts of a spec: what needs the host's rights is prepared detached here, the rest is described for the container's side.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::cgroup::Layout;
use gantry_sys::mount::{Change, FsContext, NOATIME, NODEV, NOEXEC, NOSUID, RDONLY, STRICTATIME, change, clone_path};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxIdMapping, Mount, Spec};

use super::Context;
use super::stage::Stage;
use crate::protocol::{Failure, step};
use crate::sandbox::{MapLine, make_id_map};

/// One mount of the container, in order.
pub(super) struct Planned {
    pub(super) target: PathBuf,
    pub(super) source: Source,
    /// Of the mount (`MOUNT_ATTR_*`).
    pub(super) attributes: u64,
}

pub(super) enum Source {
    /// Made here with the host's rights; all of its attributes are set. A directory, or a file.
    Detached { mount: OwnedFd, directory: bool },
    /// A file system that is made inside, in the container's namespaces.
    Inside { kind: String, options: Vec<(String, Option<String>)> },
    /// `/dev` where a tmpfs cannot be ID-mapped: one is made inside, the nodes are copies of single files. Before [`finish`] the host's
    /// tmpfs that they are on, afterwards one mount each.
    Nodes { host: Option<OwnedFd>, names: Vec<PathBuf>, nodes: Vec<(PathBuf, OwnedFd)> },
    /// The host's, all of it (`/sys` where the network is the host's).
    Host { path: PathBuf },
    /// The container's own part of every hierarchy. Found here: seen from a cgroup namespace the mounts have other roots.
    Cgroup(Layout),
}

/// Nodes that every container has (OCI runtime spec, "Default Devices").
const DEVICES: &[(&str, u64, u64)] = &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Of the tmpfs at `/dev`.
pub(super) const DEV_OPTIONS: [(&str, &str); 3] = [("mode", "0755"), ("size", "65536k"), ("source", "tmpfs")];

/// Links that every container has (OCI runtime spec, "Dev symbolic links").
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(super) fn prepare(context: &Context<'_>, spec: &Spec) -> Result<Vec<Planned>, Failure> {
    let devices: &[LinuxDevice] = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    spec.mounts().iter().flatten().map(|mount| plan(context, mount, devices)).collect()
}

/// What could not be prepared without a stage.
pub(super) fn finish(context: &Context<'_>, mounts: &mut [Planned], stage: &mut Option<Stage>) -> Result<(), Failure> {
    for (index, planned) in mounts.iter_mut().enumerate() {
        let Source::Nodes { host, names, nodes } = &mut planned.source else { continue };
        let Some(host) = host.take() else { continue };
        let dir = format!("dev{index}");
        Stage::of(stage, context.dir)?.attach(&host, &dir)?;
        for name in names.drain(..) {
            let path = Path::new(&dir).join(&name);
            let clone = clone_path(&path, false).map_err(step(format!("copy the device node `{}`", name.display())))?;
            nodes.push((name, clone));
        }
    }
    Ok(())
}

/// What the options of a mount mean.
#[derive(Default)]
struct Options {
    set: u64,
    set_recursive: u64,
    recursive: bool,
    propagation: u64,
    data: Vec<(String, Option<String>)>,
}

fn parse_options(mount: &Mount) -> Options {
    let mut options = Options { propagation: MsFlags::MS_PRIVATE.bits(), ..Options::default() };
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" => options.set |= RDONLY,
            "nosuid" => options.set |= NOSUID,
            "nodev" => options.set |= NODEV,
            "noexec" => options.set |= NOEXEC,
            "noatime" => options.set |= NOATIME,
            "strictatime" => options.set |= STRICTATIME,
            "rro" => options.set_recursive |= RDONLY,
            "rnosuid" => options.set_recursive |= NOSUID,
            "rnodev" => options.set_recursive |= NODEV,
            "rnoexec" => options.set_recursive |= NOEXEC,
            "rbind" => options.recursive = true,
            "private" | "rprivate" => options.propagation = MsFlags::MS_PRIVATE.bits(),
            "slave" | "rslave" => options.propagation = MsFlags::MS_SLAVE.bits(),
            "shared" | "rshared" => options.propagation = MsFlags::MS_SHARED.bits(),
            "bind" | "rw" | "suid" | "dev" | "exec" | "relatime" | "idmap" | "ridmap" | "newinstance" | "defaults" => {}
            other => options.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    options
}

fn plan(context: &Context<'_>, mount: &Mount, devices: &[LinuxDevice]) -> Result<Planned, Failure> {
    let target = mount.destination().clone();
    let options = parse_options(mount);
    let attributes = options.set;
    let kind = mount.typ().clone().unwrap_or_default();
    let bind = kind == "bind" || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    let source = match kind.as_str() {
        _ if bind => bind_mount(context, mount, &options)?,
        "tmpfs" if target == Path::new("/dev") => dev(context, attributes, devices)?,
        "cgroup" | "cgroup2" => Source::Cgroup(Layout::probe().map_err(step("find the cgroup hierarchies"))?),
        "sysfs" if context.namespaces.network.is_none() && context.namespaces.user.is_some() => Source::Host { path: "/sys".into() },
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" => Source::Inside { kind, options: options.data },
        _ => {
            return Err(Failure::Unsupported {
                what: format!("mount of type `{kind}` at `{}`", target.display()),
                reason: "the built-in runtime mounts bind, tmpfs, proc, sysfs, devpts, mqueue and cgroup".to_owned(),
            });
        }
    };
    Ok(Planned { target, source, attributes })
}

fn bind_mount(context: &Context<'_>, mount: &Mount, options: &Options) -> Result<Source, Failure> {
    let target = mount.destination().display().to_string();
    if let Some((name, _)) = options.data.first() {
        let reason = "no such option of a bind mount".to_owned();
        return Err(Failure::Unsupported { what: format!("option `{name}` of the mount at `{target}`"), reason });
    }
    let Some(path) = mount.source() else {
        return Err(Failure::Step { step: format!("mount `{target}`: the source is missing"), errno: nix::libc::EINVAL });
    };
    let clone = clone_path(path, options.recursive).map_err(step(format!("open `{}` for the mount at `{target}`", path.display())))?;
    let map = id_map(context, mount)?;
    let changed = Change {
        set: options.set,
        propagation: options.propagation,
        id_map: map.as_ref().map(AsFd::as_fd),
        recursive: options.recursive,
        ..Change::default()
    };
    change(clone.as_fd(), changed).map_err(|error| match (error.raw_os_error(), &map) {
        (Some(nix::libc::EINVAL | nix::libc::EPERM), Some(_)) => Failure::Unsupported {
            what: format!("ID-mapped mount of `{}` at `{target}`", path.display()),
            reason: "this kernel cannot ID-map its file system, or one mounted below it; set securityContext.userNamespace.mode: Host"
                .to_owned(),
        },
        _ => step(format!("set the options of the mount at `{target}`"))(error),
    })?;
    if options.set_recursive != 0 {
        let changed = Change { set: options.set_recursive, recursive: true, ..Change::default() };
        change(clone.as_fd(), changed).map_err(step(format!("make the mount at `{target}` read-only")))?;
    }
    let stat = nix::sys::stat::fstat(&clone).map_err(crate::protocol::errno_step(format!("look at `{}`", path.display())))?;
    Ok(Source::Detached { mount: clone, directory: SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFDIR) })
}

/// The user namespace that maps a mount: the sandbox's own when the map is the same, else one made for it.
fn id_map(context: &Context<'_>, mount: &Mount) -> Result<Option<OwnedFd>, Failure> {
    let lines = |map: &Option<Vec<LinuxIdMapping>>| -> Vec<MapLine> {
        map.iter().flatten().map(|line| (line.container_id(), line.host_id(), line.size())).collect()
    };
    let (uids, gids) = (lines(mount.uid_mappings()), lines(mount.gid_mappings()));
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let own = context.range().map(crate::sandbox::range_map);
    match (&context.namespaces.user, own) {
        (Some(user), Some(own)) if own == uids && own == gids => Ok(Some(user.try_clone().map_err(step("copy a handle"))?)),
        _ => make_id_map(context.single, &uids, &gids).map(Some),
    }
}

/// `/dev`: one tmpfs made by the host, whose nodes therefore work, ID-mapped so that root inside owns it.
fn dev(context: &Context<'_>, attributes: u64, devices: &[LinuxDevice]) -> Result<Source, Failure> {
    let tmpfs = FsContext::new("tmpfs").map_err(step("make /dev"))?;
    for (key, value) in DEV_OPTIONS {
        tmpfs.set(key, value).map_err(step("set up /dev"))?;
    }
    tmpfs.create().map_err(step("make /dev"))?;
    let mount = tmpfs.mount((attributes | NOEXEC) & !(NODEV | RDONLY)).map_err(step("mount /dev"))?;
    let mut names: Vec<PathBuf> = Vec::new();
    let mut node = |name: &Path, kind: SFlag, mode: u32, major: u64, minor: u64| {
        names.push(name.to_owned());
        let made = mknodat(&mount, name, kind, Mode::from_bits_truncate(mode), makedev(major, minor));
        made.map_err(crate::protocol::errno_step(format!("make /dev/{}", name.display())))
    };
    for (name, major, minor) in DEVICES {
        node(Path::new(name), SFlag::S_IFCHR, 0o666, *major, *minor)?;
    }
    for device in devices {
        extra_node(device, &mut node)?;
    }
    // Once it is ID-mapped nothing can be made on it from here: our ids mean nobody there.
    furnish_dev(&mount)?;
    let Some(user) = &context.namespaces.user else { return Ok(Source::Detached { mount, directory: true }) };
    match change(mount.as_fd(), Change { id_map: Some(user.as_fd()), ..Change::default() }) {
        Ok(()) => Ok(Source::Detached { mount, directory: true }),
        // Before Linux 6.3.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(Source::Nodes { host: Some(mount), names, nodes: Vec::new() }),
        Err(error) => Err(step("ID-map /dev")(error)),
    }
}

/// Links and mount points of a new `/dev`.
pub(super) fn furnish_dev(dev: &OwnedFd) -> Result<(), Failure> {
    for (name, target) in LINKS {
        nix::unistd::symlinkat(*target, dev, *name).map_err(crate::protocol::errno_step(format!("make /dev/{name}")))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        let made = nix::sys::stat::mkdirat(dev, name, Mode::from_bits_truncate(0o755));
        made.map_err(crate::protocol::errno_step(format!("make /dev/{name}")))?;
    }
    Ok(())
}

fn extra_node(device: &LinuxDevice, node: &mut impl FnMut(&Path, SFlag, u32, u64, u64) -> Result<(), Failure>) -> Result<(), Failure> {
    let unsupported =
        |reason: &str| Failure::Unsupported { what: format!("device `{}`", device.path().display()), reason: reason.to_owned() };
    let name = device.path().strip_prefix("/dev").map_err(|_| unsupported("only paths below /dev"))?;
    if name.components().count() != 1 {
        return Err(unsupported("only paths directly below /dev"));
    }
    if DEVICES.iter().any(|(known, ..)| Path::new(known) == name) {
        return Ok(());
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P | LinuxDeviceType::A => return Err(unsupported("only character and block devices")),
    };
    let number = |number: i64| u64::try_from(number).map_err(|_| unsupported("its number is negative"));
    node(name, kind, device.file_mode().unwrap_or(0o666) & 0o777, number(device.major())?, number(device.minor())?)
}
