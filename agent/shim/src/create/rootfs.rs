//! The root file system: an overlay of ID-mapped clones, made detached; the host's mount table never shows it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::mount::{Change, FsContext, change, clone_path, is_read_only, open_beneath};
use gantry_sys::process::{set_fs_ids, set_no_setuid_fixup};
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::Context;
use super::stage::Stage;
use crate::protocol::{Failure, Start, errno_step, step};

/// What helps where layers cannot be ID-mapped.
pub(super) const HOST_MODE: &str = "set securityContext.userNamespace.mode: Host, or move the data directory to ext4, xfs or btrfs";

/// The layers of a root file system, ID-mapped and detached.
struct Layers<'a> {
    start: &'a Start,
    /// Topmost first. They must stay open until the superblock is made: closing one dissolves its clone.
    lowers: Vec<OwnedFd>,
    /// The directory that holds the writable layer and the work directory, and where it is on the host.
    writable: OwnedFd,
    parent: PathBuf,
}

/// A detached mount of the container's root.
pub(super) fn prepare(context: &Context<'_>, start: &Start, stage: &mut Option<Stage>) -> Result<OwnedFd, Failure> {
    let user = context.namespaces.user.as_ref().map(AsFd::as_fd);
    let lowers: Vec<OwnedFd> = start.lowers.iter().map(|layer| id_mapped(layer, user)).collect::<Result<_, _>>()?;
    let parent = common_parent(&start.upper, &start.work)?;
    let writable = id_mapped(&parent, user)?;
    let layers = Layers { start, lowers, writable, parent };
    let owner = context.range().map_or(0, |range| range.first);
    let mount = match layers.by_handle(owner) {
        // Overlay takes no descriptors (EOPNOTSUPP before Linux 6.5, EBADF before 6.13), or none of detached mounts (EINVAL before 6.15).
        Err(Failure::Step { errno: nix::libc::EOPNOTSUPP | nix::libc::EBADF | nix::libc::EINVAL, .. }) => {
            layers.by_name(owner, Stage::of(stage, context.dir)?)?
        }
        made => made?,
    };
    // An overlay that cannot write its work directory mounts read-only and says so only in the kernel's log.
    if is_read_only(&mount).map_err(step("look at the overlay"))? {
        return Err(Failure::Unsupported {
            what: "ID-mapped root file system".to_owned(),
            reason: format!("the overlay over `{}` came out read-only; {HOST_MODE}", start.upper.display()),
        });
    }
    Ok(mount)
}

impl Layers<'_> {
    fn by_handle(&self, owner: u32) -> Result<OwnedFd, Failure> {
        let start = self.start;
        let upper = below(&self.writable, &self.parent, &start.upper)?;
        let work = below(&self.writable, &self.parent, &start.work)?;
        let overlay = FsContext::new("overlay").map_err(step("make an overlay"))?;
        for (lower, path) in self.lowers.iter().zip(&start.lowers) {
            overlay.set_fd("lowerdir+", lower.as_fd()).map_err(step(format!("use the layer `{}` in the overlay", path.display())))?;
        }
        overlay.set_fd("upperdir", upper.as_fd()).map_err(step(format!("use the writable layer `{}`", start.upper.display())))?;
        overlay.set_fd("workdir", work.as_fd()).map_err(step(format!("use the work directory `{}`", start.work.display())))?;
        as_owner(owner, || {
            overlay.create().map_err(|error| {
                let said = overlay.message().unwrap_or_default();
                step(format!("make the overlay: {said}"))(error)
            })
        })?;
        overlay.mount(0).map_err(step("mount the overlay"))
    }

    /// By mount(2), whose options may fill a page: names of up to three digits leave room for all the layers that overlay allows.
    fn by_name(&self, owner: u32, stage: &Stage) -> Result<OwnedFd, Failure> {
        let mut names = Vec::new();
        for (index, lower) in self.lowers.iter().enumerate() {
            let name = index.to_string();
            stage.attach(lower, &name)?;
            names.push(name);
        }
        stage.attach(&self.writable, "w")?;
        for (link, path) in [("u", &self.start.upper), ("k", &self.start.work)] {
            let target = Path::new("w").join(path.strip_prefix(&self.parent).unwrap_or(path));
            nix::unistd::symlinkat(&target, nix::fcntl::AT_FDCWD, link).map_err(errno_step("name the writable layer on the stage"))?;
        }
        stage.directory("m")?;
        let options = format!("lowerdir={},upperdir=u,workdir=k", names.join(":"));
        as_owner(owner, || {
            let mounted = nix::mount::mount(Some("overlay"), "m", Some("overlay"), MsFlags::empty(), Some(options.as_str()));
            mounted.map_err(errno_step(format!("mount the overlay of {} layers over `{}`", names.len(), self.start.upper.display())))
        })?;
        clone_path(Path::new("m"), false).map_err(step("take the overlay from the stage"))
    }
}

/// Runs the making of a superblock as an owner who is mapped in the ID-mapped work directory; capabilities stay.
fn as_owner(owner: u32, make: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    if owner == 0 {
        return make();
    }
    set_no_setuid_fixup(true).map_err(step("keep capabilities over a change of ids"))?;
    set_fs_ids(owner, owner);
    let made = make();
    set_fs_ids(0, 0);
    set_no_setuid_fixup(false).map_err(step("no longer keep capabilities over a change of ids"))?;
    made
}

fn id_mapped(path: &Path, user: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    let clone = clone_path(path, false).map_err(step(format!("open the layer `{}`", path.display())))?;
    let private = Change { propagation: MsFlags::MS_PRIVATE.bits(), id_map: user, ..Change::default() };
    change(clone.as_fd(), private).map_err(|error| match (error.raw_os_error(), user) {
        (Some(nix::libc::EINVAL | nix::libc::EPERM), Some(_)) => Failure::Unsupported {
            what: "ID-mapped root file system".to_owned(),
            reason: format!("this kernel cannot ID-map the file system of `{}`; {HOST_MODE}", path.display()),
        },
        _ => step(format!("ID-map the layer `{}`", path.display()))(error),
    })?;
    Ok(clone)
}

/// The deepest directory that holds both: they must be reached through one mount.
fn common_parent(upper: &Path, work: &Path) -> Result<PathBuf, Failure> {
    let parent = upper.ancestors().skip(1).find(|ancestor| work.starts_with(ancestor) && work != *ancestor);
    parent.map(Path::to_owned).ok_or_else(|| Failure::Step {
        step: format!("find a directory that holds `{}` and `{}`", upper.display(), work.display()),
        errno: nix::libc::EINVAL,
    })
}

fn below(mount: &OwnedFd, parent: &Path, path: &Path) -> Result<OwnedFd, Failure> {
    let relative = path.strip_prefix(parent).unwrap_or(path);
    open_beneath(mount.as_fd(), relative, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
        .map_err(step(format!("open `{}`", path.display())))
}
