//! Networks get a subnet, a gateway and a bridge name; Containers get addresses.
//!
//! This controller is the only allocator, and allocations live in the objects alone: after a restart they are read back from
//! `Network.status` and `Container.status.networks`. Subnets are allocated one Network at a time; addresses under a lock, with the
//! choices that the informer does not show yet remembered beside it (see [`addresses`]).
//!
//! While a Container uses a Network, the finalizer `gantry.dev/in-use` holds it: nothing that runs loses its network under it.

pub(crate) mod addresses;
mod cidr;
mod endpoints;
mod subnets;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use gantry_api::kinds::container::{Container, NetworkEndpoint};
use gantry_api::kinds::core::Node;
use gantry_api::kinds::network::{IN_USE_FINALIZER, Network, NetworkStatus};
use gantry_api::meta::{Condition, ConditionStatus, set_condition};
use gantry_api::{Kind, ObjectKey};
use tokio::time::Instant;
use tracing::info;

use crate::context::Context;
use crate::runtime::{Action, Manager, ReconcileError, Reconciler, References, Severity, Sources, finalizer, status};
use crate::table::ControllerInfo;
use cidr::Cidr;
use endpoints::NetworkFacts;
use subnets::{Assigned, Refused, Taken, plan_subnet};
pub use subnets::{SubnetPool, SubnetPoolError};

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "network",
    purpose: "allocates the subnet, gateway and bridge name of each Network; keeps it while Containers use it",
    watches: &["Network", "Container", "Node"],
    writes: &[
        ("Network", "status.subnets"),
        ("Network", "status.gateways"),
        ("Network", "status.bridge"),
        ("Network", "status.endpointCount"),
        ("Network", "status.observedGeneration"),
        ("Network", "status.conditions[Ready]"),
        ("Network", "metadata.finalizers[gantry.dev/in-use]"),
    ],
};

/// Node annotation: the subnets that the node's host routes or owns, other than ours, separated by commas. Written by the agent.
pub(crate) const HOST_SUBNETS: &str = "gantry.dev/host-subnets";
/// Name of the Network that containers join which name none.
pub(crate) const DEFAULT_NETWORK: &str = "default";

/// Endpoints are counted this long after a change, so that fifty new containers are one write.
const COUNT_DELAY: Duration = Duration::from_millis(200);
/// How long after the start an allocation waits for nodes to say what their hosts route.
const SETTLE: Duration = Duration::from_secs(3);
/// Users of a Network on its way out that its condition names.
const NAMED: usize = 5;
const SETTLE_STEP: Duration = Duration::from_millis(50);

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let informers = &context.informers;
    let (mut members, mut users) = (References::new(), References::new());
    let (networks, used) = (informers.networks.clone(), informers.networks.clone());
    let sources = Sources::of(&informers.networks)
        .watch_after(COUNT_DELAY, &informers.containers, move |key, container| {
            members.update(key, container.map(|container| member_of(container)))
        })
        // A first use is held at once, and a last one let go of: what both see is in the objects, so others need no look.
        .watch(&informers.containers, move |key, container| {
            let mut concerned = users.update(key, container.map(|container| networks_of(container)));
            concerned
                .retain(|key| used.get(key).is_some_and(|network| network.is_terminating() || !network.has_finalizer(IN_USE_FINALIZER)));
            concerned
        })
        .watch(&informers.nodes, move |_, _| {
            networks.list().iter().filter(|network| facts(network).is_none()).map(|network| network.key()).collect()
        });
    // One at a time: each subnet must be chosen in sight of the one before.
    manager.add(Networks { context: context.named(INFO.name), started: Instant::now() }, sources, 1);
    addresses::start(manager, context);
}

/// Keys of the Networks in which a container has an address.
fn member_of(container: &Container) -> BTreeSet<ObjectKey> {
    let namespace = container.key().namespace;
    endpoints_of(container).iter().map(|endpoint| ObjectKey::new(namespace.clone(), endpoint.name.clone())).collect()
}

/// Keys of the Networks that a container uses: those that it wishes, and those in which it still has an address.
fn networks_of(container: &Container) -> BTreeSet<ObjectKey> {
    let namespace = container.key().namespace;
    let wished = addresses::wished_networks(container).into_iter().map(|name| ObjectKey::new(namespace.clone(), name));
    wished.chain(member_of(container)).collect()
}

fn endpoints_of(container: &Container) -> &[NetworkEndpoint] {
    container.status.as_ref().map(|status| status.networks.as_slice()).unwrap_or_default()
}

/// What a Network has been given; `None` while it has no subnet.
fn facts(network: &Network) -> Option<NetworkFacts> {
    let assigned = assigned(network)?;
    Some(NetworkFacts {
        name: network.name().to_owned(),
        uid: network.uid().to_owned(),
        subnet: assigned.subnet,
        gateway: assigned.gateway,
        internal: network.spec.internal,
    })
}

fn assigned(network: &Network) -> Option<Assigned> {
    let status = network.status.as_ref()?;
    let subnet: Cidr = status.subnets.first()?.parse().ok()?;
    let gateway: Ipv4Addr = status.gateways.first()?.parse().ok()?;
    Some(Assigned { subnet, gateway })
}

struct Networks {
    context: Context,
    started: Instant,
}

impl Reconciler for Networks {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(network) = self.context.informers.networks.get(key) else { return Ok(Action::Done) };
        let users = self.users(key);
        let held = [(IN_USE_FINALIZER, !users.is_empty())];
        if finalizer::ensure(&self.context.client, &self.context.informers.networks, &*network, &held).await? {
            return Ok(Action::Done);
        }
        if assigned(&network).is_none() && !self.nodes_have_reported() {
            return Ok(Action::After(SETTLE_STEP));
        }
        let old = network.status.clone().unwrap_or_default();
        let plan = plan_subnet(&network.spec, assigned(&network), self.context.config.subnet_pool, &self.taken(&network));
        let new = self.status(&network, &old, &plan, &users);
        status::write(&self.context.client, &self.context.informers.networks, &*network, &old, &new).await?;
        self.tell(&network, &old, &plan);
        Ok(Action::Done)
    }
}

