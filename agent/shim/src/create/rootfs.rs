//! The root file system: an overlay of ID-mapped clones, made detached; the host's mount table never shows it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::mount::{Change, FsContext, change, clone_path, is_read_only, open_beneath};
use gantry_sys::process::{set_fs_ids, set_no_setuid_fixup};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::Context;
use crate::protocol::{Failure, Start, step};

/// A detached mount of the container's root.
pub(super) fn prepare(context: &Context<'_>, start: &Start) -> Result<OwnedFd, Failure> {
    let user = context.namespaces.user.as_ref().map(AsFd::as_fd);
    // The handles must stay open until the superblock is made: closing one dissolves its clone.
    let lowers: Vec<OwnedFd> = start.lowers.iter().map(|layer| id_mapped(layer, user)).collect::<Result<_, _>>()?;
    let parent = common_parent(&start.upper, &start.work)?;
    let writable = id_mapped(&parent, user)?;
    let upper = below(&writable, &parent, &start.upper)?;
    let work = below(&writable, &parent, &start.work)?;
    let overlay = FsContext::new("overlay").map_err(step("make an overlay"))?;
    for (lower, path) in lowers.iter().zip(&start.lowers) {
        overlay.set_fd("lowerdir+", lower.as_fd()).map_err(step(format!("use the layer `{}` in the overlay", path.display())))?;
    }
    overlay.set_fd("upperdir", upper.as_fd()).map_err(step(format!("use the writable layer `{}`", start.upper.display())))?;
    overlay.set_fd("workdir", work.as_fd()).map_err(step(format!("use the work directory `{}`", start.work.display())))?;
    let first = context.range().map_or(0, |range| range.first);
    create_as(&overlay, first)?;
    let mount = overlay.mount(0).map_err(step("mount the overlay"))?;
    // An overlay that cannot write its work directory mounts read-only and says so only in the kernel's log.
    if is_read_only(&mount).map_err(step("look at the overlay"))? {
        return Err(Failure::Unsupported {
            what: "userNamespace".to_owned(),
            reason: format!("the overlay over `{}` came out read-only; use userNamespace.mode: Host", start.upper.display()),
        });
    }
    Ok(mount)
}

/// The superblock is made by an owner who is mapped in the ID-mapped work directory; capabilities stay.
fn create_as(overlay: &FsContext, owner: u32) -> Result<(), Failure> {
    if owner != 0 {
        set_no_setuid_fixup(true).map_err(step("keep capabilities over a change of ids"))?;
        set_fs_ids(owner, owner);
    }
    let made = overlay.create();
    if owner != 0 {
        set_fs_ids(0, 0);
        set_no_setuid_fixup(false).map_err(step("no longer keep capabilities over a change of ids"))?;
    }
    made.map_err(|error| {
        let said = overlay.message().unwrap_or_default();
        step(format!("make the overlay: {said}"))(error)
    })
}

fn id_mapped(path: &Path, user: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    let clone = clone_path(path, false).map_err(step(format!("open the layer `{}`", path.display())))?;
    let private = Change { propagation: nix::mount::MsFlags::MS_PRIVATE.bits(), id_map: user, ..Change::default() };
    change(clone.as_fd(), private).map_err(|error| match (error.raw_os_error(), user) {
        (Some(nix::libc::EINVAL), Some(_)) => Failure::Unsupported {
            what: "userNamespace".to_owned(),
            reason: format!("the file system of `{}` cannot be ID-mapped; use userNamespace.mode: Host", path.display()),
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
