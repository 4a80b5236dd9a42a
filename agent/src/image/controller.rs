//! The agent's side of Image objects: resolve those that name this node, unpack those that are needed here, say so in status.
//!
//! One worker per Image, woken by changes of the Image and of Containers on this node. It writes what the resolver found, the condition
//! `Resolved`, and this node's entry in `nodes`; nothing else, and always against the version that it read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use gantry_api::kinds::core::Secret;
use gantry_api::kinds::image::{Image, ImageNodePhase, ImageNodeStatus, ImageProgress, ImageStatus};
use gantry_api::meta::{Condition, ConditionStatus, Time, find_condition, set_condition};
use gantry_api::{Container, Kind as _, ObjectKey};
use gantry_client::{Api, Client, ClientError, Informer, Patch, WatchEvent, WatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::DockerConfig;
use super::error::{ImageError, Reason};
use super::progress::{Phase, Progress};
use super::service::{ImageService, ResolveRequest, Resolved};
use crate::ids::chain;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Progress is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Writes that meet another's are tried so often before the step is begun anew.
const WRITE_ATTEMPTS: u32 = 8;

/// Serves the Images of this node until `stop`; returns when all workers have ended.
pub async fn run(
    client: Client,
    service: Arc<ImageService>,
    node_name: String,
    images: Informer<Image>,
    containers: Informer<Container>,
    stop: CancellationToken,
) {
    serve(client, service, node_name, (images, containers), FIRST_BACKOFF, stop).await;
}

/// [`run`] with the wait after a first failure.
pub(super) async fn serve(
    client: Client,
    service: Arc<ImageService>,
    node_name: String,
    (images, containers): (Informer<Image>, Informer<Container>),
    first_backoff: Duration,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let mut workers: HashMap<ObjectKey, (Arc<Notify>, CancellationToken)> = HashMap::new();
    let (mut image_changes, mut container_changes) = (images.changes(), containers.changes());
    loop {
        let key = tokio::select! {
            () = stop.cancelled() => break,
            key = image_changes.recv() => key,
            key = container_changes.recv() => {
                let image = key.and_then(|key| containers.get(&key)).and_then(|container| image_of(&container));
                match image {
                    Some(key) => Some(key),
                    None => continue,
                }
            }
        };
        let Some(key) = key else { break };
        if images.get(&key).is_none() {
            if let Some((_, cancel)) = workers.remove(&key) {
                cancel.cancel();
            }
            continue;
        }
        let (wake, _) = workers.entry(key.clone()).or_insert_with(|| {
            let (wake, cancel) = (Arc::new(Notify::new()), stop.child_token());
            let worker = Worker {
                api: Api::namespaced(&client, &key.namespace),
                secrets: Api::namespaced(&client, &key.namespace),
                service: service.clone(),
                node_name: node_name.clone(),
                images: images.clone(),
                containers: containers.clone(),
                key: key.clone(),
                wake: wake.clone(),
                first_backoff,
            };
            tracker.spawn(cancel.clone().run_until_cancelled_owned(worker.run()));
            (wake, cancel)
        });
        wake.notify_one();
    }
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

/// The Image that a container is made from.
fn image_of(container: &Container) -> Option<ObjectKey> {
    let named = container.status.as_ref().and_then(|status| status.image_object_name.as_ref());
    let name = container.spec.image_name.as_ref().or(named)?;
    Some(ObjectKey::new(container.key().namespace, name))
}

struct Worker {
    api: Api<Image>,
    secrets: Api<Secret>,
    service: Arc<ImageService>,
    node_name: String,
    images: Informer<Image>,
    containers: Informer<Container>,
    key: ObjectKey,
    wake: Arc<Notify>,
    first_backoff: Duration,
}

/// Why a step came to nothing.
enum Failure {
    /// The image's own trouble: it stands in status.
    Image(ImageError),
    /// The server's: only tried again.
    Server(ClientError),
}

/// What a step found of the pull Secret: a later version may help where this did not.
enum PullSecret {
    /// None is named, or it was not needed.
    NotRead,
    /// It is named and not there.
    Missing,
    /// It was used in this version.
    Read(Option<String>),
}

impl PullSecret {
    /// The version that was used, `Some(None)` when there was none; `None` when it plays no part.
    fn version(&self) -> Option<Option<&str>> {
        match self {
            Self::NotRead => None,
            Self::Missing => Some(None),
            Self::Read(version) => Some(version.as_deref()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Server(error)
    }
}

impl Worker {
    async fn run(self) {
        let mut backoff = self.first_backoff;
        loop {
            self.wake.notified().await;
            while let Some(image) = self.images.get(&self.key).filter(|image| !image.is_terminating()) {
                let mut secret = PullSecret::NotRead;
                let Err(failure) = self.step(&image, &mut secret).await else {
                    backoff = self.first_backoff;
                    break;
                };
                let pause = self.say(&image, &failure).await.unwrap_or(backoff).max(backoff);
                tracing::warn!(image = %self.key, wait = ?pause, "{}", shown(&failure));
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                if self.pause(&image, &secret, pause).await {
                    backoff = self.first_backoff;
                }
            }
        }
    }

    /// Waits, but not longer than until the spec or the pull Secret changes; true when one did.
    async fn pause(&self, image: &Image, secret: &PullSecret, wait: Duration) -> bool {
        let spec_changed = async {
            loop {
                self.wake.notified().await;
                let now = self.images.get(&self.key);
                if now.is_none_or(|now| now.generation() != image.generation() || now.uid() != image.uid()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = spec_changed => true,
            () = self.secret_changed(image, secret) => true,
        }
    }

    /// Ends when the pull Secret is there in another version than the one that was of no use.
    async fn secret_changed(&self, image: &Image, used: &PullSecret) {
        if let (Some(name), Some(version)) = (secret_name(image), used.version()) {
            let params = WatchParams { fields: Some(format!("metadata.name={name}")), ..Default::default() };
            if let Ok(mut events) = self.secrets.watch(&params).await {
                while let Some(Ok(event)) = events.next().await {
                    if let WatchEvent::Added(secret) | WatchEvent::Modified(secret) = event
                        && secret.metadata.resource_version.as_deref() != version
                    {
                        return;
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    }

    async fn step(&self, image: &Image, secret: &mut PullSecret) -> Result<(), Failure> {
        let status = image.status.clone().unwrap_or_default();
        let resolver = status.resolver_node_name.as_deref() == Some(self.node_name.as_str());
        if !resolver && !self.is_needed() {
            return Ok(());
        }
        let done = status.observed_generation == Some(image.generation())
            && find_condition(&status.conditions, "Resolved").is_some_and(Condition::is_true);
        if !done && !resolver {
            return Ok(());
        }
        let request = self.request(image, secret).await?;
        let work = async {
            let digest = match status.digest.filter(|_| done) {
                Some(digest) => digest,
                None => self.resolve(image, &request).await?,
            };
            self.unpack(image, &request, &digest).await
        };
        work.await.map_err(|failure| match (failure, &*secret, secret_name(image)) {
            (Failure::Image(error), PullSecret::Missing, Some(name)) if error.reason == Reason::Unauthorized => {
                Failure::Image(error.because(&format!("pull Secret `{name}` is not in the namespace")))
            }
            (failure, ..) => failure,
        })
    }

    /// Whether a Container of this node is made from the Image.
    fn is_needed(&self) -> bool {
        let ours = |container: &Container| container.status.as_ref().and_then(|s| s.node_name.as_deref()) == Some(self.node_name.as_str());
        self.containers.list().iter().any(|container| ours(container) && image_of(container).as_ref() == Some(&self.key))
    }

    /// A pull Secret that is not there yet does not keep a public image away, as under Kubernetes.
    async fn request(&self, image: &Image, used: &mut PullSecret) -> Result<ResolveRequest, Failure> {
        let mut credentials = None;
        if let Some(name) = secret_name(image) {
            let secret = self.secrets.find(name).await?;
            *used = match &secret {
                None => PullSecret::Missing,
                Some(secret) => PullSecret::Read(secret.metadata.resource_version.clone()),
            };
            credentials = secret.map(|secret| credentials_of(name, &secret)).transpose().map_err(Failure::Image)?;
        }
        Ok(ResolveRequest { namespace: self.key.namespace.clone(), spec: image.spec.clone(), credentials })
    }

    async fn resolve(&self, image: &Image, request: &ResolveRequest) -> Result<String, Failure> {
        let resolved = self.service.resolve(request).await.map_err(Failure::Image)?;
        let digest = resolved.digest.clone();
        let generation = image.generation();
        self.write(image, |status| {
            let Resolved { digest, references, size_bytes, layers, config, diff_ids: _ } = resolved.clone();
            let message = format!("resolved to {digest}");
            (status.digest, status.size_bytes, status.config) = (Some(digest), Some(size_bytes), Some(config));
            (status.references, status.layers, status.observed_generation) = (references, layers, Some(generation));
            let condition = Condition::new("Resolved", ConditionStatus::True, "Resolved", message, generation, now());
            set_condition(&mut status.conditions, condition);
        })
        .await?;
        Ok(digest)
    }

    async fn unpack(&self, image: &Image, request: &ResolveRequest, digest: &str) -> Result<(), Failure> {
        if self.service.local(digest).await.is_none() {
            let progress = Progress::default();
            let work = self.service.ensure_unpacked(request, digest, &progress);
            tokio::pin!(work);
            let mut ticks = tokio::time::interval(PROGRESS_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    result = &mut work => {
                        result.map_err(Failure::Image)?;
                        break;
                    }
                    _ = ticks.tick() => {
                        // Shown, not relied upon: the pull goes on when this write fails.
                        if let Err(error) = self.write_node(image, &progress_entry(&self.node_name, &progress)).await {
                            tracing::debug!(image = %self.key, error = %chain(&error), "progress was not written");
                        }
                    }
                }
            }
        }
        let present =
            ImageNodeStatus { name: self.node_name.clone(), phase: ImageNodePhase::Present, progress: None, message: None, since: None };
        Ok(self.write_node(image, &present).await?)
    }

    /// Writes a failure into status; gives the wait that the registry asked for.
    async fn say(&self, image: &Image, failure: &Failure) -> Option<Duration> {
        let Failure::Image(error) = failure else { return None };
        let generation = image.generation();
        let node = ImageNodeStatus {
            name: self.node_name.clone(),
            phase: ImageNodePhase::Failed,
            progress: None,
            message: Some(error.to_string()),
            since: None,
        };
        let written = self.write(image, |status| {
            put_node(&mut status.nodes, node.clone());
            let resolver = status.resolver_node_name.as_deref() == Some(self.node_name.as_str());
            let resolved = status.observed_generation == Some(generation)
                && find_condition(&status.conditions, "Resolved").is_some_and(Condition::is_true);
            if !resolver || resolved {
                return;
            }
            if status.observed_generation != Some(generation) {
                // What an earlier spec resolved to does not stand for this one.
                (status.digest, status.size_bytes, status.config) = (None, None, None);
                status.references.clear();
                status.layers.clear();
            }
            status.observed_generation = Some(generation);
            let (reason, message) = (error.reason.as_str(), error.to_string());
            let condition = Condition::new("Resolved", ConditionStatus::False, reason, message, generation, now());
            set_condition(&mut status.conditions, condition);
        });
        if let Err(error) = written.await {
            tracing::warn!(image = %self.key, error = %chain(&error), "the failure was not written");
        }
        error.retry_after.map(|wait| wait.min(LONGEST_BACKOFF))
    }

    async fn write_node(&self, image: &Image, entry: &ImageNodeStatus) -> Result<(), ClientError> {
        self.write(image, |status| put_node(&mut status.nodes, entry.clone())).await
    }

    /// Changes the status of this very Image, from its freshest version; nothing is sent when nothing changes.
    async fn write(&self, image: &Image, change: impl Fn(&mut ImageStatus)) -> Result<(), ClientError> {
        let mut current = self.images.get(&self.key).map(|image| (*image).clone());
        for attempt in 1.. {
            let Some(object) = current.filter(|now| now.uid() == image.uid() && now.generation() == image.generation()) else { break };
            let old = object.status.clone().unwrap_or_default();
            let mut new = old.clone();
            change(&mut new);
            if new == old {
                break;
            }
            let patch = merge_patch(&json!({ "status": old }), &json!({ "status": new }));
            let mut patch = patch.unwrap_or_else(|| json!({}));
            patch["metadata"] = json!({ "resourceVersion": object.metadata.resource_version });
            match self.api.patch_status(&self.key.name, &Patch::Merge(patch)).await {
                Ok(written) => {
                    self.images.observe_write(written);
                    break;
                }
                Err(error) if error.is_conflict() && attempt < WRITE_ATTEMPTS => current = self.api.find(&self.key.name).await?,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn credentials_of(name: &str, secret: &Secret) -> Result<DockerConfig, ImageError> {
    let value = secret.data.as_ref().and_then(|data| data.get(".dockerconfigjson"));
    let missing = || ImageError::new(Reason::InvalidPullSecret, format!("secret `{name}` has no key .dockerconfigjson"));
    DockerConfig::parse(&value.ok_or_else(missing)?.0)
}

fn secret_name(image: &Image) -> Option<&str> {
    image.spec.source.registry.as_ref()?.pull_secret_name.as_deref()
}

fn shown(failure: &Failure) -> String {
    match failure {
        Failure::Image(error) => error.to_string(),
        Failure::Server(error) => chain(error),
    }
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

fn progress_entry(node_name: &str, progress: &Progress) -> ImageNodeStatus {
    let (current, total) = progress.bytes();
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let phase = match progress.phase() {
        Phase::Pulling => ImageNodePhase::Pulling,
        Phase::Unpacking => ImageNodePhase::Unpacking,
    };
    let progress = (phase == ImageNodePhase::Pulling).then(|| ImageProgress { current_bytes: bytes(current), total_bytes: bytes(total) });
    ImageNodeStatus { name: node_name.to_owned(), phase, progress, message: None, since: None }
}

/// Puts this node's entry in its place; `since` moves with the phase only.
fn put_node(nodes: &mut Vec<ImageNodeStatus>, mut entry: ImageNodeStatus) {
    match nodes.iter_mut().find(|node| node.name == entry.name) {
        Some(node) => {
            entry.since = if node.phase == entry.phase { node.since.clone() } else { Some(now()) };
            *node = entry;
        }
        None => {
            entry.since = Some(now());
            nodes.push(entry);
        }
    }
}

/// What RFC 7386 has to be told to turn `old` into `new`; `None` when they are equal.
fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        if let Some(change) = before.get(key).map_or_else(|| Some(value.clone()), |old| merge_patch(old, value)) {
            patch.insert(key.clone(), change);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}
