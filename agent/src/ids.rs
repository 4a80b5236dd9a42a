//! Identifiers that cross module borders.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The uid of a Container object. Every kernel object that the engine makes for the container carries it.
///
/// A uid is a UUID, so it is safe as a file name and as a part of a cgroup path; [`ContainerUid::new`] refuses anything else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerUid(String);

impl ContainerUid {
    /// `None` unless `text` is 1 to 64 characters of `[0-9a-z-]`, beginning with a letter or digit.
    pub fn new(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-');
        (plain && !text.starts_with('-') && (1..=64).contains(&text.len())).then(|| Self(text.to_owned()))
    }
    /// The uid as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names and directories by which one engine is told from another on the same host.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Prefix of bridges, nft table and cgroups: 1 to 8 characters of `[a-z0-9]`. Default: `gantry`.
    pub name: String,
    /// What survives a reboot: content, snapshots, volumes. Default: `/var/lib/gantry`.
    pub data_dir: PathBuf,
    /// What does not: sockets, shims. Default: `/run/gantry`.
    pub run_dir: PathBuf,
    /// Name of this node.
    pub node_name: String,
}

/// The wall clock, injected so that simulations own it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// An error and all its causes in one line: `what: why: why`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
