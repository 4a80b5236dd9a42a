//! Addresses of Containers: `Container.status.networks`.
//!
//! Several containers are handled at once, but each choice is made under one lock and remembered until the informer shows it, so that no
//! address is given twice; the lock is never held over a request. A container keeps its addresses for as long as its object exists:
//! over restarts of its process, of the node and of the engine.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_api::kinds::container::{Container, ContainerStatus, NetworkEndpoint, NetworkMode};
use gantry_api::kinds::network::{Network, NetworkSpec};
use gantry_api::meta::{Condition, ConditionCause, ConditionStatus, set_condition};
use gantry_api::{Kind, ObjectKey};
use gantry_client::WriteParams;

use super::endpoints::{Holders, NetworkFacts, Refusal, address_of, plan_endpoint};
use super::{DEFAULT_NETWORK, endpoints_of, facts};
use crate::context::Context;
use crate::runtime::status::api;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Severity, Sources, status};
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "ipam",
    purpose: "allocates the addresses of each Container; makes a namespace's `default` Network on first use",
    watches: &["Container", "Network"],
    writes: &[("Container", "status.networks"), ("Container", "status.conditions[NetworkAllocated]"), ("Network", "(create)")],
};

const CONDITION: &str = "NetworkAllocated";
/// How many containers are handled at once: their writes can share a commit.
const WORKERS: usize = 8;

pub(super) fn start(manager: &mut Manager, context: &Context) {
    let informers = &context.informers;
    let same = informers.containers.clone();
    let joined = informers.containers.clone();
    let sources = Sources::new()
        // An address that one container gives up, or a change of its wish, may be what others wait for.
        .watch(&informers.containers, move |key, _| {
            let containers = same.list();
            let refused = containers.iter().filter(|other| other.key().namespace == key.namespace && is_refused(other));
            std::iter::once(key.clone()).chain(refused.map(|other| other.key())).collect()
        })
        .watch(&informers.networks, move |key, _| {
            let containers = joined.list();
            let member = |container: &Container| {
                container.key().namespace == key.namespace && wishes(container).iter().any(|wish| wish.network == key.name)
            };
            containers.iter().filter(|container| member(container)).map(|container| container.key()).collect()
        });
    manager.add(Addresses { context: context.named(INFO.name), ledger: Mutex::default() }, sources, WORKERS);
}

fn is_refused(container: &Container) -> bool {
    let condition = container.status.as_ref().and_then(|status| status.condition(CONDITION));
    condition.is_some_and(|condition| condition.status == ConditionStatus::False)
}

/// One network that a container is to join.
struct Wish<'a> {
    network: &'a str,
    fixed: Option<&'a str>,
}

fn wishes(container: &Container) -> Vec<Wish<'_>> {
    match (container.spec.network_mode, container.spec.networks.as_slice()) {
        (NetworkMode::Host | NetworkMode::None, _) => Vec::new(),
        (NetworkMode::Networks, []) => vec![Wish { network: DEFAULT_NETWORK, fixed: None }],
        (NetworkMode::Networks, networks) => {
            networks.iter().map(|wish| Wish { network: &wish.name, fixed: wish.ipv4_address.as_deref() }).collect()
        }
    }
}

/// Names of the Networks that a container is to join.
pub(super) fn wished_networks(container: &Container) -> Vec<String> {
    wishes(container).into_iter().map(|wish| wish.network.to_owned()).collect()
}

/// What was chosen but may not be seen yet, and where each circle of addresses stands.
#[derive(Default)]
struct Ledger {
    /// By container: its uid and its endpoints as last chosen.
    chosen: HashMap<ObjectKey, (String, Vec<NetworkEndpoint>)>,
    /// By network uid: the address given out last.
    cursors: HashMap<String, Ipv4Addr>,
}

struct Addresses {
    context: Context,
    ledger: Mutex<Ledger>,
}

impl Reconciler for Addresses {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(container) = self.context.informers.containers.get(key) else {
            self.lock().chosen.remove(key);
            return Ok(Action::Done);
        };
        if container.is_terminating() {
            // It keeps what it has to its end, and needs nothing more.
            return Ok(Action::Done);
        }
        let wishes = wishes(&container);
        if wishes.iter().any(|wish| wish.network == DEFAULT_NETWORK) {
            self.ensure_default_network(&key.namespace).await?;
        }
        let found = self.find_networks(&container, &wishes);
        let (endpoints, refusals) = self.choose(&container, &wishes, &found);
        let result = self.write(&container, endpoints, &refusals, wishes.is_empty()).await;
        self.settle(key, &result);
        result.map(|()| Action::Done)
    }
}

