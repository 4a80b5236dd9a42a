//! What the network thread keeps: the wish for this host, and how the kernel is made to agree with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use gantry_sys::nft;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::bridge::Command;
use super::firewall::{self, Firewall, step};
use super::links::{Link, Links, Pair, hash};
use super::names::Names;
use super::ports::{self, PortTable};
use super::watch::{self, DEBOUNCE, PERIOD, RETRY, Watched};
use super::{EndpointWish, NameRecord, NetworkError, NetworkEvent, NetworkWish, PortPublished, Subnet};
use crate::ids::ContainerUid;

/// Endpoints of one bridge; the kernel ends at 1,024 ports.
const MOST_ENDPOINTS: usize = 1000;
/// Interfaces of one container whose links are known by their names alone.
const MOST_INTERFACES: usize = 64;

/// The wish, and the sockets by which the kernel is told.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) instance: String,
    pub(super) home: OwnedFd,
    pub(super) links: Links,
    pub(super) firewall: Firewall,
    pub(super) ports: PortTable,
    pub(super) names: Names,
    pub(super) networks: BTreeMap<String, NetworkWish>,
    pub(super) endpoints: BTreeMap<ContainerUid, EndpointWish>,
    pub(super) events: broadcast::Sender<NetworkEvent>,
}

impl Node {
    /// Opens the kernel's sockets in the network namespace of the calling thread, which is within a runtime.
    pub(super) fn open(instance: String, names: Names, events: broadcast::Sender<NetworkEvent>) -> Result<(Self, Watched), NetworkError> {
        let watched = watch::open().map_err(|source| step("listening to the kernel's network events", source))?;
        let home = File::open("/proc/thread-self/ns/net").map_err(|source| step("opening the host's network namespace", source))?.into();
        let links = Links::open().map_err(|source| step("opening rtnetlink", source))?;
        let firewall = Firewall::open(&instance)?;
        let (networks, endpoints) = (BTreeMap::new(), BTreeMap::new());
        Ok((Self { instance, home, links, firewall, ports: PortTable::default(), names, networks, endpoints, events }, watched))
    }

    /// Does what is asked, and looks after the kernel in between, until nobody can ask any more.
    pub(super) async fn serve(mut self, mut commands: mpsc::Receiver<Command>, (route, tables): Watched) {
        let mut look = Instant::now() + PERIOD;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                relevant = watch::next(&route, |event| self.link_event_matters(event)) => if relevant {
                    look = look.min(Instant::now() + DEBOUNCE);
                },
                relevant = watch::next(&tables, |event| self.table_event_matters(event)) => if relevant {
                    look = look.min(Instant::now() + DEBOUNCE);
                },
                () = tokio::time::sleep_until(look) => {
                    let agrees = self.mend().await;
                    look = Instant::now() + if agrees { PERIOD } else { RETRY };
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::EnsureNetwork(wish, answer) => drop(answer.send(self.ensure_network(wish).await)),
            Command::RemoveNetwork(uid, answer) => drop(answer.send(self.remove_network(&uid).await)),
            Command::EnsureEndpoint(wish, answer) => drop(answer.send(self.ensure_endpoint(wish).await)),
            Command::RemoveEndpoint(uid, answer) => drop(answer.send(self.remove_endpoint(&uid))),
            Command::SetNames(records, answer) => drop(answer.send(self.set_names(&records))),
            Command::Settle(answer) => drop(answer.send(self.settle().await)),
            Command::Teardown(answer) => drop(answer.send(self.teardown().await)),
            Command::HostSubnets(answer) => drop(answer.send(self.host_subnets().await)),
        }
    }

    async fn ensure_network(&mut self, wish: NetworkWish) -> Result<(), NetworkError> {
        self.check_subnets(&wish).await?;
        self.ensure_bridge(&wish).await?;
        self.firewall.claim(&format!("network {}", wish.uid), network_entries(&wish))?;
        self.networks.insert(wish.uid.clone(), wish);
        let addresses = self.links.all_addresses().await?;
        self.claim_lan(&addresses)?;
        self.names.publish(&self.networks, &self.endpoints)
    }

