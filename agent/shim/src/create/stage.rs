//! Kernels that want names where newer ones take handles: a mount namespace of the creator's own, in which detached mounts are attached
//! under short names.
//!
//! The host never sees it. What is made of it (an overlay, copies of device nodes) holds its own references, so the stage can go before
//! the container comes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::mount::{Change, FsContext, NODEV, NOEXEC, NOSUID, attach, change};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::protocol::{Failure, errno_step, step};

/// The working directory of the creator is a small tmpfs over `place`.
pub(crate) struct Stage {
    place: PathBuf,
}

impl Stage {
    /// The stage; entered at the first call.
    pub(crate) fn of<'a>(stage: &'a mut Option<Self>, place: &Path) -> Result<&'a Self, Failure> {
        if stage.is_none() {
            *stage = Some(Self::enter(place)?);
        }
        stage.as_ref().ok_or_else(|| Failure::Step { step: "enter the stage".to_owned(), errno: nix::libc::EINVAL })
    }

    fn enter(place: &Path) -> Result<Self, Failure> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(errno_step("make a mount namespace for the creator"))?;
        // What the host mounts still arrives, nothing goes the other way.
        nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .map_err(errno_step("keep the creator's mounts to itself"))?;
        let tmpfs = FsContext::new("tmpfs").map_err(step("make the stage"))?;
        tmpfs.set("mode", "0755").map_err(step("set up the stage"))?;
        tmpfs.create().map_err(step("make the stage"))?;
        let mount = tmpfs.mount(NOSUID | NODEV | NOEXEC).map_err(step("mount the stage"))?;
        let over = nix::fcntl::open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let over = over.map_err(errno_step(format!("open `{}`", place.display())))?;
        attach(mount.as_fd(), over.as_fd()).map_err(step("attach the stage"))?;
        nix::unistd::fchdir(&mount).map_err(errno_step("enter the stage"))?;
        Ok(Self { place: place.to_owned() })
    }

    /// Makes a directory `name`.
    pub(crate) fn directory(&self, name: &str) -> Result<(), Failure> {
        nix::unistd::mkdir(name, Mode::from_bits_truncate(0o755)).map_err(errno_step(format!("make `{name}` on the stage")))
    }

    /// Attaches a detached mount at a new directory `name`.
    pub(crate) fn attach(&self, mount: &OwnedFd, name: &str) -> Result<(), Failure> {
        self.directory(name)?;
        // Copies of a mount are made by overlay itself; a shared one would let them show elsewhere.
        let private = Change { propagation: MsFlags::MS_PRIVATE.bits(), ..Change::default() };
        change(mount.as_fd(), private).map_err(step(format!("make `{name}` private on the stage")))?;
        let place = nix::fcntl::open(name, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let place = place.map_err(errno_step(format!("open `{name}` on the stage")))?;
        attach(mount.as_fd(), place.as_fd()).map_err(step(format!("attach `{name}` on the stage")))
    }

    /// Drops it from the mount namespace, which the container's is a copy of.
    pub(crate) fn leave(self) -> Result<(), Failure> {
        nix::unistd::chdir("/").map_err(errno_step("leave the stage"))?;
        nix::mount::umount2(&self.place, MntFlags::MNT_DETACH).map_err(errno_step("drop the stage"))
    }
}
