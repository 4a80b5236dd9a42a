mod as_store;
mod known_bugs;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::store::conformance::{at, create, delete, key, put};
use crate::store::memory::MemoryStore;
use crate::store::{Expect, Index, Unversioned};

const RESOURCE: &str = "gantry.dev/containers";

async fn cache() -> Arc<Cache> {
    cache_with(CacheConfig::default()).await
}

async fn cache_with(config: CacheConfig) -> Arc<Cache> {
    Cache::open(Arc::new(MemoryStore::new()), config).await.unwrap()
}

fn everything() -> Selection {
    Selection::default()
}

fn labelled(app: &str) -> Selection {
    Selection { labels: LabelSelector::parse(&format!("app={app}")).unwrap(), ..Selection::default() }
}

/// `A name revision`, `M …`, `D …`, `E revision`.
fn show(event: &WatchEvent) -> String {
    let named = |letter: &str, entry: &Entry| {
        let object: Value = serde_json::from_slice(&entry.bytes).unwrap();
        assert_eq!(object["metadata"]["resourceVersion"], entry.revision.to_string());
        format!("{letter} {} {}", entry.key.name, entry.revision)
    };
    match event {
        WatchEvent::Added(entry) => named("A", entry),
        WatchEvent::Modified(entry) => named("M", entry),
        WatchEvent::Deleted(entry) => named("D", entry),
        WatchEvent::InitialEnd(revision) => format!("E {revision}"),
    }
}

async fn next(watcher: &mut Watcher) -> String {
    let next = tokio::time::timeout(Duration::from_secs(10), watcher.next()).await.expect("no event in 10 s");
    show(&next.unwrap())
}

/// What is waiting now: commits through the cache have handed their events out when they return.
fn waiting(watcher: &mut Watcher) -> Vec<String> {
    std::iter::from_fn(|| watcher.try_next().unwrap()).map(|event| show(&event)).collect()
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told() {
    let cache = cache().await;
    cache.commit(vec![create("a"), create("b")]).await.unwrap();
    let mut now = cache.watch(RESOURCE, everything(), WatchStart::Now).unwrap();
    let mut initial = cache.watch(RESOURCE, everything(), WatchStart::Initial).unwrap();
    let mut after = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(1))).unwrap();
    let mut other = cache.watch("gantry.dev/images", everything(), WatchStart::After(Revision(0))).unwrap();
    cache.commit(vec![put("a", at(1), "x"), delete("b", 2)]).await.unwrap();
    assert_eq!(waiting(&mut now), ["M a 3", "D b 4"]);
    assert_eq!(waiting(&mut initial), ["A a 1", "A b 2", "E 2", "M a 3", "D b 4"]);
    assert_eq!(waiting(&mut after), ["A b 2", "M a 3", "D b 4"]);
    assert_eq!(waiting(&mut other), [""; 0]);
    assert_eq!((now.bookmark(), other.bookmark()), (Some(Revision(4)), Some(Revision(4))));

    let future = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(5))).err().unwrap();
    assert_eq!(future, WatchError::Future { after: Revision(5), current: Revision(4) });
    cache.compact(Revision(3)).await.unwrap();
    let expired = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(2))).err().unwrap();
    assert_eq!(expired, WatchError::Expired { after: Revision(2), oldest: Revision(3) });
    let mut after = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(3))).unwrap();
    assert_eq!(waiting(&mut after), ["D b 4"]);
}

#[tokio::test]
async fn entering_and_leaving_a_selection_is_added_and_deleted() {
    let cache = cache().await;
    let mut live = cache.watch(RESOURCE, labelled("in"), WatchStart::Now).unwrap();
    cache.commit(vec![put("a", Expect::Absent, "out")]).await.unwrap();
    cache.commit(vec![put("a", at(1), "in")]).await.unwrap();
    cache.commit(vec![put("a", at(2), "in")]).await.unwrap();
    cache.commit(vec![put("a", at(3), "out")]).await.unwrap();
    cache.commit(vec![put("a", at(4), "in")]).await.unwrap();
    // The last state is of another label: what counts is that the object was selected.
    cache.commit(vec![delete("a", 5)]).await.unwrap();
    cache.commit(vec![put("b", Expect::Absent, "out")]).await.unwrap();
    cache.commit(vec![delete("b", 7)]).await.unwrap();
    let wanted = ["A a 2", "M a 3", "D a 4", "A a 5", "D a 6"];
    let mut replayed = cache.watch(RESOURCE, labelled("in"), WatchStart::After(Revision(0))).unwrap();
    assert_eq!(waiting(&mut replayed), wanted);
    let left = std::iter::from_fn(|| live.try_next().unwrap()).nth(2).unwrap();
    let WatchEvent::Deleted(left) = left else { panic!("{left:?}") };
    let left: Value = serde_json::from_slice(&left.bytes).unwrap();
    assert_eq!((&left["spec"]["data"], &left["metadata"]["resourceVersion"]), (&json!("in"), &json!("4")));
    assert_eq!(waiting(&mut live), wanted[3..]);
}

