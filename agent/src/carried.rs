//! The small programs that the agent carries, run from memory: no code of ours runs between fork and exec.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_sys::fd::LISTENER;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;

/// How often sealing is tried; each try waits by itself.
const SEAL_ATTEMPTS: u32 = 30;

/// A program in memory, unpacked and sealed: no container can write to what supervises or serves it (CVE-2019-5736).
pub(crate) fn sealed(name: &CStr, packed: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = fs::File::from(file);
    zstd::stream::copy_decode(packed, &mut file)?;
    seal(&file)?;
    Ok(file.into())
}

/// Nobody maps the file, but the kernel itself (reclaim, migration) may hold a page of it for a moment. `F_ADD_SEALS` waits for that, up
/// to some 150 ms, and then answers EBUSY (`memfd_wait_for_pins` in mm/memfd.c).
fn seal(file: &fs::File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    for _ in 1..SEAL_ATTEMPTS {
        match fcntl(file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => {}
            sealed => return Ok(sealed.map(drop)?),
        }
    }
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Starts a sealed program with no environment, no signal blocked or ignored, its errors appended to `log`, and `listener` at
/// [`LISTENER`]. Returns its process id.
pub(crate) fn spawn(program: BorrowedFd<'_>, args: &[CString], log: &Path, listener: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    // The listener would take the place of a program that is open under its number.
    let copy = if program.as_raw_fd() == LISTENER { Some(program.try_clone_to_owned()?) } else { None };
    let number = copy.as_ref().map_or(program.as_raw_fd(), AsRawFd::as_raw_fd);
    let path = CString::new(format!("/proc/self/fd/{number}")).map_err(io::Error::from)?;
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, c"/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    actions.add_open(1, c"/dev/null", OFlag::O_WRONLY, Mode::empty())?;
    actions.add_open(2, log, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND, Mode::from_bits_truncate(0o600))?;
    if let Some(listener) = listener {
        actions.add_dup2(listener.as_raw_fd(), LISTENER)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    let env: [CString; 0] = [];
    Ok(posix_spawn(path.as_c_str(), &actions, &attributes, args, &env)?.as_raw())
}
