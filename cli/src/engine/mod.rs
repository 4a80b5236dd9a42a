//! The engine in one process: store, API server, controllers and this node's agent, put together.

pub(crate) mod config;
pub(crate) mod host;
pub(crate) mod journal;
pub(crate) mod lock;
mod manifests;
mod notify;
mod store_health;
pub(crate) mod teardown;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use gantry_agent::agent::Agent;
use gantry_agent::container::Drivers;
use gantry_agent::ids::Instance;
use gantry_agent::image::{ImageService, RegistryConfig};
use gantry_agent::logs::LogStore;
use gantry_agent::network::bridge::BridgeDriver;
use gantry_agent::runtime::shim::ShimRuntime;
use gantry_agent::snapshot::OverlaySnapshotter;
use gantry_agent::stream::{self, Streams};
use gantry_agent::volume::local::LocalVolumes;
use gantry_apiserver::auth::{FixedAuthorizer, Identity};
use gantry_apiserver::cache::{Cache, CacheConfig};
use gantry_apiserver::server::{Listeners, ServerConfig};
use gantry_apiserver::store::redb::{RedbConfig, RedbStore};
use gantry_apiserver::stream::NodeProxy;
use gantry_apiserver::{ApiServer, AppState};
use gantry_client::Client;
use gantry_content::ContentStore;
use http::{Request, Response};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use config::EngineConfig;
use lock::{Lock, Taken};

type HttpBody = axum::body::Body;

/// Between two looks at whether the server is ready.
const READY_PAUSE: Duration = Duration::from_millis(10);
/// How long the parts may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the engine until SIGTERM or SIGINT.
pub(crate) async fn run(config: EngineConfig) -> anyhow::Result<()> {
    let _locks = take_locks(&config)?;
    let stop = CancellationToken::new();
    let signalled = tokio::spawn(wait_for_signal(stop.clone()));
    let content = ContentStore::open(&config.data_dir.join("content")).context("open the content store")?;
    let store = open_store(&config).await?;
    let cache = Cache::open(store.clone(), CacheConfig::default()).await.context("load the objects")?;
    let mut server = ApiServer::new(cache.clone(), Arc::new(FixedAuthorizer));
    server.instance.clone_from(&config.instance);
    server.content = Some(Arc::new(content.clone()));
    let measured = store.clone();
    server.store_stats = Some(Box::new(move || measured.stats()));
    let state: AppState = Arc::new(server);
    let router = gantry_apiserver::router(state.clone());

    let agent = agent(&config, &router, content)?;
    state.set_node_proxy(Arc::new(LocalNode { name: config.node_name.clone(), router: streams(&agent, &config, &stop)? }));
    let listeners = bind(&config).await?;
    let ready = ready_line(&config, &listeners);
    let served = tokio::spawn(listeners.serve(router.clone(), stop.clone()));
    let controllers = {
        let client = in_process(&router, Identity::controllers(), "gantry-controllers");
        let settings = gantry_controllers::Config { instance: config.instance.clone(), ..Default::default() };
        tokio::spawn(gantry_controllers::run(client, settings, stop.clone()))
    };
    let agent = tokio::spawn(agent.run(stop.clone()));
    let definitions = tokio::spawn(gantry_apiserver::definitions::keep(state.clone(), stop.clone()));
    let store_health = {
        let client = in_process(&router, Identity::apiserver(), "gantry-apiserver");
        tokio::spawn(store_health::tell(client, config.node_name.clone(), cache.store().health(), stop.clone()))
    };
    until_ready(&router, &stop).await;
    let manifests = config.manifests.clone().map(|folder| {
        let client = in_process(&router, Identity::admin(), "gantry-manifests");
        tokio::spawn(manifests::run(client, folder, stop.clone()))
    });
    journal::say(&ready);
    notify::tell("READY=1");

    signalled.await.context("wait for a signal")?;
    notify::tell("STOPPING=1");
    let parts = async {
        for part in [served, controllers, agent, definitions, store_health].into_iter().chain(manifests) {
            if let Err(error) = part.await {
                tracing::error!(%error, "a part of the engine ended badly");
            }
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, parts).await.is_err() {
        tracing::warn!("not every part ended in time");
    }
    cache.close().await;
    store.close().await;
    Ok(())
}

/// Waits until the server calls itself ready, or the engine is to stop: whoever applies after our word must find the namespace to apply to.
/// An engine whose disk is full is there all the same: containers are looked after, and a supervisor that gave it up would make no room.
async fn until_ready(router: &axum::Router, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let mut request = Request::new(HttpBody::empty());
        *request.uri_mut() = http::Uri::from_static("/readyz?exclude=store");
        request.extensions_mut().insert(Identity::controllers());
        if router.clone().oneshot(request).await.is_ok_and(|response| response.status().is_success()) {
            return;
        }
        let _ = tokio::time::timeout(READY_PAUSE, stop.cancelled()).await;
    }
}