/// Why a container has no address on a network.
struct Missing {
    network: String,
    refusal: Refusal,
}

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ensure_default_network(&self, namespace: &str) -> Result<(), ReconcileError> {
        if self.context.informers.networks.get(&ObjectKey::new(namespace, DEFAULT_NETWORK)).is_some() {
            return Ok(());
        }
        let network = Network::new(namespace, DEFAULT_NETWORK, NetworkSpec::default());
        match api::<Network>(&self.context.client, namespace).create(&network, &WriteParams::default()).await {
            Ok(created) => {
                self.context.informers.networks.observe_write(created);
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error).doing(|| format!("create Network {namespace}/{DEFAULT_NETWORK}")),
        }
    }

    fn find_networks(&self, container: &Container, wishes: &[Wish<'_>]) -> Vec<Result<NetworkFacts, Refusal>> {
        let namespace = container.key().namespace;
        wishes
            .iter()
            .map(|wish| {
                let network = self.context.informers.networks.get(&ObjectKey::new(namespace.clone(), wish.network));
                let network = network.ok_or_else(|| Refusal {
                    reason: "NetworkNotFound",
                    message: format!("network \"{}\" does not exist; create it, or take it out of spec.networks", wish.network),
                })?;
                let member = endpoints_of(container).iter().any(|endpoint| endpoint.network_uid == network.uid());
                if network.is_terminating() && !member {
                    let message = format!("network \"{}\" is being deleted; wait until it is gone and create it again", wish.network);
                    return Err(Refusal { reason: "NetworkTerminating", message });
                }
                facts(&network).ok_or_else(|| Refusal { reason: "NetworkNotReady", message: not_ready(&network) })
            })
            .collect()
    }

    /// Chooses all endpoints and notes them, in one piece.
    fn choose(
        &self,
        container: &Container,
        wishes: &[Wish<'_>],
        found: &[Result<NetworkFacts, Refusal>],
    ) -> (Vec<NetworkEndpoint>, Vec<Missing>) {
        let key = container.key();
        let mut ledger = self.lock();
        let containers = self.context.informers.containers.list();
        let mut endpoints = Vec::new();
        let mut refusals = Vec::new();
        for (wish, network) in wishes.iter().zip(found) {
            let chosen = network.as_ref().map_err(Clone::clone).and_then(|network| {
                let holders = holders(network, &key, &containers, &ledger);
                let current = current_endpoint(container, network, &ledger);
                plan_endpoint(network, wish.fixed, current, &holders, ledger.cursors.get(&network.uid).copied())
            });
            match chosen {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(refusal) => refusals.push(Missing { network: wish.network.to_owned(), refusal }),
            }
        }
        for endpoint in endpoints.iter().filter(|endpoint| !endpoints_of(container).contains(endpoint)) {
            if let Some(address) = address_of(endpoint) {
                ledger.cursors.insert(endpoint.network_uid.clone(), address);
            }
        }
        ledger.chosen.insert(key, (container.uid().to_owned(), endpoints.clone()));
        (endpoints, refusals)
    }

    /// After a write that came through, the informer shows the choice; after a lost race or a refusal nothing was given. After anything
    /// else the write may have come through or not: the choice stays noted, and the next attempt makes the same one.
    fn settle(&self, key: &ObjectKey, result: &Result<(), ReconcileError>) {
        if !matches!(result, Err(ReconcileError::Retry { .. })) {
            self.lock().chosen.remove(key);
        }
    }

    async fn write(
        &self,
        container: &Container,
        endpoints: Vec<NetworkEndpoint>,
        refusals: &[Missing],
        none_wished: bool,
    ) -> Result<(), ReconcileError> {
        let old = container.status.clone().unwrap_or_default();
        let mut new = ContainerStatus { networks: endpoints, ..old.clone() };
        let (status, reason, message) = match refusals {
            [] if none_wished => (ConditionStatus::True, "NotNeeded", "the container joins no network".to_owned()),
            [] => (ConditionStatus::True, "Allocated", "every network has an address for the container".to_owned()),
            [first, rest @ ..] => {
                let messages = std::iter::once(first).chain(rest).map(|missing| missing.refusal.message.as_str());
                (ConditionStatus::False, first.refusal.reason, messages.collect::<Vec<_>>().join("; "))
            }
        };
        let now = self.context.config.clock.now();
        let mut condition = Condition::new(CONDITION, status, reason, message.clone(), container.generation(), now);
        condition.caused_by = refusals.iter().find(|missing| missing.refusal.reason == "NetworkNotReady").map(|missing| ConditionCause {
            kind: Network::KIND.to_owned(),
            name: missing.network.clone(),
            condition: "Ready".to_owned(),
        });
        let before = old.condition(CONDITION).map(|condition| condition.reason.clone());
        set_condition(&mut new.conditions, condition);
        status::write(&self.context.client, &self.context.informers.containers, container, &old, &new).await?;
        if status == ConditionStatus::False && before.as_deref() != Some(reason) && reason != "NetworkNotReady" {
            self.context.recorder.record(INFO.name, &self.context.config.clock, container, Severity::Warning, reason, message);
        }
        Ok(())
    }
}

fn not_ready(network: &Network) -> String {
    let conditions = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match gantry_api::meta::find_condition(conditions, "Ready").filter(|ready| !ready.is_true()) {
        Some(ready) => format!("network \"{}\" is not ready: {}", network.name(), ready.message),
        None => format!("network \"{}\" has no subnet yet", network.name()),
    }
}

/// The endpoint that `container` has on `network`: as last chosen, else as its status says.
fn current_endpoint<'a>(container: &'a Container, network: &NetworkFacts, ledger: &'a Ledger) -> Option<&'a NetworkEndpoint> {
    let on_network = |endpoint: &&NetworkEndpoint| endpoint.network_uid == network.uid;
    let chosen = ledger.chosen.get(&container.key()).filter(|(uid, _)| uid == container.uid());
    chosen.and_then(|(_, endpoints)| endpoints.iter().find(on_network)).or_else(|| endpoints_of(container).iter().find(on_network))
}

/// The addresses of `network` that others than the container `except` hold.
fn holders(network: &NetworkFacts, except: &ObjectKey, containers: &[Arc<Container>], ledger: &Ledger) -> Holders {
    let seen = containers.iter().map(|container| (container.key(), endpoints_of(container)));
    let chosen = ledger.chosen.iter().map(|(key, (_, endpoints))| (key.clone(), endpoints.as_slice()));
    let others = seen.chain(chosen).filter(|(key, _)| key != except);
    let held = others.flat_map(|(key, endpoints)| {
        let on_network = endpoints.iter().filter(|endpoint| endpoint.network_uid == network.uid);
        on_network.filter_map(address_of).map(move |address| (address, key.name.clone())).collect::<Vec<_>>()
    });
    held.collect()
}
