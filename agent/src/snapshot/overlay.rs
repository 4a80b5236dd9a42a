//! Layers as directories for overlayfs, on one file system.
//!
//! `layers/<hex of diff id>/` holds whole layers, `containers/<uid>/{upper,work}` writable ones, `tmp/` what is on its way in or out;
//! `tmp/` is emptied when the snapshotter is opened, so that a crash leaves nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use gantry_content::Digest;

use super::extract::{ExtractError, LayerLimits, extract, open_own_dir};
use super::{Rootfs, SnapshotError, Snapshotter};
use crate::ids::ContainerUid;

/// [`Snapshotter`] for overlayfs.
#[derive(Debug, Clone)]
pub struct OverlaySnapshotter {
    root: Arc<Path>,
    limits: LayerLimits,
}

impl OverlaySnapshotter {
    /// Opens the snapshots in `dir`, made when missing (mode 0700), and removes what a crash left. Blocks.
    pub fn open(dir: &Path) -> Result<Self, SnapshotError> {
        Self::with_limits(dir, LayerLimits::default())
    }

    /// [`OverlaySnapshotter::open`] with limits of one's own.
    pub fn with_limits(dir: &Path, limits: LayerLimits) -> Result<Self, SnapshotError> {
        let tmp = dir.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(io_error(format!("empty {}", tmp.display())))?;
        }
        for part in ["layers", "containers", "tmp"] {
            let path = dir.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(io_error(format!("create {}", path.display())))?;
        }
        Ok(Self { root: dir.into(), limits })
    }

    fn layer_dir(&self, diff_id: &str) -> Option<PathBuf> {
        let digest: Digest = diff_id.parse().ok()?;
        Some(self.root.join("layers").join(digest.hex()))
    }

    fn container_dir(&self, uid: &ContainerUid) -> PathBuf {
        self.root.join("containers").join(uid.as_str())
    }

    fn new_tmp(&self) -> PathBuf {
        self.root.join("tmp").join(uuid::Uuid::new_v4().to_string())
    }

    fn unpack(
        &self,
        diff_id: &str,
        tar: Box<dyn io::Read + Send>,
        commit: Box<dyn FnOnce() -> io::Result<()> + Send>,
    ) -> Result<(), SnapshotError> {
        let target = self.layer_dir(diff_id).ok_or_else(|| missing(diff_id))?;
        if target.is_dir() {
            return Ok(());
        }
        let tmp = Tmp::new(self.new_tmp())?;
        let step = |what: &str| io_error(format!("{what} of layer `{diff_id}`"));
        let root = tmp.0.join("root");
        fs::create_dir(&root).map_err(step("create the directory"))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(step("set the mode"))?;
        fs::create_dir(tmp.0.join("trash")).map_err(step("create the trash"))?;
        let root_fd = open_own_dir(&root).map_err(step("open the directory"))?;
        let trash_fd = open_own_dir(&tmp.0.join("trash")).map_err(step("open the trash"))?;
        extract(&root_fd, &trash_fd, tar, &self.limits).map_err(|error| layer_error(diff_id, error))?;
        commit().map_err(step("verify the content"))?;
        rustix::fs::syncfs(&root_fd).map_err(|errno| step("make the files durable")(errno.into()))?;
        match fs::rename(&root, &target) {
            // Somebody else was faster with the same layer.
            Err(_) if target.is_dir() => Ok(()),
            Err(error) => Err(step("give the final name")(error)),
            Ok(()) => sync_dir(&self.root.join("layers")),
        }
    }

    fn prepare_dirs(&self, uid: &ContainerUid, diff_ids: &[String]) -> Result<Rootfs, SnapshotError> {
        let mut lowers: Vec<PathBuf> = Vec::new();
        for diff_id in diff_ids.iter().rev() {
            let dir = self.layer_dir(diff_id).filter(|dir| dir.is_dir()).ok_or_else(|| missing(diff_id))?;
            // overlayfs refuses a directory twice; the topmost hides all that the lower one would show.
            if !lowers.contains(&dir) {
                lowers.push(dir);
            }
        }
        let dir = self.container_dir(uid);
        let [upper, work] = ["upper", "work"].map(|part| dir.join(part));
        for (path, mode) in [(&upper, 0o755), (&work, 0o700)] {
            let step = || io_error(format!("create {}", path.display()));
            if !path.is_dir() {
                fs::create_dir_all(path).map_err(step())?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(step())?;
            }
        }
        Ok(Rootfs { lowers, upper, work })
    }

    /// Renames first: what is half removed has no name any more.
    fn discard(&self, path: &Path) -> Result<(), SnapshotError> {
        let tmp = self.new_tmp();
        match fs::rename(path, &tmp) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error(format!("remove {}", path.display()))(error)),
            Ok(()) => fs::remove_dir_all(&tmp).map_err(io_error(format!("remove {}", tmp.display()))),
        }
    }

    fn names(&self, part: &str) -> Result<Vec<String>, SnapshotError> {
        let step = || io_error(format!("list {part}"));
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(part)).map_err(step())? {
            names.extend(entry.map_err(step())?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, SnapshotError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, SnapshotError>> {
        let this = self.clone();
        Box::pin(async move {
            let joined = tokio::task::spawn_blocking(move || work(&this)).await;
            joined.unwrap_or_else(|error| Err(io_error("run blocking work".to_owned())(io::Error::other(error))))
        })
    }
}

impl Snapshotter for OverlaySnapshotter {
    fn has_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, bool> {
        let dir = self.layer_dir(diff_id);
        Box::pin(async move {
            match dir {
                Some(dir) => tokio::fs::metadata(dir).await.is_ok_and(|meta| meta.is_dir()),
                None => false,
            }
        })
    }

    fn unpack_layer<'a>(
        &'a self,
        diff_id: &'a str,
        tar: Box<dyn io::Read + Send>,
        commit: Box<dyn FnOnce() -> io::Result<()> + Send>,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        let diff_id = diff_id.to_owned();
        self.blocking(move |this| this.unpack(&diff_id, tar, commit))
    }

    fn prepare<'a>(&'a self, uid: &'a ContainerUid, diff_ids: &'a [String]) -> BoxFuture<'a, Result<Rootfs, SnapshotError>> {
        let (uid, diff_ids) = (uid.clone(), diff_ids.to_vec());
        self.blocking(move |this| this.prepare_dirs(&uid, &diff_ids))
    }

    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), SnapshotError>> {
        let dir = self.container_dir(uid);
        self.blocking(move |this| this.discard(&dir))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerUid>, SnapshotError>> {
        self.blocking(|this| Ok(this.names("containers")?.iter().filter_map(|name| ContainerUid::new(name)).collect()))
    }

    fn list_layers(&self) -> BoxFuture<'_, Result<Vec<String>, SnapshotError>> {
        self.blocking(|this| Ok(this.names("layers")?.iter().map(|hex| format!("sha256:{hex}")).collect()))
    }

    fn remove_layer<'a>(&'a self, diff_id: &'a str) -> BoxFuture<'a, Result<(), SnapshotError>> {
        let dir = self.layer_dir(diff_id);
        self.blocking(move |this| dir.map_or(Ok(()), |dir| this.discard(&dir)))
    }
}

/// A directory under `tmp/` that goes when it is dropped.
struct Tmp(PathBuf);

impl Tmp {
    fn new(path: PathBuf) -> Result<Self, SnapshotError> {
        fs::create_dir(&path).map_err(io_error(format!("create {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "what an unpack left behind is removed at the next start");
        }
    }
}

fn sync_dir(dir: &Path) -> Result<(), SnapshotError> {
    fs::File::open(dir).and_then(|file| file.sync_all()).map_err(io_error(format!("sync {}", dir.display())))
}

fn missing(diff_id: &str) -> SnapshotError {
    SnapshotError::MissingLayer { diff_id: diff_id.to_owned() }
}

fn io_error(step: String) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { step, source }
}

fn layer_error(diff_id: &str, error: ExtractError) -> SnapshotError {
    match error {
        ExtractError::Bad { entry, reason } => SnapshotError::BadLayer { diff_id: diff_id.to_owned(), entry, reason },
        ExtractError::Io { step, source } => SnapshotError::Io { step: format!("layer `{diff_id}`: {step}"), source },
    }
}
