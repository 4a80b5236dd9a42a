//! The database file: opening it, what it must hold, reading it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};

use super::format::{self, Corrupt, FORMAT};
use crate::store::key::{Key, Revision};
use crate::store::record::{Event, Record};
use crate::store::{Page, ReadError};

pub(super) const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FILE: &str = "store.redb";
const LOCK: &str = "store.lock";

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
        why: &'static str,
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
    _lock: Flock<File>,
}

/// What the file says of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) revision: Revision,
    pub(super) oldest: Revision,
    pub(super) log_bytes: u64,
}

impl Directory {
    /// Makes the directory if needed and takes its lock.
    pub(super) fn take(path: &Path, cache_bytes: usize) -> Result<Self, OpenError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail(path))?;
        let lock_path = path.join(LOCK);
        let file = open_private(&lock_path).map_err(fail(&lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => OpenError::Locked { dir: path.to_owned() },
            errno => OpenError::Io { path: lock_path.clone(), source: errno.into() },
        })?;
        Ok(Self { path: path.to_owned(), cache_bytes, _lock: lock })
    }

    /// Opens the file, or makes it, and checks what it holds. `verify`: the whole of it, after a failure.
    pub(super) fn open(&self, verify: bool) -> Result<(Database, Extent), OpenError> {
        let path = self.path.join(FILE);
        let fail = |source| OpenError::Io { path: path.clone(), source };
        let is_new = !path.exists();
        let file = open_private(&path).map_err(fail)?;
        let mut database = Database::builder().set_cache_size(self.cache_bytes).create_file(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { dir: self.path.clone() },
            error => refused(&self.path, error),
        })?;
        if verify && !database.check_integrity().map_err(|error| refused(&self.path, error))? {
            tracing::warn!(path = %path.display(), "the store's file was repaired");
        }
        if is_new {
            // The entry in the directory is as much a part of durability as the contents.
            File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(fail)?;
        }
        let extent = check(&database, &self.path)?;
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

fn refused(dir: &Path, error: impl Into<redb::Error>) -> OpenError {
    OpenError::Database { dir: dir.to_owned(), source: Box::new(error.into()) }
}

/// Writes the tables of an empty file, and holds a written one to its format.
pub(super) fn check(database: &Database, dir: &Path) -> Result<Extent, OpenError> {
    match extent(database).map_err(|error| refused(dir, error))? {
        Read::Empty => {
            initialise(database).map_err(|error| refused(dir, error))?;
            Ok(Extent { revision: Revision(0), oldest: Revision(0), log_bytes: 0 })
        }
        Read::Format(found) => Err(OpenError::Format { dir: dir.to_owned(), found, known: FORMAT }),
        Read::Corrupt(why) => Err(OpenError::Corrupt { dir: dir.to_owned(), why }),
        Read::Extent(extent) => Ok(extent),
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

enum Read {
    Empty,
    Format(u64),
    Corrupt(&'static str),
    Extent(Extent),
}

fn extent(database: &Database) -> Result<Read, redb::Error> {
    let txn = database.begin_read()?;
    if txn.list_tables()?.next().is_none() {
        return Ok(Read::Empty);
    }
    let meta = txn.open_table(META)?;
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map(|value| value.value()));
    match number("format")? {
        Some(FORMAT) => {}
        Some(other) => return Ok(Read::Format(other)),
        None => return Ok(Read::Corrupt("it names no format")),
    }
    let (Some(revision), Some(oldest)) = (number("revision")?, number("oldest")?) else {
        return Ok(Read::Corrupt("it names no revision"));
    };
    let log = txn.open_table(LOG)?;
    let mut log_bytes = 0;
    for entry in log.iter()? {
        log_bytes += entry?.1.value().len() as u64;
    }
    let (first, last) = (log.first()?.map(|e| e.0.value()), log.last()?.map(|e| e.0.value()));
    let fits = match (first, last) {
        (Some(first), Some(last)) => first == oldest + 1 && last == revision && log.len()? == revision - oldest,
        _ => oldest == revision,
    };
    if !fits {
        return Ok(Read::Corrupt("its log has gaps"));
    }
    Ok(Read::Extent(Extent { revision: Revision(revision), oldest: Revision(oldest), log_bytes }))
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    {
        txn.open_table(OBJECTS)?;
        txn.open_table(LOG)?;
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", 0)?;
        meta.insert("oldest", 0)?;
    }
    Ok(txn.commit()?)
}

/// A failed look into the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("read the store's file")]
    Database(#[source] Box<redb::Error>),
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl<E: Into<redb::Error>> From<E> for LookError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl From<LookError> for ReadError {
    fn from(error: LookError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

pub(super) fn get(txn: &ReadTransaction, key: &Key) -> Result<Option<Arc<Record>>, LookError> {
    let key = key.to_bytes();
    let Some(value) = txn.open_table(OBJECTS)?.get(&*key)? else { return Ok(None) };
    Ok(Some(Arc::new(format::decode_record(&key, value.value())?)))
}

pub(super) fn revision(txn: &ReadTransaction) -> Result<Revision, LookError> {
    Ok(Revision(txn.open_table(META)?.get("revision")?.map(|value| value.value()).unwrap_or_default()))
}

/// The events after a revision: the first may be a later one than the next, if compaction came in between.
pub(super) fn events(txn: &ReadTransaction, after: Revision, limit: usize) -> Result<Vec<Arc<Event>>, LookError> {
    let log = txn.open_table(LOG)?;
    let mut events = Vec::new();
    for entry in log.range(after.0.saturating_add(1)..)?.take(limit) {
        let (revision, value) = entry?;
        events.push(Arc::new(format::decode_event(Revision(revision.value()), value.value())?));
    }
    Ok(events)
}

pub(super) fn page(txn: &ReadTransaction, resource: Option<&str>, after: Option<&Key>, limit: usize) -> Result<Page, LookError> {
    let objects = txn.open_table(OBJECTS)?;
    let prefix = resource.map(|resource| [resource.as_bytes(), b"\0"].concat()).unwrap_or_default();
    let start = match after.map(Key::to_bytes) {
        // The least key above another is that one with a NUL behind it.
        Some(mut after) if after >= prefix => {
            after.push(0);
            after
        }
        _ => prefix.clone(),
    };
    let mut page = Page::default();
    for entry in objects.range::<&[u8]>(&*start..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(&prefix) {
            break;
        }
        if page.records.len() == limit {
            page.more = true;
            break;
        }
        page.records.push(Arc::new(format::decode_record(key.value(), value.value())?));
    }
    Ok(page)
}
