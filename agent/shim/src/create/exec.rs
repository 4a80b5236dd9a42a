//! A further process inside: the namespaces of the first one are joined by its handle, its restrictions are the container's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_sys::cgroup::Part;
use gantry_sys::process::{Cloned, clone_process, exit_now, pidfd_open};
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use super::launch::Launch;
use super::{Context, Report, report};
use crate::files;
use crate::protocol::{Exec, Failure, Start, errno_step, step};

/// The creator of a further process: never returns to the shim's loop.
pub(crate) fn exec(context: &Context<'_>, init: i32, body: &[u8], fds: Vec<OwnedFd>, mut pipe: io::PipeWriter) -> ! {
    if let Err(failure) = create(context, init, body, fds, &mut pipe) {
        report(&mut pipe, &Report::Failed(failure));
        exit_now(1);
    }
    exit_now(0)
}

fn create(context: &Context<'_>, init: i32, body: &[u8], fds: Vec<OwnedFd>, pipe: &mut io::PipeWriter) -> Result<(), Failure> {
    let exec: Exec = serde_json::from_slice(body).map_err(|error| step("read what to exec")(error.into()))?;
    let start: Start = files::read_json(context.dir, files::START).map_err(step("read the bundle"))?;
    let stdio = streams(exec.stdio, fds)?;
    let user = exec.user.as_deref().or(start.user.as_deref());
    let launch = Launch::new(&start.spec, user, false)?.with_program(exec.args, exec.env, exec.cwd);
    launch.raise_limits()?;
    // The first process is our own child and not reaped while this runs on its behalf, so its number means it.
    let handle = pidfd_open(init).map_err(step("find the container's first process"))?;
    let cgroup = context.cgroup.enter(Part::Container)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let mut flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET;
    if context.namespaces.user.is_some() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    setns(handle.as_fd(), flags).map_err(errno_step("enter the container's namespaces"))?;
    let cloned = clone_process(context.single, libc::CLONE_PARENT, cgroup.as_ref().map(AsFd::as_fd));
    match cloned.map_err(step("make the process"))? {
        Cloned::Parent(pid) => {
            report(pipe, &Report::Cloned(pid));
            Ok(())
        }
        Cloned::Child => {
            let failure = match enter(&handle) {
                Ok(root) => launch.run(context.single, &root, stdio, pipe),
                Err(failure) => failure,
            };
            report(pipe, &Report::Failed(failure));
            exit_now(1);
        }
    }
}

/// The cgroup namespace comes last: from within it nothing can be cloned into a cgroup by a process that is not below its root.
fn enter(first: &OwnedFd) -> Result<OwnedFd, Failure> {
    setns(first.as_fd(), CloneFlags::CLONE_NEWCGROUP).map_err(errno_step("enter the container's cgroup namespace"))?;
    super::inside::become_root_inside()?;
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    root.map_err(errno_step("open the container's root"))
}

/// Those that came, and the null device for the others.
fn streams(given: [bool; 3], fds: Vec<OwnedFd>) -> Result<[OwnedFd; 3], Failure> {
    let mut fds = fds.into_iter();
    let mut next = |given: bool, flags: OFlag| match (given, given.then(|| fds.next()).flatten()) {
        (true, Some(fd)) => Ok(fd),
        (true, None) => Err(Failure::Step { step: "take the streams of the process".to_owned(), errno: libc::EBADF }),
        (false, _) => null(flags),
    };
    Ok([next(given[0], OFlag::O_RDONLY)?, next(given[1], OFlag::O_WRONLY)?, next(given[2], OFlag::O_WRONLY)?])
}

/// The host's null device.
pub(crate) fn null(flags: OFlag) -> Result<OwnedFd, Failure> {
    nix::fcntl::open(Path::new("/dev/null"), flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(errno_step("open /dev/null"))
}
