//! One watch: its start, its bounded queue, its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, watch};

use super::Entry;
use super::selector::Selection;
use crate::store::Revision;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// With the next change.
    Now,
    /// With all selected objects as `Added`, then [`WatchEvent::InitialEnd`], then the changes.
    Initial,
    /// With the first change after this revision.
    After(Revision),
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// New, or new to the selection.
    Added(Arc<Entry>),
    /// Changed.
    Modified(Arc<Entry>),
    /// Gone, or gone from the selection: the last state that was selected, with the revision of the change.
    Deleted(Arc<Entry>),
    /// All initial objects were told; they stood so at this revision.
    InitialEnd(Revision),
}

/// Why a watch cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The changes after that revision are no longer all known: list again.
    #[error("too old resource version: {after} ({oldest})")]
    Expired {
        /// What was asked for.
        after: Revision,
        /// The lowest that would have worked.
        oldest: Revision,
    },
    /// The revision lies ahead of the current one. [`super::Cache::wait_for`] may help.
    #[error("Too large resource version: {after}, current: {current}")]
    Future {
        /// What was asked for.
        after: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// The cache is closed.
    #[error("the server is shutting down")]
    Closed,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The watcher was too slow, or the cache lost its place in the log: list again. Everything told before is without a gap.
    #[error("the watch fell behind and was ended")]
    Expired,
    /// The cache was closed.
    #[error("the server is shutting down")]
    Closed,
}

/// The receiving half of one watch. Dropping it ends the watch.
pub struct Watcher {
    pub(super) initial: std::vec::IntoIter<Arc<Entry>>,
    /// Set until the end of the initial objects was told.
    pub(super) initial_end: Option<Revision>,
    pub(super) backlog: VecDeque<WatchEvent>,
    pub(super) queue: mpsc::Receiver<WatchEvent>,
    pub(super) applied: watch::Receiver<Revision>,
    /// Everything selected up to here was told: the start, then the last event.
    pub(super) told: Revision,
    pub(super) expired: Arc<AtomicBool>,
}

impl Watcher {
    /// The next event.
    ///
    /// # Errors
    /// When the watch has ended; every event before the end has been told then.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<WatchEvent, WatchEnd> {
        if let Some(event) = self.take_started() {
            return Ok(event);
        }
        match self.queue.recv().await {
            Some(event) => Ok(self.note(event)),
            None => Err(self.end()),
        }
    }

    /// The next event, if one is waiting.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<WatchEvent>, WatchEnd> {
        if let Some(event) = self.take_started() {
            return Ok(Some(event));
        }
        match self.queue.try_recv() {
            Ok(event) => Ok(Some(self.note(event))),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(self.end()),
        }
    }

    /// The revision of a bookmark, if one may be sent now: every selected change up to it has been told. `None` while events
    /// are waiting.
    pub fn bookmark(&self) -> Option<Revision> {
        // The order matters: what was applied before this look is already in the queue, so an empty queue after it means that
        // nothing up to `revision` is untold. `applied` is moved only after the events were handed out.
        let revision = *self.applied.borrow();
        (self.is_live() && self.queue.is_empty() && !self.queue.is_closed()).then_some(revision.max(self.told))
    }

    /// Whether what is told from now on happens now: all that the watch began with has been told.
    pub fn is_live(&self) -> bool {
        self.initial.len() == 0 && self.initial_end.is_none() && self.backlog.is_empty()
    }

    fn take_started(&mut self) -> Option<WatchEvent> {
        if let Some(entry) = self.initial.next() {
            return Some(WatchEvent::Added(entry));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(WatchEvent::InitialEnd(revision));
        }
        self.backlog.pop_front()
    }

    /// Events of the queue are newer than all that the watch began with.
    fn note(&mut self, event: WatchEvent) -> WatchEvent {
        if let WatchEvent::Added(entry) | WatchEvent::Modified(entry) | WatchEvent::Deleted(entry) = &event {
            self.told = entry.revision;
        }
        event
    }

    fn end(&self) -> WatchEnd {
        if self.expired.load(Ordering::Acquire) { WatchEnd::Expired } else { WatchEnd::Closed }
    }
}

/// The sending half, held by the state.
pub(super) struct WatcherHandle {
    pub(super) selection: Selection,
    pub(super) queue: mpsc::Sender<WatchEvent>,
    pub(super) expired: Arc<AtomicBool>,
}
