//! Unpacks one layer's tar into a directory, as overlayfs wants it.
//!
//! Every path is resolved by the kernel inside the directory (`openat2` with `RESOLVE_IN_ROOT`), and the last name of a path is never
//! followed: an entry can only ever make, replace or mark something inside. Names are re-rooted, `..` is refused. What an entry
//! replaces is moved aside first, as Docker does; only a directory over a directory is kept and merged.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use gantry_content::tarball::{Entry, EntryKind, TarLimits, TarReader};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// What a layer may be.
#[derive(Debug, Clone, Copy)]
pub struct LayerLimits {
    /// Entries, names and bytes.
    pub tar: TarLimits,
    /// The largest uid or gid: what the user namespace of a container maps.
    pub max_id: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { tar: TarLimits::default(), max_id: 65_535 }
    }
}

/// Why a layer was not unpacked.
#[derive(Debug)]
pub(crate) enum ExtractError {
    /// The layer is hostile or broken.
    Bad {
        /// Which entry.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk or the source said no.
    Io {
        /// What was being done.
        step: String,
        /// Why.
        source: io::Error,
    },
}

/// overlayfs' mark of a directory that hides all below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Prefix of the names that remove.
const WHITEOUT: &[u8] = b".wh.";
/// A file of this name makes its directory opaque.
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// Unpacks the plain tar that `reader` yields into `root` and reads `reader` to its end. `trash`, on the same file system, takes what is replaced.
pub(crate) fn extract(root: &OwnedFd, trash: &OwnedFd, reader: impl Read, limits: &LayerLimits) -> Result<(), ExtractError> {
    let mut tar = TarReader::new(reader, limits.tar);
    let mut extractor = Extractor { root, trash, limits, discarded: 0, parent: None, directories: Vec::new(), buffer: vec![0; 128 * 1024] };
    let mut last = String::new();
    loop {
        match tar.next_entry() {
            Ok(Some(entry)) => {
                last = shown(&entry.path);
                extractor.entry(&entry, &mut tar).map_err(|fault| fault.at(&last))?;
            }
            Ok(None) => break,
            Err(error) => return Err(Fault::Source(error).at(&last)),
        }
    }
    extractor.directory_times()?;
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(|error| Fault::Source(error).at(&last))?;
    Ok(())
}

/// What went wrong with one entry.
enum Fault {
    Refused(String),
    Source(io::Error),
    Kernel(&'static str, Errno),
}

impl Fault {
    fn at(self, entry: &str) -> ExtractError {
        let entry = if entry.is_empty() { "the first" } else { entry };
        let bad = |reason| ExtractError::Bad { entry: entry.to_owned(), reason };
        match self {
            Self::Refused(reason) => bad(reason),
            Self::Source(error) if is_content(error.kind()) => bad(error.to_string()),
            Self::Source(source) => ExtractError::Io { step: format!("read layer after entry `{entry}`"), source },
            // What the names and links of the layer led to; everything else is the disk's.
            Self::Kernel(
                step,
                errno @ (Errno::NOENT
                | Errno::LOOP
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::EXIST
                | Errno::XDEV
                | Errno::NAMETOOLONG
                | Errno::INVAL
                | Errno::PERM
                | Errno::MLINK),
            ) => bad(format!("{step}: {}", io::Error::from(errno))),
            Self::Kernel(step, errno) => ExtractError::Io { step: format!("entry `{entry}`: {step}"), source: errno.into() },
        }
    }
}

fn is_content(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

/// Names what a system call was for.
fn step<T>(what: &'static str, result: rustix::io::Result<T>) -> Result<T, Fault> {
    result.map_err(|errno| Fault::Kernel(what, errno))
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(reason.into()))
}

/// A name for a message: cut, without control characters.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).flat_map(char::escape_debug).collect()
}

struct Extractor<'a> {
    root: &'a OwnedFd,
    trash: &'a OwnedFd,
    limits: &'a LayerLimits,
    discarded: u64,
    /// The directory of the last entry: archives list a directory's entries together.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories and their times, which are set last because every entry made inside changes them.
    directories: Vec<(Vec<u8>, (i64, u32))>,
    buffer: Vec<u8>,
}

