//! Starts controllers, stops them, and awaits all that was started.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, error, warn};

use super::backoff::Backoff;
use super::queue::{Outcome, Queue};
use super::reconcile::{Action, ReconcileError, Reconciler};
use super::sources::Sources;

/// A refused write is tried once more after this time: what refused it may have been another part's passing state.
const STALLED_DELAY: Duration = Duration::from_secs(300);

/// Owns the tasks of all controllers.
pub(crate) struct Manager {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    seed: u64,
}

impl Manager {
    /// No controllers yet. `seed` is of all jitter.
    pub(crate) fn new(stop: CancellationToken, seed: u64) -> Self {
        Self { tasks: JoinSet::new(), stop, seed }
    }

    /// Runs `reconciler` with up to `workers` keys at once, as soon as the first lists of what it watches are in.
    pub(crate) fn add<R: Reconciler>(&mut self, reconciler: R, sources: Sources<R::Key>, workers: usize) {
        self.seed = self.seed.wrapping_add(1);
        let queue = Arc::new(Queue::new(Backoff::default(), self.seed));
        self.tasks.spawn(run_controller(Arc::new(reconciler), sources, queue, workers, self.stop.clone()));
    }

    /// Runs a task that ends when the stop token is cancelled.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Cancelled when all tasks should end.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Until the stop token is cancelled and all tasks have ended.
    pub(crate) async fn run(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(failure) = ended {
                error!(error = %failure, "a controller's task ended unexpectedly; stopping all, so that a supervisor starts afresh");
                self.stop.cancel();
            }
        }
    }
}

async fn run_controller<R: Reconciler>(
    reconciler: Arc<R>,
    sources: Sources<R::Key>,
    queue: Arc<Queue<R::Key>>,
    workers: usize,
    stop: CancellationToken,
) {
    let Some(feeds) = stop.run_until_cancelled(sources.synced()).await else { return };
    debug!(controller = reconciler.name(), "first lists are in");
    let mut tasks = JoinSet::new();
    for feed in feeds {
        tasks.spawn(feed(Arc::clone(&queue), stop.clone()));
    }
    for _ in 0..workers.max(1) {
        tasks.spawn(work(Arc::clone(&reconciler), Arc::clone(&queue), stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(failure) = ended {
            // The tasks that are left are ended with this one; the manager hears of it.
            std::panic::resume_unwind(failure.into_panic());
        }
    }
}

async fn work<R: Reconciler>(reconciler: Arc<R>, queue: Arc<Queue<R::Key>>, stop: CancellationToken) {
    while let Some(key) = stop.run_until_cancelled(queue.next()).await {
        let span = debug_span!("reconcile", controller = reconciler.name(), key = ?key);
        // A defect in the handling of one object must not end the handling of all others.
        let reconciled = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().instrument(span);
        let Some(result) = stop.run_until_cancelled(reconciled).await else { return };
        let outcome = match result {
            Ok(result) => outcome(reconciler.name(), &key, result),
            Err(_) => {
                error!(controller = reconciler.name(), ?key, "the reconciliation panicked");
                Outcome::Failed
            }
        };
        queue.finish(&key, outcome);
    }
}

fn outcome(controller: &'static str, key: &impl std::fmt::Debug, result: Result<Action, ReconcileError>) -> Outcome {
    match result {
        Ok(Action::Done) => Outcome::Done,
        Ok(Action::After(delay)) => Outcome::After(delay),
        Err(error @ ReconcileError::Conflict { .. }) => {
            // The winner's change usually brings the key back before the delay is over.
            debug!(controller, ?key, %error, "lost a race");
            Outcome::Failed
        }
        Err(error @ ReconcileError::WaitFor { .. }) => {
            debug!(controller, ?key, %error, "waits");
            Outcome::Done
        }
        Err(ReconcileError::Retry { doing, source }) => {
            warn!(controller, ?key, doing, error = %source, "will try again");
            Outcome::Failed
        }
        Err(ReconcileError::Stalled { doing, source }) => {
            error!(controller, ?key, doing, error = %source, "refused by the server");
            Outcome::After(STALLED_DELAY)
        }
    }
}
