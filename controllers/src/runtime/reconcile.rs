//! The contract between the runtime and a controller.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use gantry_client::ClientError;

/// Brings the object of a key, or another one that follows from it, closer to what is wished.
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// What is reconciled one at a time.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;

    /// The controller's name in the table, in logs and as the source of events.
    fn name(&self) -> &'static str;

    /// One step or all of them, from what is now.
    ///
    /// # Guarantees
    /// Level-triggered: called with the same key twice, late, or without need, it ends in the same state.
    ///
    /// # Cancel safety
    /// May be dropped at any await when the process stops; the next start reconciles every key again.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Action, ReconcileError>> + Send;
}

/// When to look again though nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Only when something changes.
    Done,
    /// After this time at the latest.
    After(Duration),
}

/// Why a reconciliation did not get where it should, sorted by what helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// Trying again may help: it is, after the back-off.
    #[error("{doing}")]
    Retry {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: ClientError,
    },
    /// A write lost a race; the winner's change is on its way. Tried again soon.
    #[error("{doing}: changed meanwhile")]
    Conflict {
        /// What was being done.
        doing: String,
    },
    /// Something that is watched has to change first: that will bring the key back.
    #[error("waits for {what}")]
    WaitFor {
        /// What has to change.
        what: String,
    },
    /// The server refuses it for good: only another wish, or another version of a program, helps.
    #[error("{doing}")]
    Stalled {
        /// What was being done.
        doing: String,
        /// Why it was refused.
        #[source]
        source: ClientError,
    },
}

impl ReconcileError {
    /// Sorts what the client says of a failed request.
    pub(crate) fn from_client(doing: impl Into<String>, source: ClientError) -> Self {
        let doing = doing.into();
        match source.code() {
            Some(409) if source.is_conflict() => Self::Conflict { doing },
            Some(404) => Self::WaitFor { what: format!("the object to appear ({doing})") },
            Some(400 | 405 | 415 | 422) => Self::Stalled { doing, source },
            _ => Self::Retry { doing, source },
        }
    }
}

/// Adds what was being done to a failed request.
pub(crate) trait ClientResultExt<T> {
    /// The result with its error sorted.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, ReconcileError>;
}

impl<T> ClientResultExt<T> for Result<T, ClientError> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, ReconcileError> {
        self.map_err(|error| ReconcileError::from_client(doing(), error))
    }
}
