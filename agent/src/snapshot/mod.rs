//! Unpacked layers and the writable layer of each container.
//!
//! A layer is unpacked once per node, by its diff id (the digest of its uncompressed tar), into a directory of its own with
//! whiteouts as overlayfs wants them (a 0:0 character device, the xattr `trusted.overlay.opaque`). Ids on disk are the container's.
//! A layer directory appears under its final name only when it is whole and durable.

mod extract;
mod memory;
mod overlay;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::ids::ContainerUid;

pub use extract::LayerLimits;
pub use memory::MemorySnapshotter;
pub use overlay::OverlaySnapshotter;

/// What an overlay is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Layer directories, topmost first, as overlayfs orders them.
    pub lowers: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs' work directory, on the same file system as `upper`.
    pub work: PathBuf,
}

/// Holds layers and writable layers.
pub trait Snapshotter: Send + Sync + 'static {
    /// Whether the layer is here, whole.
    fn has_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, bool>;

    /// Unpacks a layer from the plain tar that `tar` yields, unless it is here. Blocking readers run on a thread of their own.
    ///
    /// The caller verifies the digest of what was read; `commit` is asked before the layer gets its final name, and
    /// its error leaves nothing behind.
    fn unpack_layer<'a>(
        &'a self,
        diff_id: &'a str,
        tar: Box<dyn io::Read + Send>,
        commit: Box<dyn FnOnce() -> io::Result<()> + Send>,
    ) -> BoxFuture<'a, Result<(), SnapshotError>>;

    /// The root file system of a container over `diff_ids` (lowest first). Its writable layer is made when missing, kept when there.
    fn prepare<'a>(&'a self, uid: &'a ContainerUid, diff_ids: &'a [String]) -> BoxFuture<'a, Result<Rootfs, SnapshotError>>;

    /// Removes a container's writable layer. Idempotent.
    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), SnapshotError>>;

    /// Containers that have a writable layer here.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerUid>, SnapshotError>>;

    /// Layers here, by diff id.
    fn list_layers(&self) -> BoxFuture<'_, Result<Vec<String>, SnapshotError>>;

    /// Removes a layer that nothing uses. Idempotent.
    fn remove_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, Result<(), SnapshotError>>;
}

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A layer that the container needs is not here: pull again.
    #[error("layer `{diff_id}` is not on this node")]
    MissingLayer {
        /// The layer.
        diff_id: String,
    },
    /// The layer's content is hostile or broken; nothing of it was kept.
    #[error("layer `{diff_id}`: entry `{entry}`: {reason}")]
    BadLayer {
        /// The layer.
        diff_id: String,
        /// Which entry.
        entry: String,
        /// What is wrong with it.
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
