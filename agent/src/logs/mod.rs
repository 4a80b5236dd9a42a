//! Logs of containers: where they lie, and reading them.
//!
//! The shim writes them ([`crate::runtime::LogTarget`]); they outlive the sandbox and go with the container.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::ContainerUid;

pub mod read;

/// The logs of this node: `<data-dir>/logs/<uid>/`.
#[derive(Debug, Clone)]
pub struct LogStore {
    dir: PathBuf,
}

impl LogStore {
    /// In `data_dir`, which exists.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("logs");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// The directory of one container's logs, which may not be there yet.
    pub fn dir(&self, uid: &ContainerUid) -> PathBuf {
        self.dir.join(uid.as_str())
    }

    /// Containers that have logs here.
    pub fn list(&self) -> Vec<ContainerUid> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        entries.filter_map(|entry| ContainerUid::new(entry.ok()?.file_name().to_str()?)).collect()
    }

    /// Removes one container's logs. Idempotent.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn remove(&self, uid: &ContainerUid) -> io::Result<()> {
        let dir = self.dir(uid);
        // Usually there is nothing; looking costs less than the way to a thread that may block.
        if !dir.try_exists()? {
            return Ok(());
        }
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
