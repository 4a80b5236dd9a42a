//! The driver's twin in memory, for simulations: the same answers, port conflicts included, and no kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use gantry_api::kinds::container::{Exposure, Protocol};
use tokio::sync::broadcast;

use super::{EndpointWish, NameRecord, NetworkDriver, NetworkError, NetworkEvent, NetworkWish, PortPublished, PortWish, Subnet};
use crate::ids::ContainerUid;

/// First port that is given when any will do, as the kernel's ephemeral range begins.
const FIRST_CHOSEN: u16 = 32768;

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<String, NetworkWish>,
    endpoints: BTreeMap<ContainerUid, Vec<PortPublished>>,
}

/// A node's network that is only remembered.
#[derive(Debug)]
pub struct MemoryDriver {
    state: Mutex<State>,
    events: broadcast::Sender<NetworkEvent>,
}

impl Default for MemoryDriver {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::Sender::new(64) }
    }
}

impl MemoryDriver {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, endpoint: &EndpointWish) -> Result<Vec<PortPublished>, NetworkError> {
        let mut state = self.state();
        let missing = endpoint.interfaces.iter().find(|wish| !state.networks.contains_key(&wish.network_uid));
        if let Some(missing) = missing {
            return Err(NetworkError::MissingNetwork { network_uid: missing.network_uid.clone() });
        }
        let before = state.endpoints.remove(&endpoint.uid).unwrap_or_default();
        let mut now: Vec<PortPublished> = Vec::new();
        for wish in &endpoint.ports {
            let port = match before.iter().find(|have| have.wish == *wish && !now.contains(have)) {
                Some(kept) => kept.clone(),
                None => choose(&state, &now, wish)?,
            };
            now.push(port);
        }
        state.endpoints.insert(endpoint.uid.clone(), now.clone());
        Ok(now)
    }
}

fn choose(state: &State, own: &[PortPublished], wish: &PortWish) -> Result<PortPublished, NetworkError> {
    let any = if wish.exposure == Exposure::Loopback { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let host_ip = wish.host_ip.unwrap_or(IpAddr::V4(any));
    let holder = |first: u16| {
        let others = state.endpoints.iter().flat_map(|(uid, ports)| ports.iter().map(move |port| (Some(uid), port)));
        others.chain(own.iter().map(|port| (None, port))).find(|(_, have)| {
            let (a, b) = (u32::from(have.host_port), u32::from(first));
            let address = have.host_ip == host_ip || have.host_ip.is_unspecified() || host_ip.is_unspecified();
            let range = a < b + u32::from(wish.count) && b < a + u32::from(have.wish.count);
            have.wish.protocol == wish.protocol && address && range
        })
    };
    let free =
        || (FIRST_CHOSEN..=u16::MAX).find(|first| first.checked_add(wish.count.saturating_sub(1)).is_some() && holder(*first).is_none());
    let host_port = if wish.host_port == 0 { free().unwrap_or(0) } else { wish.host_port };
    let Some((uid, _)) = holder(host_port) else {
        return Ok(PortPublished { wish: wish.clone(), host_port, host_ip });
    };
    let holder = uid.map_or_else(|| "another port of the same container".to_owned(), |uid| format!("container {uid}"));
    let protocol = if wish.protocol == Protocol::UDP { "udp" } else { "tcp" };
    Err(NetworkError::PortTaken { port: host_port, protocol: protocol.to_owned(), address: host_ip, holder })
}

impl NetworkDriver for MemoryDriver {
    fn ensure_network<'a>(&'a self, network: &'a NetworkWish) -> BoxFuture<'a, Result<(), NetworkError>> {
        self.state().networks.insert(network.uid.clone(), network.clone());
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove_network<'a>(&'a self, network_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        self.state().networks.remove(network_uid);
        Box::pin(std::future::ready(Ok(())))
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointWish) -> BoxFuture<'a, Result<Vec<PortPublished>, NetworkError>> {
        Box::pin(std::future::ready(self.publish(endpoint)))
    }

    fn remove_endpoint<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), NetworkError>> {
        self.state().endpoints.remove(uid);
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_names<'a>(&'a self, _names: &'a [NameRecord]) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn teardown(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        *self.state() = State::default();
        Box::pin(std::future::ready(Ok(())))
    }

    fn host_subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, NetworkError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn events(&self) -> broadcast::Receiver<NetworkEvent> {
        self.events.subscribe()
    }
}
