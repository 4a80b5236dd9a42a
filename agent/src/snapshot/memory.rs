//! The in-memory twin of the overlay snapshotter: same answers, no disk.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use gantry_content::tarball::{TarLimits, TarReader};

use super::{Rootfs, SnapshotError, Snapshotter};
use crate::ids::ContainerUid;

/// [`Snapshotter`] that only remembers. Cheap to clone; clones share what they remember.
#[derive(Debug, Clone, Default)]
pub struct MemorySnapshotter {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    layers: BTreeSet<String>,
    containers: BTreeSet<ContainerUid>,
}

impl MemorySnapshotter {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> BoxFuture<'static, T>
    where
        T: Send + 'static,
    {
        let result = work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(std::future::ready(result))
    }

    fn read(diff_id: &str, tar: Box<dyn io::Read + Send>) -> Result<(), SnapshotError> {
        let mut reader = TarReader::new(tar, TarLimits::default());
        let mut last = String::new();
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) => last = String::from_utf8_lossy(&entry.path).into_owned(),
                Ok(None) => break,
                Err(error) => {
                    return Err(SnapshotError::BadLayer { diff_id: diff_id.to_owned(), entry: last, reason: error.to_string() });
                }
            }
        }
        let drained = io::copy(&mut reader.into_inner(), &mut io::sink());
        drained.map(drop).map_err(|source| SnapshotError::Io { step: format!("read layer `{diff_id}`"), source })
    }
}

impl Snapshotter for MemorySnapshotter {
    fn has_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, bool> {
        self.with(|state| state.layers.contains(diff_id))
    }

    fn unpack_layer<'a>(
        &'a self,
        diff_id: &'a str,
        tar: Box<dyn io::Read + Send>,
        commit: Box<dyn FnOnce() -> io::Result<()> + Send>,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        let (state, diff_id) = (self.clone(), diff_id.to_owned());
        Box::pin(async move {
            let name = diff_id.clone();
            let read = tokio::task::spawn_blocking(move || {
                Self::read(&name, tar)?;
                commit().map_err(|source| SnapshotError::Io { step: format!("verify the content of layer `{name}`"), source })
            });
            read.await.unwrap_or_else(|e| Err(SnapshotError::Io { step: "run blocking work".to_owned(), source: io::Error::other(e) }))?;
            state.with(|state| state.layers.insert(diff_id)).await;
            Ok(())
        })
    }

    fn prepare<'a>(&'a self, uid: &'a ContainerUid, diff_ids: &'a [String]) -> BoxFuture<'a, Result<Rootfs, SnapshotError>> {
        self.with(|state| {
            if let Some(missing) = diff_ids.iter().rev().find(|diff_id| !state.layers.contains(*diff_id)) {
                return Err(SnapshotError::MissingLayer { diff_id: missing.clone() });
            }
            state.containers.insert(uid.clone());
            let mut lowers: Vec<PathBuf> = Vec::new();
            for dir in diff_ids.iter().rev().map(|diff_id| PathBuf::from("/memory/layers").join(diff_id)) {
                if !lowers.contains(&dir) {
                    lowers.push(dir);
                }
            }
            let dir = PathBuf::from("/memory/containers").join(uid.as_str());
            Ok(Rootfs { lowers, upper: dir.join("upper"), work: dir.join("work") })
        })
    }

    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.with(|state| {
            state.containers.remove(uid);
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerUid>, SnapshotError>> {
        self.with(|state| Ok(state.containers.iter().cloned().collect()))
    }

    fn list_layers(&self) -> BoxFuture<'_, Result<Vec<String>, SnapshotError>> {
        self.with(|state| Ok(state.layers.iter().cloned().collect()))
    }

    fn remove_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.with(|state| {
            state.layers.remove(diff_id);
            Ok(())
        })
    }
}