impl Extractor<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), Fault> {
        let path = clean(&entry.path)?;
        self.check_ids(entry)?;
        check_xattrs(entry)?;
        if path.is_empty() {
            return self.root_entry(entry);
        }
        let (parent_path, name) = split(&path);
        let parent = self.open_parent(parent_path)?;
        let made = match whiteout(name)? {
            Whiteout::None => self.make(entry, content, &path, &parent, name),
            Whiteout::Ignored => Ok(()),
            Whiteout::Opaque if parent_path.is_empty() => refused("a whiteout of the root"),
            Whiteout::Opaque => set_opaque(parent.as_fd()),
            Whiteout::Name(hidden) => self.hide(&parent, hidden),
        };
        // Kept unless something was moved aside, which might have been a part of its path.
        if self.parent.is_none() && made.is_ok() {
            self.parent = Some((parent_path.to_vec(), parent));
        }
        made
    }

    fn check_ids(&self, entry: &Entry) -> Result<(), Fault> {
        let max = self.limits.max_id;
        match [("uid", entry.uid), ("gid", entry.gid)].into_iter().find(|(_, id)| *id > max) {
            Some((what, id)) => refused(format!(
                "{what} {id} is above {max}, the largest that a container's user namespace maps; `chown` it to a lower one where the image is built"
            )),
            None => Ok(()),
        }
    }

    /// The root's own entry: owner, mode and time, nothing else.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != EntryKind::Directory {
            return refused("the root is a directory and stays one");
        }
        let root = step("open the root", open_dir(self.root.as_fd()))?;
        apply(&root, entry)?;
        self.directories.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn make(&mut self, entry: &Entry, content: &mut impl Read, path: &[u8], parent: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        match entry.kind {
            EntryKind::Directory => self.directory(entry, path, parent, name),
            EntryKind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
                let file = File::from(self.replacing(parent, name, "create file", open)?);
                self.write(&file, entry, content)?;
                apply(&file.into(), entry)
            }
            EntryKind::SymbolicLink => {
                if entry.link.is_empty() {
                    return refused("a symbolic link to nothing");
                }
                let make = || rustix::fs::symlinkat(entry.link.as_slice(), parent, name);
                self.replacing(parent, name, "create symbolic link", make)?;
                apply_by_name(parent, name, entry, false)
            }
            EntryKind::HardLink => self.hard_link(entry, parent, name),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let make = || rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device);
                self.replacing(parent, name, "create node", make)?;
                apply_by_name(parent, name, entry, true)
            }
        }
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], parent: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = step("look at", rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    let hides = is_whiteout(&there);
                    self.discard(parent, name)?;
                    step("create directory", rustix::fs::mkdirat(parent, name, mode))?;
                    if hides {
                        set_opaque(step("open directory", open_child_dir(parent, name))?.as_fd())?;
                    }
                }
            }
            Err(errno) => return Err(Fault::Kernel("create directory", errno)),
        }
        let directory = step("open directory", open_child_dir(parent, name))?;
        apply(&directory, entry)?;
        self.directories.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        let target = clean(&entry.link)?;
        if target.is_empty() {
            return refused("a hard link to the root");
        }
        let (target_parent_path, target_name) = split(&target);
        let target_parent = step("resolve the hard link's target", resolve_dir(self.root, target_parent_path))?;
        let there = rustix::fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let there = step("look at the hard link's target", there)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return refused("a hard link to a directory");
        }
        let old = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if old.is_ok_and(|old| (old.st_dev, old.st_ino) == (there.st_dev, there.st_ino)) {
            return Ok(());
        }
        let link = || rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty());
        self.replacing(parent, name, "create hard link", link)
    }

    /// Hides a name of the layers below. What this very layer has under the name stays, and hides as well.
    fn hide(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(0);
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, mode, rustix::fs::makedev(0, 0)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match open_child_dir(parent, name) {
                Ok(directory) => set_opaque(directory.as_fd()),
                Err(_) => Ok(()),
            },
            Err(errno) => Err(Fault::Kernel("create whiteout", errno)),
        }
    }

    fn write(&mut self, file: &File, entry: &Entry, content: &mut impl Read) -> Result<(), Fault> {
        let whole = [(0, entry.size)];
        let disk = |error: io::Error| Fault::Kernel("write file", Errno::from_io_error(&error).unwrap_or(Errno::IO));
        for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            let mut done = 0;
            while done < *length {
                let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(self.buffer.len());
                let count = content.read(&mut self.buffer[..wanted]).map_err(Fault::Source)?;
                if count == 0 {
                    return refused("less content than its header says");
                }
                file.write_all_at(&self.buffer[..count], offset + done).map_err(disk)?;
                done += count as u64;
            }
        }
        if entry.sparse.is_some() { file.set_len(entry.size).map_err(disk) } else { Ok(()) }
    }

    /// Makes something under `name`; what is there already gives way.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        what: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Fault> {
        match make() {
            Err(Errno::EXIST) => {
                self.discard(parent, name)?;
                step(what, make())
            }
            other => step(what, other),
        }
    }

    fn discard(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Fault> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                self.discarded += 1;
                self.parent = None;
                step("move aside", rustix::fs::renameat(parent, name, self.trash, self.discarded.to_string()))
            }
            other => {
                self.parent = None;
                step("replace", other)
            }
        }
    }

    /// The directory that an entry goes into, made with its parents when missing.
    fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd, Fault> {
        if let Some((cached, fd)) = self.parent.take()
            && cached == path
        {
            return Ok(fd);
        }
        match resolve_dir(self.root, path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Fault::Kernel("resolve the parent directory", errno)),
        }
        let mut at = step("open the root", resolve_dir(self.root, b""))?;
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').chain([(path.len(), &b'/')]) {
            let prefix = &path[..end];
            at = match resolve_dir(self.root, prefix) {
                Err(Errno::NOENT) => {
                    let name = split(prefix).1;
                    step("create the parent directory", rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700)))?;
                    let made = step("open the parent directory", open_child_dir(&at, name))?;
                    step("set the mode of the parent directory", rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)))?;
                    made
                }
                other => step("resolve the parent directory", other)?,
            };
        }
        Ok(at)
    }

    fn directory_times(&mut self) -> Result<(), ExtractError> {
        for (path, mtime) in std::mem::take(&mut self.directories) {
            let result = match rustix::fs::openat2(self.root, in_root(&path), DIRECTORY | OFlags::NOFOLLOW, Mode::empty(), RESOLVE) {
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => Err(errno),
                Ok(directory) => rustix::fs::futimens(&directory, &times(mtime)),
            };
            step("set time of directory", result).map_err(|fault| fault.at(&shown(&path)))?;
        }
        Ok(())
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

fn in_root(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

fn resolve_dir(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(root, in_root(path), DIRECTORY, Mode::empty(), RESOLVE)
}

fn open_dir(at: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, ".", DIRECTORY, Mode::empty())
}

fn open_child_dir(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Fault> {
    step("mark directory opaque", rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()))
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Owner, mode, attributes and time, in the order that keeps them: a change of owner clears suid and capabilities.
fn apply(fd: &OwnedFd, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    step("set owner", rustix::fs::fchown(fd, Some(uid), Some(gid)))?;
    step("set mode", rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without user attributes loses them under Docker as well; capabilities it must keep.
            Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
            other => step("set extended attribute", other)?,
        }
    }
    step("set time", rustix::fs::futimens(fd, &times(entry.mtime)))
}

/// [`apply`] for what is not opened: links and nodes.
fn apply_by_name(parent: &OwnedFd, name: &[u8], entry: &Entry, mode: bool) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    step("set owner", rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    if mode {
        // Just made by us in a directory that nobody else can enter: it is no link.
        step("set mode", rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()))?;
    }
    step("set time", rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Fault> {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => refused("an owner that Linux does not have"),
    }
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let at = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: at, last_modification: at }
}

