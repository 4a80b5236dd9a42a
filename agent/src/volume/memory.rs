//! The in-memory twin of a volume driver, for simulations.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{VolumeDriver, VolumeError, VolumeWish};

/// Volumes that exist by name only.
#[derive(Debug, Default)]
pub struct MemoryVolumes {
    held: Mutex<BTreeSet<String>>,
    retained: Mutex<BTreeSet<String>>,
}

impl MemoryVolumes {
    /// Uids of the volumes that exist.
    pub fn held(&self) -> Vec<String> {
        lock(&self.held).iter().cloned().collect()
    }
    /// Uids of the volumes that were retained.
    pub fn retained(&self) -> Vec<String> {
        lock(&self.retained).iter().cloned().collect()
    }
}

fn lock(set: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VolumeDriver for MemoryVolumes {
    fn ensure<'a>(&'a self, volume: &'a VolumeWish) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        lock(&self.held).insert(volume.uid.clone());
        Box::pin(async { Ok(PathBuf::from("/volumes").join(&volume.uid)) })
    }

    fn reclaim<'a>(&'a self, uid: &'a str, retain: bool) -> BoxFuture<'a, Result<(), VolumeError>> {
        if lock(&self.held).remove(uid) && retain {
            lock(&self.retained).insert(uid.to_owned());
        }
        Box::pin(async { Ok(()) })
    }
}
