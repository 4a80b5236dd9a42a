//! Data that outlives containers.

use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;

pub mod controller;
pub mod local;
pub mod memory;
pub mod populate;
pub mod project;

/// Holds volumes of this node.
pub trait VolumeDriver: Send + Sync + 'static {
    /// Ensures the volume's directory; returns it. Idempotent.
    fn ensure<'a>(&'a self, volume: &'a VolumeWish) -> BoxFuture<'a, Result<PathBuf, VolumeError>>;

    /// Moves the data to the retained area, or removes it. Idempotent.
    fn reclaim<'a>(&'a self, uid: &'a str, retain: bool) -> BoxFuture<'a, Result<(), VolumeError>>;
}

/// A volume as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWish {
    /// Uid of the Volume object: names its directory.
    pub uid: String,
    /// `namespace/name`, kept beside the data for people.
    pub name: String,
    /// Owner and mode of its root, applied when it is made.
    pub owner: Option<(u32, u32, Option<u32>)>,
    /// Most bytes it may hold.
    pub capacity_bytes: Option<u64>,
}

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Something cannot be done on this host; the reason names the remedy.
    #[error("{what} cannot be applied: {reason}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The disk said no.
    #[error("{step}")]
    Io {
        /// What was being done, and to what.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Removes a directory with everything below; one that is not there is no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
