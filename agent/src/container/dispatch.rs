//! Who has a worker, who wakes it, and what becomes of leftovers whose object is gone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::kinds::container::AGENT_FINALIZER;
use gantry_api::{Kind as _, ObjectKey};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Context;
use super::environment::Data;
use super::id_ranges::IdRanges;
use super::names;
use super::record::{Record, Records};
use super::status::{Aspect, Finding, StatusWriter};
use super::worker::Worker;
use crate::ids::{ContainerUid, chain};
use crate::logs::LogStore;
use crate::network::NetworkEvent;
use crate::runtime::RuntimeEvent;

/// How long the start waits for the containers that run to be adopted, before unwanted network objects are removed.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(30);

/// What all workers share.
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) records: Records,
    pub(super) ranges: IdRanges,
    pub(super) status: StatusWriter,
    pub(super) logs: LogStore,
}

impl Shared {
    /// Directory for files that the engine makes for a container: in the run directory, which is memory on a usual host.
    fn mounts_dir(&self, uid: &ContainerUid) -> PathBuf {
        self.context.instance.run_dir.join("mounts").join(uid.as_str())
    }

    /// Writes the keys of a Secret or ConfigMap as files, readable by everyone inside the container and by root alone outside.
    pub(super) async fn project(&self, uid: &ContainerUid, mount: usize, kind: &'static str, data: Data) -> io::Result<PathBuf> {
        let parent = self.mounts_dir(uid);
        let dir = parent.join(format!("{mount}-{}", kind.to_ascii_lowercase()));
        let target = dir.clone();
        tokio::task::spawn_blocking(move || crate::volume::project::write(&parent, &target, &data)).await.map_err(io::Error::other)??;
        Ok(dir)
    }

    /// Removes what [`Shared::project`] made. Idempotent.
    pub(super) async fn remove_mounts(&self, uid: &ContainerUid) -> io::Result<()> {
        let dir = self.mounts_dir(uid);
        // Usually there is nothing; looking costs less than the way to a thread that may block.
        if !dir.try_exists()? {
            return Ok(());
        }
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A path of the node, made as a directory when missing and wished.
    pub(super) async fn host_path(&self, path: &str, create: bool) -> Result<PathBuf, Finding> {
        let found = match tokio::fs::metadata(path).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => tokio::fs::create_dir_all(path).await,
            Err(error) => Err(error),
        };
        found.map(|()| PathBuf::from(path)).map_err(|error| {
            let message = format!("host path `{path}`: {error}; create it, or set hostPath.create: true");
            Finding::bad(Aspect::VolumesReady, "HostPathNotFound", message)
        })
    }
}

/// A worker and the way to wake it.
struct Handle {
    key: ObjectKey,
    wake: Arc<Notify>,
}

/// Runs the workers of all containers of this node until `stop`.
///
/// # Errors
/// When the host cannot be observed at start.
pub async fn run(context: Context, stop: CancellationToken) -> Result<(), crate::runtime::RuntimeError> {
    let informers = context.informers.clone();
    tokio::join!(informers.containers.synced(), informers.leaving.synced());
    tokio::join!(informers.images.synced(), informers.networks.synced(), informers.volumes.synced());
    let status = StatusWriter::new(context.client.clone(), informers.containers.clone(), context.clock.clone());
    let open = |source| crate::runtime::RuntimeError::Step { step: "open the data directory".to_owned(), source };
    let shared = Arc::new(Shared {
        records: Records::open(&context.instance.data_dir).map_err(open)?,
        logs: LogStore::open(&context.instance.data_dir).map_err(open)?,

        ranges: IdRanges::default(),
        status,
        context,
    });
    let runtime_events = shared.context.drivers.runtime.events();
    let network_events = shared.context.drivers.network.events();
    let mut dispatch = Dispatch { shared, workers: BTreeMap::new(), networks: BTreeMap::new(), tasks: JoinSet::new(), stop: stop.clone() };
    let names = tokio::spawn(names::run(dispatch.shared.clone(), stop.clone()));
    dispatch.adopt().await?;
    dispatch.follow(runtime_events, network_events).await;
    while dispatch.tasks.join_next().await.is_some() {}
    if let Err(error) = names.await {
        warn!(%error, "the task that publishes names ended badly");
    }
    Ok(())
}

