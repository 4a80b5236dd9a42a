//! The whole engine in simulation: API server, controllers and the agents of three nodes in one process, on paused time.
//!
//! Everything that is left to chance comes from one seed: what is applied, killed, changed and deleted and when, uids, jitter. Processes,
//! networks, layers and volumes are the agent's own twins in memory, and images come from a registry that is only pretended.
//! After each step no container may run twice; at the end all must be as wished, and nothing may write any more.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gantry_agent::agent::Agent;
use gantry_agent::container::{Drivers, LocalImages};
use gantry_agent::ids::{Clock, ContainerUid, Instance};
use gantry_agent::image::LocalImage;
use gantry_agent::network::memory::MemoryDriver;
use gantry_agent::runtime::memory::{MemoryRuntime, Script};
use gantry_agent::runtime::{ObservedState, Runtime as _};
use gantry_agent::snapshot::MemorySnapshotter;
use gantry_agent::snapshot::Snapshotter as _;
use gantry_agent::volume::memory::MemoryVolumes;
use gantry_api::kinds::container::{ContainerPhase, DesiredState, RestartPolicy};
use gantry_api::kinds::core::{Namespace, Node};
use gantry_api::{Container, Image, Kind, Network, ObjectKey};
use gantry_apiserver::auth::{FixedAuthorizer, Identity};
use gantry_apiserver::cache::{Cache, CacheConfig};
use gantry_apiserver::store::memory::MemoryStore;
use gantry_apiserver::{ApiServer, AppState, router};
use gantry_client::{Api, Client, DeleteParams, Informer, ListParams, Patch, WriteParams};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "default";
const NODES: [&str; 3] = ["a", "b", "c"];

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
struct Size {
    containers: usize,
    /// Steps of the workload after everything was applied.
    steps: usize,
}

/// How long everything may take to come to rest, in simulated time.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing may be written then.
const QUIET: Duration = Duration::from_secs(600);
/// 2025-01-01.
const EPOCH_SECONDS: i64 = 1_735_689_600;

/// The images of one node: whatever was put there.
#[derive(Default)]
struct Shelf(Mutex<BTreeSet<String>>);

impl LocalImages for Shelf {
    fn local<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Option<LocalImage>> {
        let here = self.0.lock().unwrap().contains(digest);
        let image = here.then(|| LocalImage { digest: digest.to_owned(), diff_ids: Vec::new(), config: Default::default() });
        Box::pin(std::future::ready(image))
    }
}

/// The image service of one node, which finds every image and takes a little to fetch it.
struct Puller {
    node: &'static str,
    client: Client,
    shelf: Arc<Shelf>,
    clock: Clock,
}

impl Puller {
    async fn run(self, stop: CancellationToken) {
        let ours = ListParams { fields: Some(format!("status.nodeName={}", self.node)), ..ListParams::default() };
        let images = Informer::<Image>::start(Api::all(&self.client), ListParams::default(), stop.clone());
        let containers = Informer::<Container>::start(Api::all(&self.client), ours, stop.clone());
        let (mut image_changes, mut container_changes) = (images.changes(), containers.changes());
        loop {
            let key = tokio::select! {
                biased;
                key = image_changes.recv() => key,
                key = container_changes.recv() => {
                    let container = key.as_ref().and_then(|key| containers.get(key));
                    let name = container.and_then(|container| container.status.as_ref()?.image_object_name.clone());
                    match name {
                        Some(name) => Some(ObjectKey::new(NAMESPACE, name)),
                        None if key.is_some() => continue,
                        None => None,
                    }
                }
            };
            let Some(key) = key else { return };
            let needed = containers.list().iter().any(|container| {
                container.status.as_ref().and_then(|status| status.image_object_name.as_deref()) == Some(key.name.as_str())
            });
            if let Some(image) = images.get(&key).filter(|image| !image.is_terminating()) {
                self.turn(&image, needed).await;
            }
        }
    }

