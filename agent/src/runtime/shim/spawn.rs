//! Spawning a shim from memory: `posix_spawn` of a sealed memory file, so that no code of ours runs between fork and exec.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use gantry_shim::files;
use gantry_shim::protocol::SandboxFile;
use gantry_sys::fd::LISTENER;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::Mode;

/// The shim, built beside the agent.
static PROGRAM: &[u8] = include_bytes!(env!("GANTRY_SHIM_BIN"));

/// A directory that only its owner may enter.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The program in memory, sealed: no container can write to what supervises it (CVE-2019-5736).
pub(super) fn program() -> io::Result<OwnedFd> {
    let file = memfd_create(c"gantry-shim", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = fs::File::from(file);
    file.write_all(PROGRAM)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Makes the container's directory and its shim. Connections are taken from the moment this returns.
pub(super) fn spawn(
    dir: &Path,
    instance: &str,
    program: BorrowedFd<'_>,
    sandbox: &SandboxFile,
    record: &serde_json::Value,
) -> io::Result<()> {
    make_private_dir(dir)?;
    files::replace_json(dir, files::RECORD, record)?;
    files::replace_json(dir, files::SANDBOX, sandbox)?;
    let listener = listener(dir)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let path = text(format!("/proc/self/fd/{}", program.as_raw_fd()).as_bytes())?;
    let args = [c"gantry-shim".to_owned(), text(dir.as_os_str().as_bytes())?, text(instance.as_bytes())?];
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, c"/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    actions.add_open(1, c"/dev/null", OFlag::O_WRONLY, Mode::empty())?;
    let log = dir.join(files::LOG);
    actions.add_open(2, &log, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND, Mode::from_bits_truncate(0o600))?;
    actions.add_dup2(listener.as_raw_fd(), LISTENER)?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    let env: [CString; 0] = [];
    posix_spawn(path.as_c_str(), &actions, &attributes, &args, &env)?;
    Ok(())
}

fn listener(dir: &Path) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let handle = fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{}", handle.as_fd().as_raw_fd(), files::SOCKET);
    bind(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}
