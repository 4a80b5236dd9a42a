//! Binds Containers to nodes.
//!
//! A Container without `status.nodeName` is offered to the nodes: the pin, the selector, volumes whose data is on a node already, and
//! the readiness of the node rule nodes out, and of those left the one with the fewest containers is taken. The choice is written once,
//! through the `binding` subresource. A container that has to move is first taken from its node, whose agent stops it and removes its
//! finalizer, and only then bound to another: it never runs twice. Where none fits, the condition `Scheduled` says why and what to do; a change of a node, a
//! volume or of the container itself brings the key back.

mod choose;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::kinds::container::{AGENT_FINALIZER, Container};
use gantry_api::kinds::core::Node;
use gantry_api::meta::{Condition, ConditionStatus, set_condition};
use gantry_api::{Kind, ObjectKey, Volume};
use serde_json::{Value, json};
use tracing::info;

use crate::context::Context;
use crate::runtime::status::api;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Severity, Sources, finalizer, status};
use crate::table::ControllerInfo;
use choose::{Candidate, Choice, Demand, Unfit, VolumeDemand, choose_node};

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "scheduler",
    purpose: "binds Containers to nodes",
    watches: &["Container", "Node", "Volume"],
    writes: &[
        ("Container", "status.nodeName"),
        ("Container", "status.formerNodeName"),
        ("Container", "status.conditions[Scheduled]"),
        ("Container", "metadata.finalizers[gantry.dev/agent] (removed when no node holds it)"),
    ],
};

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let informers = &context.informers;
    let unbound = informers.containers.clone();
    let unbound_too = informers.containers.clone();
    let sources = Sources::of(&informers.containers)
        .watch(&informers.nodes, move |_, _| waiting(&unbound.list(), |_| true))
        .watch(&informers.volumes, move |volume, _| waiting(&unbound_too.list(), |container| mounts(container, volume)));
    // One at a time: each choice must see the one before.
    manager.add(Scheduler { context: context.named(INFO.name), bound: Mutex::default() }, sources, 1);
}

/// Keys of the containers without a node that `concerned` says yes to.
fn waiting(containers: &[Arc<Container>], concerned: impl Fn(&Container) -> bool) -> Vec<ObjectKey> {
    containers.iter().filter(|container| node_of(container).is_none() && concerned(container)).map(|container| container.key()).collect()
}

fn mounts(container: &Container, volume: &ObjectKey) -> bool {
    container.key().namespace == volume.namespace && volume_names(container).any(|name| name == volume.name)
}

fn node_of(container: &Container) -> Option<&str> {
    container.status.as_ref().and_then(|status| status.node_name.as_deref())
}

/// Names of the Volumes that a container mounts.
pub(crate) fn volume_names(container: &Container) -> impl Iterator<Item = &str> {
    container.spec.mounts.iter().filter_map(|mount| mount.volume.as_ref()).map(|volume| volume.name.as_str())
}

struct Scheduler {
    context: Context,
    /// Bindings made by this process that the informer does not show yet: uid and node of each.
    bound: Mutex<HashMap<ObjectKey, (String, String)>>,
}

impl Reconciler for Scheduler {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(container) = self.context.informers.containers.get(key) else {
            self.forget(key);
            return Ok(Action::Done);
        };
        if let Some(node) = node_of(&container) {
            self.forget(key);
            return self.keep_or_move(&container, node).await;
        }
        if container.has_finalizer(AGENT_FINALIZER) {
            return self.let_go(&container).await;
        }
        if container.is_terminating() {
            return Ok(Action::Done);
        }
        let earlier = self.lock().get(key).filter(|(uid, _)| uid == container.uid()).map(|(_, node)| node.clone());
        if let Some(node) = earlier {
            // Binding to the same node again changes nothing.
            return self.bind(&container, &node).await;
        }
        match self.choose(&container) {
            Choice::Node(node) => self.bind(&container, &node).await,
            Choice::None(unfit) => self.report(&container, Verdict { status: ConditionStatus::False, unfit }).await,
        }
    }
}

