//! What the writer and the readers share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::Database;
use tokio::sync::watch;

use super::stats::Stats;
use super::tables::Extent;
use crate::store::Health;
use crate::store::key::Revision;
use crate::store::record::Event;

/// The newest events stay in memory, so that whoever follows closely reads no file.
const RECENT_EVENTS: usize = 1_024;
const RECENT_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Shared {
    database: Mutex<Option<Arc<Database>>>,
    is_closed: AtomicBool,
    recent: Mutex<Recent>,
    revision: watch::Sender<Revision>,
    oldest: AtomicU64,
    stats: Mutex<Stats>,
    health: watch::Sender<Health>,
}

struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// All events after this one are here.
    after: Revision,
}

impl Shared {
    pub(super) fn new(database: Database, extent: &Extent, file_bytes: u64) -> Self {
        let mut stats = Stats { file_bytes, ..Stats::default() };
        tell_extent(&mut stats, extent);
        Self {
            database: Mutex::new(Some(Arc::new(database))),
            is_closed: AtomicBool::new(false),
            recent: Mutex::new(Recent { events: VecDeque::new(), bytes: 0, after: extent.revision }),
            revision: watch::Sender::new(extent.revision),
            oldest: AtomicU64::new(extent.oldest.0),
            stats: Mutex::new(stats),
            health: watch::Sender::new(Health::Healthy),
        }
    }

    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_database(&self, database: Option<Arc<Database>>) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
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

    /// Counts something.
    pub(super) fn count(&self, count: impl FnOnce(&mut Stats)) {
        count(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn health(&self) -> &watch::Sender<Health> {
        &self.health
    }

    /// Says how the store is, and logs it when that is news.
    pub(super) fn set_health(&self, health: Health) {
        self.health.send_if_modified(|known| {
            let is_news = *known != health;
            if is_news {
                match &health {
                    Health::Healthy => tracing::info!("the store takes writes again"),
                    Health::DiskFull => tracing::error!("the disk is full: the store refuses writes until there is room"),
                    Health::Failed { error } => tracing::error!(%error, "the store's file failed and cannot be opened again yet"),
                }
                *known = health;
            }
            is_news
        });
    }

    /// From now on reads of events up to `through` are refused.
    pub(super) fn refuse_through(&self, through: Revision) {
        self.oldest.fetch_max(through.0, Ordering::AcqRel);
    }

    /// Tells durable events.
    pub(super) fn publish(&self, events: Vec<Arc<Event>>, extent: &Extent, file_bytes: u64) {
        self.oldest.fetch_max(extent.oldest.0, Ordering::AcqRel);
        self.count(|stats| {
            tell_extent(stats, extent);
            stats.file_bytes = file_bytes;
            stats.changes += events.len() as u64;
        });
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

fn tell_extent(stats: &mut Stats, extent: &Extent) {
    stats.objects = extent.objects;
    stats.object_bytes = extent.object_bytes;
    stats.log_events = extent.revision.0 - extent.oldest.0;
    stats.log_bytes = extent.log_bytes;
    stats.log_since_millis = extent.times.iter().find(|(_, revision)| *revision > extent.oldest).map_or(0, |(at, _)| *at);
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
