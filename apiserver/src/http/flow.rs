//! How much is worked on at a time: requests, watches, and what becomes of the rest.
//!
//! ```text
//!  request ─► who may ─► lane: users or engine, reads or writes ─► seat, or wait for one (fair), or 429 with Retry-After
//! ```
//!
//! * Reads and writes have seats of their own: a disk that takes long over commits holds up no read.
//! * The engine's own parts have lanes of their own: users cannot keep the controllers and agents from their work.
//! * Within a lane a flow is one user with one program; see [`fair`] for whose turn it is.
//! * Health, discovery and metrics need no seat. Watches are counted apart, for as long as they last; streams to containers and
//!   uploads are bounded by the connections they use.

mod fair;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use fair::GateLimits;
pub(crate) use fair::Seat;
use fair::{Flow, Gate, Refusal};

use super::error::ApiError;
use crate::auth::Identity;

/// Bounds of what is worked on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Reads of users.
    pub reads: GateLimits,
    /// Writes of users.
    pub writes: GateLimits,
    /// Reads of the engine's parts.
    pub engine_reads: GateLimits,
    /// Writes of the engine's parts.
    pub engine_writes: GateLimits,
    /// Watches of users.
    pub watches: usize,
    /// Watches of the engine's parts.
    pub engine_watches: usize,
}

impl Default for FlowLimits {
    fn default() -> Self {
        let patience = Duration::from_secs(5);
        // One group of commits takes in 512: what all lanes together may write waits for two syncs at most.
        let users = GateLimits { seats: 256, seats_per_flow: 192, waiting: 1_024, waiting_per_flow: 512, patience };
        let engine = GateLimits { seats_per_flow: 256, ..users };
        Self { reads: users, writes: users, engine_reads: engine, engine_writes: engine, watches: 10_000, engine_watches: 20_000 }
    }
}

/// Who is let in.
pub(crate) struct FlowControl {
    users: Lanes,
    engine: Lanes,
    hasher: RandomState,
    refused_full: AtomicU64,
    refused_late: AtomicU64,
    refused_watches: AtomicU64,
}

struct Lanes {
    reads: Arc<Gate>,
    writes: Arc<Gate>,
    watches: Arc<Semaphore>,
    watch_limit: usize,
}

/// A watch that counts, until dropped.
pub(crate) struct WatchPlace(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What is going on in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// `users` or `engine`.
    pub(crate) who: &'static str,
    /// `readOnly` or `mutating`, as Kubernetes calls them.
    pub(crate) kind: &'static str,
    pub(crate) busy: usize,
    pub(crate) waiting: usize,
}

impl Lanes {
    fn new(reads: GateLimits, writes: GateLimits, watches: usize) -> Self {
        Self { reads: Gate::new(reads), writes: Gate::new(writes), watches: Arc::new(Semaphore::new(watches)), watch_limit: watches }
    }
}

impl FlowControl {
    pub(crate) fn new(limits: &FlowLimits) -> Self {
        Self {
            users: Lanes::new(limits.reads, limits.writes, limits.watches),
            engine: Lanes::new(limits.engine_reads, limits.engine_writes, limits.engine_watches),
            hasher: RandomState::new(),
            refused_full: AtomicU64::new(0),
            refused_late: AtomicU64::new(0),
            refused_watches: AtomicU64::new(0),
        }
    }

    /// Waits for the turn of a request.
    ///
    /// # Errors
    /// 429 when too many wait, or the turn does not come.
    pub(crate) async fn enter(&self, identity: &Identity, headers: &HeaderMap, is_write: bool) -> Result<Seat, ApiError> {
        let lanes = self.lanes(identity);
        let gate = if is_write { &lanes.writes } else { &lanes.reads };
        let refusal = match gate.enter(self.flow(identity, headers)).await {
            Ok(seat) => return Ok(seat),
            Err(refusal) => refusal,
        };
        let counter = if refusal == Refusal::QueueFull { &self.refused_full } else { &self.refused_late };
        counter.fetch_add(1, Ordering::Relaxed);
        Err(ApiError::too_many_requests("the server has received too many requests and has asked us to try again later"))
    }

    /// The place of a watch.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(crate) fn watch(&self, identity: &Identity) -> Result<WatchPlace, ApiError> {
        self.lanes(identity).watches.clone().try_acquire_owned().map(WatchPlace).map_err(|_| {
            self.refused_watches.fetch_add(1, Ordering::Relaxed);
            ApiError::too_many_requests("the server has as many watches as it serves; end some, or try again later")
        })
    }

    /// What is going on in each lane.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for (who, lanes) in [("users", &self.users), ("engine", &self.engine)] {
            for (kind, gate) in [("readOnly", &lanes.reads), ("mutating", &lanes.writes)] {
                let (busy, waiting) = gate.load();
                loads.push(Load { who, kind, busy, waiting });
            }
        }
        loads
    }

    /// Watches that go on, of users and of the engine.
    pub(crate) fn watches(&self) -> [(&'static str, usize); 2] {
        let count = |lanes: &Lanes| lanes.watch_limit - lanes.watches.available_permits();
        [("users", count(&self.users)), ("engine", count(&self.engine))]
    }

    /// Requests refused so far, by Kubernetes' name of the reason.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 3] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [("queue-full", read(&self.refused_full)), ("time-out", read(&self.refused_late)), ("watch-limit", read(&self.refused_watches))]
    }

    fn lanes(&self, identity: &Identity) -> &Lanes {
        if identity.is_of_the_engine() { &self.engine } else { &self.users }
    }

    fn flow(&self, identity: &Identity, headers: &HeaderMap) -> Flow {
        let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
        let program = agent.split(|byte| matches!(byte, b'/' | b' ')).next().unwrap_or_default();
        Flow(self.hasher.hash_one((&identity.user, program)))
    }
}
