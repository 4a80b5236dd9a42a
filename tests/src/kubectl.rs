//! Where unmodified kubectl binaries are. Complete in itself: the API server's own suite includes it too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Older ones know only forms of discovery and schema that are not served.
pub const OLDEST_MINOR: u32 = 29;

/// Every kubectl of [`OLDEST_MINOR`] and later that is on PATH, beside it, or in `KUBECTLS`, with its minor version.
pub fn kubectls() -> Vec<(PathBuf, u32)> {
    let mut candidates = BTreeSet::new();
    let named = std::env::var_os("KUBECTLS").unwrap_or_default();
    candidates.extend(std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()));
    for dir in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        let Ok(target) = dir.join("kubectl").canonicalize() else { continue };
        // A dispatcher keeps whole binaries of each version beside itself.
        let beside = std::fs::read_dir(target.parent().expect("a file has a folder")).into_iter().flatten().flatten();
        let versions: Vec<PathBuf> = beside.map(|entry| entry.path()).filter(|path| name_of(path).starts_with("kubectl.1.")).collect();
        if versions.is_empty() {
            candidates.insert(target);
        } else {
            candidates.extend(versions);
        }
    }
    let found = candidates.into_iter().filter_map(|path| Some((minor(&path)?, path))).map(|(minor, path)| (path, minor));
    found.filter(|(_, minor)| *minor >= OLDEST_MINOR).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn minor(kubectl: &Path) -> Option<u32> {
    let output = Command::new(kubectl).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}