    async fn turn(&self, image: &Image, needed: bool) {
        let status = serde_json::to_value(image.status.clone().unwrap_or_default()).unwrap();
        let resolver = status["resolverNodeName"] == self.node;
        let resolved = status["observedGeneration"].as_i64() == Some(image.generation());
        if !(resolver || needed && resolved) {
            return;
        }
        let reference = image.spec.source.registry.as_ref().unwrap().reference.clone();
        let digest = format!("sha256:{:0>64}", reference.bytes().map(|byte| format!("{byte:x}")).collect::<String>());
        if self.shelf.0.lock().unwrap().insert(digest.clone()) {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let mut nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let here = nodes.iter().any(|node| node["name"] == self.node);
        if here && resolved {
            return;
        }
        nodes.retain(|node| node["name"] != self.node);
        nodes.push(json!({"name": self.node, "phase": "Present"}));
        let mut change = json!({"nodes": nodes});
        if resolver && !resolved {
            let now = (self.clock)().to_string();
            let condition = json!({"type": "Resolved", "status": "True", "reason": "Resolved", "message": "pretended",
                "lastTransitionTime": now, "observedGeneration": image.generation()});
            let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|condition| condition["type"] != "Resolved");
            conditions.push(condition);
            change["digest"] = json!(digest);
            change["references"] = json!([reference]);
            change["observedGeneration"] = json!(image.generation());
            change["conditions"] = json!(conditions);
        }
        let metadata = json!({"resourceVersion": image.metadata.resource_version, "uid": image.metadata.uid});
        let written = Api::<Image>::namespaced(&self.client, NAMESPACE)
            .patch_status(image.name(), &Patch::Merge(json!({"metadata": metadata, "status": change})))
            .await;
        // After a conflict the newer version is on its way and gets its own turn.
        assert!(written.as_ref().err().is_none_or(|error| error.is_conflict() || error.is_not_found()), "{written:?}");
    }
}

/// A node: what outlives its agent, and the agent while it runs.
struct SimulatedNode {
    name: &'static str,
    runtime: MemoryRuntime,
    snapshotter: MemorySnapshotter,
    shelf: Arc<Shelf>,
    drivers: Drivers,
    data_dir: PathBuf,
    agent: Option<(CancellationToken, Vec<JoinHandle<()>>)>,
}

struct World {
    server: AppState,
    client: Client,
    clock: Clock,
    random: StdRng,
    nodes: Vec<SimulatedNode>,
    controllers: Option<(CancellationToken, JoinHandle<()>)>,
    seed: u64,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start(seed: u64) -> Self {
        let start = tokio::time::Instant::now();
        let epoch = Timestamp::from_second(EPOCH_SECONDS).unwrap();
        let clock: Clock = Arc::new(move || epoch + start.elapsed());
        let cache = Cache::open(Arc::new(MemoryStore::new()), CacheConfig::default()).await.unwrap();
        let mut server = ApiServer::new(cache, Arc::new(FixedAuthorizer));
        server.clock = clock.clone();
        let bits = Mutex::new(StdRng::seed_from_u64(seed));
        server.random = Arc::new(move || bits.lock().unwrap().random());
        let server: AppState = Arc::new(server);
        let directory = tempfile::tempdir().unwrap();
        let nodes = NODES.map(|name| SimulatedNode::new(name, directory.path().join(name))).into();
        let client = client(&server, Identity::admin(), "kubectl", seed);
        let random = StdRng::seed_from_u64(seed ^ 0x5bd1_e995);
        let mut world = Self { server, client, clock, random, nodes, controllers: None, seed, _directory: directory };
        world.start_controllers();
        for index in 0..NODES.len() {
            world.start_agent(index);
        }
        let namespaces = Api::<Namespace>::all(&world.client);
        namespaces.wait_for(NAMESPACE, |found| found.is_some()).await.unwrap();
        world
    }

    fn start_controllers(&mut self) {
        let stop = CancellationToken::new();
        let clock = self.clock.clone();
        let clock = gantry_controllers::Clock::new(move || clock());
        let config = gantry_controllers::Config { clock, seed: self.seed, ..gantry_controllers::Config::default() };
        let client = client(&self.server, Identity::controllers(), "gantry-controllers", self.seed);
        self.controllers = Some((stop.clone(), tokio::spawn(gantry_controllers::run(client, config, stop))));
    }

