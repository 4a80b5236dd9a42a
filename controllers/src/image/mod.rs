//! Images of Containers: found or made, given a resolver, summed up, and collected.
//!
//! Only agents talk to registries. This controller names one node per Image whose agent resolves it (`status.resolverNodeName`), and turns
//! what agents report (`Resolved`, `nodes[]`) into the summary condition `Ready`. Which Image a Container uses is decided in [`assignment`].

pub(crate) mod assignment;
mod summary;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::kinds::container::Container;
use gantry_api::kinds::image::{Image, ImageStatus};
use gantry_api::meta::set_condition;
use gantry_api::{Kind, ObjectKey};
use gantry_client::{DeleteParams, Patch, WriteParams};
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::context::Context;
use crate::runtime::status::{api, precondition};
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, References, Severity, Sources, status};
use crate::scheduler::is_ready;
use crate::table::ControllerInfo;
use summary::{NodeFacts, choose_resolver, summarize};

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "image",
    purpose: "names the node that resolves each Image, sums up `Ready`, collects generated Images without Containers",
    watches: &["Image", "Container", "Node"],
    writes: &[
        ("Image", "status.resolverNodeName"),
        ("Image", "status.conditions[Ready]"),
        ("Image", "spec.source.registry.pullSecretName (generated)"),
        ("Image", "(delete)"),
    ],
};

/// Label of Images that were made for a reference.
pub(crate) const GENERATED_LABEL: &str = "gantry.dev/generated";

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let informers = &context.informers;
    let images = informers.images.clone();
    let mut used = References::new();
    let sources = Sources::of(&informers.images)
        // Not for every change of every user: each look goes through all Containers.
        .watch(&informers.containers, move |key, container| {
            let concerned = used.changed(key, container.map(|container| use_of(container)));
            concerned.into_iter().map(|used| used.image).collect()
        })
        .watch(&informers.nodes, move |_, _| images.list().iter().map(|image| image.key()).collect());
    manager.add(Images { context: context.named(INFO.name), unused: Mutex::default() }, sources, 4);
    assignment::start(manager, context);
}

/// The key of the Image that a container uses, if it is known.
fn image_of(container: &Container) -> BTreeSet<ObjectKey> {
    let name = container.status.as_ref().and_then(|status| status.image_object_name.clone());
    name.map(|name| ObjectKey::new(container.key().namespace, name)).into_iter().collect()
}

/// What of a container matters to the Image that it uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    image: ObjectKey,
    pull_secret: Option<String>,
    node: Option<String>,
}

fn use_of(container: &Container) -> BTreeSet<Use> {
    let node = container.status.as_ref().and_then(|status| status.node_name.clone());
    let images = image_of(container).into_iter();
    images.map(|image| Use { image, pull_secret: container.spec.pull_secret_name.clone(), node: node.clone() }).collect()
}

/// Whether the image controller made it.
pub(crate) fn is_generated(image: &Image) -> bool {
    image.metadata.labels.as_ref().is_some_and(|labels| labels.get(GENERATED_LABEL).is_some_and(|value| value == "true"))
}

struct Images {
    context: Context,
    /// Since when generated Images have had no Container: uid and time.
    unused: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

impl Reconciler for Images {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(image) = self.context.informers.images.get(key) else {
            self.lock().remove(key);
            return Ok(Action::Done);
        };
        let users = self.users(key);
        if is_generated(&image) && !image.is_terminating() {
            if users.is_empty() {
                return self.collect(&image).await;
            }
            if self.pass_on_pull_secret(&image, &users).await? {
                // The written object comes back as a change.
                return Ok(Action::Done);
            }
        }
        self.lock().remove(key);
        self.write_status(&image, &users).await?;
        Ok(Action::Done)
    }
}

impl Images {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, (String, Instant)>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Containers that use an Image, by name.
    fn users(&self, key: &ObjectKey) -> Vec<Arc<Container>> {
        let mut containers = self.context.informers.containers.list();
        containers.retain(|container| image_of(container).contains(key));
        containers
    }

    /// Deletes a generated Image that no Container has used for a while.
    async fn collect(&self, image: &Image) -> Result<Action, ReconcileError> {
        let key = image.key();
        let unused_for = {
            let mut unused = self.lock();
            let entry = unused.entry(key.clone()).or_insert_with(|| (image.uid().to_owned(), Instant::now()));
            if entry.0 != image.uid() {
                *entry = (image.uid().to_owned(), Instant::now());
            }
            entry.1.elapsed()
        };
        if let Some(left) = self.context.config.unused_image_delay.checked_sub(unused_for).filter(|left| !left.is_zero()) {
            self.write_status(image, &[]).await?;
            return Ok(Action::After(left));
        }
        info!(controller = INFO.name, namespace = key.namespace, name = key.name, "no container uses the generated image any more");
        // Bound to this version: an Image that was just given a new purpose is left alone.
        let params = DeleteParams {
            uid: image.metadata.uid.clone(),
            resource_version: image.metadata.resource_version.clone(),
            ..DeleteParams::default()
        };
        api::<Image>(&self.context.client, &key.namespace).delete(&key.name, &params).await.doing(|| format!("delete Image {key}"))?;
        Ok(Action::Done)
    }

    /// A generated Image is fetched with the pull secret of the first of its Containers that names one. Returns whether that was news.
    async fn pass_on_pull_secret(&self, image: &Image, users: &[Arc<Container>]) -> Result<bool, ReconcileError> {
        let wanted = users.iter().find_map(|container| container.spec.pull_secret_name.clone());
        let has = image.spec.source.registry.as_ref().and_then(|registry| registry.pull_secret_name.clone());
        if wanted == has {
            return Ok(false);
        }
        let key = image.key();
        let patch = json!({
            "metadata": precondition(image),
            "spec": { "source": { "registry": { "pullSecretName": wanted } } },
        });
        let written = api::<Image>(&self.context.client, &key.namespace)
            .patch(&key.name, &Patch::Merge(patch), &WriteParams::default())
            .await
            .doing(|| format!("write the pull secret of Image {key}"))?;
        self.context.informers.images.observe_write(written);
        Ok(true)
    }

    async fn write_status(&self, image: &Image, users: &[Arc<Container>]) -> Result<(), ReconcileError> {
        let nodes = self.context.informers.nodes.list();
        let nodes: Vec<NodeFacts<'_>> = nodes.iter().map(|node| NodeFacts { name: node.name(), ready: is_ready(node) }).collect();
        let old = image.status.clone().unwrap_or_default();
        let waiting = users.iter().find_map(|container| container.status.as_ref()?.node_name.as_deref());
        let mut new =
            ImageStatus { resolver_node_name: choose_resolver(old.resolver_node_name.as_deref(), waiting, &nodes), ..old.clone() };
        let summary = summarize(image, &new);
        let before = gantry_api::meta::find_condition(&old.conditions, "Ready").map(|condition| condition.reason.clone());
        let (reason, message, severity) = (summary.reason.clone(), summary.message.clone(), summary.severity());
        set_condition(&mut new.conditions, summary.condition(image.generation(), self.context.config.clock.now()));
        status::write(&self.context.client, &self.context.informers.images, image, &old, &new).await?;
        if let Some(severity) = severity.filter(|_| before.as_deref() != Some(reason.as_str())) {
            self.tell(image, severity, &reason, message);
        }
        Ok(())
    }

    fn tell(&self, image: &Image, severity: Severity, reason: &str, message: String) {
        self.context.recorder.record(INFO.name, &self.context.config.clock, image, severity, reason, message);
    }
}
