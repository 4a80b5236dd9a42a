//! First use of a volume: what the image has at the mount's path is copied in, as Docker does.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gantry_sys::mount;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag};
use nix::sys::time::TimeSpec;

use super::remove_tree;

/// Beside the data: the volume was used before, nothing is copied any more.
const MARKER: &str = "populated";

/// Copies the image's files at `inside` (absolute) into the volume whose data directory is `data`, unless the volume was used before
/// or holds something. `lowers` are the image's layers, topmost first.
///
/// Blocking. The copy gets its final name only when it is whole; a crash leaves a volume that was never used.
///
/// # Errors
/// When a file cannot be read or written; the volume is then as it was.
pub fn first_use(data: &Path, lowers: &[PathBuf], inside: &str, keep_owner: bool) -> io::Result<()> {
    let home = data.parent().ok_or_else(|| io::Error::other("a volume's data directory has a parent"))?;
    let marker = home.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    if std::fs::read_dir(data)?.next().is_none()
        && let Some(source) = image_directory(lowers, inside)?
    {
        let copy = home.join("data.new");
        remove_tree(&copy)?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
        copy_directory(&root, &copy)?;
        if keep_owner {
            copy_attributes(&std::fs::metadata(data)?, &copy)?;
        }
        std::fs::rename(&copy, data)?;
    }
    std::fs::write(marker, b"")
}

/// The directory at `inside` in the image, `None` when the image has none there.
fn image_directory(lowers: &[PathBuf], inside: &str) -> io::Result<Option<OwnedFd>> {
    let root = match lowers {
        [] => return Ok(None),
        [single] => open_directory(single)?,
        several => merged(several)?,
    };
    match mount::open_in_root(root.as_fd(), Path::new(inside), OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The layers as one read-only file system that is mounted nowhere: it goes with its descriptor.
fn merged(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    match detached_overlay(lowers) {
        // Before 6.5 overlay takes no layer by layer (`lowerdir+`, Documentation/filesystems/overlayfs.rst).
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => attached_overlay(lowers),
        other => other,
    }
}

fn detached_overlay(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    let overlay = mount::FsContext::new("overlay")?;
    for lower in lowers {
        overlay.set("lowerdir+", utf8(lower)?)?;
    }
    overlay.create()?;
    overlay.mount(nix::libc::MOUNT_ATTR_RDONLY)
}

/// Mounted for the moment in which it is opened, then detached.
fn attached_overlay(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    let parent = lowers.first().and_then(|lower| lower.parent()).ok_or_else(|| io::Error::other("an image has layers"))?;
    let target = parent.join(format!(".merged-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&target)?;
    let names: io::Result<Vec<&str>> = lowers.iter().map(|lower| utf8(lower)).collect();
    let opened = names.and_then(|names| {
        let options = format!("lowerdir={}", names.join(":"));
        nix::mount::mount(Some("overlay"), &target, Some("overlay"), nix::mount::MsFlags::MS_RDONLY, Some(options.as_str()))?;
        let root = open_directory(&target);
        nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH)?;
        root
    });
    std::fs::remove_dir(&target)?;
    opened
}

fn utf8(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("`{}` is not UTF-8", path.display())))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Copies a directory with everything below. The source is an image's layer, which nothing changes; links are copied, never followed.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    let mut directories = Vec::new();
    while let Some((from, to)) = pending.pop() {
        std::fs::create_dir(&to)?;
        for entry in std::fs::read_dir(&from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push((entry.path(), target));
            } else {
                copy_leaf(&entry.path(), &metadata, &target)?;
            }
        }
        directories.push((from, to));
    }
    // Deepest last in, first out: writing below a directory changes its times.
    for (from, to) in directories.into_iter().rev() {
        copy_attributes(&std::fs::metadata(&from)?, &to)?;
    }
    Ok(())
}

fn copy_leaf(from: &Path, metadata: &std::fs::Metadata, to: &Path) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from)?, to)?;
        return std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()));
    }
    if kind.is_file() {
        std::fs::copy(from, to)?;
    } else if kind.is_fifo() {
        nix::unistd::mkfifo(to, Mode::from_bits_truncate(metadata.mode()))?;
    } else if kind.is_char_device() || kind.is_block_device() {
        let type_ = if kind.is_char_device() { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
        nix::sys::stat::mknod(to, type_, Mode::from_bits_truncate(metadata.mode()), metadata.rdev())?;
    } else {
        return Ok(());
    }
    copy_attributes(metadata, to)
}

/// Owner before mode: chown clears set-user-id.
fn copy_attributes(metadata: &std::fs::Metadata, to: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    let (accessed, modified) =
        (TimeSpec::new(metadata.atime(), metadata.atime_nsec()), TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()));
    let path = CString::new(to.as_os_str().as_encoded_bytes())?;
    let here = nix::fcntl::AT_FDCWD;
    Ok(nix::sys::stat::utimensat(here, path.as_c_str(), &accessed, &modified, nix::sys::stat::UtimensatFlags::NoFollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(dir: &Path) -> PathBuf {
        let data = dir.join("volume/data");
        std::fs::create_dir_all(&data).unwrap();
        data
    }

    #[test]
    fn the_images_directory_is_copied_once() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("srv/www/sub")).unwrap();
        std::fs::write(layer.join("srv/www/index.html"), "hello").unwrap();
        std::os::unix::fs::chown(layer.join("srv/www"), Some(33), Some(34)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layer.join("srv/www/link")).unwrap();
        let data = volume(dir.path());
        first_use(&data, std::slice::from_ref(&layer), "/srv/www", false).unwrap();
        assert_eq!(std::fs::read(data.join("index.html")).unwrap(), b"hello");
        assert_eq!(std::fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        let root = std::fs::metadata(&data).unwrap();
        assert_eq!((root.uid(), root.gid()), (33, 34));
        std::fs::remove_file(data.join("index.html")).unwrap();
        std::fs::remove_file(data.join("link")).unwrap();
        std::fs::remove_dir(data.join("sub")).unwrap();
        first_use(&data, &[layer], "/srv/www", false).unwrap();
        assert!(std::fs::read_dir(&data).unwrap().next().is_none(), "a volume that was used before stays as it is");
    }

    #[test]
    fn a_link_in_the_image_cannot_lead_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(&layer).unwrap();
        std::os::unix::fs::symlink("/etc", layer.join("srv")).unwrap();
        let data = volume(dir.path());
        first_use(&data, &[layer], "/srv", false).unwrap();
        assert!(std::fs::read_dir(&data).unwrap().next().is_none());
    }
}
