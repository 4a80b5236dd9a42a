//! What the server tells of its store, and gives of it.

use super::*;
use crate::store::Health;
use crate::store::backup::Reader;

#[tokio::test]
async fn a_store_that_takes_no_writes_is_told() {
    let store = Arc::new(MemoryStore::new());
    let api = Harness::over(store.clone(), CacheConfig::default(), &FlowLimits::default()).await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await.is(201);
    assert!(api.get("/readyz?verbose").await.text.contains("[+]store ok\n"));

    store.set_health(Health::DiskFull);
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text.contains("[-]store (the disk is full: writes are refused) failed\n"), "{}", answer.text);
    // A restart would make no room, and an engine that starts so is there.
    assert_eq!(api.get("/livez").await.status, 200);
    assert_eq!(api.get("/readyz?exclude=store").await.text, "ok");

    store.set_health(Health::Failed { error: "secret path".to_owned() });
    for path in ["/readyz", "/livez"] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 503);
        assert!(answer.text.contains("[-]store (its file cannot be used) failed\n") && !answer.text.contains("secret"), "{}", answer.text);
    }
    store.set_health(Health::Healthy);
    assert_eq!(api.get("/readyz").await.text, "ok");
}

#[tokio::test]
async fn a_backup_is_for_administrators() {
    let api = Harness::new().await;
    api.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}, "stringData": {"key": "value"}})).await.is(201);
    for identity in [Identity::node("a"), Identity::controllers()] {
        api.seen_by(identity).get("/backup").await.is(403);
    }
    api.seen_by(Identity::anonymous()).get("/backup").await.is(401);
    api.post("/backup", json!({})).await.is(405);

    let answer = api.send("GET", "/backup", &[], Body::empty()).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["cache-control"]), (200, &"no-store, private".parse().unwrap()));
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let mut reader = Reader::open(&bytes[..]).unwrap();
    let mut names = Vec::new();
    while let Some(stored) = reader.next_object().unwrap() {
        assert_eq!(serde_json::from_slice::<Value>(&stored.bytes).unwrap()["metadata"]["name"], *stored.key.name);
        names.push(stored.key.name.to_string());
    }
    assert_eq!(names, ["default", "s"]);
    assert_eq!((reader.header().revision, reader.header().objects), (2, 2));
}
