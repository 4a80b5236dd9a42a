//! A container's directory, and the shim in it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use gantry_shim::files;
use gantry_shim::protocol::SandboxFile;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::carried;

/// The shim, built beside the agent.
static PROGRAM: &[u8] = include_bytes!(env!("GANTRY_SHIM_BIN"));

/// A directory that only its owner may enter.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The program in memory.
pub(super) fn program() -> io::Result<OwnedFd> {
    carried::sealed(c"gantry-shim", PROGRAM)
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
    let args = [c"gantry-shim".to_owned(), text(dir.as_os_str().as_bytes())?, text(instance.as_bytes())?];
    carried::spawn(program, &args, &dir.join(files::LOG), Some(listener.as_fd()))?;
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