#[tokio::test]
async fn watchers_of_one_event_share_its_bytes() {
    let cache = cache().await;
    let mut watchers: Vec<_> = (0..3).map(|_| cache.watch(RESOURCE, everything(), WatchStart::Now).unwrap()).collect();
    cache.commit(vec![create("a")]).await.unwrap();
    let entry = cache.get(&key("a")).unwrap();
    for watcher in &mut watchers {
        let Some(WatchEvent::Added(seen)) = watcher.try_next().unwrap() else { panic!("no event") };
        assert!(Arc::ptr_eq(&seen, &entry));
    }
    assert!(Arc::ptr_eq(&cache.list(RESOURCE, &everything()).0[0], &entry));
}

#[tokio::test]
async fn a_slow_watcher_is_ended_without_a_gap_and_slows_nobody() {
    let cache = cache_with(CacheConfig { watcher_events: 4, ..CacheConfig::default() }).await;
    let mut slow = cache.watch(RESOURCE, everything(), WatchStart::Now).unwrap();
    let mut quick = cache.watch(RESOURCE, everything(), WatchStart::Now).unwrap();
    for n in 1..=8 {
        cache.commit(vec![create(&n.to_string())]).await.unwrap();
        assert_eq!(next(&mut quick).await, format!("A {n} {n}"));
    }
    assert_eq!(slow.bookmark(), None);
    for n in 1..=4 {
        assert_eq!(next(&mut slow).await, format!("A {n} {n}"));
    }
    assert_eq!((slow.next().await.err(), slow.bookmark()), (Some(WatchEnd::Expired), None));
    assert_eq!(cache.watchers(), 1);
    drop(quick);
    assert_eq!(cache.watchers(), 0);
}

#[tokio::test]
async fn a_bookmark_is_never_ahead_of_delivery() {
    let cache = cache().await;
    let mut watcher = cache.watch(RESOURCE, labelled("x"), WatchStart::Initial).unwrap();
    assert_eq!(watcher.bookmark(), None, "the end of the initial objects was not told");
    assert_eq!(next(&mut watcher).await, "E 0");
    cache.commit(vec![put("a", Expect::Absent, "y")]).await.unwrap();
    assert_eq!(watcher.bookmark(), Some(Revision(1)));
    cache.commit(vec![put("b", Expect::Absent, "x")]).await.unwrap();
    assert_eq!(watcher.bookmark(), None);
    assert_eq!(next(&mut watcher).await, "A b 2");
    assert_eq!(watcher.bookmark(), Some(Revision(2)));
    cache.close().await;
    assert_eq!((watcher.next().await.err(), watcher.bookmark()), (Some(WatchEnd::Closed), None));
    assert_eq!(cache.watch(RESOURCE, everything(), WatchStart::Now).err(), Some(WatchError::Closed));
}

