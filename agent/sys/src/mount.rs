//! Mounts by descriptor: made detached, changed while nobody sees them, attached handle to handle (`mount_setattr(2)`, `fsopen(2)`).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use crate::fd::owned;

/// Read-only.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-user-id bits and file capabilities mean nothing.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Device nodes do not work.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// Access times are not kept.
pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
/// Access times are always kept.
pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;

const EMPTY: &CStr = c"";

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn open_tree(dir: libc::c_int, path: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: `path` is a terminated string that lives over the call; the call creates a descriptor or fails.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

fn recursive_flag(recursive: bool) -> libc::c_uint {
    if recursive { libc::AT_RECURSIVE as libc::c_uint } else { 0 }
}

/// A detached copy of the mount at a path of the host, with everything mounted below when `recursive`.
///
/// # Errors
/// What `open_tree` says.
pub fn clone_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive_flag(recursive);
    open_tree(libc::AT_FDCWD, &c_string(path.as_os_str().as_bytes())?, flags)
}

/// A detached copy of the mount at a handle.
///
/// # Errors
/// What `open_tree` says.
pub fn clone_fd(target: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint | recursive_flag(recursive);
    open_tree(target.as_raw_fd(), EMPTY, flags)
}

/// How a mount is changed; the default changes nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to set ([`RDONLY`] and others).
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0 to leave it.
    pub propagation: u64,
    /// ID-maps the mount with this user namespace: an id `inside` on disk appears as what the namespace maps it to.
    pub id_map: Option<BorrowedFd<'a>>,
    /// Everything mounted below too.
    pub recursive: bool,
}

/// Changes a mount, attached or not.
///
/// # Errors
/// `EINVAL` when the file system cannot be ID-mapped; otherwise what `mount_setattr` says.
pub fn change(mount: BorrowedFd<'_>, change: Change<'_>) -> io::Result<()> {
    let id_map = if change.id_map.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    let attr = libc::mount_attr {
        attr_set: change.set | id_map,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: change.id_map.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
    };
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | recursive_flag(change.recursive);
    let size = size_of::<libc::mount_attr>();
    // SAFETY: `attr` and the empty string live over the call, and `size` is the size of `attr`.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), EMPTY.as_ptr(), flags, &raw const attr, size) })
}

/// Attaches a mount (detached, or attached elsewhere) on top of a handle.
///
/// # Errors
/// What `move_mount` says.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_raw_fd(), target.as_raw_fd());
    // SAFETY: both strings are static and terminated.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, EMPTY.as_ptr(), to, EMPTY.as_ptr(), flags) })
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
}

impl FsContext {
    /// Begins a file system of type `name`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not know the type.
    pub fn new(name: &str) -> io::Result<Self> {
        let name = c_string(name.as_bytes())?;
        // SAFETY: `name` is a terminated string that lives over the call; the call creates a descriptor or fails.
        let fd = owned(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
        Ok(Self { fd })
    }

    fn configure(&self, command: libc::fsconfig_command, key: Option<&CStr>, value: Option<&CStr>, aux: libc::c_int) -> io::Result<()> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both pointers are null or terminated strings that live over the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.fd.as_raw_fd(), command, key, value, aux) })
    }

    /// Sets `key=value`.
    ///
    /// # Errors
    /// What `fsconfig` says.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, Some(&c_string(key.as_bytes())?), Some(&c_string(value.as_bytes())?), 0)
    }

    /// Sets a key without a value.
    ///
    /// # Errors
    /// What `fsconfig` says.
    pub fn set_flag(&self, key: &str) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(&c_string(key.as_bytes())?), None, 0)
    }

    /// Sets a key to what a descriptor stands for.
    ///
    /// # Errors
    /// `EINVAL` where the file system takes no descriptors.
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FD, Some(&c_string(key.as_bytes())?), None, value.as_raw_fd())
    }

    /// Makes the file system.
    ///
    /// # Errors
    /// What `fsconfig` says; [`FsContext::message`] may say more.
    pub fn create(&self) -> io::Result<()> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None, 0)
    }

    /// A detached mount of it.
    ///
    /// # Errors
    /// What `fsmount` says.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: takes numbers only; the call creates a descriptor or fails.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, libc::FSMOUNT_CLOEXEC, attributes) })
    }

    /// The last thing that the kernel said about it, for people.
    pub fn message(&self) -> Option<String> {
        let mut buffer = [0_u8; 512];
        let count = nix::unistd::read(&self.fd, &mut buffer).ok()?;
        Some(String::from_utf8_lossy(buffer.get(..count)?).trim().to_owned())
    }
}

/// Opens a path below `root` as if `root` were `/`: no link, `..` or mount of the image leads out (`openat2(2)`, RESOLVE_IN_ROOT).
///
/// # Errors
/// What `openat2` says; `ELOOP` for a link of procfs.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(nix::fcntl::openat2(root, path, how)?)
}

/// Opens a path below `dir` following no link at all.
///
/// # Errors
/// What `openat2` says.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(nix::fcntl::openat2(dir, path, how)?)
}

/// Whether the file system behind a handle is mounted read-only.
///
/// # Errors
/// What `fstatfs` says.
pub fn is_read_only(mount: &OwnedFd) -> io::Result<bool> {
    let stat = nix::sys::statvfs::fstatvfs(mount.as_fd())?;
    Ok(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_a_tree_never_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "ours").unwrap();
        std::os::unix::fs::symlink("/etc/../../../../etc/passwd", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let opened = open_in_root(root.as_fd(), Path::new("link"), OFlag::O_RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(std::fs::File::from(opened)).unwrap(), "ours");
        assert!(open_beneath(root.as_fd(), Path::new("link"), OFlag::O_RDONLY, Mode::empty()).is_err());
    }

    #[test]
    fn a_detached_tmpfs_can_be_made_read_only() {
        let context = FsContext::new("tmpfs").unwrap();
        context.set("size", "64k").unwrap();
        context.create().unwrap();
        let mount = context.mount(NOSUID).unwrap();
        assert!(!is_read_only(&mount).unwrap());
        change(mount.as_fd(), Change { set: RDONLY, ..Change::default() }).unwrap();
        assert!(is_read_only(&mount).unwrap());
    }
}