    /// A bridge that is there already stays, whatever routes the host has got since.
    async fn check_subnets(&self, wish: &NetworkWish) -> Result<(), NetworkError> {
        let taken = |ours: &Subnet, other: String| NetworkError::SubnetTaken { subnet: format!("{}/{}", ours.address, ours.prefix), other };
        for ours in &wish.gateways {
            let twin = self.networks.values().find(|have| have.uid != wish.uid && have.gateways.iter().any(|its| overlap(*ours, *its)));
            if let Some(twin) = twin {
                return Err(taken(ours, format!("the network of bridge {}", twin.bridge)));
            }
        }
        if self.links.find(&wish.bridge).await?.is_some() {
            return Ok(());
        }
        let routes = self.host_subnets().await?;
        let clash = wish.gateways.iter().find_map(|ours| routes.iter().find(|route| overlap(*ours, **route)).map(|route| (ours, route)));
        clash.map_or(Ok(()), |(ours, route)| Err(taken(ours, format!("a route of this host, {}/{}", route.address, route.prefix))))
    }

    /// True: something had to be changed.
    pub(super) async fn ensure_bridge(&self, wish: &NetworkWish) -> Result<bool, NetworkError> {
        let mut changed = self.links.ensure_bridge(wish, &format!("{}{}", self.mark(), wish.uid)).await?;
        changed |= set_sysctl("/proc/sys/net/ipv4/ip_forward")?;
        changed |= set_sysctl(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", wish.bridge))?;
        Ok(changed)
    }

    /// LAN ports answer to private subnets of the host's links, our bridges included.
    pub(super) fn claim_lan(&mut self, addresses: &[(u32, Subnet)]) -> Result<(), NetworkError> {
        let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = addresses.iter().filter_map(|(_, subnet)| private_range(*subnet)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.firewall.claim("lan", merged.into_iter().map(|(first, last)| (firewall::LAN, firewall::range(first, last))))
    }

    async fn remove_network(&mut self, uid: &str) -> Result<(), NetworkError> {
        let Some(wish) = self.networks.remove(uid) else { return Ok(()) };
        self.firewall.claim(&format!("network {uid}"), [])?;
        if let Some(link) = self.links.find(&wish.bridge).await? {
            self.links.delete(&link).await?;
        }
        let addresses = self.links.all_addresses().await?;
        self.claim_lan(&addresses)?;
        self.names.publish(&self.networks, &self.endpoints)
    }

    async fn ensure_endpoint(&mut self, wish: EndpointWish) -> Result<Vec<PortPublished>, NetworkError> {
        self.check_room(&wish)?;
        self.ensure_links(&wish).await?;
        let published = match self.publish(&wish) {
            Ok(published) => published,
            Err(error) => {
                self.ports.release(&wish.uid);
                self.firewall.claim(&owner(&wish.uid), [])?;
                return Err(error);
            }
        };
        self.endpoints.insert(wish.uid.clone(), wish);
        self.names.publish(&self.networks, &self.endpoints)?;
        Ok(published)
    }

    fn check_room(&self, wish: &EndpointWish) -> Result<(), NetworkError> {
        for interface in &wish.interfaces {
            let uid = &interface.network_uid;
            let Some(network) = self.networks.get(uid) else {
                return Err(NetworkError::MissingNetwork { network_uid: uid.clone() });
            };
            let on_it = |have: &&EndpointWish| have.uid != wish.uid && have.interfaces.iter().any(|its| its.network_uid == *uid);
            if self.endpoints.values().filter(on_it).count() >= MOST_ENDPOINTS {
                let reason = format!("bridge {} has {MOST_ENDPOINTS} containers; use another network", network.bridge);
                return Err(NetworkError::Unsupported { what: format!("one more container on network {uid}"), reason });
            }
        }
        Ok(())
    }

    fn publish(&mut self, wish: &EndpointWish) -> Result<Vec<PortPublished>, NetworkError> {
        let published = self.ports.publish(&wish.uid, &wish.ports)?;
        let address =
            wish.interfaces.iter().find_map(|interface| if let IpAddr::V4(ip) = interface.address.address { Some(ip) } else { None });
        let entries = address.into_iter().flat_map(|address| published.iter().flat_map(move |port| ports::entries(port, address)));
        self.firewall.claim(&owner(&wish.uid), entries)?;
        Ok(published)
    }

    /// Links, addresses and default route of a container. True: a link had to be made or joined to its bridge again.
    pub(super) async fn ensure_links(&self, wish: &EndpointWish) -> Result<bool, NetworkError> {
        let inside = Links::open_in(wish.netns(), &self.home)?;
        let present = inside.list().await?;
        inside.ensure_loopback(&present).await?;
        let mut changed = false;
        for (at, interface) in wish.interfaces.iter().enumerate() {
            let Some(network) = self.networks.get(&interface.network_uid) else { continue };
            let inner = format!("eth{at}");
            let (outer, namespace) = (self.outer_name(&wish.uid, at), wish.network_namespace.as_fd());
            let (bridge, alias) = (network.bridge.as_str(), wish.uid.as_str());
            let pair = Pair { outer, inner: inner.clone(), bridge, alias, mac: interface.mac, mtu: network.mtu, namespace };
            let found = present.iter().find(|link| link.name == inner);
            let made = self.links.ensure_pair(&pair, found, &inside).await?;
            changed |= made;
            inside.ensure_inner(&inner, interface, network.mtu, found.filter(|_| !made)).await?;
            if made {
                self.links.ensure_carrier(&self.outer_name(&wish.uid, at)).await?;
                // A bridge without a port that works does not work either.
                self.links.ensure_carrier(bridge).await?;
            }
        }
        // Networks that the container has left; the outer end goes with the inner one.
        let wanted = |link: &Link| (0..wish.interfaces.len()).any(|at| link.name == format!("eth{at}"));
        for link in present.iter().filter(|link| link.peer.is_some() && link.name.starts_with("eth") && !wanted(link)) {
            inside.delete(link).await?;
        }
        inside.ensure_route(wish.interfaces.iter().find_map(|interface| interface.gateway)).await?;
        Ok(changed)
    }

    fn prefix(&self) -> String {
        format!("{}v", self.instance.chars().take(3).collect::<String>())
    }

    /// Name of the host's end of a container's interface.
    pub(super) fn outer_name(&self, uid: &ContainerUid, at: usize) -> String {
        format!("{}{:010x}", self.prefix(), hash(&format!("{} {uid} {at}", self.instance)) >> 24)
    }

    /// A link of this instance's making: its name is that of the container which its alias names.
    fn is_outer(&self, link: &Link) -> bool {
        let uid = ContainerUid::new(&link.alias).filter(|_| link.name.starts_with(&self.prefix()));
        uid.is_some_and(|uid| (0..MOST_INTERFACES).any(|at| self.outer_name(&uid, at) == link.name))
    }

    /// How the aliases of this instance's bridges begin. Their names do not tell: other instances' may begin with the same letters.
    fn mark(&self) -> String {
        format!("{} network ", self.instance)
    }

    fn is_bridge(&self, link: &Link) -> bool {
        link.bridge && link.alias.starts_with(&self.mark())
    }

    fn remove_endpoint(&mut self, uid: &ContainerUid) -> Result<(), NetworkError> {
        self.endpoints.remove(uid);
        self.ports.release(uid);
        self.firewall.claim(&owner(uid), [])?;
        self.names.publish(&self.networks, &self.endpoints)
    }

    fn set_names(&mut self, records: &[NameRecord]) -> Result<(), NetworkError> {
        self.names.set(records);
        self.names.publish(&self.networks, &self.endpoints)
    }

    async fn settle(&mut self) -> Result<(), NetworkError> {
        self.firewall.settle()?;
        self.names.settle();
        self.names.publish(&self.networks, &self.endpoints)?;
        self.remove_links(|node, link| {
            let unwanted_bridge = node.is_bridge(link) && !node.networks.values().any(|network| network.bridge == link.name);
            let container = ContainerUid::new(&link.alias);
            unwanted_bridge || (node.is_outer(link) && container.is_none_or(|uid| !node.endpoints.contains_key(&uid)))
        })
        .await
    }

    async fn teardown(&mut self) -> Result<(), NetworkError> {
        self.endpoints.clear();
        self.networks.clear();
        self.ports = PortTable::default();
        let table = self.firewall.teardown();
        let links = self.remove_links(|node, link| node.is_bridge(link) || node.is_outer(link)).await;
        table.and(links).and(self.names.stop().await)
    }

    async fn remove_links(&self, unwanted: impl Fn(&Self, &Link) -> bool) -> Result<(), NetworkError> {
        let mut result = Ok(());
        for link in self.links.list().await?.into_iter().filter(|link| unwanted(self, link)) {
            let removed = self.links.delete(&link).await;
            result = result.and(removed);
        }
        result
    }

    async fn host_subnets(&self) -> Result<Vec<Subnet>, NetworkError> {
        let ours: Vec<u32> = self.links.list().await?.into_iter().filter(|link| self.is_bridge(link)).map(|link| link.index).collect();
        let routes = self.links.routes().await?.into_iter().filter(|(_, link)| !ours.contains(link));
        Ok(routes.map(|(subnet, _)| subnet).collect())
    }
}

/// Under which name a container's elements of the table are kept.
fn owner(uid: &ContainerUid) -> String {
    format!("container {uid}")
}

/// Switches a setting on. True: it was off.
fn set_sysctl(path: &str) -> Result<bool, NetworkError> {
    let fail = |source| step(&format!("setting {path}"), source);
    if std::fs::read_to_string(path).map_err(fail)?.trim() == "1" {
        return Ok(false);
    }
    std::fs::write(path, "1").map_err(fail)?;
    Ok(true)
}

fn network_entries(wish: &NetworkWish) -> Vec<firewall::Entry> {
    let name = firewall::interface(&wish.bridge);
    let mut found = vec![(firewall::BRIDGES, firewall::single(name.clone()))];
    found.push((firewall::SAME, firewall::single([&name[..], &name[..]].concat())));
    if wish.internal {
        found.push((firewall::INTERNAL, firewall::single(name)));
    }
    for (first, last) in wish.gateways.iter().filter_map(|gateway| bounds(*gateway)) {
        let twice = |address: Ipv4Addr| [address.octets(), address.octets()].concat();
        let hairpin = nft::Element { key: twice(first), key_end: Some(twice(last)), data: None };
        found.push((firewall::HAIRPIN, hairpin));
        if !wish.internal {
            found.push((firewall::OUTBOUND, firewall::range(first, last)));
        }
    }
    found
}

fn overlap(one: Subnet, other: Subnet) -> bool {
    match (bounds(one), bounds(other)) {
        (Some(one), Some(other)) => one.0 <= other.1 && other.0 <= one.1,
        _ => false,
    }
}

/// First and last address of an IPv4 subnet.
fn bounds(subnet: Subnet) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let IpAddr::V4(address) = subnet.address else { return None };
    let host = u32::MAX.checked_shr(u32::from(subnet.prefix)).unwrap_or(0);
    Some(((u32::from(address) & !host).into(), (u32::from(address) | host).into()))
}

fn private_range(subnet: Subnet) -> Option<(Ipv4Addr, Ipv4Addr)> {
    bounds(subnet).filter(|(first, last)| (first.is_private() && last.is_private()) || (first.is_link_local() && last.is_link_local()))
}