#[tokio::test]
async fn a_watch_cut_after_every_event_resumes_without_gap_or_repeat() {
    let cache = cache().await;
    cache.commit((0..50).map(|n| create(&format!("{n:02}"))).collect()).await.unwrap();
    for cut in 0..=50 {
        let mut watcher = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(0))).unwrap();
        let mut seen: Vec<_> = std::iter::from_fn(|| watcher.try_next().unwrap()).take(cut).map(|e| show(&e)).collect();
        let mut resumed = cache.watch(RESOURCE, everything(), WatchStart::After(Revision(cut as u64))).unwrap();
        seen.extend(waiting(&mut resumed));
        assert_eq!(seen, (0..50).map(|n| format!("A {n:02} {}", n + 1)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn later_pages_show_the_revision_of_the_first() {
    let cache = cache().await;
    cache.commit(["a", "b", "c", "d", "e"].map(create).to_vec()).await.unwrap();
    let names = |page: &ListPage| page.entries.iter().map(|e| format!("{} {}", e.key.name, e.revision)).collect::<Vec<_>>();
    let first = cache.page(RESOURCE, &everything(), 2, None).unwrap();
    assert_eq!((names(&first), first.revision, first.remaining), (vec!["a 1".to_owned(), "b 2".to_owned()], Revision(5), Some(3)));
    cache.commit(vec![delete("c", 3), put("d", at(4), "x"), create("bb"), create("f")]).await.unwrap();
    let token = Continue::decode(&first.next.clone().unwrap().encode()).unwrap();
    assert_eq!(Some(&token), first.next.as_ref());
    let second = cache.page(RESOURCE, &everything(), 2, Some(&token)).unwrap();
    assert_eq!((names(&second), second.revision, second.remaining), (vec!["c 3".to_owned(), "d 4".to_owned()], Revision(5), Some(1)));
    let last = cache.page(RESOURCE, &everything(), 2, second.next.as_ref()).unwrap();
    assert_eq!((names(&last), last.next, last.remaining), (vec!["e 5".to_owned()], None, None));

    cache.compact(Revision(7)).await.unwrap();
    let Err(PageError::Expired { inconsistent: Some(regardless) }) = cache.page(RESOURCE, &everything(), 2, Some(&token)) else {
        panic!("a page of a compacted revision")
    };
    let page = cache.page(RESOURCE, &everything(), 2, Some(&Continue::decode(&regardless.encode()).unwrap())).unwrap();
    assert_eq!((names(&page), page.revision), (vec!["bb 8".to_owned(), "d 7".to_owned()], Revision(9)));
}

#[test]
fn foreign_continue_tokens_are_refused() {
    for token in ["", "x", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiIvYSJ9", "eyJ2IjoidjAiLCJydiI6MSwic3RhcnQiOiIvYSJ9"] {
        assert_eq!(Continue::decode(token), Err(BadToken), "{token}");
    }
}

#[tokio::test]
async fn owned_objects_are_found() {
    let cache = cache().await;
    let owned = |name: &str, expect, owners: &[&str]| {
        let owners = owners.iter().map(|o| (*o).to_owned()).collect();
        let value = Unversioned::encode(&json!({"metadata": {"name": name}})).unwrap();
        Op::Put { key: key(name), expect, value, index: Index { owners, ..Index::default() } }
    };
    let names = |uid| cache.owned_by(uid).iter().map(|e| e.key.name.to_string()).collect::<Vec<_>>();
    cache.commit(vec![owned("b", Expect::Absent, &["u", "v"]), owned("a", Expect::Absent, &["u"])]).await.unwrap();
    assert_eq!((names("u"), names("v"), names("w")), (vec!["a".into(), "b".into()], vec!["b".into()], vec![]));
    cache.commit(vec![owned("b", at(1), &["w"]), delete("a", 2)]).await.unwrap();
    assert_eq!((names("u"), names("v"), names("w")), (vec![], vec![], vec!["b".into()]));
}

#[tokio::test]
async fn a_new_cache_resumes_watches_of_the_old_one() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let old = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
    old.commit(vec![create("a"), put("b", Expect::Absent, "x")]).await.unwrap();
    old.commit(vec![put("b", at(2), "y")]).await.unwrap();
    old.close().await;
    let new = Cache::open(store, CacheConfig::default()).await.unwrap();
    let mut watcher = new.watch(RESOURCE, everything(), WatchStart::After(Revision(1))).unwrap();
    assert_eq!(waiting(&mut watcher), ["A b 2", "M b 3"]);
    let mut left = new.watch(RESOURCE, labelled("x"), WatchStart::After(Revision(2))).unwrap();
    assert_eq!(waiting(&mut left), ["D b 3"]);
    assert!(matches!(new.list_at(RESOURCE, &everything(), Revision(2)), Err(PageError::Expired { .. })));
}

#[tokio::test]
async fn history_is_bounded_by_number_and_by_bytes() {
    let bytes = 100 * create("100").value().unwrap().at(Revision(100)).len();
    for config in
        [CacheConfig { history_events: 100, ..CacheConfig::default() }, CacheConfig { history_bytes: bytes, ..CacheConfig::default() }]
    {
        let cache = cache_with(config).await;
        cache.commit((100..400).map(|n| create(&n.to_string())).collect()).await.unwrap();
        assert_eq!(cache.oldest(), Revision(200));
        assert_eq!(cache.list(RESOURCE, &everything()).0.len(), 300);
    }
}
