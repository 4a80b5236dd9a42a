//! Containers of Nodes that are gone.
//!
//! A Node whose agent has ended its session keeps its Containers: the processes run on, and the agent adopts them when it is back. Only when
//! the Node object itself has been absent for a while are its Containers given up: their phase becomes `Unknown`, and of those that are being
//! deleted the agent's finalizer is taken off, because nobody else ever will.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_api::kinds::container::{AGENT_FINALIZER, Container, ContainerPhase, ContainerStatus};
use gantry_api::kinds::core::Node;
use gantry_api::meta::{Condition, ConditionStatus, set_condition};
use gantry_api::{Kind, ObjectKey};
use gantry_client::Api;
use tokio::time::Instant;

use crate::context::Context;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Severity, Sources, finalizer, status};
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "node-lifecycle",
    purpose: "gives up the Containers of Nodes that are gone",
    watches: &["Container", "Node"],
    writes: &[
        ("Container", "status.phase=Unknown"),
        ("Container", "status.conditions[Ready]=Unknown"),
        ("Container", "metadata.finalizers[gantry.dev/agent] (removed when the Node is gone)"),
    ],
};

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let containers = context.informers.containers.clone();
    let nodes = context.informers.nodes.clone();
    let sources = Sources::new()
        .watch(&context.informers.containers, move |_, container| {
            let node = container.and_then(|container| node_key(container));
            node.filter(|node| nodes.get(node).is_none()).into_iter().collect()
        })
        .watch(&context.informers.nodes, move |node, _| {
            let bound = containers.list().iter().any(|container| node_key(container).as_ref() == Some(node));
            bound.then(|| node.clone()).into_iter().collect()
        });
    manager.add(NodeLifecycle { context: context.named(INFO.name), absent: Mutex::default() }, sources, 1);
}

fn node_key(container: &Container) -> Option<ObjectKey> {
    let name = container.status.as_ref()?.node_name.clone()?;
    Some(ObjectKey::new("", name))
}

struct NodeLifecycle {
    context: Context,
    /// Since when Nodes that Containers are bound to have been absent.
    absent: Mutex<HashMap<ObjectKey, Instant>>,
}

impl Reconciler for NodeLifecycle {
    /// The key of a Node, whether it exists or not.
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if self.context.informers.nodes.get(key).is_some() {
            self.lock().remove(key);
            return Ok(Action::Done);
        }
        let mut bound = self.context.informers.containers.list();
        bound.retain(|container| node_key(container).as_ref() == Some(key));
        if bound.is_empty() {
            self.lock().remove(key);
            return Ok(Action::Done);
        }
        if let Some(left) = self.time_left(key) {
            return Ok(Action::After(left));
        }
        let node = Api::<Node>::all(&self.context.client).find(&key.name).await.doing(|| format!("look for Node {key}"))?;
        if node.is_some() {
            return Err(ReconcileError::WaitFor { what: format!("Node {key} to be seen") });
        }
        for container in &bound {
            self.give_up(container, &key.name).await?;
        }
        Ok(Action::Done)
    }
}

impl NodeLifecycle {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Instant>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much longer the Node may come back; `None` when it had its time.
    fn time_left(&self, key: &ObjectKey) -> Option<Duration> {
        let since = *self.lock().entry(key.clone()).or_insert_with(Instant::now);
        self.context.config.vanished_node_delay.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    async fn give_up(&self, container: &Container, node: &str) -> Result<(), ReconcileError> {
        let informer = &self.context.informers.containers;
        if container.is_terminating() {
            finalizer::ensure(&self.context.client, informer, container, &[(AGENT_FINALIZER, false)]).await?;
            return Ok(());
        }
        let old = container.status.clone().unwrap_or_default();
        if old.phase == Some(ContainerPhase::Unknown) {
            return Ok(());
        }
        let message = format!("node \"{node}\" is gone; create it again, or delete the container");
        let mut new = ContainerStatus { phase: Some(ContainerPhase::Unknown), ..old.clone() };
        let now = self.context.config.clock.now();
        let condition = Condition::new("Ready", ConditionStatus::Unknown, "NodeGone", message.clone(), container.generation(), now);
        set_condition(&mut new.conditions, condition);
        status::write(&self.context.client, informer, container, &old, &new).await?;
        self.context.recorder.record(INFO.name, &self.context.config.clock, container, Severity::Warning, "NodeGone", message);
        Ok(())
    }
}
