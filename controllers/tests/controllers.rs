//! All controllers together, against the real API server in process over a store in memory, on paused time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_api::kinds::container::{ContainerNetwork, ContainerSpec, Mount, VolumeMountSource};
use gantry_api::kinds::core::{ConfigMap, Event, Namespace, Node, ServiceAccount};
use gantry_api::kinds::network::NetworkSpec;
use gantry_api::kinds::volume::VolumeSpec;
use gantry_api::{Container, Image, Kind, Network, Volume};
use gantry_apiserver::auth::Identity;
use gantry_client::{Api, Client, DeleteParams, ListParams, Patch, Propagation, WriteParams};
use gantry_controllers::{Clock, Config, run};
use jiff::Timestamp;
use serde_json::json;
use server::Server;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait, in paused time.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    server: Server,
    client: Client,
    stop: CancellationToken,
    controllers: Option<JoinHandle<()>>,
}

impl World {
    /// A server with the nodes `nodes`, and all controllers.
    async fn with_nodes(nodes: &[&str]) -> Self {
        let server = Server::start().await;
        let client = server.client(Identity::admin(), "test");
        let mut world = Self { server, client, stop: CancellationToken::new(), controllers: None };
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("ns".into());
        world.create(namespace).await;
        for node in nodes {
            world.add_node(node).await;
        }
        world.start();
        world
    }

    fn start(&mut self) {
        self.stop = CancellationToken::new();
        let start = tokio::time::Instant::now();
        let clock = Clock::new(move || Timestamp::UNIX_EPOCH + start.elapsed());
        let config = Config { clock, seed: 7, ..Config::default() };
        self.controllers = Some(tokio::spawn(run(self.server.client(Identity::controllers(), "controllers"), config, self.stop.clone())));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.controllers.take().expect("started").await.unwrap();
    }

    fn api<K: Kind>(&self) -> Api<K> {
        if K::NAMESPACED { Api::namespaced(&self.client, "ns") } else { Api::all(&self.client) }
    }

    async fn create<K: Kind>(&self, object: K) -> K {
        self.api::<K>().create(&object, &WriteParams::default()).await.unwrap()
    }

    async fn add_node(&self, name: &str) {
        self.create(node_object(name)).await;
        self.patch_status::<Node>(name, json!({"conditions": [{"type": "Ready", "status": "True"}]})).await;
    }

    async fn delete<K: Kind>(&self, name: &str, propagation: Propagation) {
        let params = DeleteParams { propagation: Some(propagation), ..DeleteParams::default() };
        self.api::<K>().delete(name, &params).await.unwrap();
    }

    async fn patch_status<K: Kind>(&self, name: &str, status: serde_json::Value) {
        self.api::<K>().patch_status(name, &Patch::Merge(json!({ "status": status }))).await.unwrap();
    }

    /// Waits until `holds` of the object, and shows the last state seen when it never does.
    async fn until<K: Kind>(&self, name: &str, holds: impl Fn(Option<&K>) -> bool) -> Option<K> {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let object = self.api::<K>().find(name).await.unwrap();
            if holds(object.as_ref()) {
                return object;
            }
            assert!(tokio::time::Instant::now() < give_up, "{} {name} stays {object:#?}", K::KIND);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_condition<K: Kind>(&self, name: &str, type_: &str, reason: &str) -> K {
        let found = self.until::<K>(name, |object| {
            let value = serde_json::to_value(object).unwrap();
            let conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == type_ && condition["reason"] == reason)
        });
        found.await.expect("it has a condition")
    }

    async fn until_gone<K: Kind>(&self, name: &str) {
        self.until::<K>(name, |object| object.is_none()).await;
    }
}

fn node_object(name: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {"gantry.dev/host-subnets": "10.88.0.0/20"}, "labels": {"name": name}},
    }))
    .unwrap()
}

fn container(name: &str) -> Container {
    Container::new("ns", name, ContainerSpec { image: Some("nginx".into()), ..ContainerSpec::default() })
}

fn mounting(name: &str, volume: &str) -> Container {
    let mount = Mount { mount_path: "/data".into(), volume: Some(VolumeMountSource { name: volume.into() }), ..Mount::default() };
    let mut container = container(name);
    container.spec.mounts = vec![mount];
    container
}