    async fn stop_controllers(&mut self) {
        if let Some((stop, task)) = self.controllers.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    fn start_agent(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.agent.is_some() {
            return;
        }
        let client = client(&self.server, Identity::node(node.name), "gantry-agent", self.seed ^ index as u64);
        let instance = Instance {
            name: "sim".to_owned(),
            data_dir: node.data_dir.clone(),
            run_dir: node.data_dir.join("run"),
            node_name: node.name.to_owned(),
        };
        let stop = CancellationToken::new();
        let puller = Puller { node: node.name, client: client.clone(), shelf: node.shelf.clone(), clock: self.clock.clone() };
        let agent = Agent { instance, client, drivers: node.drivers.clone(), images: None, clock: self.clock.clone() };
        let tasks = vec![tokio::spawn(agent.run(stop.clone())), tokio::spawn(puller.run(stop.clone()))];
        node.agent = Some((stop, tasks));
    }

    async fn stop_agent(&mut self, index: usize) {
        if let Some((stop, tasks)) = self.nodes[index].agent.take() {
            stop.cancel();
            for task in tasks {
                task.await.unwrap();
            }
        }
    }

    fn containers(&self) -> Api<Container> {
        Api::namespaced(&self.client, NAMESPACE)
    }

    async fn apply(&self, index: usize, edit: &Edit) {
        let manifest = manifest(index, edit);
        let patch = Patch::Apply(manifest);
        self.containers().patch(&name(index), &patch, &WriteParams { force: true, ..WriteParams::default() }).await.unwrap();
    }

    fn revision(&self) -> u64 {
        self.server.cache.revision().0
    }

    /// Which containers run where.
    async fn running(&self) -> Vec<(ContainerUid, &'static str)> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let observed = node.runtime.observe().await.unwrap();
            let running = observed.into_iter().filter(|observed| matches!(observed.state, ObservedState::Running(_)));
            all.extend(running.map(|observed| (observed.uid, node.name)));
        }
        all
    }

    async fn assert_none_runs_twice(&self) {
        let mut seen = BTreeMap::new();
        for (uid, node) in self.running().await {
            if let Some(other) = seen.insert(uid.clone(), node) {
                panic!("container {uid} runs on {other} and on {node}");
            }
        }
    }
}

fn client(server: &AppState, identity: Identity, manager: &str, seed: u64) -> Client {
    let decorate = move |head: &mut http::request::Parts| {
        head.extensions.insert(identity.clone());
    };
    Client::in_process(router(server.clone()), manager, decorate).with_seed(seed)
}

impl SimulatedNode {
    fn new(name: &'static str, data_dir: PathBuf) -> Self {
        std::fs::create_dir(&data_dir).unwrap();
        let runtime = MemoryRuntime::new();
        runtime.script("job", Script { ends: Some((Duration::from_secs(3), 0)), ..Script::default() });
        runtime.script("slow", Script { obeys_term_after: Some(Duration::from_secs(2)), ..Script::default() });
        runtime.script("deaf", Script { obeys_term_after: None, ..Script::default() });
        let (snapshotter, shelf) = (MemorySnapshotter::default(), Arc::new(Shelf::default()));
        let drivers = Drivers {
            runtime: Arc::new(runtime.clone()),
            network: Arc::new(MemoryDriver::default()),
            snapshotter: Arc::new(snapshotter.clone()),
            volumes: Arc::new(MemoryVolumes::default()),
            images: shelf.clone(),
        };
        Self { name, runtime, snapshotter, shelf, drivers, data_dir, agent: None }
    }
}

/// What the workload has made of a container's manifest.
#[derive(Debug, Clone, Default)]
struct Edit {
    environment: u32,
    image: u32,
    stopped: bool,
    pin: Option<&'static str>,
}

fn name(index: usize) -> String {
    format!("c{index:02}")
}

fn program(index: usize) -> &'static str {
    match index % 10 {
        3 => "job",
        5 => "slow",
        7 => "deaf",
        _ => "serve",
    }
}

fn manifest(index: usize, edit: &Edit) -> Value {
    let job = program(index) == "job";
    let networks = match index % 4 {
        0 => json!([{"name": "front"}]),
        1 => json!([{"name": "front"}, {"name": "back"}]),
        2 => json!([{"name": "back"}]),
        _ => json!([]),
    };
    let ports = if index.is_multiple_of(6) { json!([{"containerPort": 80, "hostPort": 0}]) } else { json!([]) };
    let mut spec = json!({
        "image": format!("registry.test/app:{}", (index as u32 + edit.image) % 3),
        "command": [program(index)],
        "env": [{"name": "N", "value": edit.environment.to_string()}],
        "networks": networks,
        "ports": ports,
        "restartPolicy": if job { "Never" } else { "Always" },
        "desiredState": if edit.stopped { "Stopped" } else { "Running" },
        "stop": {"gracePeriodSeconds": 3},
    });
    if let Some(pin) = edit.pin {
        spec["nodeName"] = json!(pin);
    }
    json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": name(index), "namespace": NAMESPACE}, "spec": spec})
}

fn network(name: &str) -> Network {
    Network::new(NAMESPACE, name, Default::default())
}

