//! What the cache knows, and how one event changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};

use super::selector::Selection;
use super::watcher::{WatchError, WatchEvent, WatchStart, Watcher, WatcherHandle};
use super::{CacheConfig, CacheStats, Entry};
use crate::store::{Change, Event, Index, Key, Revision};

/// One change in the history.
pub(super) struct Happened {
    pub(super) change: Change,
    /// After a put, or the last state with the deletion's revision.
    pub(super) entry: Arc<Entry>,
    /// The index before; `None` when created.
    pub(super) previous_index: Option<Arc<Index>>,
    /// The object before; unknown for changes from before the cache was opened.
    pub(super) previous: Option<Arc<Entry>>,
    /// The object before, with this change's revision: made for the first watcher whose selection it leaves, shared by all.
    left: OnceLock<Arc<Entry>>,
}

/// Objects, history, watchers.
pub(super) struct State {
    config: CacheConfig,
    /// Per resource, ordered by key.
    objects: HashMap<Arc<str>, BTreeMap<Key, Arc<Entry>>>,
    owned: HashMap<String, BTreeSet<Key>>,
    history: VecDeque<Happened>,
    history_bytes: usize,
    watchers: HashMap<Arc<str>, Vec<WatcherHandle>>,
    revision: Revision,
    /// The lowest revision after which the history is complete.
    oldest: Revision,
    /// The lowest revision at which lists can be made: before it, the history lacks the objects' previous states.
    oldest_list: Revision,
    closed: bool,
    ended_slow: u64,
}

impl State {
    /// `objects` as they stand at `revision`; the history is told by [`State::remember`] and complete after `oldest`.
    pub(super) fn new(config: CacheConfig, objects: Vec<Arc<Entry>>, revision: Revision, oldest: Revision) -> Self {
        let mut state = Self {
            config,
            objects: HashMap::new(),
            owned: HashMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            watchers: HashMap::new(),
            revision,
            oldest,
            oldest_list: revision,
            closed: false,
            ended_slow: 0,
        };
        for entry in objects {
            state.put(&entry);
        }
        state
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn oldest(&self) -> Revision {
        self.oldest
    }

    pub(super) fn oldest_list(&self) -> Revision {
        self.oldest_list
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.objects.get(&key.resource)?.get(key).cloned()
    }

    /// The current objects that a selection is to be tried on: those of its namespace, or all.
    pub(super) fn candidates<'a>(
        &'a self,
        resource: &str,
        selection: &Selection,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        self.objects.get_key_value(resource).into_iter().flat_map({
            let namespace = selection.namespace.clone();
            let after = after.cloned();
            move |(resource, objects)| {
                let start = match (&after, &namespace) {
                    (Some(key), _) => Bound::Excluded(key.clone()),
                    (None, Some(namespace)) => Bound::Included(Key::new(resource.clone(), namespace.clone(), "")),
                    (None, None) => Bound::Unbounded,
                };
                let namespace = namespace.clone();
                objects
                    .range((start, Bound::Unbounded))
                    .take_while(move |(key, _)| namespace.as_ref().is_none_or(|wanted| key.namespace == *wanted))
                    .map(|(_, entry)| entry)
            }
        })
    }

    pub(super) fn select(&self, resource: &str, selection: &Selection) -> Vec<Arc<Entry>> {
        self.candidates(resource, selection, None).filter(|e| selection.selects(&e.key, &e.index)).cloned().collect()
    }

    pub(super) fn owned_by(&self, uid: &str) -> Vec<Arc<Entry>> {
        self.owned.get(uid).into_iter().flatten().filter_map(|key| self.get(key)).collect()
    }

    /// The changes after `after`, oldest first. Complete only if `after` is not below [`State::oldest`].
    pub(super) fn changes_after(&self, after: Revision) -> impl DoubleEndedIterator<Item = &Happened> {
        let from = self.history.partition_point(|h| h.entry.revision <= after);
        self.history.range(from..)
    }

