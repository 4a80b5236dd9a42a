//! Volumes as directories of the node's disk: `<data-dir>/volumes/<uid>/data`, and `<data-dir>/volumes/retained/<uid>` once retained.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{VolumeDriver, VolumeError, VolumeWish, remove_tree};

/// Directory of deleted volumes whose data was kept.
const RETAINED: &str = "retained";
/// Says for people and for adoption whose data it is.
const DESCRIPTION: &str = "volume.json";
/// The data itself.
const DATA: &str = "data";

/// Volumes as directories.
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    dir: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    uid: String,
    name: String,
}

impl LocalVolumes {
    /// In `data_dir`, which exists.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, VolumeError> {
        let dir = data_dir.join("volumes");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir.join(RETAINED));
        made.map_err(|source| VolumeError::Io { step: format!("make `{}`", dir.display()), source })?;
        Ok(Self { dir })
    }

    fn ensure_now(&self, volume: &VolumeWish) -> Result<PathBuf, VolumeError> {
        let home = self.home(&volume.uid)?;
        let data = home.join(DATA);
        if data.is_dir() {
            return Ok(data);
        }
        // Under its own name only when it is complete, so that a crash leaves no half-made volume.
        let making = self.dir.join(format!(".new-{}", volume.uid));
        let step = |what: &str, source| VolumeError::Io { step: format!("{what} `{}`", making.display()), source };
        remove_tree(&making).map_err(|source| step("clear", source))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&making).map_err(|source| step("make", source))?;
        let (uid, gid, mode) = volume.owner.unwrap_or((0, 0, None));
        let root = making.join(DATA);
        std::fs::create_dir(&root).map_err(|source| step("make", source))?;
        std::os::unix::fs::chown(&root, Some(uid), Some(gid)).map_err(|source| step("set the owner of", source))?;
        let permissions = std::fs::Permissions::from_mode(mode.unwrap_or(0o755));
        std::fs::set_permissions(&root, permissions).map_err(|source| step("set the mode of", source))?;
        let description = Description { uid: volume.uid.clone(), name: volume.name.clone() };
        let text = serde_json::to_vec(&description).map_err(|error| step("describe", error.into()))?;
        std::fs::write(making.join(DESCRIPTION), text).map_err(|source| step("describe", source))?;
        std::fs::rename(&making, &home).map_err(|source| step("put in place", source))?;
        Ok(data)
    }

    fn reclaim_now(&self, uid: &str, retain: bool) -> Result<(), VolumeError> {
        let home = self.home(uid)?;
        if !home.exists() {
            return Ok(());
        }
        let target = self.dir.join(RETAINED).join(uid);
        let (what, done) = if retain { ("retain", std::fs::rename(&home, target)) } else { ("remove", remove_tree(&home)) };
        done.map_err(|source| VolumeError::Io { step: format!("{what} the data in `{}`", home.display()), source })
    }

    /// A uid comes from the API: it must be a plain file name.
    fn home(&self, uid: &str) -> Result<PathBuf, VolumeError> {
        let plain = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && uid != RETAINED;
        if plain {
            return Ok(self.dir.join(uid));
        }
        Err(VolumeError::Unsupported { what: format!("volume uid `{uid}`"), reason: "it is no plain name".to_owned() })
    }
}

impl VolumeDriver for LocalVolumes {
    fn ensure<'a>(&'a self, volume: &'a VolumeWish) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        let (this, volume) = (self.clone(), volume.clone());
        Box::pin(async move { blocking(move || this.ensure_now(&volume)).await })
    }

    fn reclaim<'a>(&'a self, uid: &'a str, retain: bool) -> BoxFuture<'a, Result<(), VolumeError>> {
        let (this, uid) = (self.clone(), uid.to_owned());
        Box::pin(async move { blocking(move || this.reclaim_now(&uid, retain)).await })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static) -> Result<T, VolumeError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| VolumeError::Io { step: "run a volume operation".to_owned(), source: io::Error::other(error) })?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn wish() -> VolumeWish {
        VolumeWish { uid: "u-1".into(), name: "default/data".into(), owner: Some((7, 8, Some(0o750))), capacity_bytes: None }
    }

    #[tokio::test]
    async fn data_is_kept_over_repeated_calls_and_retained_on_reclaim() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::open(dir.path()).unwrap();
        let data = volumes.ensure(&wish()).await.unwrap();
        let metadata = std::fs::metadata(&data).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (7, 8, 0o750));
        std::fs::write(data.join("x"), "1").unwrap();
        assert_eq!(volumes.ensure(&wish()).await.unwrap(), data);
        assert_eq!(std::fs::read(data.join("x")).unwrap(), b"1");
        volumes.reclaim("u-1", true).await.unwrap();
        volumes.reclaim("u-1", true).await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("volumes/retained/u-1/data/x")).unwrap(), b"1");
        let fresh = volumes.ensure(&wish()).await.unwrap();
        assert!(!fresh.join("x").exists());
        volumes.reclaim("u-1", false).await.unwrap();
        assert!(!fresh.exists());
    }

    #[tokio::test]
    async fn a_uid_that_is_no_plain_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::open(dir.path()).unwrap();
        for uid in ["../x", "", "a/b", "retained", ".new"] {
            let volume = VolumeWish { uid: uid.into(), ..wish() };
            assert!(volumes.ensure(&volume).await.is_err(), "{uid}");
        }
    }
}
