//! What the writer and the readers share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::Database;
use tokio::sync::watch;

use super::file::Extent;
use crate::store::key::Revision;
use crate::store::record::Event;

/// The newest events stay in memory, so that whoever follows closely reads no file.
const RECENT_EVENTS: usize = 1_024;
const RECENT_BYTES: usize = 4 * 1024 * 1024;

/// Figures of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Events that can be read.
    pub log_events: u64,
    /// Bytes of the log's values.
    pub log_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Transactions since the store was opened: each is one sync.
    pub transactions: u64,
    /// Whether writes are refused because the last one failed and the file is not open again yet.
    pub failed: bool,
}

pub(super) struct Shared {
    database: Mutex<Option<Arc<Database>>>,
    recent: Mutex<Recent>,
    revision: watch::Sender<Revision>,
    oldest: AtomicU64,
    stats: Mutex<Stats>,
}

struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// All events after this one are here.
    after: Revision,
}

impl Shared {
    pub(super) fn new(database: Database, extent: Extent, file_bytes: u64) -> Self {
        let stats = Stats { log_events: extent.revision.0 - extent.oldest.0, log_bytes: extent.log_bytes, file_bytes, ..Stats::default() };
        Self {
            database: Mutex::new(Some(Arc::new(database))),
            recent: Mutex::new(Recent { events: VecDeque::new(), bytes: 0, after: extent.revision }),
            revision: watch::Sender::new(extent.revision),
            oldest: AtomicU64::new(extent.oldest.0),
            stats: Mutex::new(stats),
        }
    }

    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_database(&self, database: Option<Arc<Database>>) {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).failed = database.is_none();
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }

    pub(super) fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn revision(&self) -> &watch::Sender<Revision> {
        &self.revision
    }

    pub(super) fn oldest(&self) -> Revision {
        Revision(self.oldest.load(Ordering::Acquire))
    }

    pub(super) fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on reads of events up to `through` are refused.
    pub(super) fn refuse_through(&self, through: Revision) {
        self.oldest.fetch_max(through.0, Ordering::AcqRel);
    }

    /// Tells durable events.
    pub(super) fn publish(&self, events: Vec<Arc<Event>>, extent: Extent, file_bytes: u64) {
        self.oldest.fetch_max(extent.oldest.0, Ordering::AcqRel);
        {
            let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.log_events = extent.revision.0 - extent.oldest.0;
            stats.log_bytes = extent.log_bytes;
            stats.file_bytes = file_bytes;
            stats.transactions += u64::from(!events.is_empty());
        }
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
        // Last: whoever sees the revision finds its events.
        self.revision.send_if_modified(|revision| std::mem::replace(revision, extent.revision) != extent.revision);
    }

    /// Events from memory; `None` when they reach further back.
    pub(super) fn recent(&self, after: Revision, limit: usize) -> Option<Vec<Arc<Event>>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if after < recent.after {
            return None;
        }
        let from = recent.events.partition_point(|event| event.record.revision <= after);
        Some(recent.events.range(from..).take(limit).cloned().collect())
    }
}

impl Recent {
    fn extend(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            self.bytes += event.record.bytes.len();
            self.events.push_back(event);
            while self.events.len() > RECENT_EVENTS || self.bytes > RECENT_BYTES {
                let Some(dropped) = self.events.pop_front() else { break };
                self.bytes -= dropped.record.bytes.len();
                self.after = dropped.record.revision;
            }
        }
    }
}
