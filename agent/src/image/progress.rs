//! How far a pull has got, to be looked at whenever somebody wants to say so.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Bytes are still to come.
    Pulling,
    /// All bytes are here.
    Unpacking,
}

/// Counters that one pull moves and others read.
#[derive(Debug, Default)]
pub struct Progress {
    current: AtomicU64,
    total: AtomicU64,
    fetched: AtomicBool,
}

impl Progress {
    /// Compressed bytes here, and in all (0 while unknown).
    pub fn bytes(&self) -> (u64, u64) {
        (self.current.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
    /// What the pull is doing.
    pub fn phase(&self) -> Phase {
        if self.fetched.load(Ordering::Relaxed) { Phase::Unpacking } else { Phase::Pulling }
    }
    pub(crate) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.current.store(0, Ordering::Relaxed);
        self.fetched.store(bytes == 0, Ordering::Relaxed);
    }
    pub(crate) fn add(&self, bytes: u64) {
        let current = self.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.fetched.store(current >= self.total.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    /// A source that could not resume began anew.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.current.fetch_sub(bytes, Ordering::Relaxed);
    }
}
