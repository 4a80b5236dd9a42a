//! Secrets and ConfigMaps as files.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::remove_tree;

/// Writes each key as a file of `dir`, below `parent`, which only root can enter. What was there before is replaced.
///
/// # Errors
/// When a file cannot be written, or a key is no plain file name.
pub fn write(parent: &Path, dir: &Path, data: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let making = dir.with_extension("new");
    remove_tree(&making)?;
    std::fs::create_dir(&making)?;
    for (key, value) in data {
        if key.is_empty() || key.contains('/') || key == "." || key == ".." {
            return Err(io::Error::other(format!("key `{key}` is no file name")));
        }
        let path = making.join(key);
        std::fs::write(&path, value)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))?;
    }
    remove_tree(dir)?;
    std::fs::rename(&making, dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_files_and_old_ones_go() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("0-secret");
        write(parent.path(), &dir, &BTreeMap::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())])).unwrap();
        write(parent.path(), &dir, &BTreeMap::from([("a".into(), b"3".to_vec())])).unwrap();
        assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"3");
        assert!(!dir.join("b").exists());
        assert!(write(parent.path(), &dir, &BTreeMap::from([("../x".into(), Vec::new())])).is_err());
    }
}
