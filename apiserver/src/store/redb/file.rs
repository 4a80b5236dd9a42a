//! The database file in its directory: making it, opening it, shrinking it, and keeping others out.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use redb::Database;

use super::tables::{Opened, verified};
use crate::store::record::Indexer;

/// Name of the file.
pub(super) const FILE: &str = "store.redb";
/// A file that is being made; it gets its name when it is whole.
pub(super) const NEW_FILE: &str = "store.redb.new";
const LOCK: &str = "store.lock";

/// redb's page size.
const PAGE_BYTES: u64 = 4096;
/// The first bytes of a redb file (redb `docs/design.md`, "Database header").
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// A file below this size is not worth shrinking.
const SHRINK_FLOOR_BYTES: u64 = 64 * 1024 * 1024;
/// A file is shrunk when it is so many times what it holds: the work then is small beside what is won.
const SHRINK_RATIO: u64 = 6;

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("another engine is using the store in `{dir}`", dir = dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// It was written by a newer engine.
    #[error("the store in `{dir}` has format {found}, this engine knows formats up to {known}; use the engine that wrote it", dir = dir.display())]
    Format {
        /// The store's directory.
        dir: PathBuf,
        /// What the file says.
        found: u64,
        /// What this code knows.
        known: u64,
    },
    /// What it holds does not fit together.
    #[error("the store in `{dir}` is corrupt: {why}", dir = dir.display())]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A file or directory cannot be used.
    #[error("open the store at `{path}`", path = path.display())]
    Io {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database refused.
    #[error("open the store in `{dir}`", dir = dir.display())]
    Database {
        /// The store's directory.
        dir: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
}

/// The directory is ours alone while this lives: also between two openings of the file.
pub(super) struct Directory {
    path: PathBuf,
    cache_bytes: usize,
    indexer: Option<Indexer>,
    _lock: Flock<File>,
}

impl Directory {
    /// Makes the directory if needed and takes its lock.
    pub(super) fn take(path: &Path, cache_bytes: usize, indexer: Option<Indexer>) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let lock_path = path.join(LOCK);
        let file = open_private(&lock_path).map_err(at(&lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => OpenError::Locked { dir: path.to_owned() },
            errno => OpenError::Io { path: lock_path.clone(), source: errno.into() },
        })?;
        Ok(Self { path: path.to_owned(), cache_bytes, indexer, _lock: lock })
    }

    /// Opens the file, or makes it, and checks what it holds. `deeply`: the whole of it, after a failure.
    pub(super) fn open(&self, deeply: bool) -> Result<Opened, OpenError> {
        let path = self.path.join(FILE);
        if !path.try_exists().map_err(at(&path))? {
            drop(self.open_new()?);
            self.put_in_place()?;
        }
        let (database, extent) = verified(self.database(&path)?, deeply, self.indexer, &self.path)?;
        self.shrunk((database, extent))
    }

    /// Makes a new file beside the present one, empty. A database that was left half made by a crash is none that could be opened, so
    /// it gets its proper name only when it is whole: [`Directory::put_in_place`].
    pub(super) fn open_new(&self) -> Result<Opened, OpenError> {
        let path = self.path.join(NEW_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        verified(self.database(&path)?, false, self.indexer, &self.path)
    }

    /// The new file, closed, becomes the store's: at once, whenever the machine stops.
    pub(super) fn put_in_place(&self) -> Result<(), OpenError> {
        let path = self.path.join(FILE);
        fs::rename(self.path.join(NEW_FILE), &path).map_err(at(&path))?;
        // The entries in the directories are as much a part of durability as the contents.
        for dir in [Some(&*self.path), self.path.parent()].into_iter().flatten() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
        }
        Ok(())
    }

    /// Gives up the new file.
    pub(super) fn discard_new(&self) {
        if let Err(error) = fs::remove_file(self.path.join(NEW_FILE)) {
            tracing::warn!(%error, "a file that was begun is still there");
        }
    }

    fn database(&self, path: &Path) -> Result<Database, OpenError> {
        let file = open_private(path).map_err(at(path))?;
        drop_torn_tail(&file).map_err(at(path))?;
        Database::builder().set_cache_size(self.cache_bytes).create_file(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { dir: self.path.clone() },
            error => OpenError::Database { dir: self.path.clone(), source: Box::new(error.into()) },
        })
    }

    /// Gives a file back to the file system that once held much more than now. Nobody reads it yet, as shrinking requires.
    fn shrunk(&self, (mut database, extent): Opened) -> Result<Opened, OpenError> {
        let before = self.file_bytes();
        if before >= SHRINK_FLOOR_BYTES && before / SHRINK_RATIO > extent.log_bytes + extent.object_bytes {
            match database.compact() {
                Ok(_) => tracing::info!(before, after = self.file_bytes(), "the store's file was shrunk"),
                // A full disk has no room to move things. The file may not be used after an error: it is opened again as it is.
                Err(error) => {
                    tracing::warn!(%error, "the store's file could not be shrunk");
                    drop(database);
                    return verified(self.database(&self.path.join(FILE))?, true, self.indexer, &self.path);
                }
            }
        }
        Ok((database, extent))
    }

    /// Bytes free for us on the file system.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.path)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// Length of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        fs::metadata(self.path.join(FILE)).map(|m| m.len()).unwrap_or(0)
    }
}

/// A power cut while the file grew may leave a length between the old one and the new one, which redb refuses to open. What lies
/// behind the last whole page belongs to no transaction: growth is synced before anything is written there.
fn drop_torn_tail(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut start = [0; MAGIC.len()];
    if length % PAGE_BYTES != 0 && length > PAGE_BYTES && file.read_exact_at(&mut start, 0).is_ok() && start == MAGIC {
        tracing::warn!(length, "the store's file was growing when the machine stopped: its last page is dropped");
        file.set_len(whole_pages(length))?;
    }
    Ok(())
}

/// The length without a torn page at the end.
pub(super) fn whole_pages(length: u64) -> u64 {
    length / PAGE_BYTES * PAGE_BYTES
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}

pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
