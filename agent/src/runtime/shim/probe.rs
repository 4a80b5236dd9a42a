//! What `gantry doctor` says about the runtime: the carried shim tries it, in a process that ends afterwards.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::spawn;
use crate::carried;

/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// What was looked at, whether it is as the runtime needs it, and what was found or how to mend it: kernel, user namespaces, seccomp,
/// cgroups, ID-mapped mounts on the file system of `data_dir`, and the way in which overlays and `/dev` are made here. Blocking;
/// needs root. Makes and removes a directory in `data_dir`, or in the nearest directory above that exists.
pub fn probe(data_dir: &Path) -> Vec<(String, bool, String)> {
    let dir = data_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    ask(dir).unwrap_or_else(|error| vec![("runtime".to_owned(), false, format!("this host could not be probed: {error}"))])
}

fn ask(dir: &Path) -> io::Result<Vec<(String, bool, String)>> {
    let program = spawn::program()?;
    let (reader, writer) = io::pipe()?;
    let args = [c"gantry-shim".to_owned(), c"--probe".to_owned(), CString::new(dir.as_os_str().as_bytes())?];
    let pid = carried::spawn(program.as_fd(), &args, Path::new("/dev/null"), Some(writer.as_fd()))?;
    drop(writer);
    let mut text = Vec::new();
    let read = reader.take(MAX_ANSWER).read_to_end(&mut text);
    let _ = waitpid(Pid::from_raw(pid), None);
    read?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_told_of_and_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let findings = probe(&dir.path().join("not/yet/there"));
        for what in ["kernel", "user namespaces", "seccomp", "cgroups", "ID-mapped mounts", "overlay", "/dev of containers"] {
            let found = findings.iter().find(|(name, ..)| name == what);
            assert!(found.is_some_and(|(_, good, _)| *good), "{what}: {findings:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