    /// Adds a change from before the cache was opened to the history; the objects show it already.
    pub(super) fn remember(&mut self, event: &Event) {
        self.push(Happened {
            change: event.change,
            entry: event.record.clone(),
            previous_index: event.previous.as_ref().map(|p| p.index.clone()),
            previous: None,
            left: OnceLock::new(),
        });
    }

    /// Applies the next change of the log and hands it to the watchers.
    pub(super) fn apply(&mut self, event: &Event) {
        let entry = event.record.clone();
        self.revision = entry.revision;
        let previous = match event.change {
            Change::Put => self.put(&entry),
            Change::Delete => self.remove(&entry.key),
        };
        let happened = Happened {
            change: event.change,
            entry,
            previous_index: event.previous.as_ref().map(|p| p.index.clone()),
            previous,
            left: OnceLock::new(),
        };
        self.hand_out(&happened);
        self.push(happened);
    }

    fn put(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let resource = entry.key.resource.clone();
        let previous = self.objects.entry(resource).or_default().insert(entry.key.clone(), entry.clone());
        if previous.as_ref().is_none_or(|p| p.index.owners != entry.index.owners) {
            if let Some(previous) = &previous {
                self.disown(previous);
            }
            for owner in &entry.index.owners {
                self.owned.entry(owner.clone()).or_default().insert(entry.key.clone());
            }
        }
        previous
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let removed = self.objects.get_mut(&key.resource)?.remove(key)?;
        self.disown(&removed);
        Some(removed)
    }

