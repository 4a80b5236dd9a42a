//! Frames of watches, encoded once for all watchers that see the same event in the same form.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use gantry_api::registry::{KindInfo, KindRef};

use super::error::ApiError;
use super::negotiate::Form;
use super::render::{IncludeObject, View};
use crate::cache::Entry;

/// Frames kept: watchers ask for a new one nearly at once.
const FRAMES: usize = 512;
/// Bytes of the objects whose frames are kept.
const BYTES: usize = 1024 * 1024;

/// What happened, as a watch calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FrameType {
    Added,
    Modified,
    Deleted,
}

impl FrameType {
    fn head(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }
}

/// The newest frames.
#[derive(Default)]
pub(crate) struct Frames {
    kept: Mutex<Kept>,
    encoded: AtomicU64,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<Id, Arc<Slot>>,
    /// Oldest first.
    order: VecDeque<Id>,
    bytes: usize,
}

/// An entry by its address, which is nobody else's while its slot holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Id {
    entry: usize,
    /// How the entry is shown, by the address of its kind, which is nobody else's while its slot holds it: a view's objects are made of
    /// the same entries.
    kind: usize,
    type_: FrameType,
    form: Form,
    include: IncludeObject,
}

struct Slot {
    entry: Arc<Entry>,
    _kind: KindRef,
    frame: OnceLock<Result<Bytes, ApiError>>,
}

impl Frames {
    /// The frame of an event, from an earlier watcher if there was one.
    ///
    /// # Errors
    /// When the stored object cannot be decoded.
    pub(crate) fn shared(&self, type_: FrameType, entry: &Arc<Entry>, view: &View) -> Result<Bytes, ApiError> {
        if entry.bytes.len() > BYTES / 16 {
            return self.encode(type_, entry, view);
        }
        let id = Id {
            entry: Arc::as_ptr(entry).addr(),
            kind: std::ptr::from_ref::<KindInfo>(&view.kind).addr(),
            type_,
            form: view.form,
            include: view.include,
        };
        // Encoded outside the lock: others may ask for other frames meanwhile.
        let slot = self.kept.lock().unwrap_or_else(PoisonError::into_inner).slot(id, entry, &view.kind);
        slot.frame.get_or_init(|| self.encode(type_, entry, view)).clone()
    }

    /// A frame of its own.
    ///
    /// # Errors
    /// When the stored object cannot be decoded.
    pub(crate) fn encode(&self, type_: FrameType, entry: &Entry, view: &View) -> Result<Bytes, ApiError> {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let object = view.encode(&entry.bytes)?;
        Ok([type_.head(), &object, b"}\n"].concat().into())
    }

    /// Frames encoded so far.
    pub(crate) fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }
}

impl Kept {
    fn slot(&mut self, id: Id, entry: &Arc<Entry>, kind: &KindRef) -> Arc<Slot> {
        if let Some(slot) = self.slots.get(&id) {
            return slot.clone();
        }
        self.bytes += entry.bytes.len();
        while self.order.len() >= FRAMES || self.bytes > BYTES {
            let Some(oldest) = self.order.pop_front().and_then(|id| self.slots.remove(&id)) else { break };
            self.bytes -= oldest.entry.bytes.len();
        }
        let slot = Arc::new(Slot { entry: entry.clone(), _kind: kind.clone(), frame: OnceLock::new() });
        self.slots.insert(id, slot.clone());
        self.order.push_back(id);
        slot
    }
}
