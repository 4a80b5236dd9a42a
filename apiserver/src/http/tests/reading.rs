//! Get and list: selectors, pages, revisions, forms.

use serde_json::json;

use super::{CONTAINERS, Harness, container};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

async fn three() -> Harness {
    let api = Harness::new().await;
    for name in ["a", "b", "c"] {
        let mut object = container(name);
        object["metadata"]["labels"] = json!({"app": name});
        api.post(CONTAINERS, object).await.is(201);
    }
    api
}

#[tokio::test]
async fn lists_carry_the_revision_of_the_store() {
    let api = three().await;
    let list = api.get(CONTAINERS).await.is(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"ContainerList".into(), &"gantry.dev/v1".into()));
    assert_eq!(list["metadata"], json!({"resourceVersion": api.server.cache.revision().to_string()}));
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let empty = api.get("/apis/gantry.dev/v1/volumes").await.is(200);
    assert_eq!(empty["items"], json!([]));
}

#[tokio::test]
async fn pages_fit_together() {
    let api = three().await;
    let first = api.get(&format!("{CONTAINERS}?&limit=2")).await.is(200);
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (2, &1.into()));
    api.post(CONTAINERS, container("d")).await.is(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{CONTAINERS}?limit=2&continue={token}")).await.is(200);
    assert_eq!(second["items"].as_array().unwrap().len(), 1, "d came later");
    assert_eq!(second["metadata"], json!({"resourceVersion": first["metadata"]["resourceVersion"]}));
    api.get(&format!("{CONTAINERS}?continue=%21")).await.is(400);
}

#[tokio::test]
async fn selectors() {
    let api = three().await;
    for (query, count) in [
        ("labelSelector=app%3Da", 1),
        ("labelSelector=app+in+(a,b)", 2),
        ("labelSelector=!app", 0),
        ("fieldSelector=metadata.name%3Db", 1),
        ("fieldSelector=metadata.name!%3Db,metadata.namespace%3Ddefault", 2),
        ("fieldSelector=status.nodeName%3D", 3),
    ] {
        assert_eq!(api.get(&format!("{CONTAINERS}?{query}")).await.is(200)["items"].as_array().unwrap().len(), count, "{query}");
    }
    for query in ["labelSelector=a%3Db%3Dc", "fieldSelector=spec.nope%3D1", "fieldSelector=x", "resourceVersion=x", "limit=x"] {
        assert_eq!(api.get(&format!("{CONTAINERS}?{query}")).await.is(400)["reason"], "BadRequest", "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn revisions_of_lists() {
    let api = three().await;
    let now = api.server.cache.revision().0;
    let then = now - 1;
    let count = async |query: &str| api.get(&format!("{CONTAINERS}?{query}")).await.is(200)["items"].as_array().unwrap().len();
    assert_eq!(count("resourceVersion=0").await, 3);
    assert_eq!(count(&format!("resourceVersion={then}")).await, 3, "not older than");
    assert_eq!(count(&format!("resourceVersion={then}&resourceVersionMatch=Exact")).await, 2);
    assert_eq!(count(&format!("resourceVersion={then}&limit=5")).await, 2, "with a limit: exactly");
    let future = api.get(&format!("{CONTAINERS}?resourceVersion={}", now + 1)).await.is(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Maybe",
        "sendInitialEvents=true",
    ] {
        api.get(&format!("{CONTAINERS}?{query}")).await.is(422);
    }
}

#[tokio::test]
async fn tables() {
    let api = three().await;
    let table = async |query: &str| api.call("GET", &format!("{CONTAINERS}{query}"), &[("accept", TABLE)], "").await.is(200);
    let list = table("").await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"Table".into(), &"meta.k8s.io/v1".into()));
    let columns = list["columnDefinitions"].as_array().unwrap();
    assert_eq!((&columns[0]["name"], &columns.last().unwrap()["name"]), (&"Name".into(), &"Age".into()));
    for row in list["rows"].as_array().unwrap() {
        assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
        assert_eq!((&row["object"]["kind"], &row["object"]["metadata"]["namespace"]), (&"PartialObjectMetadata".into(), &"default".into()));
    }
    assert_eq!(table("/a").await["rows"][0]["cells"][0], "a");
    assert_eq!(table("?includeObject=Object").await["rows"][0]["object"]["kind"], "Container");
    assert_eq!(table("?includeObject=None").await["rows"][0].get("object"), None);
    api.call("GET", &format!("{CONTAINERS}?includeObject=Some"), &[("accept", TABLE)], "").await.is(400);
}

#[tokio::test]
async fn other_forms() {
    let api = three().await;
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = api.call("GET", CONTAINERS, &[("accept", partial)], "").await.is(200);
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&"PartialObjectMetadataList".into(), &"PartialObjectMetadata".into()));
    assert_eq!(list["items"][0].get("spec"), None);
    for accept in ["application/vnd.kubernetes.protobuf, */*", "application/vnd.kubernetes.protobuf,application/json"] {
        assert_eq!(api.call("GET", CONTAINERS, &[("accept", accept)], "").await.is(200)["kind"], "ContainerList");
    }
    for accept in ["text/html", "application/vnd.kubernetes.protobuf"] {
        assert_eq!(api.call("GET", CONTAINERS, &[("accept", accept)], "").await.is(406)["reason"], "NotAcceptable");
    }
}
