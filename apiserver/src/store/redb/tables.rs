//! The tables of the file, what they must hold to be opened, and how those of older engines become ours.

use std::ops::Bound;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

use super::file::OpenError;
use super::format;
use super::read::LookError;
use crate::store::key::Revision;
use crate::store::record::{Index, Indexer};

pub(super) const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Milliseconds since 1970 and the revision that was current then: how old the log is.
pub(super) const TIMES: TableDefinition<'_, u64, u64> = TableDefinition::new("times");

/// Brings the tables from one format to the next, in the transaction of the opening.
pub(super) type Migration = fn(&WriteTransaction) -> Result<(), LookError>;

/// From format 1 to 2, from 2 to 3, …
pub(super) const MIGRATIONS: &[Migration] = &[count_bytes];
/// The format that this code writes.
pub(super) const FORMAT: u64 = 1 + MIGRATIONS.len() as u64;

/// Objects indexed at a time.
const INDEX_PAGE: usize = 1_000;

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub(super) revision: Revision,
    /// Events after this one can be read.
    pub(super) oldest: Revision,
    /// Bytes of the log's values.
    pub(super) log_bytes: u64,
    /// Bytes of the objects' values.
    pub(super) object_bytes: u64,
    pub(super) objects: u64,
    /// When which revision was current, oldest first: milliseconds since 1970.
    pub(super) times: Vec<(u64, Revision)>,
}

/// An open file.
pub(super) type Opened = (Database, Extent);

/// Writes the tables of an empty file, migrates those of an older engine, and holds what is there to the format. `deeply`: the
/// whole file, after a failure.
pub(super) fn verified(mut database: Database, deeply: bool, indexer: Option<Indexer>, dir: &Path) -> Result<Opened, OpenError> {
    let refused = |error: LookError| match error {
        LookError::Database(source) => OpenError::Database { dir: dir.to_owned(), source },
        LookError::Corrupt(corrupt) => OpenError::Corrupt { dir: dir.to_owned(), why: corrupt.to_string() },
    };
    if deeply && !database.check_integrity().map_err(|error| refused(error.into()))? {
        tracing::warn!(dir = %dir.display(), "the store's file was repaired");
    }
    match format_of(&database).map_err(refused)? {
        Format::Empty => initialise(&database, &Extent::default(), indexer).map_err(refused)?,
        Format::Unknown => return Err(OpenError::Corrupt { dir: dir.to_owned(), why: "it names no format".to_owned() }),
        Format::Known(FORMAT) => {}
        Format::Known(found) if found > FORMAT || found == 0 => {
            return Err(OpenError::Format { dir: dir.to_owned(), found, known: FORMAT });
        }
        Format::Known(found) => migrate(&database, found, MIGRATIONS).map_err(refused)?,
    }
    if let Some(indexer) = indexer {
        index_anew(&database, indexer).map_err(refused)?;
    }
    let extent = extent(&database).map_err(refused)?;
    let extent = extent.map_err(|why| OpenError::Corrupt { dir: dir.to_owned(), why: why.to_owned() })?;
    Ok((database, extent))
}

enum Format {
    Empty,
    Unknown,
    Known(u64),
}

fn format_of(database: &Database) -> Result<Format, LookError> {
    let txn = database.begin_read()?;
    if txn.list_tables()?.next().is_none() {
        return Ok(Format::Empty);
    }
    let found = txn.open_table(META)?.get("format")?.map(|value| value.value());
    Ok(found.map_or(Format::Unknown, Format::Known))
}

/// A transaction whose effect a crash cannot undo, and after which a crashed file opens at once.
pub(super) fn begin_safe_write(database: &Database) -> Result<WriteTransaction, LookError> {
    let mut txn = database.begin_write()?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    Ok(txn)
}

/// Makes the tables, empty but for what they say of themselves.
pub(super) fn initialise(database: &Database, extent: &Extent, indexer: Option<Indexer>) -> Result<(), LookError> {
    let txn = begin_safe_write(database)?;
    {
        txn.open_table(OBJECTS)?;
        txn.open_table(LOG)?;
        txn.open_table(TIMES)?;
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", extent.revision.0)?;
        meta.insert("oldest", extent.oldest.0)?;
        meta.insert("log_bytes", extent.log_bytes)?;
        meta.insert("object_bytes", extent.object_bytes)?;
        meta.insert("index", indexer.map_or(0, |indexer| indexer.version))?;
    }
    Ok(txn.commit()?)
}

/// From format `found` to the last one, all steps in one transaction: a crash leaves the old format or the new one.
pub(super) fn migrate(database: &Database, found: u64, migrations: &[Migration]) -> Result<(), LookError> {
    let txn = begin_safe_write(database)?;
    let to = 1 + migrations.len() as u64;
    for (from, migration) in (1..to).zip(migrations).filter(|(from, _)| *from >= found) {
        migration(&txn)?;
        tracing::info!(from, to = from + 1, "the store's format was migrated");
    }
    txn.open_table(META)?.insert("format", to)?;
    Ok(txn.commit()?)
}

