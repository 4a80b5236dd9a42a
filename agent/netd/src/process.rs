//! The process: the only one of its directory, out of the engine's cgroup and session, without the privileges it does not need.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gantry_sys::cgroup::{CgroupError, ContainerCgroup, Layout, Part};
use gantry_sys::process::{limit_bounding_set, set_capabilities};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::server::Server;
use crate::{Failure, step};

/// Name of the file whose lock says that a process serves the directory.
pub const LOCK: &str = "lock";
/// Name of the file that takes what the process says.
pub const LOG: &str = "netd.log";
/// The name of its cgroup below the instance's: none that a container can have.
pub const CGROUP: &str = "_netd";

/// Bit of `CAP_NET_BIND_SERVICE`, for port 53 of bridges that come later.
const NET_BIND_SERVICE: u64 = 1 << 10;
/// Descriptors that the bounds of this crate add up to, with room for those of many networks.
const DESCRIPTORS: u64 = 4096;

/// Its cgroup, named; nothing is made.
///
/// # Errors
/// The hierarchies cannot be found.
pub fn cgroup(instance: &str) -> io::Result<ContainerCgroup> {
    Ok(ContainerCgroup::new(&Layout::probe()?, instance, CGROUP))
}

/// A whole-file lock, as the kernel wants it described.
fn whole_file(kind: libc::c_int) -> libc::flock {
    let l_type = libc::c_short::try_from(kind).unwrap_or_default();
    let l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

/// The process that serves a directory, as the kernel knows it: who looks never holds the lock, and a dead holder has none.
///
/// # Errors
/// What the file system says; a missing directory or file means that there is none.
pub fn holder(dir: &Path) -> io::Result<Option<i32>> {
    let file = match fs::OpenOptions::new().write(true).open(dir.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    Ok((libc::c_int::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0).then_some(lock.l_pid))
}

/// Takes the lock; `None` when another process has it. It is lost as soon as any descriptor of the file is closed.
fn take_lock(dir: &Path) -> io::Result<Option<File>> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))) {
        Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
        other => other?,
    };
    file.set_len(0)?;
    // For people; programs ask for the lock's holder.
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(file))
}

/// Serves the directory until it is told to end by SIGTERM, or the directory goes away. Returns at once when another process serves it.
///
/// # Errors
/// What kept it from coming up.
pub fn run(dir: &Path, instance: &str) -> Result<(), Failure> {
    let Some(lock) = take_lock(dir).map_err(step(format!("take the lock of `{}`", dir.display())))? else { return Ok(()) };
    // In the engine's cgroup it would end with the engine, but it answers all the same.
    if let Err(error) = leave_cgroup(instance) {
        say(&error);
    }
    // A service manager that ends the engine's session must not end ours.
    let _ = nix::unistd::setsid();
    let server = Server::new(dir)?;
    if let Err(error) = restrict() {
        say(&step::<io::Error>("give up privileges")(error));
    }
    let result = server.serve();
    drop(lock);
    result
}

fn leave_cgroup(instance: &str) -> Result<(), Failure> {
    let cgroup = cgroup(instance).map_err(step("find the cgroup hierarchies"))?;
    let failed = |error: CgroupError| Failure { step: error.step, source: error.source };
    cgroup.create(Part::Shim).map_err(failed)?;
    cgroup.join(Part::Shim).map_err(failed)
}

fn restrict() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard).max(soft), hard)?;
    set_no_new_privs()?;
    limit_bounding_set(NET_BIND_SERVICE)?;
    set_capabilities(NET_BIND_SERVICE, NET_BIND_SERVICE, 0)
}

/// Writes a line to standard error, which is the file [`LOG`].
pub fn say(what: &dyn std::error::Error) {
    let _ = nix::unistd::write(io::stderr(), format!("gantry-netd: {what}\n").as_bytes());
}
