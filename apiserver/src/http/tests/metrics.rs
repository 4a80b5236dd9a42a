//! `/metrics`: who may read it, what it says, and that it does not grow with what is asked for.

use std::sync::Arc;

use serde_json::json;

use super::{CONTAINERS, Harness, container};
use crate::auth::{FixedAuthorizer, Identity};
use crate::cache::{Cache, CacheConfig};
use crate::http::{ApiServer, router};
use crate::store::redb::{RedbConfig, RedbStore};

/// The value of the sample that begins with `name`.
fn sample(page: &str, name: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    found.trim().parse().unwrap()
}

#[tokio::test]
async fn figures_follow_what_happens() {
    let api = Harness::new().await;
    for name in ["a", "b"] {
        api.post(CONTAINERS, container(name)).await.is(201);
    }
    api.get(&format!("{CONTAINERS}/nobody")).await.is(404);
    let watch = api.send("GET", &format!("{CONTAINERS}?watch=true"), &[], axum::body::Body::empty()).await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = answer.text;
    let about = r#"group="gantry.dev",version="v1",resource="containers",subresource="""#;
    for (name, value) in [
        (format!(r#"apiserver_request_total{{verb="POST",{about},code="201"}}"#), 2.0),
        (format!(r#"apiserver_request_total{{verb="GET",{about},code="404"}}"#), 1.0),
        (format!(r#"apiserver_request_duration_seconds_count{{verb="POST",{about}}}"#), 2.0),
        (r#"apiserver_storage_objects{resource="gantry.dev/containers"}"#.to_owned(), 2.0),
        (r#"apiserver_longrunning_requests{verb="WATCH",who="users"}"#.to_owned(), 1.0),
        (r#"apiserver_current_inflight_requests{request_kind="mutating",who="users"}"#.to_owned(), 0.0),
        (r#"apiserver_flowcontrol_rejected_requests_total{reason="queue-full"}"#.to_owned(), 0.0),
        ("gantry_store_revision".to_owned(), 3.0),
        ("gantry_store_healthy".to_owned(), 1.0),
        ("gantry_watch_cache_revision".to_owned(), 3.0),
        ("gantry_watch_cache_history_events".to_owned(), 3.0),
        ("gantry_watch_cache_watchers".to_owned(), 1.0),
        ("gantry_watch_cache_slow_watchers_total".to_owned(), 0.0),
    ] {
        assert!((sample(&page, &name) - value).abs() < f64::EPSILON, "{name} in\n{page}");
    }
    assert!(sample(&page, "process_resident_memory_bytes") > 1e6 && sample(&page, "process_open_fds") > 2.0);
    assert!(sample(&page, "process_cpu_seconds_total") < 1e4);
    assert!(page.ends_with("# EOF\n"));
    drop(watch);
}

#[tokio::test]
async fn only_who_may_reads_them() {
    let api = Harness::new().await;
    api.seen_by(Identity::anonymous()).get("/metrics").await.is(401);
    for known in [Identity::new("eve", &[]), Identity::controllers(), Identity::node("a")] {
        api.seen_by(known).get("/metrics").await.is(403);
    }
    assert_eq!(api.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn made_up_urls_make_no_series() {
    let api = Harness::new().await;
    let lines = async || api.get("/metrics").await.text.lines().count();
    let made_up = async |n: usize| {
        for path in [format!("/apis/g{n}/v1/things"), format!("/api/v1/x{n}/a/b"), format!("{CONTAINERS}/a/sub{n}"), format!("/{n}")] {
            api.get(&path).await.is(404);
        }
        api.call("POST", &format!("{CONTAINERS}/c{n}/sub{n}"), &[], json!({}).to_string()).await.is(404);
    };
    made_up(0).await;
    // Itself is counted from the second time on.
    lines().await;
    let before = lines().await;
    for n in 1..20 {
        made_up(n).await;
    }
    assert_eq!(lines().await, before);
}

#[tokio::test]
async fn the_durable_store_tells_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::open(dir.path(), RedbConfig::default()).unwrap());
    let cache = Cache::open(store.clone(), CacheConfig::default()).await.unwrap();
    let mut server = ApiServer::new(cache, Arc::new(FixedAuthorizer));
    server.store_stats = Some(Box::new(move || store.stats()));
    let server = Arc::new(server);
    let api = Harness {
        router: router(server.clone()),
        server,
        identity: Identity::admin(),
        stopping: tokio_util::sync::CancellationToken::new(),
    };
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    api.post(CONTAINERS, container("a")).await.is(201);
    let page = api.get("/metrics").await.text;
    for (name, value) in [
        ("gantry_store_transactions_total", 2.0),
        ("gantry_store_changes_total", 2.0),
        ("gantry_store_objects", 2.0),
        ("gantry_store_failures_total", 0.0),
        ("gantry_store_group_commits_count", 2.0),
        ("gantry_store_group_commits_sum", 2.0),
        (r#"gantry_store_group_commits_bucket{le="1.0"}"#, 2.0),
        (r#"gantry_store_sync_seconds_bucket{le="+Inf"}"#, 2.0),
    ] {
        assert!((sample(&page, name) - value).abs() < f64::EPSILON, "{name} in\n{page}");
    }
    assert!(sample(&page, "apiserver_storage_size_bytes") > 4096.0);
}