fn take_locks(config: &EngineConfig) -> anyhow::Result<[Lock; 2]> {
    let take = |dir: &std::path::Path, flag: &str| match lock::take(dir)? {
        Taken::Ours(lock) => Ok(lock),
        Taken::Other(pid) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            anyhow::bail!("another engine{pid} uses `{}`; stop it, or choose another {flag}", dir.display())
        }
    };
    Ok([take(&config.data_dir, "--data-dir")?, take(&config.run_dir, "--run-dir")?])
}

async fn open_store(config: &EngineConfig) -> anyhow::Result<Arc<RedbStore>> {
    let dir = config.data_dir.join("store");
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir)?;
        let config = RedbConfig { indexer: Some(gantry_apiserver::indexer()), ..RedbConfig::default() };
        Ok::<_, anyhow::Error>(RedbStore::open(&dir, config)?)
    });
    Ok(Arc::new(opened.await?.context("open the store")?))
}

async fn bind(config: &EngineConfig) -> anyhow::Result<Listeners> {
    let mut server = ServerConfig::new(&config.data_dir);
    server.socket = Some(config.run_dir.join("gantry.sock"));
    server.listen.clone_from(&config.listen);
    server.names = vec![config.node_name.clone()];
    Listeners::bind(&server, Timestamp::now()).await.context("listen")
}

fn ready_line(config: &EngineConfig, listeners: &Listeners) -> String {
    let socket = format!("unix://{}", config.run_dir.join("gantry.sock").display());
    let tls = listeners.addresses().iter().map(|address| format!(", https://{address}"));
    format!("gantry {} ready: {socket}{}", env!("CARGO_PKG_VERSION"), tls.collect::<String>())
}

/// A client of the router in this process, as one of the engine's own identities.
fn in_process(router: &axum::Router, identity: Identity, manager: &str) -> Client {
    let service = router.clone().map_request(|request: Request<gantry_client::Body>| request.map(HttpBody::new));
    Client::in_process(service, manager, move |parts| {
        parts.extensions.insert(identity.clone());
    })
}

fn agent(config: &EngineConfig, router: &axum::Router, content: ContentStore) -> anyhow::Result<Agent> {
    let instance = Instance {
        name: config.instance.clone(),
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        node_name: config.node_name.clone(),
    };
    let snapshotter = Arc::new(OverlaySnapshotter::open(&config.data_dir.join("snapshots")).context("open the snapshots")?);
    let registries = RegistryConfig { plain_http: config.insecure_registry.clone() };
    let images = Arc::new(ImageService::new(content, snapshotter.clone(), registries));
    let drivers = Drivers {
        runtime: Arc::new(ShimRuntime::new(instance.clone()).context("set up the runtime")?),
        network: Arc::new(BridgeDriver::new(&instance).context("set up the network")?),
        snapshotter,
        volumes: Arc::new(LocalVolumes::open(&config.data_dir).context("open the volumes")?),
        images: images.clone(),
    };
    let client = in_process(router, Identity::node(&config.node_name), "gantry-agent");
    Ok(Agent { instance, client, drivers, images: Some(images), clock: Arc::new(Timestamp::now) })
}

fn streams(agent: &Agent, config: &EngineConfig, stop: &CancellationToken) -> anyhow::Result<axum::Router> {
    let logs = LogStore::open(&config.data_dir).context("open the logs")?;
    Ok(stream::router(Streams { runtime: agent.drivers.runtime.clone(), logs, clock: agent.clock.clone(), stop: stop.clone() }))
}

/// The way to the one node of this process.
struct LocalNode {
    name: String,
    router: axum::Router,
}

impl NodeProxy for LocalNode {
    fn call(&self, node: &str, request: Request<HttpBody>) -> BoxFuture<'static, Response<HttpBody>> {
        let router = (node == self.name).then(|| self.router.clone());
        let node = node.to_owned();
        Box::pin(async move {
            match router {
                Some(router) => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
                None => {
                    let error = gantry_apiserver::ApiError::unavailable(format!("node \"{node}\" is not connected to this server"));
                    error.response()
                }
            }
        })
    }
}

async fn wait_for_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => tracing::error!("signals cannot be received; stopping"),
    }
    stop.cancel();
}
