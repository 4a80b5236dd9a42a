//! Removing what nobody needs.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::error::ContentError;
use crate::store::{ContentStore, now};

/// Blobs younger than this are never swept, whatever a caller asks: their owner may not be written down yet.
const YOUNGEST_SWEPT: Duration = Duration::from_secs(60);

impl ContentStore {
    /// All blobs with their sizes in bytes, in order.
    pub fn list_blobs(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(self.root.join("blobs/sha256")).map_err(ContentError::io("list blobs"))? {
            let entry = entry.map_err(ContentError::io("list blobs"))?;
            let digest = entry.file_name().to_str().and_then(|name| format!("sha256:{name}").parse().ok());
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                blobs.push((digest, meta.len()));
            }
        }
        blobs.sort();
        Ok(blobs)
    }

    /// Removes a blob whatever its age. Idempotent. Who reads it reads on.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), ContentError> {
        match fs::remove_file(self.blob_path(digest)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(ContentError::Io { step: format!("remove blob {digest}"), source })
            }
            _ => Ok(()),
        }
    }

    /// Removes blobs that are not in `keep` and were written or kept ([`ContentStore::keep`]) longer than `min_age` ago, and
    /// unfinished ingests that nobody wrote to for as long. `min_age` counts as a minute at least. Gives the bytes freed.
    pub fn sweep(&self, keep: &HashSet<Digest>, min_age: Duration) -> Result<u64, ContentError> {
        let oldest_kept = now().checked_sub(min_age.max(YOUNGEST_SWEPT)).unwrap_or(SystemTime::UNIX_EPOCH);
        self.sweep_older(keep, oldest_kept)
    }

    pub(crate) fn sweep_older(&self, keep: &HashSet<Digest>, oldest_kept: SystemTime) -> Result<u64, ContentError> {
        let mut freed = 0;
        for (digest, size) in self.list_blobs()? {
            if !keep.contains(&digest) && self.sweep_blob(&digest, oldest_kept)? {
                freed += size;
            }
        }
        Ok(freed + self.sweep_ingests(oldest_kept)?)
    }

    /// Decides and removes under the lock that those hold shared who make a blob young again.
    fn sweep_blob(&self, digest: &Digest, oldest_kept: SystemTime) -> Result<bool, ContentError> {
        let lock = self.lock_file()?;
        lock.lock().map_err(ContentError::io("lock the content store"))?;
        let modified = fs::metadata(self.blob_path(digest)).and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| at < oldest_kept) {
            self.remove_blob(digest)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn sweep_ingests(&self, oldest_kept: SystemTime) -> Result<u64, ContentError> {
        let mut freed = 0;
        for entry in fs::read_dir(self.ingest_dir()).map_err(ContentError::io("list ingests"))? {
            let entry = entry.map_err(ContentError::io("list ingests"))?;
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() || !meta.modified().is_ok_and(|at| at < oldest_kept) {
                continue;
            }
            let Ok(file) = fs::File::open(entry.path()) else { continue };
            if file.try_lock().is_ok() && fs::remove_file(entry.path()).is_ok() {
                freed += meta.len();
            }
        }
        Ok(freed)
    }
}
