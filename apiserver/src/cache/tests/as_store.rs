//! The cache in front of each store, held to the store's own suite.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;

use super::*;
use crate::store::redb::{RedbConfig, RedbStore};
use crate::store::{Capabilities, Event, Health, Page, Previous, Record, Snapshot};

/// Answers from the cache alone.
struct AsStore(Arc<Cache>);

struct Fixed {
    cache: Arc<Cache>,
    revision: Revision,
}

impl Store for AsStore {
    fn capabilities(&self) -> Capabilities {
        self.0.store().capabilities()
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Vec<Revision>, CommitError>> {
        self.0.commit(ops).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>, ReadError>> {
        ready(Ok(self.0.get(key))).boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, ReadError>> {
        let fixed = Fixed { cache: self.0.clone(), revision: self.0.revision() };
        ready(Ok(Box::new(fixed) as Box<dyn Snapshot>)).boxed()
    }

    fn events(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Arc<Event>>, ReadError>> {
        let state = self.0.read();
        let answer = if after > state.revision() {
            Err(ReadError::Future { after, current: state.revision() })
        } else if after < state.oldest() {
            Err(ReadError::Compacted { after, oldest: state.oldest() })
        } else {
            let last = state.changes_after(after).take(limit).last().map(|happened| happened.entry.revision).unwrap_or_default();
            let told = state.changes_after(after).take_while(|happened| happened.entry.revision <= last).map(|happened| {
                let previous = happened.previous.as_ref();
                let previous = previous.map(|p| Previous { revision: p.revision, index: p.index.clone() });
                Arc::new(Event { change: happened.change, record: happened.entry.clone(), previous })
            });
            Ok(told.collect())
        };
        ready(answer).boxed()
    }

    fn revision(&self) -> watch::Receiver<Revision> {
        self.0.applied.clone()
    }

    fn oldest(&self) -> Revision {
        self.0.oldest()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.store().health()
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.compact(through).boxed()
    }
}

impl Snapshot for Fixed {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn objects(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move { Ok(self.page(None, None, usize::MAX).await?.records.len() as u64) }.boxed()
    }

    fn page<'a>(&'a self, resource: Option<&'a str>, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page, ReadError>> {
        let resources = resource.map_or_else(|| self.cache.read().resources(), |resource| [resource.into()].into());
        let list = |resource: &Arc<str>| self.cache.list_at(resource, &everything(), self.revision).unwrap();
        let mut records = resources.iter().flat_map(list).filter(|r| after.is_none_or(|after| r.key > *after));
        let page = Page { records: records.by_ref().take(limit).collect(), more: records.next().is_some() };
        ready(Ok(page)).boxed()
    }
}

mod memory {
    use super::*;
    use crate::store::conformance::{Made, conformance};

    async fn make() -> Made {
        (Arc::new(AsStore(cache().await)), Box::new(()))
    }

    conformance!(make);
}

mod shared_revisions {
    use super::*;
    use crate::store::conformance::{Made, conformance};
    use crate::store::memory::MemoryStore;

    async fn make() -> Made {
        let store = Arc::new(MemoryStore::with_shared_revisions());
        (Arc::new(AsStore(Cache::open(store, CacheConfig::default()).await.unwrap())), Box::new(()))
    }

    conformance!(make);
}

mod redb {
    use super::*;
    use crate::store::conformance::{Made, conformance};

    async fn make() -> Made {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(RedbStore::open(dir.path(), RedbConfig::default()).unwrap());
        let cache = Cache::open(store, CacheConfig::default()).await.unwrap();
        (Arc::new(AsStore(cache)), Box::new(dir))
    }

    conformance!(make);
}
