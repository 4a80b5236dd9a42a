//! The files of a container's directory, by which the agent and the shim find each other again after either was gone.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The shim's socket.
pub const SOCKET: &str = "shim.sock";
/// [`crate::protocol::SandboxFile`].
pub const SANDBOX: &str = "sandbox.json";
/// [`crate::protocol::State`], written by the shim before it tells anybody.
pub const STATE: &str = "state.json";
/// [`crate::protocol::Start`] of the last start, for the processes that are exec'd inside.
pub const START: &str = "start.json";
/// What the agent keeps beside the shim.
pub const RECORD: &str = "record.json";
/// What the shim says when it fails.
pub const LOG: &str = "shim.log";

/// Longest file that is read back, in bytes.
const MAX_LEN: u64 = 16 << 20;

/// Replaces a file of a directory atomically: a reader sees the old or the new text, whole.
///
/// # Errors
/// What the file system says.
pub fn replace(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, dir.join(name))
}

/// Like [`replace`], for a value.
///
/// # Errors
/// What the file system says.
pub fn replace_json<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    replace(dir, name, &serde_json::to_vec(value)?)
}

/// Reads a value back.
///
/// # Errors
/// What the file system says, `InvalidData` for text that is no such value, `EFBIG` for a file too long.
pub fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<T> {
    let path = dir.join(name);
    if fs::metadata(&path)?.len() > MAX_LEN {
        return Err(io::Error::from_raw_os_error(nix::libc::EFBIG));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
