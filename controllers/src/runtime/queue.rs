//! The keyed queue between changes and workers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::Backoff;

/// Keys that want to be reconciled, each at most once, some of them later.
///
/// Bounded by the number of distinct keys: one that waits is not queued again, one that waits for a time keeps the earlier time.
pub(crate) struct Queue<Key> {
    state: Mutex<State<Key>>,
    changed: Notify,
    backoff: Backoff,
}

struct State<Key> {
    ready: VecDeque<Key>,
    /// The members of `ready`.
    queued: HashSet<Key>,
    active: HashSet<Key>,
    /// Active keys that changed meanwhile.
    dirty: HashSet<Key>,
    delayed: BTreeMap<(Instant, u64), Key>,
    delayed_at: HashMap<Key, (Instant, u64)>,
    /// Tells keys with the same time apart, in order of arrival.
    sequence: u64,
    failures: HashMap<Key, u32>,
    rng: StdRng,
}

/// When a finished key comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// When something changes.
    Done,
    /// When something changes, or after this time.
    After(Duration),
    /// After the back-off, or when something changes.
    Failed,
}

impl<Key: Clone + Eq + Hash> Queue<Key> {
    /// An empty queue; `seed` is of the jitter.
    pub(crate) fn new(backoff: Backoff, seed: u64) -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            active: HashSet::new(),
            dirty: HashSet::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        Self { state: Mutex::new(state), changed: Notify::new(), backoff }
    }

    /// Queues `key` now; a time it waited for is forgotten.
    pub(crate) fn add(&self, key: Key) {
        let mut state = self.lock();
        state.undelay(&key);
        state.make_ready(key);
        drop(state);
        self.changed.notify_one();
    }

    /// Queues `key` after `delay`, unless it comes sooner anyway.
    pub(crate) fn add_after(&self, key: Key, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().delay(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// The next key; it is active until [`Queue::finish`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let due = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    // Another worker may be asleep while more is ready: one wake-up may have stood for several keys.
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.first_key_value().map(|((due, _), _)| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Ends the work on `key`.
    pub(crate) fn finish(&self, key: &Key, outcome: Outcome) {
        let mut state = self.lock();
        state.active.remove(key);
        if outcome != Outcome::Failed {
            state.failures.remove(key);
        }
        match outcome {
            Outcome::Done => {}
            Outcome::After(delay) => state.delay(key.clone(), Instant::now() + delay),
            Outcome::Failed => {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                let failures = *failures;
                let delay = self.backoff.delay(failures, &mut state.rng);
                state.delay(key.clone(), Instant::now() + delay);
            }
        }
        if state.dirty.remove(key) {
            state.undelay(key);
            state.make_ready(key.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<Key>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Key: Clone + Eq + Hash> State<Key> {
    fn make_ready(&mut self, key: Key) {
        if self.active.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: Key, due: Instant) {
        if self.queued.contains(&key) || self.delayed_at.get(&key).is_some_and(|(earlier, _)| *earlier <= due) {
            return;
        }
        self.undelay(&key);
        self.sequence += 1;
        self.delayed_at.insert(key.clone(), (due, self.sequence));
        self.delayed.insert((due, self.sequence), key);
    }

    fn undelay(&mut self, key: &Key) {
        if let Some(at) = self.delayed_at.remove(key) {
            self.delayed.remove(&at);
        }
    }

    /// Makes ready what is due.
    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.delayed_at.remove(&key);
            self.make_ready(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.active.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::new(Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(8) }, 7)
    }

    /// The next key, or `None` when there is none within `wait`.
    async fn next_within(queue: &Queue<&'static str>, wait: Duration) -> Option<&'static str> {
        tokio::time::timeout(wait, queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_keys_keep_their_order() {
        let queue = queue();
        for key in ["a", "b", "a", "c", "b"] {
            queue.add(key);
        }
        assert_eq!([queue.next().await, queue.next().await, queue.next().await], ["a", "b", "c"]);
        assert_eq!(next_within(&queue, Duration::from_secs(1)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_active_key_is_not_given_out_again_before_it_is_finished() {
        let queue = queue();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add_after("a", Duration::from_millis(1));
        assert_eq!(next_within(&queue, Duration::from_secs(1)).await, None);
        queue.finish(&"a", Outcome::Done);
        assert_eq!(queue.next().await, "a");
        queue.finish(&"a", Outcome::Done);
        assert_eq!(next_within(&queue, Duration::from_secs(1)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_times_counts() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(9));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        queue.finish(&"a", Outcome::Done);
        assert_eq!(next_within(&queue, Duration::from_secs(60)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_starts_afresh() {
        let queue = queue();
        queue.add("a");
        for least in [1, 2, 4, 8, 8] {
            assert_eq!(queue.next().await, "a");
            let start = Instant::now();
            queue.finish(&"a", Outcome::Failed);
            assert_eq!(queue.next().await, "a");
            let (waited, least) = (start.elapsed(), Duration::from_secs(least));
            assert!(waited >= least && waited <= least.mul_f64(1.26), "{waited:?} for {least:?}");
            // Back to the queue without counting a failure, as a change would bring it.
            queue.add("a");
            queue.finish_keeping_failures("a");
        }
        assert_eq!(queue.next().await, "a");
        queue.finish(&"a", Outcome::Done);
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        let start = Instant::now();
        queue.finish(&"a", Outcome::Failed);
        assert_eq!(queue.next().await, "a");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_the_wait_of_a_failed_key() {
        let queue = queue();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.finish(&"a", Outcome::Failed);
        queue.add("a");
        assert_eq!(next_within(&queue, Duration::from_millis(1)).await, Some("a"));
        queue.finish(&"a", Outcome::Done);
        assert_eq!(next_within(&queue, Duration::from_secs(60)).await, None);
    }

    impl Queue<&'static str> {
        fn finish_keeping_failures(&self, key: &'static str) {
            let failures = self.lock().failures.get(key).copied().unwrap_or_default();
            self.finish(&key, Outcome::Done);
            self.lock().failures.insert(key, failures);
        }
    }
}
