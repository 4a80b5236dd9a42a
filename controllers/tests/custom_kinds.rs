//! Kinds that are added at run time, as all controllers see them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::time::Duration;

use gantry_apiserver::auth::Identity;
use gantry_client::{Client, DeleteParams, DynamicApi, Patch, Propagation, Resource, WriteParams};
use gantry_controllers::{Config, run};
use serde_json::{Value, json};
use server::Server;
use tokio_util::sync::CancellationToken;

/// Longest wait, in paused time.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    client: Client,
    server: Server,
    stop: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let world = Self { client: server.client(Identity::admin(), "test"), server, stop: CancellationToken::new() };
        world.create(&world.namespaces(), json!({"metadata": {"name": "ns"}})).await;
        world
    }

    fn start_controllers(&self) -> tokio::task::JoinHandle<()> {
        let client = self.server.client(Identity::controllers(), "controllers");
        tokio::spawn(run(client, Config { seed: 7, ..Config::default() }, self.stop.clone()))
    }

    fn of(&self, group: &str, version: &str, plural: &str, namespaced: bool) -> DynamicApi {
        let resource = Resource { group: group.into(), version: version.into(), plural: plural.into(), namespaced };
        DynamicApi::new(&self.client, resource, Some("ns"))
    }
    fn namespaces(&self) -> DynamicApi {
        self.of("", "v1", "namespaces", false)
    }
    fn config_maps(&self) -> DynamicApi {
        self.of("", "v1", "configmaps", true)
    }
    fn definitions(&self) -> DynamicApi {
        self.of("apiextensions.k8s.io", "v1", "customresourcedefinitions", false)
    }
    fn widgets(&self, version: &str) -> DynamicApi {
        self.of("example.com", version, "widgets", true)
    }

    async fn create(&self, api: &DynamicApi, object: Value) -> Value {
        api.create(&object, &WriteParams::default()).await.unwrap()
    }

    async fn define(&self) {
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
        };
        let names = json!({"plural": "widgets", "kind": "Widget"});
        let spec =
            json!({"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version("v1", true), version("v2", false)]});
        self.create(&self.definitions(), json!({"metadata": {"name": "widgets.example.com"}, "spec": spec})).await;
    }

    async fn delete(&self, api: &DynamicApi, name: &str, propagation: Propagation) {
        api.delete(name, &DeleteParams { propagation: Some(propagation), ..DeleteParams::default() }).await.unwrap();
    }

    async fn exists(&self, api: &DynamicApi, name: &str) -> bool {
        match api.get(name).await {
            Ok(_) => true,
            Err(error) if error.is_not_found() => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn until_gone(&self, api: &DynamicApi, name: &str) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while self.exists(api, name).await {
            assert!(tokio::time::Instant::now() < give_up, "{name} stays: {:#?}", api.get(name).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn owned(name: &str, owner: &Value, api_version: &str) -> Value {
    let reference = json!({"apiVersion": api_version, "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": true});
    json!({"metadata": {"name": name, "ownerReferences": [reference]}})
}

#[tokio::test(start_paused = true)]
async fn custom_objects_own_and_are_owned() {
    let world = World::new().await;
    world.define().await;
    let controllers = world.start_controllers();
    let (widgets, maps) = (world.widgets("v1"), world.config_maps());
    let owner = world.create(&widgets, json!({"metadata": {"name": "owner"}})).await;
    world.create(&maps, owned("map", &owner, "example.com/v1")).await;
    // Any version names the owner.
    let child = world.create(&widgets, owned("child", &owner, "example.com/v2")).await;
    world.create(&maps, owned("grandchild", &child, "example.com/v1")).await;
    world.delete(&widgets, "owner", Propagation::Foreground).await;
    for (api, name) in [(&maps, "map"), (&widgets, "child"), (&maps, "grandchild"), (&widgets, "owner")] {
        world.until_gone(api, name).await;
    }
    let owner = world.create(&maps, json!({"metadata": {"name": "root"}})).await;
    let mut owner = owner;
    owner["kind"] = json!("ConfigMap");
    world.create(&widgets, owned("leaf", &owner, "v1")).await;
    world.delete(&maps, "root", Propagation::Background).await;
    world.until_gone(&widgets, "leaf").await;
    world.stop.cancel();
    controllers.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_comes_and_goes_while_controllers_run() {
    let world = World::new().await;
    let controllers = world.start_controllers();
    world.define().await;
    let (widgets, maps) = (world.widgets("v1"), world.config_maps());
    let owner = world.create(&widgets, json!({"metadata": {"name": "owner"}})).await;
    world.create(&maps, owned("map", &owner, "example.com/v1")).await;
    world.delete(&widgets, "owner", Propagation::Background).await;
    world.until_gone(&maps, "map").await;

    let owner = world.create(&widgets, json!({"metadata": {"name": "last"}})).await;
    world.create(&maps, owned("of-last", &owner, "example.com/v1")).await;
    world.delete(&world.definitions(), "widgets.example.com", Propagation::Background).await;
    world.until_gone(&world.definitions(), "widgets.example.com").await;
    assert!(world.exists(&world.namespaces(), "ns").await);

    // The kind made anew is another: its objects are collected as before.
    world.define().await;
    let owner = world.create(&widgets, json!({"metadata": {"name": "owner"}})).await;
    world.create(&maps, owned("again", &owner, "example.com/v1")).await;
    world.delete(&widgets, "owner", Propagation::Background).await;
    world.until_gone(&maps, "again").await;
    let quiet = world.server.revision();
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(world.server.revision(), quiet, "nobody writes without a cause");
    world.stop.cancel();
    controllers.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_emptied_of_custom_objects() {
    let world = World::new().await;
    let controllers = world.start_controllers();
    world.define().await;
    let widgets = world.widgets("v1");
    world.create(&widgets, json!({"metadata": {"name": "free"}})).await;
    world.create(&widgets, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    world.delete(&world.namespaces(), "ns", Propagation::Background).await;
    world.until_gone(&widgets, "free").await;
    assert!(world.exists(&world.namespaces(), "ns").await);
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("held", None, &patch, &WriteParams::default()).await.unwrap();
    world.until_gone(&world.namespaces(), "ns").await;
    world.stop.cancel();
    controllers.await.unwrap();
}
