//! Makes a store from a backup.
//!
//! The new file is written and verified beside the present one, and then takes its name in one step: a crash leaves the old store or
//! the new one. Its revision lies far above any that a client may have seen, and its history is marked compacted: nothing that was
//! read from the old store passes for current, and every old watch begins again.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redb::{Database, ReadableDatabase as _};

use super::file::{Directory, FILE, OpenError};
use super::format;
use super::read::{self, LookError};
use super::tables::{META, OBJECTS, begin_safe_write};
use crate::store::backup::{BackupError, Header, Reader};
use crate::store::key::Revision;
use crate::store::record::Index;

/// What the revision is raised by: more changes than an engine makes between a backup and its restoring (at 25,000 in each second it
/// would take more than a year).
pub const REVISIONS_SKIPPED: u64 = 1_000_000_000_000;

/// A store that was made from a backup.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// The revision from which the store goes on.
    pub revision: Revision,
    /// The file of the store that was there before.
    pub kept: Option<PathBuf>,
}

/// A store that could not be made. The one that was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is one already, and it was not said that it may go.
    #[error("there is a store in `{dir}` already", dir = dir.display())]
    Exists {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The directory cannot be used; in particular an engine has it open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new file cannot be written.
    #[error("write the restored store")]
    Write(#[source] Box<redb::Error>),
}

impl From<LookError> for RestoreError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Database(source) => Self::Write(source),
            LookError::Corrupt(corrupt) => Self::Write(Box::new(redb::Error::Corrupted(corrupt.to_string()))),
        }
    }
}

/// Makes the store in `dir` from a backup. `replace`: a store that is there goes aside, under a name with `now` in it.
///
/// # Errors
/// See [`RestoreError`]; a backup that is not whole and right to the last byte is refused.
pub fn restore(dir: &Path, from: impl Read, replace: bool, now: Timestamp) -> Result<Restored, RestoreError> {
    let mut backup = Reader::open(from)?;
    let directory = Directory::take(dir, 4 * 1024 * 1024, None)?;
    let present = dir.join(FILE);
    let exists = present.try_exists().map_err(|source| OpenError::Io { path: present.clone(), source })?;
    if exists && !replace {
        return Err(RestoreError::Exists { dir: dir.to_owned() });
    }
    let (database, _) = directory.open_new()?;
    // Looked at once the backup has proved to be whole: opening a file writes into it.
    let seen = || if exists { last_revision(&present) } else { Revision(0) };
    let filled = fill(&database, &mut backup, seen);
    drop(database);
    let revision = filled.inspect_err(|_| directory.discard_new())?;
    let kept = if exists { Some(keep(&present, now)?) } else { None };
    directory.put_in_place()?;
    Ok(Restored { header: backup.header().clone(), revision, kept })
}

/// The revision of a store that is to go; one that cannot be read any more has none.
fn last_revision(path: &Path) -> Revision {
    let look = || {
        let database = Database::builder().open(path)?;
        let txn = database.begin_read()?;
        read::revision(&txn)
    };
    look().unwrap_or_else(|error: LookError| {
        tracing::warn!(%error, "the present store cannot be read");
        Revision(0)
    })
}

/// Writes all objects, then the revision from which the store goes on: far above that of the backup, and what was `seen` of another.
fn fill<R: Read>(database: &Database, backup: &mut Reader<R>, seen: impl FnOnce() -> Revision) -> Result<Revision, RestoreError> {
    let txn = begin_safe_write(database)?;
    let revision = {
        let mut objects = txn.open_table(OBJECTS).map_err(LookError::from)?;
        let mut object_bytes = 0;
        while let Some(stored) = backup.next_object()? {
            // The next engine indexes them by its own rules.
            let value = format::encode_stored(stored.revision, &Index::default(), &stored.bytes);
            object_bytes += value.len() as u64;
            objects.insert(&*stored.key.to_bytes(), &*value).map_err(LookError::from)?;
        }
        let revision = Revision(seen().0.max(backup.header().revision) + REVISIONS_SKIPPED);
        let mut meta = txn.open_table(META).map_err(LookError::from)?;
        for (name, value) in [("revision", revision.0), ("oldest", revision.0), ("object_bytes", object_bytes), ("index", 0)] {
            meta.insert(name, value).map_err(LookError::from)?;
        }
        revision
    };
    txn.commit().map_err(LookError::from)?;
    Ok(revision)
}

/// Gives the present file a second name, by which it is kept when the new one takes the first.
fn keep(present: &Path, now: Timestamp) -> Result<PathBuf, OpenError> {
    let kept = present.with_file_name(format!("{FILE}.before-restore-{}", now.strftime("%Y%m%dT%H%M%S%3fZ")));
    fs::hard_link(present, &kept).map_err(|source| OpenError::Io { path: kept.clone(), source })?;
    Ok(kept)
}