struct Dispatch {
    shared: Arc<Shared>,
    workers: BTreeMap<ContainerUid, Handle>,
    /// Uids of the Networks as last seen.
    networks: BTreeMap<ObjectKey, String>,
    tasks: JoinSet<ContainerUid>,
    stop: CancellationToken,
}

impl Dispatch {
    /// Gives a worker to everything that is on the host or should be, and removes network objects that none of them wants.
    async fn adopt(&mut self) -> Result<(), crate::runtime::RuntimeError> {
        let drivers = self.shared.context.drivers.clone();
        let mut first_passes = Vec::new();
        for observed in drivers.runtime.observe().await? {
            let record = Record::from_value(&observed.record).or_else(|| self.shared.records.load(&observed.uid)).unwrap_or_default();
            if let Some(range) = record.id_range {
                self.shared.ranges.adopt(&observed.uid, range);
            }
            first_passes.extend(self.ensure_worker(observed.uid, ObjectKey::new(record.namespace, record.name)));
        }
        let left = drivers.snapshotter.list().await.unwrap_or_default();
        for uid in left.into_iter().chain(self.shared.records.list()).chain(self.shared.logs.list()) {
            let record = self.shared.records.load(&uid).unwrap_or_default();
            first_passes.extend(self.ensure_worker(uid, ObjectKey::new(record.namespace, record.name)));
        }
        let informers = self.shared.context.informers.clone();
        for object in informers.containers.list().into_iter().chain(informers.leaving.list()) {
            if let Some(uid) = ContainerUid::new(object.uid()) {
                first_passes.extend(self.ensure_worker(uid, object.key()));
            }
        }
        let all = first_passes.len();
        let adopted = tokio::time::timeout(ADOPTION_PATIENCE, futures_util::future::join_all(first_passes)).await;
        if adopted.is_err() {
            warn!(containers = all, "not every container could be looked at in time; unwanted network objects stay until the next start");
            return Ok(());
        }
        info!(containers = all, "every container of this node was looked at");
        if let Err(error) = drivers.network.settle().await {
            warn!(error = chain(&error), "remove unwanted network objects");
        }
        Ok(())
    }