    fn disown(&mut self, entry: &Entry) {
        for owner in &entry.index.owners {
            if let Some(keys) = self.owned.get_mut(owner) {
                keys.remove(&entry.key);
                if keys.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
    }

    fn push(&mut self, happened: Happened) {
        self.history_bytes += happened.size_bytes();
        self.history.push_back(happened);
        while self.history.len() > self.config.history_events || self.history_bytes > self.config.history_bytes {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        if let Some(dropped) = self.history.pop_front() {
            self.history_bytes -= dropped.size_bytes();
            self.forgotten(dropped.entry.revision);
        }
    }

    fn forgotten(&mut self, through: Revision) {
        self.oldest = self.oldest.max(through);
        self.oldest_list = self.oldest_list.max(self.oldest);
    }

    /// Gives up the changes up to `through`.
    pub(super) fn forget(&mut self, through: Revision) {
        let through = through.min(self.revision);
        while self.history.front().is_some_and(|h| h.entry.revision <= through) {
            self.forget_one();
        }
        self.forgotten(through);
    }

    /// All resources that hold or held objects.
    #[cfg(test)]
    pub(super) fn resources(&self) -> BTreeSet<Arc<str>> {
        self.objects.keys().cloned().collect()
    }

    /// Every watcher's own queue: a full one ends its watcher and nobody else.
    fn hand_out(&mut self, happened: &Happened) {
        let Some(watchers) = self.watchers.get_mut(&happened.entry.key.resource) else { return };
        let ended_slow = &mut self.ended_slow;
        watchers.retain(|watcher| {
            let Some(event) = happened.as_seen_by(&watcher.selection) else { return true };
            match watcher.queue.try_send(event) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.expired.store(true, Ordering::Release);
                    *ended_slow += 1;
                    false
                }
            }
        });
    }

    /// Begins a watch: what it starts with and its place in the queue belong to one revision.
    pub(super) fn watch(
        &mut self,
        resource: &str,
        selection: Selection,
        start: WatchStart,
        applied: watch::Receiver<Revision>,
    ) -> Result<Watcher, WatchError> {
        if self.closed {
            return Err(WatchError::Closed);
        }
        let mut initial = Vec::new();
        let mut initial_end = None;
        let mut backlog = VecDeque::new();
        match start {
            WatchStart::Now => {}
            WatchStart::Initial => {
                initial = self.select(resource, &selection);
                initial_end = Some(self.revision);
            }
            WatchStart::After(after) if after > self.revision => {
                return Err(WatchError::Future { after, current: self.revision });
            }
            WatchStart::After(after) if after < self.oldest => {
                return Err(WatchError::Expired { after, oldest: self.oldest });
            }
            WatchStart::After(after) => {
                let changes = self.changes_after(after).filter(|h| &*h.entry.key.resource == resource);
                backlog = changes.filter_map(|h| h.as_seen_by(&selection)).collect();
            }
        }
        let (sender, queue) = mpsc::channel(self.config.watcher_events.max(1));
        let expired = Arc::new(AtomicBool::new(false));
        let watchers = self.watchers.entry(resource.into()).or_default();
        // A quiet resource would keep the handles of gone watchers until its next event.
        watchers.retain(|w| !w.queue.is_closed());
        watchers.push(WatcherHandle { selection, queue: sender, expired: expired.clone() });
        Ok(Watcher { initial: initial.into_iter(), initial_end, backlog, queue, applied, told: self.revision, expired })
    }

    /// Ends all watches: as expired, when others take their place in time, or because the cache is closed.
    pub(super) fn end_watches(&mut self, expired: bool) {
        for watcher in self.watchers.drain().flat_map(|(_, watchers)| watchers) {
            watcher.expired.store(expired, Ordering::Release);
        }
        self.closed = !expired;
    }

    /// What was loaded anew takes the place of what was known: all watches end as expired.
    pub(super) fn replace_by(&mut self, loaded: State) {
        self.end_watches(true);
        *self = State { ended_slow: self.ended_slow, ..loaded };
    }

    pub(super) fn stats(&self) -> CacheStats {
        let mut objects: Vec<_> = self.objects.iter().map(|(resource, objects)| (resource.clone(), objects.len())).collect();
        objects.sort();
        CacheStats {
            objects,
            revision: self.revision,
            history_events: self.history.len(),
            history_bytes: self.history_bytes,
            watchers: self.watchers(),
            ended_slow: self.ended_slow,
        }
    }

    /// Watchers that have not gone away.
    pub(super) fn watchers(&self) -> usize {
        self.watchers.values().flatten().filter(|w| !w.queue.is_closed()).count()
    }
}

impl Happened {
    /// What a watcher of `selection` is told of this change, if anything.
    fn as_seen_by(&self, selection: &Selection) -> Option<WatchEvent> {
        let key = &self.entry.key;
        let before = self.previous_index.as_ref().is_some_and(|index| selection.selects(key, index));
        let after = self.change == Change::Put && selection.selects(key, &self.entry.index);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(WatchEvent::Added(self.entry.clone())),
            (true, true) => Some(WatchEvent::Modified(self.entry.clone())),
            (true, false) if self.change == Change::Delete => Some(WatchEvent::Deleted(self.entry.clone())),
            (true, false) => Some(WatchEvent::Deleted(self.left().clone())),
        }
    }

    /// The state that left a selection, as of this change. Where the former state is not known the new one stands for it:
    /// clients go by the name.
    fn left(&self) -> &Arc<Entry> {
        self.left.get_or_init(|| match &self.previous {
            Some(previous) => Arc::new(with_revision(previous, self.entry.revision)),
            None => self.entry.clone(),
        })
    }

    fn size_bytes(&self) -> usize {
        self.entry.bytes.len()
    }
}

/// The same object under another revision.
fn with_revision(entry: &Entry, revision: Revision) -> Entry {
    let bytes = serde_json::from_slice(&entry.bytes)
        .ok()
        .and_then(|object| crate::store::Unversioned::encode(&object).ok())
        .map_or_else(|| entry.bytes.clone(), |object| object.at(revision));
    Entry { key: entry.key.clone(), revision, bytes, index: entry.index.clone() }
}