impl Networks {
    /// Whether every node has said what its host routes; after a while those that have not are no longer waited for.
    fn nodes_have_reported(&self) -> bool {
        let nodes = self.context.informers.nodes.list();
        let reported = |node: &Node| node.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(HOST_SUBNETS));
        (!nodes.is_empty() && nodes.iter().all(|node| reported(node))) || self.started.elapsed() >= SETTLE
    }

    /// Names of the Containers that use the network.
    fn users(&self, key: &ObjectKey) -> Vec<String> {
        let containers = self.context.informers.containers.list();
        let using =
            containers.iter().filter(|container| container.key().namespace == key.namespace && networks_of(container).contains(key));
        using.map(|container| container.name().to_owned()).collect()
    }

    /// What `network` must keep clear of.
    fn taken(&self, network: &Network) -> Vec<Taken> {
        let networks = self.context.informers.networks.list();
        let others = networks.iter().filter(|other| other.uid() != network.uid());
        let mut taken: Vec<Taken> = others
            .filter_map(|other| Some(Taken { subnet: assigned(other)?.subnet, by: format!("that of network \"{}\"", other.key()) }))
            .collect();
        for node in self.context.informers.nodes.list() {
            taken.extend(host_subnets(&node).map(|subnet| Taken { subnet, by: format!("a route of node \"{}\"", node.name()) }));
        }
        taken
    }

    fn status(&self, network: &Network, old: &NetworkStatus, plan: &Result<Assigned, Refused>, users: &[String]) -> NetworkStatus {
        let mut new = old.clone();
        let (status, reason, message) = match plan {
            Ok(assigned) => {
                new.subnets = vec![assigned.subnet.to_string()];
                new.gateways = vec![assigned.gateway.to_string()];
                new.bridge = Some(bridge_name(&self.context.config.instance, network.uid()));
                (ConditionStatus::True, "Allocated", format!("subnet {}, gateway {}", assigned.subnet, assigned.gateway))
            }
            // What containers already use stays as it is: the condition alone says that the new wish cannot be followed.
            Err(refused) => (ConditionStatus::False, refused.reason, refused.message.clone()),
        };
        let (status, reason, message) = match (network.is_terminating(), users) {
            (false, _) => (status, reason, message),
            (true, users) => (ConditionStatus::False, "InUse", waits_for(users)),
        };
        new.observed_generation = Some(network.generation());
        new.endpoint_count = self.count(network);
        let now = self.context.config.clock.now();
        set_condition(&mut new.conditions, Condition::new("Ready", status, reason, message, network.generation(), now));
        new
    }

    fn count(&self, network: &Network) -> i32 {
        let containers = self.context.informers.containers.list();
        let member = |container: &Container| endpoints_of(container).iter().any(|endpoint| endpoint.network_uid == network.uid());
        i32::try_from(containers.iter().filter(|container| member(container)).count()).unwrap_or(i32::MAX)
    }

    fn tell(&self, network: &Network, old: &NetworkStatus, plan: &Result<Assigned, Refused>) {
        let before = gantry_api::meta::find_condition(&old.conditions, "Ready").map(|condition| condition.reason.as_str());
        let (severity, reason, message) = match plan {
            _ if network.is_terminating() => return,
            Ok(assigned) if old.subnets.is_empty() => (Severity::Normal, "Allocated", format!("subnet {}", assigned.subnet)),
            Ok(_) => return,
            Err(refused) if before == Some(refused.reason) => return,
            Err(refused) => (Severity::Warning, refused.reason, refused.message.clone()),
        };
        info!(controller = INFO.name, namespace = network.key().namespace, name = network.name(), reason, message);
        self.context.recorder.record(INFO.name, &self.context.config.clock, network, severity, reason, message);
    }
}

/// Subnets that a node's host routes. A default route is none: everything overlaps it.
fn host_subnets(node: &Node) -> impl Iterator<Item = Cidr> {
    let text = node.metadata.annotations.as_ref().and_then(|all| all.get(HOST_SUBNETS)).map(String::as_str).unwrap_or_default();
    text.split(',').filter_map(|part| part.trim().parse::<Cidr>().ok()).filter(|subnet| subnet.length() > 0)
}

fn waits_for(users: &[String]) -> String {
    let named = users.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = users.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("is being deleted once no container uses it any more: {named}{more}; delete them, or take it out of their spec.networks")
}

/// Name of a Network's bridge on every node: at most 15 characters, as the kernel's link names.
fn bridge_name(instance: &str, uid: &str) -> String {
    let instance: String = instance.chars().take(6).collect();
    let uid: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{instance}-{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_fit_the_kernel() {
        assert_eq!(bridge_name("gantry", "0a1b2c3d-1111-2222-3333-444455556666"), "gantry-0a1b2c3d");
        assert_eq!(bridge_name("abcdefgh", "0a1b2c3d-1111").len(), 15);
    }

    #[test]
    fn host_subnets_are_read_leniently() {
        let mut node = Node::default();
        let text = "10.0.0.0/8, 192.168.1.7/24,0.0.0.0/0,fe80::/64,nonsense,";
        node.metadata.annotations = Some([(HOST_SUBNETS.to_owned(), text.to_owned())].into());
        let all: Vec<String> = host_subnets(&node).map(|subnet| subnet.to_string()).collect();
        assert_eq!(all, ["10.0.0.0/8", "192.168.1.0/24"]);
    }
}