    /// The worker of a container, new unless it has one. Returns what tells that the world was looked at once.
    fn ensure_worker(&mut self, uid: ContainerUid, mut key: ObjectKey) -> Option<oneshot::Receiver<()>> {
        if self.workers.contains_key(&uid) {
            return None;
        }
        if key.name.is_empty() {
            // A leftover without a record: the object, if there is one, is found by its uid.
            let objects = self.shared.context.informers.containers.list();
            key = objects.iter().find(|object| object.uid() == uid.as_str()).map_or(key, |object| object.key());
        }
        let wake = Arc::new(Notify::new());
        let (told, first_pass) = oneshot::channel();
        let worker = Worker::new(self.shared.clone(), uid.clone(), key.clone());
        self.workers.insert(uid.clone(), Handle { key, wake: wake.clone() });
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            worker.run(wake, told, stop).await;
            uid
        });
        Some(first_pass)
    }

    async fn follow(&mut self, mut runtime: broadcast::Receiver<RuntimeEvent>, mut network: broadcast::Receiver<NetworkEvent>) {
        let informers = self.shared.context.informers.clone();
        let (mut containers, mut leaving) = (informers.containers.changes(), informers.leaving.changes());
        let (mut images, mut networks, mut volumes) =
            (informers.images.changes(), informers.networks.changes(), informers.volumes.changes());
        loop {
            tokio::select! {
                // In this order, so that simulations repeat: what waits in each of these is bounded, so none starves another for long.
                biased;
                () = self.stop.cancelled() => return,
                Some(ended) = self.tasks.join_next() => self.worker_ended(ended),
                Some(key) = containers.recv() => self.container_changed(&key),
                Some(key) = leaving.recv() => self.container_left(&key),
                Some(key) = images.recv() => self.wake_namespace(&key.namespace),
                Some(key) = networks.recv() => {
                    self.network_changed(&key).await;
                    self.wake_namespace(&key.namespace);
                }
                Some(key) = volumes.recv() => self.wake_namespace(&key.namespace),
                event = runtime.recv() => self.runtime_event(event),
                event = network.recv() => self.network_event(event),
            }
        }
    }

    fn container_changed(&mut self, key: &ObjectKey) {
        for handle in self.workers.values().filter(|handle| handle.key == *key) {
            handle.wake.notify_one();
        }
        let Some(object) = self.shared.context.informers.containers.get(key) else { return };
        if let Some(uid) = ContainerUid::new(object.uid()) {
            self.ensure_worker(uid, key.clone());
        }
    }

    /// The binding of a container to this node was taken back: its worker takes it off the node and lets go of it.
    fn container_left(&mut self, key: &ObjectKey) {
        for handle in self.workers.values().filter(|handle| handle.key == *key) {
            handle.wake.notify_one();
        }
        let leaving = self.shared.context.informers.leaving.get(key).filter(|object| object.has_finalizer(AGENT_FINALIZER));
        if let Some(uid) = leaving.and_then(|object| ContainerUid::new(object.uid())) {
            self.ensure_worker(uid, key.clone());
        }
    }

    /// A Network that is gone, or was made anew under its name, leaves no bridge behind: its subnet may be given out again.
    async fn network_changed(&mut self, key: &ObjectKey) {
        let now = self.shared.context.informers.networks.get(key).map(|network| network.uid().to_owned());
        let before = match &now {
            Some(uid) => self.networks.insert(key.clone(), uid.clone()),
            None => self.networks.remove(key),
        };
        let Some(gone) = before.filter(|before| now.as_ref() != Some(before)) else { return };
        if let Err(error) = self.shared.context.drivers.network.remove_network(&gone).await {
            warn!(network = %key, error = chain(&error), "remove the bridge of a network that is gone");
        }
    }

    /// Something that a container of the namespace may wait for changed.
    fn wake_namespace(&self, namespace: &str) {
        let informer = &self.shared.context.informers.containers;
        for handle in self.workers.values().filter(|handle| handle.key.namespace == namespace) {
            let ready = informer.get(&handle.key).is_some_and(|object| {
                object.status.as_ref().and_then(|status| status.condition("Ready")).is_some_and(gantry_api::Condition::is_true)
                    && object.spec.update_policy == gantry_api::kinds::container::UpdatePolicy::Pinned
            });
            if !ready {
                handle.wake.notify_one();
            }
        }
    }

    fn runtime_event(&self, event: Result<RuntimeEvent, broadcast::error::RecvError>) {
        match event {
            Ok(RuntimeEvent::Exited { uid, .. } | RuntimeEvent::Lost { uid }) => {
                if let Some(handle) = self.workers.get(&uid) {
                    handle.wake.notify_one();
                }
            }
            // Some events were missed: everything may have changed.
            Err(_) => self.workers.values().for_each(|handle| handle.wake.notify_one()),
        }
    }

    fn network_event(&self, event: Result<NetworkEvent, broadcast::error::RecvError>) {
        match event {
            Ok(NetworkEvent::Repaired { what, uid }) => {
                info!(what, "the node's network had drifted and was mended");
                if let Some(handle) = uid.and_then(|uid| self.workers.get(&uid)) {
                    handle.wake.notify_one();
                }
            }
            Ok(NetworkEvent::RepairFailed { what }) => warn!(what, "the node's network has drifted and could not be mended yet"),
            Err(_) => {}
        }
    }

    /// A worker that ended is forgotten; an object that came back meanwhile gets a new one.
    fn worker_ended(&mut self, ended: Result<ContainerUid, tokio::task::JoinError>) {
        let uid = match ended {
            Ok(uid) => uid,
            Err(error) => {
                tracing::error!(%error, "a container's worker ended badly");
                return;
            }
        };
        let Some(handle) = self.workers.remove(&uid) else { return };
        self.container_left(&handle.key);
        let node = &self.shared.context.instance.node_name;
        let Some(object) = self.shared.context.informers.containers.get(&handle.key) else { return };
        let bound_here = object.status.as_ref().and_then(|status| status.node_name.as_ref()) == Some(node);
        let same = object.uid() == uid.as_str();
        if let Some(next) = ContainerUid::new(object.uid()).filter(|_| bound_here && (!same || !object.is_terminating())) {
            self.ensure_worker(next, handle.key);
        }
    }
}
