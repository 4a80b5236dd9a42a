//! What all controllers share: changed objects become keys, keys wait in a queue, a worker reconciles one key at a time.
//!
//! ```text
//!  informer (one per kind) ──keys──► mapping ──► queue ──► worker ──► reconcile(key) ──► API
//!          ▲                                      ▲           │
//!          └── own writes, at once                └── later ──┘
//! ```
//!
//! A reconciler gets a key and never an event: it reads what is now, decides, and writes the smallest change. So one that runs twice,
//! late, or after a missed event ends in the same state, and after a restart of the process the first list brings every key once.
//!
//! # Guarantees
//! * A key is never reconciled twice at the same time, and waits in the queue at most once.
//! * A change that arrives while its key is being reconciled leads to one more reconciliation.
//! * A reconciliation that fails is tried again after an exponential delay with jitter, up to a cap, until it succeeds.
//! * All waits are on tokio's clock; wall-clock time and randomness come from the [`Clock`] and the seed of the configuration.

mod backoff;
mod clock;
mod custom;
pub(crate) mod events;
pub(crate) mod finalizer;
mod informers;
mod manager;
mod queue;
mod reconcile;
mod sources;
pub(crate) mod status;

pub use clock::Clock;
pub(crate) use custom::{AnyObject, CustomKind, CustomKinds, Definition};
pub(crate) use events::{Recorder, Severity};
pub(crate) use informers::{Informers, Partial};
pub(crate) use manager::Manager;
pub(crate) use reconcile::{Action, ClientResultExt, ReconcileError, Reconciler};
pub(crate) use sources::{References, Sources};