/// overlayfs' own attributes in a layer would lead it to files of the host's choosing no longer ours to check.
fn check_xattrs(entry: &Entry) -> Result<(), Fault> {
    let overlay = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    match entry.xattrs.iter().find(|(name, _)| overlay(name)) {
        Some((name, _)) => refused(format!("the attribute {} is overlayfs' own", shown(name))),
        None => Ok(()),
    }
}

/// Attributes that mean the same on every host; labels of the packer's security module do not.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

enum Whiteout<'a> {
    None,
    Ignored,
    Opaque,
    Name(&'a [u8]),
}

fn whiteout(name: &[u8]) -> Result<Whiteout<'_>, Fault> {
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Whiteout::None) };
    match hidden {
        b"" | b"." | b".." => refused("a whiteout of a directory itself"),
        _ if name == OPAQUE_WHITEOUT => Ok(Whiteout::Opaque),
        // aufs' own bookkeeping.
        _ if hidden.starts_with(WHITEOUT) => Ok(Whiteout::Ignored),
        _ => Ok(Whiteout::Name(hidden)),
    }
}

/// The path below the root, without `.` and empty parts.
fn clean(path: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return refused("a path with `..`"),
            _ if part.len() > 255 => return refused("a name of more than 255 bytes"),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A directory of ours by its path, opened for [`extract`].
pub(crate) fn open_own_dir(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path.as_os_str().as_bytes(), flags, Mode::empty())?)
}
