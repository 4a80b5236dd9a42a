//! Reading the file.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableTableMetadata as _};

use super::format::{self, Corrupt};
use super::tables::{LOG, META, OBJECTS};
use crate::store::key::{Key, Revision};
use crate::store::record::{Event, Record};
use crate::store::{Page, ReadError};

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

pub(super) fn objects(txn: &ReadTransaction) -> Result<u64, LookError> {
    Ok(txn.open_table(OBJECTS)?.len()?)
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