/// Format 2 keeps count of its bytes, notes when revisions were current, and says by which rules the objects are indexed.
fn count_bytes(txn: &WriteTransaction) -> Result<(), LookError> {
    let (mut log_bytes, mut object_bytes) = (0, 0);
    for entry in txn.open_table(LOG)?.iter()? {
        log_bytes += entry?.1.value().len() as u64;
    }
    for entry in txn.open_table(OBJECTS)?.iter()? {
        object_bytes += entry?.1.value().len() as u64;
    }
    txn.open_table(TIMES)?;
    let mut meta = txn.open_table(META)?;
    meta.insert("log_bytes", log_bytes)?;
    meta.insert("object_bytes", object_bytes)?;
    meta.insert("index", 0)?;
    Ok(())
}

/// Indexes all objects by the present rules if they were written under other ones. The log goes: its events carry old indexes, by
/// which a watch that resumes would be told of too much or too little.
fn index_anew(database: &Database, indexer: Indexer) -> Result<(), LookError> {
    {
        let meta = database.begin_read()?.open_table(META)?;
        if meta.get("index")?.is_some_and(|version| version.value() == indexer.version) {
            return Ok(());
        }
    }
    let txn = begin_safe_write(database)?;
    let indexed = index_objects(&txn, indexer)?;
    {
        txn.open_table(LOG)?.retain(|_, _| false)?;
        let mut meta = txn.open_table(META)?;
        let revision = meta.get("revision")?.map(|value| value.value()).unwrap_or_default();
        meta.insert("oldest", revision)?;
        meta.insert("log_bytes", 0)?;
        meta.insert("object_bytes", indexed.object_bytes)?;
        meta.insert("index", indexer.version)?;
    }
    txn.commit()?;
    if indexed.changed > 0 {
        tracing::info!(objects = indexed.changed, "the store's objects were indexed anew");
    }
    Ok(())
}

#[derive(Default)]
struct Indexed {
    changed: u64,
    object_bytes: u64,
}

/// Goes through all objects, a page at a time, so that not all of them are in memory at once.
fn index_objects(txn: &WriteTransaction, indexer: Indexer) -> Result<Indexed, LookError> {
    let mut objects = txn.open_table(OBJECTS)?;
    let mut done = Indexed::default();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let mut changed = Vec::new();
        let mut last = None;
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for entry in objects.range::<&[u8]>((from, Bound::Unbounded))?.take(INDEX_PAGE) {
            let (key, value) = entry?;
            let record = format::decode_record(key.value(), value.value())?;
            let index = (indexer.index)(&record.key, &record.bytes).unwrap_or_else(|| Index::clone(&record.index));
            if index == *record.index {
                done.object_bytes += value.value().len() as u64;
            } else {
                let encoded = format::encode_stored(record.revision, &index, &record.bytes);
                done.object_bytes += encoded.len() as u64;
                changed.push((key.value().to_vec(), encoded));
            }
            last = Some(key.value().to_vec());
        }
        done.changed += changed.len() as u64;
        for (key, value) in &changed {
            objects.insert(&**key, &**value)?;
        }
        if last.is_none() {
            return Ok(done);
        }
        after = last;
    }
}

/// Reads what the file says of itself, and says what does not fit together.
fn extent(database: &Database) -> Result<Result<Extent, &'static str>, LookError> {
    let txn = database.begin_read()?;
    let meta = txn.open_table(META)?;
    let number = |name| Ok::<_, LookError>(meta.get(name)?.map(|value| value.value()));
    let (Some(revision), Some(oldest)) = (number("revision")?, number("oldest")?) else { return Ok(Err("it names no revision")) };
    let (Some(log_bytes), Some(object_bytes)) = (number("log_bytes")?, number("object_bytes")?) else {
        return Ok(Err("it does not count its bytes"));
    };
    let log = txn.open_table(LOG)?;
    let (first, last) = (log.first()?.map(|e| e.0.value()), log.last()?.map(|e| e.0.value()));
    let fits = match (first, last) {
        (Some(first), Some(last)) => first == oldest + 1 && last == revision && log.len()? == revision - oldest,
        _ => oldest == revision,
    };
    if !fits {
        return Ok(Err("its log has gaps"));
    }
    let mut times = Vec::new();
    for entry in txn.open_table(TIMES)?.iter()? {
        let (at, revision) = entry?;
        times.push((at.value(), Revision(revision.value())));
    }
    let objects = txn.open_table(OBJECTS)?.len()?;
    Ok(Ok(Extent { revision: Revision(revision), oldest: Revision(oldest), log_bytes, object_bytes, objects, times }))
}
