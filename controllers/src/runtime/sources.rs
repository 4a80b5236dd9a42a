//! From changed objects to keys.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gantry_api::{Kind, ObjectKey};
use gantry_client::Informer;
use tokio_util::sync::CancellationToken;

use super::custom::{AnyObject, CustomKind, CustomKinds};
use super::queue::Queue;

type Feed<Key> = Box<dyn FnOnce(Arc<Queue<Key>>, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// The kinds that a controller watches, each with the mapping from its changes to the controller's keys.
pub(crate) struct Sources<Key> {
    feeds: Vec<Feed<Key>>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl Sources<ObjectKey> {
    /// Watches the kind that is reconciled: a changed object is its own key.
    pub(crate) fn of<K: Kind>(informer: &Informer<K>) -> Self {
        Sources::new().watch(informer, |key, _| vec![key.clone()])
    }
}

impl<Key: Clone + Eq + Hash + Send + Sync + 'static> Sources<Key> {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { feeds: Vec::new(), synced: Vec::new() }
    }

    /// Also watches a kind. `map` is given the key of a changed object and the object as it is now (`None`: deleted) and names the keys
    /// that this concerns; at the start it is given every object once.
    pub(crate) fn watch<K: Kind>(
        self,
        informer: &Informer<K>,
        map: impl FnMut(&ObjectKey, Option<&Arc<K>>) -> Vec<Key> + Send + 'static,
    ) -> Self {
        self.watch_after(Duration::ZERO, informer, map)
    }

    /// As [`Sources::watch`], but keys wait for `delay`, so that a burst of changes is looked at once.
    pub(crate) fn watch_after<K: Kind>(
        mut self,
        delay: Duration,
        informer: &Informer<K>,
        mut map: impl FnMut(&ObjectKey, Option<&Arc<K>>) -> Vec<Key> + Send + 'static,
    ) -> Self {
        let waits = informer.clone();
        self.synced.push(Box::pin(async move { waits.synced().await }));
        let informer = informer.clone();
        self.feeds.push(Box::new(move |queue, stop| {
            Box::pin(async move {
                let mut changes = informer.changes();
                while let Some(Some(changed)) = stop.run_until_cancelled(changes.recv()).await {
                    for key in map(&changed, informer.get(&changed).as_ref()) {
                        queue.add_after(key, delay);
                    }
                }
            })
        }));
        self
    }

    /// As [`Sources::watch_after`], for the kinds that are added at run time.
    pub(crate) fn watch_custom(
        mut self,
        delay: Duration,
        kinds: &CustomKinds,
        map: impl Fn(&CustomKind, &ObjectKey, Option<&Arc<AnyObject>>) -> Vec<Key> + Clone + Send + 'static,
    ) -> Self {
        let waits = kinds.clone();
        self.synced.push(Box::pin(async move { waits.synced().await }));
        let kinds = kinds.clone();
        self.feeds.push(Box::new(move |queue, stop| {
            let changed = move |kind: &CustomKind, key: &ObjectKey, object: Option<&Arc<AnyObject>>| {
                for key in map(kind, key, object) {
                    queue.add_after(key, delay);
                }
            };
            Box::pin(kinds.changes(changed, stop))
        }));
        self
    }

    /// Also queues these keys once, at the start.
    pub(crate) fn initially(mut self, keys: Vec<Key>) -> Self {
        self.feeds.push(Box::new(move |queue, _| {
            Box::pin(async move {
                for key in keys {
                    queue.add(key);
                }
            })
        }));
        self
    }

    /// Resolves when all first lists are in; gives back the feeds, not yet running.
    pub(super) async fn synced(self) -> Vec<Feed<Key>> {
        for synced in self.synced {
            synced.await;
        }
        self.feeds
    }
}

/// Remembers what each object referred to, so that a change or deletion also concerns what it no longer refers to.
pub(crate) struct References<Key> {
    of: HashMap<ObjectKey, BTreeSet<Key>>,
}

impl<Key: Clone + Ord> References<Key> {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { of: HashMap::new() }
    }

    /// What `object` referred to until now and refers to from now on (`None`: it is gone).
    pub(crate) fn update(&mut self, object: &ObjectKey, now: Option<BTreeSet<Key>>) -> Vec<Key> {
        let old = self.of.remove(object).unwrap_or_default();
        let new = now.unwrap_or_default();
        let concerned = old.union(&new).cloned().collect();
        if !new.is_empty() {
            self.of.insert(object.clone(), new);
        }
        concerned
    }

    /// What `object` newly refers to, or no longer does: nothing when only the object itself changed.
    pub(crate) fn changed(&mut self, object: &ObjectKey, now: Option<BTreeSet<Key>>) -> Vec<Key> {
        let old = self.of.get(object).cloned().unwrap_or_default();
        let mut concerned = self.update(object, now);
        if let Some(new) = self.of.get(object) {
            concerned.retain(|key| !(old.contains(key) && new.contains(key)));
        }
        concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_referred_to_is_concerned_once_more() {
        let mut references = References::new();
        let object = ObjectKey::new("ns", "a");
        assert_eq!(references.update(&object, Some(BTreeSet::from(["x", "y"]))), ["x", "y"]);
        assert_eq!(references.update(&object, Some(BTreeSet::from(["y", "z"]))), ["x", "y", "z"]);
        assert_eq!(references.update(&object, None), ["y", "z"]);
        assert!(references.update(&object, None).is_empty());
        assert!(references.of.is_empty());
    }

    #[test]
    fn what_is_referred_to_as_before_is_not_concerned() {
        let mut references = References::new();
        let object = ObjectKey::new("ns", "a");
        assert_eq!(references.changed(&object, Some(BTreeSet::from(["x", "y"]))), ["x", "y"]);
        assert!(references.changed(&object, Some(BTreeSet::from(["x", "y"]))).is_empty());
        assert_eq!(references.changed(&object, Some(BTreeSet::from(["y", "z"]))), ["x", "z"]);
        assert_eq!(references.changed(&object, None), ["y", "z"]);
    }
}
