//! The objects of an informer, and who wants to hear of their changes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use gantry_api::{Kind, ObjectKey};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::watch;

use crate::informer::version_of;

/// Objects by key, at one version or later.
pub(crate) struct Cache<K> {
    state: Mutex<State<K>>,
    phase: watch::Sender<Phase>,
}

/// How far an informer has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Filling,
    Synced,
    /// Stopped; with the word on whether the first list was in.
    Closed {
        synced: bool,
    },
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Held<K>>,
    /// Everything up to here has been delivered by list or watch.
    version: u64,
    queues: Vec<Weak<Queue>>,
    closed: bool,
}

struct Held<K> {
    object: Arc<K>,
    version: u64,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), version: 0, queues: Vec::new(), closed: false };
        Self { state: Mutex::new(state), phase: watch::Sender::new(Phase::Filling) }
    }
}

impl<K> State<K> {
    fn announce(&mut self, key: &ObjectKey) {
        self.queues.retain(|queue| queue.upgrade().is_some_and(|queue| queue.push(key)));
    }
}

impl<K> Cache<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kind> Cache<K> {
    pub(crate) async fn synced(&self) {
        // The sender is in `self`, so the wait can only end by the phase.
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Filling).await;
    }

    pub(crate) fn is_synced(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Synced | Phase::Closed { synced: true })
    }

    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for queue in state.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.close();
        }
        drop(state);
        self.phase.send_modify(|phase| *phase = Phase::Closed { synced: *phase == Phase::Synced });
    }

    pub(crate) fn version(&self) -> u64 {
        self.state().version
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.state().objects.get(key).map(|held| held.object.clone())
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.state().objects.values().map(|held| held.object.clone()).collect()
    }

    pub(crate) fn subscribe(cache: &Arc<Self>) -> Changes<K> {
        let mut state = cache.state();
        let queue = Arc::new(Queue::default());
        for key in state.objects.keys() {
            queue.push(key);
        }
        if state.closed {
            queue.close();
        } else {
            state.queues.push(Arc::downgrade(&queue));
        }
        drop(state);
        Changes { queue, _cache: cache.clone() }
    }

    /// A whole list at `version` takes the place of what is here; a later write of our own stays.
    pub(crate) fn replace(&self, objects: Vec<K>, version: u64) {
        let mut state = self.state();
        let mut old = std::mem::take(&mut state.objects);
        let mut changed = Vec::new();
        for object in objects {
            let (key, theirs) = (object.key(), version_of_object(&object));
            let held = match old.remove(&key) {
                Some(held) if held.version >= theirs => held,
                _ => {
                    changed.push(key.clone());
                    Held { object: Arc::new(object), version: theirs }
                }
            };
            state.objects.insert(key, held);
        }
        for (key, held) in old {
            if held.version > version {
                state.objects.insert(key, held);
            } else {
                changed.push(key);
            }
        }
        state.version = version;
        for key in &changed {
            state.announce(key);
        }
        drop(state);
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Synced) != Phase::Synced);
    }

    /// An object as the watch delivers it.
    pub(crate) fn put(&self, object: K) {
        let (key, version) = (object.key(), version_of_object(&object));
        let mut state = self.state();
        state.version = state.version.max(version);
        // Equal: our own write, taken in and announced when it was made.
        if state.objects.get(&key).is_some_and(|held| held.version >= version) {
            return;
        }
        state.objects.insert(key.clone(), Held { object: Arc::new(object), version });
        state.announce(&key);
    }

    /// A deletion at `version`, as the watch delivers it.
    pub(crate) fn remove(&self, key: &ObjectKey, version: u64) {
        let mut state = self.state();
        state.version = state.version.max(version);
        // A write of our own after it made the object anew.
        if state.objects.get(key).is_none_or(|held| held.version > version) {
            return;
        }
        state.objects.remove(key);
        state.announce(key);
    }

    /// Everything up to `version` has been delivered.
    pub(crate) fn advance(&self, version: u64) {
        let mut state = self.state();
        state.version = state.version.max(version);
    }

    /// An object as a write of our own left it; `insert`: also when it is not here yet.
    pub(crate) fn observe(&self, object: K, insert: bool) {
        let (key, version) = (object.key(), version_of_object(&object));
        let mut state = self.state();
        // The watch has passed it: whatever happened since, deletion included, is here already.
        if version <= state.version {
            return;
        }
        let wanted = match state.objects.get(&key) {
            Some(held) => held.version < version,
            None => insert,
        };
        if wanted {
            state.objects.insert(key.clone(), Held { object: Arc::new(object), version });
            state.announce(&key);
        }
    }
}

fn version_of_object<K: Kind>(object: &K) -> u64 {
    version_of(object.meta().resource_version.as_deref().unwrap_or_default())
}

