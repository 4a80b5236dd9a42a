//! Loads the cache from the store and follows the log.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::CacheConfig;
use super::state::State;
use crate::store::{Event, ReadError, Revision, Store};

const PAGE: usize = 1_000;
const RETRY: Duration = Duration::from_millis(500);

/// All objects and the kept log.
pub(super) async fn load(store: &dyn Store, config: CacheConfig) -> Result<State, ReadError> {
    let snapshot = store.snapshot().await?;
    let mut objects = Vec::new();
    let mut after = None;
    loop {
        let page = snapshot.page(None, after.as_ref(), PAGE).await?;
        after = page.records.last().map(|r| r.key.clone()).or(after);
        objects.extend(page.records);
        if !page.more {
            break;
        }
    }
    let revision = snapshot.revision();
    drop(snapshot);
    let newest_kept = Revision(revision.0.saturating_sub(config.history_events as u64));
    let oldest = store.oldest().max(newest_kept).min(revision);
    let mut state = State::new(config, objects, revision, oldest);
    remember(store, &mut state, oldest, revision).await?;
    Ok(state)
}

/// Fills the history with the log between two revisions, so that watches can resume over a restart of the server.
async fn remember(store: &dyn Store, state: &mut State, from: Revision, to: Revision) -> Result<(), ReadError> {
    let mut after = from;
    while after < to {
        let events = store.events(after, PAGE).await?;
        let Some(last) = events.last() else { break };
        after = last.record.revision;
        for event in events.iter().filter(|e| e.record.revision <= to) {
            state.remember(event);
        }
    }
    Ok(())
}

/// The task that keeps the cache current.
pub(super) struct Feeder {
    pub(super) store: Arc<dyn Store>,
    pub(super) state: Arc<RwLock<State>>,
    pub(super) applied: watch::Sender<Revision>,
    pub(super) grew: Arc<Notify>,
    pub(super) stop: CancellationToken,
    pub(super) config: CacheConfig,
}

impl Feeder {
    /// Follows until told to stop, or the store is closed; then ends all watches.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.follow()).await;
        self.write(|state| state.end_watches(false));
        drop(self.applied);
        self.grew.notify_waiters();
    }

    async fn follow(&self) {
        let mut newest = self.store.revision();
        loop {
            let at = *self.applied.borrow();
            let Ok(told) = newest.wait_for(|revision| *revision > at).await.map(|told| *told) else { return };
            // Up to what the store has told, in one step: that is the end of a transaction, so that no list shows half of one.
            // What is behind is bounded by the store's largest group of commits, unless this task was held up.
            let limit = usize::try_from(told.0 - at.0).unwrap_or(usize::MAX);
            match self.store.events(at, limit).await {
                Ok(events) => self.apply(&events),
                Err(ReadError::Closed) => return,
                Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => self.reload().await,
                Err(error) => {
                    tracing::error!(%error, "watch cache cannot read the store's log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn apply(&self, events: &[Arc<Event>]) {
        self.write(|state| events.iter().for_each(|event| state.apply(event)));
        if let Some(last) = events.last() {
            // Only now: whoever sees this revision finds the events handed out.
            self.applied.send_replace(last.record.revision);
            self.grew.notify_waiters();
        }
    }

    /// The place in the log is lost. Nobody may go on as if nothing had happened: all watches end as expired.
    async fn reload(&self) {
        match load(&*self.store, self.config).await {
            Ok(loaded) => {
                tracing::warn!(rv = loaded.revision().0, "watch cache was loaded anew");
                let revision = loaded.revision();
                self.write(|state| state.replace_by(loaded));
                self.applied.send_replace(revision);
                self.grew.notify_waiters();
            }
            Err(error) => {
                tracing::error!(%error, "watch cache cannot be loaded");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}