/// The condition `Scheduled` as it should be.
struct Verdict {
    status: ConditionStatus,
    unfit: Unfit,
}

/// Whether the pin and the selector, which may have changed after the binding, still agree with the node.
fn still_wished(container: &Container, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let pinned_here = container.spec.node_name.as_deref().is_none_or(|pin| pin == node.name());
    pinned_here && container.spec.node_selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

impl Scheduler {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, (String, String)>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    fn choose(&self, container: &Container) -> Choice {
        let containers = self.context.informers.containers.list();
        let placed: BTreeMap<ObjectKey, String> = {
            let bound = self.lock();
            let seen = containers.iter().filter_map(|other| node_of(other).map(|node| (other.key(), node.to_owned())));
            bound.iter().map(|(key, (_, node))| (key.clone(), node.clone())).chain(seen).collect()
        };
        let volumes = volume_names(container).map(|name| self.volume_demand(container, name, &containers, &placed)).collect();
        let demand = Demand { pin: container.spec.node_name.as_deref(), selector: &container.spec.node_selector, volumes };
        let nodes = self.context.informers.nodes.list();
        let candidates: Vec<Candidate<'_>> = nodes.iter().map(|node| candidate(node, &placed)).collect();
        choose_node(&demand, &candidates)
    }

    fn volume_demand(
        &self,
        container: &Container,
        name: &str,
        containers: &[Arc<Container>],
        placed: &BTreeMap<ObjectKey, String>,
    ) -> VolumeDemand {
        let key = ObjectKey::new(container.key().namespace, name);
        let volume = self.context.informers.volumes.get(&key);
        // Until the volume controller has bound it, the first placed container that mounts it decides where the data will be.
        let mut others = containers.iter().filter(|other| other.uid() != container.uid() && mounts(other, &key));
        let user = others.find_map(|other| Some((other.key(), placed.get(&other.key())?)));
        let node = volume.as_ref().and_then(|volume| volume_node(volume)).or_else(|| user.as_ref().map(|(_, node)| (*node).clone()));
        let once = volume.as_ref().is_some_and(|volume| volume.spec.access_mode == gantry_api::kinds::volume::AccessMode::ReadWriteOnce);
        VolumeDemand {
            name: name.to_owned(),
            exists: volume.is_some(),
            node,
            held_by: user.filter(|_| once).map(|(holder, _)| holder.name),
        }
    }

    /// A bound container stays where it is, unless its pin or selector was changed and another node fits: then the binding is taken back,
    /// and the next look binds it anew. While none fits it runs on, and the condition says so.
    async fn keep_or_move(&self, container: &Container, node: &str) -> Result<Action, ReconcileError> {
        let current = self.context.informers.nodes.get(&ObjectKey::new("", node));
        // Of a node that is gone nothing can be said; the node lifecycle sees to its containers.
        if container.is_terminating() || current.is_none_or(|current| still_wished(container, &current)) {
            let scheduled = container.status.as_ref().and_then(|status| status.condition("Scheduled"));
            if scheduled.is_some_and(Condition::is_true) {
                return Ok(Action::Done);
            }
            let unfit = Unfit { reason: "Bound", message: format!("runs on node \"{node}\"") };
            return self.report(container, Verdict { status: ConditionStatus::True, unfit }).await;
        }
        match self.choose(container) {
            Choice::Node(_) => self.bind(container, "").await,
            Choice::None(unfit) => {
                let message = format!("runs on node \"{node}\", which the changed spec rules out, and cannot move: {}", unfit.message);
                self.report(container, Verdict { status: ConditionStatus::False, unfit: Unfit { message, ..unfit } }).await
            }
        }
    }

    /// A container without a node that an agent holds: the node that it is to leave has not let go of it. It waits for that, or goes back
    /// there when that is its place again; nobody is left to wait for when that node is gone.
    async fn let_go(&self, container: &Container) -> Result<Action, ReconcileError> {
        let former = container.status.as_ref().and_then(|status| status.former_node_name.as_deref());
        let holder = former.filter(|former| self.context.informers.nodes.get(&ObjectKey::new("", *former)).is_some());
        let Some(holder) = holder else {
            finalizer::ensure(&self.context.client, &self.context.informers.containers, container, &[(AGENT_FINALIZER, false)]).await?;
            return Ok(Action::Done);
        };
        match self.choose(container) {
            Choice::Node(node) if node == holder && !container.is_terminating() => self.bind(container, holder).await,
            _ => Ok(Action::Done),
        }
    }

    /// Writes the binding, or with an empty node takes it back.
    async fn bind(&self, container: &Container, node: &str) -> Result<Action, ReconcileError> {
        let key = container.key();
        if !node.is_empty() {
            self.lock().insert(key.clone(), (container.uid().to_owned(), node.to_owned()));
        }
        let body = json!({ "nodeName": node });
        let bound = api::<Container>(&self.context.client, &key.namespace).post_subresource(&key.name, "binding", &body).await;
        match bound {
            Ok(written) => {
                self.observe(written);
                info!(controller = INFO.name, namespace = key.namespace, name = key.name, node, "bound");
                let (reason, message) = match node {
                    "" => ("Unbound", "its node no longer fits; another is chosen once that one has let go".to_owned()),
                    node => ("Scheduled", format!("bound to node \"{node}\"")),
                };
                self.event(container, Severity::Normal, reason, message);
                Ok(Action::Done)
            }
            Err(error) => {
                // A refusal bound nothing. After a broken connection nobody knows: the same node is tried again.
                if error.code().is_some() {
                    self.forget(&key);
                }
                Err(error).doing(|| format!("bind Container {key} to Node {node}"))
            }
        }
    }

    /// Shows the written object to the next look, before the watch does.
    fn observe(&self, written: Value) {
        if let Ok(container) = serde_json::from_value::<Container>(written) {
            self.context.informers.containers.observe_write(container);
        }
    }

    async fn report(&self, container: &Container, verdict: Verdict) -> Result<Action, ReconcileError> {
        let old = container.status.clone().unwrap_or_default();
        let mut new = old.clone();
        let Verdict { status, unfit } = verdict;
        let was = old.condition("Scheduled").map(|condition| condition.reason.clone());
        let condition = Condition::new(
            "Scheduled",
            status,
            unfit.reason,
            unfit.message.clone(),
            container.generation(),
            self.context.config.clock.now(),
        );
        set_condition(&mut new.conditions, condition);
        status::write(&self.context.client, &self.context.informers.containers, container, &old, &new).await?;
        if status == ConditionStatus::False && was.as_deref() != Some(unfit.reason) {
            self.event(container, Severity::Warning, unfit.reason, unfit.message);
        }
        Ok(Action::Done)
    }

    fn event(&self, container: &Container, severity: Severity, reason: &str, message: String) {
        self.context.recorder.record(INFO.name, &self.context.config.clock, container, severity, reason, message);
    }
}

/// Where a volume's data is, or has to be.
fn volume_node(volume: &Volume) -> Option<String> {
    volume.status.as_ref().and_then(|status| status.node_name.clone()).or_else(|| volume.spec.node_name.clone())
}

fn candidate<'a>(node: &'a Node, placed: &BTreeMap<ObjectKey, String>) -> Candidate<'a> {
    Candidate {
        name: node.name(),
        labels: node.metadata.labels.as_ref(),
        ready: crate::scheduler::is_ready(node),
        schedulable: !node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default() && !node.is_terminating(),
        containers: placed.values().filter(|placed_on| *placed_on == node.name()).count(),
    }
}

/// Whether the node's agent says that it can run containers.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