/// Keys waiting for one subscriber, each once.
#[derive(Default)]
struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    order: VecDeque<ObjectKey>,
    here: HashSet<ObjectKey>,
    waker: Option<Waker>,
    closed: bool,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a key; whether the subscriber still wants to hear.
    fn push(&self, key: &ObjectKey) -> bool {
        let mut waiting = self.waiting();
        if waiting.here.insert(key.clone()) {
            waiting.order.push_back(key.clone());
        }
        let (waker, wanted) = (waiting.waker.take(), !waiting.closed);
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        wanted
    }

    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The keys of changed objects, coalesced. Ends when the informer has been stopped.
pub struct Changes<K> {
    queue: Arc<Queue>,
    _cache: Arc<Cache<K>>,
}

impl<K> Changes<K> {
    /// The next key; `None` after the informer was stopped. Cancel safe: a key is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<ObjectKey> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next key, if one is waiting; as the method of that name on tokio's channels.
    pub fn try_recv(&mut self) -> Result<ObjectKey, TryRecvError> {
        let mut waiting = self.queue.waiting();
        match waiting.order.pop_front() {
            Some(key) => {
                waiting.here.remove(&key);
                Ok(key)
            }
            None if waiting.closed => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// The poll form of [`Changes::recv`].
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<ObjectKey>> {
        let mut waiting = self.queue.waiting();
        if let Some(key) = waiting.order.pop_front() {
            waiting.here.remove(&key);
            return Poll::Ready(Some(key));
        }
        if waiting.closed {
            return Poll::Ready(None);
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::core::ConfigMap;

    use super::*;

    fn object(name: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("ns".to_owned());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn version(cache: &Cache<ConfigMap>, name: &str) -> Option<u64> {
        cache.get(&key(name)).map(|object| version_of_object(&*object))
    }

    fn drain(changes: &mut Changes<ConfigMap>) -> Vec<String> {
        std::iter::from_fn(|| changes.try_recv().ok()).map(|key| key.name).collect()
    }

    #[test]
    fn a_waiting_key_is_not_queued_twice_and_all_present_ones_come_first() {
        let cache = Arc::new(Cache::default());
        cache.replace(vec![object("b", 1), object("a", 2)], 2);
        let mut changes = Cache::subscribe(&cache);
        for version in 3..100 {
            cache.put(object("b", version));
        }
        cache.remove(&key("a"), 100);
        assert_eq!(drain(&mut changes), ["a", "b"]);
        cache.put(object("b", 101));
        assert_eq!(drain(&mut changes), ["b"]);
    }

    #[test]
    fn own_writes_show_at_once_and_are_announced_once() {
        let cache = Arc::new(Cache::default());
        cache.replace(vec![object("a", 1)], 1);
        let mut changes = Cache::subscribe(&cache);
        drain(&mut changes);
        cache.observe(object("a", 5), true);
        assert_eq!((version(&cache, "a"), drain(&mut changes)), (Some(5), vec!["a".to_owned()]));
        cache.put(object("a", 3));
        assert_eq!(version(&cache, "a"), Some(5), "the watch lags behind and must not take us back");
        cache.put(object("a", 5));
        assert!(drain(&mut changes).is_empty());
    }

    #[test]
    fn an_own_write_never_raises_the_dead() {
        let cache = Arc::new(Cache::default());
        cache.replace(vec![object("a", 1)], 1);
        cache.remove(&key("a"), 7);
        cache.observe(object("a", 5), true);
        assert_eq!(version(&cache, "a"), None);
        cache.observe(object("a", 9), true);
        cache.remove(&key("a"), 8);
        assert_eq!(version(&cache, "a"), Some(9), "made anew after that deletion");
        cache.observe(object("elsewhere", 10), false);
        assert_eq!(version(&cache, "elsewhere"), None, "a selector may exclude it");
    }

    #[test]
    fn a_new_list_removes_what_is_gone_and_keeps_later_own_writes() {
        let cache = Arc::new(Cache::default());
        cache.replace(vec![object("gone", 1), object("same", 2), object("new", 3)], 3);
        let mut changes = Cache::subscribe(&cache);
        drain(&mut changes);
        cache.observe(object("own", 20), true);
        cache.replace(vec![object("same", 2), object("new", 9)], 10);
        let mut heard = drain(&mut changes);
        heard.sort();
        assert_eq!(heard, ["gone", "new", "own"]);
        assert_eq!(cache.list().len(), 3);
    }

    #[tokio::test]
    async fn closing_ends_subscribers_and_waiters() {
        let cache = Arc::new(Cache::<ConfigMap>::default());
        let mut changes = Cache::subscribe(&cache);
        let (ended, ()) = tokio::join!(changes.recv(), async { cache.close() });
        assert_eq!(ended, None);
        cache.synced().await;
        assert!(!cache.is_synced());
        assert_eq!(Cache::subscribe(&cache).recv().await, None);
    }
}