/// The workload: containers, then a number of random steps; the wish that it leaves behind.
async fn work(world: &mut World, size: Size) -> BTreeMap<usize, Edit> {
    let networks = Api::<Network>::namespaced(&world.client, NAMESPACE);
    let mut wished = BTreeMap::new();
    for index in 0..size.containers {
        world.apply(index, &Edit::default()).await;
        wished.insert(index, Edit::default());
        if index == size.containers / 3 {
            for name in ["front", "back"] {
                networks.create(&network(name), &WriteParams::default()).await.unwrap();
            }
        }
        pause(world, 20).await;
    }
    for _ in 0..size.steps {
        step(world, &mut wished, size.containers).await;
        world.assert_none_runs_twice().await;
        pause(world, 1500).await;
        world.assert_none_runs_twice().await;
    }
    for index in 0..NODES.len() {
        world.start_agent(index);
    }
    if world.controllers.is_none() {
        world.start_controllers();
    }
    wished
}

async fn pause(world: &mut World, most: u64) {
    let pause = world.random.random_range(0..most);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

async fn step(world: &mut World, wished: &mut BTreeMap<usize, Edit>, containers: usize) {
    let index = world.random.random_range(0..containers);
    let node = world.random.random_range(0..NODES.len());
    match world.random.random_range(0..20) {
        0..5 => hurt(world, node).await,
        5..8 if wished.remove(&index).is_some() => {
            world.containers().delete(&name(index), &DeleteParams::default()).await.unwrap();
        }
        8 => world.stop_agent(node).await,
        9..11 => world.start_agent(node),
        11 if world.controllers.is_some() => world.stop_controllers().await,
        11 | 12 if world.controllers.is_none() => world.start_controllers(),
        _ => edit(world, wished, index, node).await,
    }
}

/// Ends a process, or its shim.
async fn hurt(world: &mut World, node: usize) {
    let observed = world.nodes[node].runtime.observe().await.unwrap();
    let running: Vec<_> = observed.iter().filter(|observed| matches!(observed.state, ObservedState::Running(_))).collect();
    if running.is_empty() {
        return;
    }
    let victim = &running[world.random.random_range(0..running.len())].uid;
    if world.random.random_bool(0.5) {
        world.nodes[node].runtime.crash(victim, 1);
    } else {
        world.nodes[node].runtime.lose(victim);
    }
}

/// Changes a container that exists, or makes it again once its predecessor is gone.
async fn edit(world: &mut World, wished: &mut BTreeMap<usize, Edit>, index: usize, node: usize) {
    let exists = world.containers().find(&name(index)).await.unwrap();
    if !wished.contains_key(&index) && exists.is_some() {
        return;
    }
    let mut edit = wished.get(&index).cloned().unwrap_or_default();
    match world.random.random_range(0..5) {
        0 => edit.image += 1,
        1 => edit.stopped = !edit.stopped,
        2 | 3 => edit.pin = Some(NODES[node]),
        _ => edit.environment += 1,
    }
    world.apply(index, &edit).await;
    wished.insert(index, edit);
}

/// What is wrong, if anything; it may still become right.
async fn faults(world: &World, wished: &BTreeMap<usize, Edit>) -> Vec<String> {
    let mut faults = Vec::new();
    let containers = world.containers().list(&ListParams::default()).await.unwrap().items;
    let running = world.running().await;
    let names: BTreeSet<String> = wished.keys().map(|index| name(*index)).collect();
    let found: BTreeSet<String> = containers.iter().map(|container| container.name().to_owned()).collect();
    if names != found {
        faults.push(format!("missing or left: {:?}", names.symmetric_difference(&found).collect::<Vec<_>>()));
    }
    let uids: BTreeSet<&str> = containers.iter().map(|container| container.uid()).collect();
    for node in &world.nodes {
        let on_runtime = node.runtime.observe().await.unwrap().into_iter().map(|observed| observed.uid);
        let left = on_runtime.chain(node.snapshotter.list().await.unwrap()).filter(|uid| !uids.contains(uid.as_str()));
        faults.extend(left.map(|uid| format!("{uid} is left on {}", node.name)));
        let records =
            std::fs::read_dir(node.data_dir.join("records")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left = records.filter(|file| !uids.contains(file.trim_end_matches(".json")));
        faults.extend(left.map(|file| format!("record {file} is left on {}", node.name)));
    }
    for container in &containers {
        let spec = &container.spec;
        let status = container.status.clone().unwrap_or_default();
        let ended = spec.desired_state == DesiredState::Stopped || spec.restart_policy == RestartPolicy::Never;
        let places: Vec<&str> = running.iter().filter(|(uid, _)| uid.as_str() == container.uid()).map(|(_, node)| *node).collect();
        let here = status.node_name.as_deref().filter(|_| !ended);
        let phase = if ended { ContainerPhase::Exited } else { ContainerPhase::Running };
        let as_wished = places.iter().copied().eq(here)
            && status.phase == Some(phase)
            && status.node_name.is_some()
            && spec.node_name.as_ref().is_none_or(|pin| status.node_name.as_ref() == Some(pin))
            && status.observed_generation == Some(container.generation())
            && status.condition("Ready").is_some_and(|ready| ready.is_true() != ended);
        if !as_wished {
            faults.push(format!("{} runs on {places:?}: {:#}", container.name(), serde_json::to_value(&status).unwrap()));
        }
    }
    faults.extend(address_faults(&containers));
    faults.extend(network_faults(world, &containers).await);
    faults
}

/// Each Network must be held as long as a container uses it, and no longer.
async fn network_faults(world: &World, containers: &[Container]) -> Vec<String> {
    let networks = Api::<Network>::namespaced(&world.client, NAMESPACE).list(&ListParams::default()).await.unwrap().items;
    let used = |network: &Network| {
        let endpoints = containers.iter().flat_map(|container| container.status.iter().flat_map(|status| &status.networks));
        endpoints.filter(|endpoint| endpoint.network_uid == network.uid()).count()
    };
    let wrong = networks.iter().filter(|network| {
        let count = network.status.as_ref().map_or(0, |status| status.endpoint_count);
        usize::try_from(count) != Ok(used(network)) || network.has_finalizer("gantry.dev/in-use") != (used(network) > 0)
    });
    wrong.map(|network| format!("network {} with {} users: {network:?}", network.name(), used(network))).collect()
}

fn address_faults(containers: &[Container]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut taken = BTreeMap::new();
    for container in containers {
        let endpoints = container.status.iter().flat_map(|status| &status.networks);
        let wanted = container.spec.networks.len().max(1);
        if endpoints.clone().count() != wanted {
            faults.push(format!("{} is not on {wanted} networks", container.name()));
        }
        for endpoint in endpoints {
            let address = (endpoint.network_uid.clone(), endpoint.ipv4_address.clone());
            if let Some(other) = taken.insert(address, container.name()) {
                faults.push(format!("{} and {other} have the same address {:?}", container.name(), endpoint.ipv4_address));
            }
        }
    }
    faults
}

/// One whole run; what it came to.
async fn simulate(seed: u64, size: Size) -> (u64, Vec<String>) {
    eprintln!("simulating seed {seed}");
    let mut world = World::start(seed).await;
    let wished = work(&mut world, size).await;
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.assert_none_runs_twice().await;
        let faults = faults(&world, &wished).await;
        if faults.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < give_up, "seed {seed}: {} faults remain:\n{}", faults.len(), faults.join("\n"));
    }
    // Images that nobody uses any more are collected after a delay.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let revision = world.revision();
    tokio::time::sleep(QUIET).await;
    assert_eq!(world.revision(), revision, "seed {seed}: something writes though nothing happens");
    assert_eq!(faults(&world, &wished).await, Vec::<String>::new());
    let containers = world.containers().list(&ListParams::default()).await.unwrap().items;
    let summary = containers.iter().map(|container| {
        let status = container.status.clone().unwrap_or_default();
        format!("{} {:?} {:?} {:?} {}", container.name(), status.node_name, status.phase, status.networks, status.restart_count)
    });
    let summary = summary.collect();
    assert_eq!(Api::<Node>::all(&world.client).list(&ListParams::default()).await.unwrap().items.len(), NODES.len());
    world.stop_controllers().await;
    for index in 0..NODES.len() {
        world.stop_agent(index).await;
    }
    world.server.cache.close().await;
    (revision, summary)
}

/// Its own runtime, so that nothing of an earlier run lives on.
fn run(seed: u64, size: Size) -> (u64, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(simulate(seed, size))
}

#[test]
fn whatever_happens_the_wish_comes_true_and_then_nothing_is_written() {
    let first = gantry_tests::seed();
    for seed in first..first + gantry_tests::rounds(40) {
        run(seed, Size { containers: 60, steps: 60 });
    }
}

#[test]
fn a_seed_repeats_exactly() {
    let seed = gantry_tests::seed();
    let size = Size { containers: 15, steps: 30 };
    assert_eq!(run(seed, size), run(seed, size));
}
