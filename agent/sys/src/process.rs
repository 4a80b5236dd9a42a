//! Processes by handle: clone3, pidfd, credentials and what else is settled between clone and exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::fd::owned;

/// Proof that this process has a single thread, so that a copy of it can run any code.
///
/// A forked copy of a process with several threads may find locks held by threads that do not exist in it.
#[derive(Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// Looks at `/proc/self/task`. The holder must not start a thread afterwards.
    ///
    /// # Errors
    /// `EBUSY` when there are several threads.
    pub fn claim() -> io::Result<Self> {
        if std::fs::read_dir("/proc/self/task")?.count() == 1 { Ok(Self(())) } else { Err(io::Error::from_raw_os_error(libc::EBUSY)) }
    }
}

/// `linux/sched.h`; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two a process is after [`clone_process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// The copy.
    Child,
    /// The original; the copy has this id.
    Parent(i32),
}

/// Copies this process, as `fork` does, with namespace flags and, on cgroup v2, into a cgroup (`clone3(2)`).
///
/// # Errors
/// What `clone3` says.
pub fn clone_process(_single: &SingleThread, flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let flags = u64::from(flags.cast_unsigned());
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    // With CLONE_PARENT the signal is the parent's own, and none may be named.
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let args = libc::clone_args {
        flags: flags | into,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
    };
    let size = size_of::<libc::clone_args>();
    // SAFETY: no CLONE_VM and no stack, so the child is a copy on its own memory, as after fork; `_single` shows that
    // no other thread can hold a lock in it. `args` lives over the call and `size` is its size.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) };
    match i32::try_from(result) {
        Ok(0) => Ok(Cloned::Child),
        Ok(pid) if pid > 0 => Ok(Cloned::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process now: no destructors, no buffers written.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// A descriptor of a process, so that a signal can mean no other.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; the call creates a descriptor or fails.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal to the process behind a pidfd; 0 only asks whether it lives.
///
/// # Errors
/// `ESRCH` when it has ended and was waited for.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed (pidfd_send_signal(2)); the rest are numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the file system uid and gid, by which a mounting overlay judges what it may write. They fail silently: look at the mount.
pub fn set_fs_ids(uid: u32, gid: u32) {
    let _ = nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
    let _ = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    let result = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps (or no longer keeps) capabilities when user ids change (`SECBIT_NO_SETUID_FIXUP`).
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn set_no_setuid_fixup(keep: bool) -> io::Result<()> {
    let bits = if keep { libc::SECBIT_NO_SETUID_FIXUP } else { 0 };
    prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits.cast_unsigned()))
}

/// Number of the last capability that this kernel knows at most; asking for more is harmless.
const LAST_CAPABILITY: u32 = 63;

/// Removes every capability that is not in `keep` (bit n stands for capability n) from the bounding set.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn limit_bounding_set(keep: u64) -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Sets the effective, permitted and inheritable sets (bit n stands for capability n).
///
/// # Errors
/// What `capset` says.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let low = |set: u64| u32::try_from(set & u64::from(u32::MAX)).unwrap_or(0);
    let high = |set: u64| u32::try_from(set >> 32).unwrap_or(0);
    let header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let data = [
        CapData { effective: low(effective), permitted: low(permitted), inheritable: low(inheritable) },
        CapData { effective: high(effective), permitted: high(permitted), inheritable: high(inheritable) },
    ];
    // SAFETY: both structures live over the call and have version 3's form: one header, two data.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives up the parent's session keyring for a new one. Kernels without keyrings are fine.
pub fn new_session_keyring() {
    /// `KEYCTL_JOIN_SESSION_KEYRING`.
    const JOIN: libc::c_int = 1;
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for a new anonymous keyring (keyctl_join_session_keyring(3)).
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN, name) };
}

/// Sets the NIS domain name of this UTS namespace.
///
/// # Errors
/// What `setdomainname` says.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length belong to `name`, which lives over the call.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the program. Returns only when it could not.
///
/// # Errors
/// What `execve` says.
pub fn exec(path: &CString, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    Ok(nix::unistd::execve(path, args, env)?)
}

/// Whether the process with this id is what it was: its start time in clock ticks since boot (`/proc/PID/stat`, field 22).
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, brackets included.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_pidfd_means_the_process_it_was_opened_for() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        pidfd_signal(pidfd.as_fd(), 0).unwrap();
        assert!(start_time(pid).unwrap() > 0);
        assert!(pidfd_open(i32::MAX).is_err());
    }

    #[test]
    fn several_threads_are_refused() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv());
        assert!(SingleThread::claim().is_err());
        drop(sender);
        assert!(thread.join().unwrap().is_err());
    }
}