fn address(container: &Container) -> Option<String> {
    container.status.as_ref()?.networks.first()?.ipv4_address.clone()
}

fn bound_to(container: &Container) -> Option<&str> {
    container.status.as_ref()?.node_name.as_deref()
}

#[tokio::test(start_paused = true)]
async fn a_container_gets_node_address_and_image() {
    let mut world = World::with_nodes(&["a"]).await;
    world.create(container("web")).await;
    let web = world
        .until::<Container>("web", |web| {
            web.is_some_and(|web| {
                bound_to(web) == Some("a") && address(web).is_some() && web.status.as_ref().unwrap().image_object_name.is_some()
            })
        })
        .await
        .unwrap();
    // The pool's first subnet is routed by the host.
    assert_eq!(address(&web).as_deref(), Some("10.88.16.2/20"));
    let network = world.until_condition::<Network>("default", "Ready", "Allocated").await;
    assert!(network.status.unwrap().bridge.unwrap().starts_with("gantry-"));
    let name = web.status.unwrap().image_object_name.unwrap();
    let image = world.until_condition::<Image>(&name, "Ready", "Resolving").await;
    assert_eq!(image.spec.source.registry.unwrap().reference, "docker.io/library/nginx:latest");
    assert_eq!(image.status.unwrap().resolver_node_name.as_deref(), Some("a"));

    world.patch_status::<Image>(&name, json!({"conditions": [
        {"type": "Resolved", "status": "False", "reason": "Unauthorized", "message": "401; set pullSecretName", "lastTransitionTime": "2024-01-01T00:00:00Z"}
    ]})).await;
    world.until_condition::<Image>(&name, "Ready", "Unauthorized").await;

    world.api::<Container>().patch("web", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default()).await.unwrap();
    world.delete::<Container>("web", Propagation::Background).await;
    world.until_gone::<Image>(&name).await;
    world.until::<Network>("default", |network| network.is_some_and(|n| n.status.as_ref().unwrap().endpoint_count == 0)).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_address_is_given_twice_not_even_over_a_restart() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    for index in 0..40 {
        world.create(container(&format!("c{index}"))).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.stop().await;
    for index in 40..60 {
        world.create(container(&format!("c{index}"))).await;
    }
    world.start();
    let mut addresses = BTreeSet::new();
    let mut on_a = 0;
    for index in 0..60 {
        let ready = |c: Option<&Container>| c.is_some_and(|c| address(c).is_some() && bound_to(c).is_some());
        let container = world.until::<Container>(&format!("c{index}"), ready).await.unwrap();
        assert!(addresses.insert(address(&container).unwrap()), "{container:?}");
        on_a += usize::from(bound_to(&container) == Some("a"));
    }
    assert_eq!(on_a, 30);
    world.until::<Network>("default", |network| network.is_some_and(|n| n.status.as_ref().unwrap().endpoint_count == 60)).await;

    // Nothing is left to do: no write goes round in circles.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = world.server.revision();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.server.revision(), writes);
    world.stop().await;
    world.start();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.server.revision(), writes);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn objects_may_come_in_any_order() {
    let mut world = World::with_nodes(&[]).await;
    let mut web = mounting("web", "data");
    web.spec.networks =
        vec![ContainerNetwork { name: "back".into(), ipv4_address: Some("172.30.0.9".into()), ..ContainerNetwork::default() }];
    world.create(web).await;
    world.until_condition::<Container>("web", "Scheduled", "NoReadyNode").await;
    world.until_condition::<Container>("web", "NetworkAllocated", "NetworkNotFound").await;
    world.create(Network::new("ns", "back", NetworkSpec { subnets: vec!["172.30.0.0/24".into()], ..NetworkSpec::default() })).await;
    world.create(Volume::new("ns", "data", VolumeSpec::default())).await;
    world.until_condition::<Volume>("data", "Ready", "WaitForFirstConsumer").await;
    world.add_node("late").await;
    let web =
        world.until::<Container>("web", |web| web.is_some_and(|web| bound_to(web).is_some() && address(web).is_some())).await.unwrap();
    assert_eq!(address(&web).as_deref(), Some("172.30.0.9/24"));
    let volume = world.until_condition::<Volume>("data", "Ready", "Creating").await;
    assert_eq!(volume.status.as_ref().unwrap().node_name.as_deref(), Some("late"));
    assert_eq!(volume.status.as_ref().unwrap().used_by, ["web"]);
    assert!(volume.has_finalizer("gantry.dev/in-use") && volume.has_finalizer("gantry.dev/volume-data"));

    // A second one that asks for the same address waits for it.
    let mut rival = container("rival");
    rival.spec.networks = web.spec.networks.clone();
    world.create(rival).await;
    world.until_condition::<Container>("rival", "NetworkAllocated", "AddressInUse").await;
    // The network is used: it stays until nobody does.
    let network = world.until::<Network>("back", |network| network.is_some_and(|n| n.has_finalizer("gantry.dev/in-use"))).await.unwrap();
    assert!(!network.is_terminating());
    world.delete::<Network>("back", Propagation::Background).await;
    world.until_condition::<Network>("back", "Ready", "InUse").await;
    world.delete::<Volume>("data", Propagation::Background).await;
    world.until_condition::<Volume>("data", "Ready", "InUse").await;
    world.delete::<Container>("web", Propagation::Background).await;
    world.api::<Container>().patch("web", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default()).await.unwrap();
    world.until_condition::<Container>("rival", "NetworkAllocated", "NetworkTerminating").await;
    world.delete::<Container>("rival", Propagation::Background).await;
    world
        .api::<Container>()
        .patch("rival", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default())
        .await
        .unwrap();
    world.until_gone::<Network>("back").await;
    world
        .until::<Volume>("data", |v| v.is_some_and(|v| !v.has_finalizer("gantry.dev/in-use") && v.has_finalizer("gantry.dev/volume-data")))
        .await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn colliding_subnets_are_refused_by_name() {
    let mut world = World::with_nodes(&["a"]).await;
    let network =
        |name: &str, subnet: &str| Network::new("ns", name, NetworkSpec { subnets: vec![subnet.into()], ..NetworkSpec::default() });
    world.create(network("host", "10.88.0.0/24")).await;
    world.create(network("first", "172.30.0.0/16")).await;
    world.until_condition::<Network>("host", "Ready", "SubnetConflict").await;
    world.until_condition::<Network>("first", "Ready", "Allocated").await;
    world.create(network("second", "172.30.4.0/24")).await;
    world.until_condition::<Network>("second", "Ready", "SubnetConflict").await;
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    assert!(events.items.iter().any(|event| event.reason.as_deref() == Some("SubnetConflict")), "{events:?}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_pin_moves_the_container() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.create(container("web")).await;
    world.until::<Container>("web", |web| web.is_some_and(|web| bound_to(web) == Some("a"))).await;
    let pin = |node: &str| Patch::Merge(json!({"spec": {"nodeName": node}}));
    world.api::<Container>().patch("web", &pin("nowhere"), &WriteParams::default()).await.unwrap();
    let web = world.until_condition::<Container>("web", "Scheduled", "NodeNotFound").await;
    assert_eq!(bound_to(&web), Some("a"));
    world.api::<Container>().patch("web", &pin("b"), &WriteParams::default()).await.unwrap();
    // The old node's agent stops it first.
    let leaving = world.until::<Container>("web", |web| web.is_some_and(|web| bound_to(web).is_none())).await.unwrap();
    assert_eq!(leaving.status.as_ref().unwrap().former_node_name.as_deref(), Some("a"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bound_to(&world.api::<Container>().get("web").await.unwrap()), None, "bound though the old node has not let go");
    world.api::<Container>().patch("web", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default()).await.unwrap();
    world.until::<Container>("web", |web| web.is_some_and(|web| bound_to(web) == Some("b"))).await;
    world.stop().await;
}

fn config_map(name: &str, owners: &[&ConfigMap]) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.owner_references = Some(owners.iter().map(|owner| owner.owner_reference(false)).collect());
    object
}

#[tokio::test(start_paused = true)]
async fn dependents_go_with_their_last_owner_in_each_manner() {
    let mut world = World::with_nodes(&[]).await;
    let one = world.create(config_map("one", &[])).await;
    let two = world.create(config_map("two", &[])).await;
    world.create(config_map("both", &[&one, &two])).await;
    let child = world.create(config_map("child", &[&one])).await;
    world.create(config_map("grandchild", &[&child])).await;
    world.delete::<ConfigMap>("one", Propagation::Background).await;
    world.until_gone::<ConfigMap>("grandchild").await;
    world.until::<ConfigMap>("both", |both| both.is_some_and(|both| both.metadata.owner_references.as_ref().unwrap().len() == 1)).await;

    world.delete::<ConfigMap>("two", Propagation::Foreground).await;
    world.until_gone::<ConfigMap>("two").await;
    assert!(world.api::<ConfigMap>().find("both").await.unwrap().is_none());

    let three = world.create(config_map("three", &[])).await;
    world.create(config_map("kept", &[&three])).await;
    world.delete::<ConfigMap>("three", Propagation::Orphan).await;
    world.until_gone::<ConfigMap>("three").await;
    let kept = world.api::<ConfigMap>().get("kept").await.unwrap();
    assert!(kept.metadata.owner_references.unwrap_or_default().is_empty());

    // Same name, other uid: not the owner.
    let mut impostor = config_map("impostor", &[&kept_owner()]);
    impostor.metadata.owner_references.as_mut().unwrap()[0].name = "kept".into();
    world.create(impostor).await;
    world.until_gone::<ConfigMap>("impostor").await;
    assert!(world.api::<ConfigMap>().find("kept").await.unwrap().is_some());
    world.stop().await;
}

fn kept_owner() -> ConfigMap {
    let mut owner = ConfigMap::default();
    owner.metadata.uid = Some("no-such-uid".into());
    owner
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_is_emptied_first() {
    let mut world = World::with_nodes(&["a"]).await;
    world.until::<Namespace>("default", |found| found.is_some()).await;
    world.create(mounting("web", "data")).await;
    world.create(Volume::new("ns", "data", VolumeSpec::default())).await;
    world.until::<Container>("web", |web| web.is_some_and(|web| bound_to(web).is_some())).await;
    world.until::<Volume>("data", |volume| volume.is_some_and(|volume| volume.has_finalizer("gantry.dev/volume-data"))).await;
    world.delete::<Namespace>("ns", Propagation::Background).await;
    // The agent's part.
    world.until::<Container>("web", |web| web.is_some_and(Kind::is_terminating)).await;
    world.api::<Container>().patch("web", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default()).await.unwrap();
    world.until::<Volume>("data", |volume| volume.is_some_and(|v| v.is_terminating() && !v.has_finalizer("gantry.dev/in-use"))).await;
    world.api::<Volume>().patch("data", &Patch::Merge(json!({"metadata": {"finalizers": null}})), &WriteParams::default()).await.unwrap();
    world.until_gone::<Namespace>("ns").await;
    assert!(world.api::<Event>().list(&ListParams::default()).await.unwrap().items.is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn containers_of_a_vanished_node_are_given_up() {
    let mut world = World::with_nodes(&["a"]).await;
    world.create(container("stays")).await;
    world.create(container("leaves")).await;
    for name in ["stays", "leaves"] {
        world.until::<Container>(name, |found| found.is_some_and(|found| bound_to(found).is_some())).await;
    }
    world.delete::<Container>("leaves", Propagation::Background).await;
    world.delete::<Node>("a", Propagation::Background).await;
    world.until_gone::<Container>("leaves").await;
    world.until_condition::<Container>("stays", "Ready", "NodeGone").await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_its_default_service_account() {
    let mut world = World::with_nodes(&[]).await;
    world.until::<ServiceAccount>("default", |found| found.is_some()).await;
    world.delete::<ServiceAccount>("default", Propagation::Background).await;
    world.until::<ServiceAccount>("default", |found| found.is_some_and(|account| !account.is_terminating())).await;
    world.delete::<Namespace>("ns", Propagation::Background).await;
    world.until_gone::<Namespace>("ns").await;
    assert!(world.api::<ServiceAccount>().find("default").await.unwrap().is_none(), "it goes with its namespace");
    world.stop().await;
}
