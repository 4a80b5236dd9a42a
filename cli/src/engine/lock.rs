//! One engine for each data directory and each run directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

/// Name of the lock file.
const FILE: &str = "engine.lock";

/// A held lock; released when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// What taking a lock came to.
pub(crate) enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Another engine holds it; its process id, if it has written it yet.
    Other(Option<i32>),
}

/// Takes the lock of `dir`, which is made when missing. The file then holds our process id.
pub(crate) fn take(dir: &Path) -> anyhow::Result<Taken> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.with_context(|| format!("make `{}`", dir.display()))?;
    let path = dir.join(FILE);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.with_context(|| format!("open `{}`", path.display()))?;
    match Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())?;
            Ok(Taken::Ours(Lock { _file: lock }))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Taken::Other(text.trim().parse().ok()))
        }
        Err((_, error)) => Err(error).with_context(|| format!("lock `{}`", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_engine_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        assert!(matches!(first, Taken::Ours(_)));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(take(dir.path()).unwrap(), Taken::Other(Some(pid)) if pid == own));
        drop(first);
        assert!(matches!(take(dir.path()).unwrap(), Taken::Ours(_)));
    }
}
