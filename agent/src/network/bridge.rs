//! The driver for Linux bridges.
//!
//! One thread owns everything: it enters containers' network namespaces for as long as opening a socket takes, which a thread of the
//! engine's runtime must not, and it waits for the kernel there. Callers send it a wish and wait for the answer.
//!
//! `net.ipv4.ip_forward` is switched on when the first network is ensured, and stays on; it is the only setting of the host that changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gantry_sys::netlink::{self, Family, Message, Socket};
use gantry_sys::nft;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::firewall::{self, Firewall, step};
use super::links::{Link, Links, Pair, hash};
use super::ports::{self, PortTable};
use super::{EndpointWish, InterfaceWish, NameRecord, NetworkDriver, NetworkError, NetworkEvent, NetworkWish, PortPublished, Subnet};
use crate::ids::{ContainerUid, Instance, chain};
use crate::readiness::readable;

/// Wishes that may wait; more make their callers wait.
const QUEUE: usize = 256;
/// Events of the kernel come in bursts; one look answers a burst.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A look without an event, for what sends none.
const PERIOD: Duration = Duration::from_secs(30);
/// `RTM_DELLINK`, `RTM_NEWADDR`, `RTM_DELADDR`.
const LINK_EVENTS: [u16; 3] = [17, 20, 21];
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`.
const LINK_GROUPS: [u32; 2] = [1, 5];

type Answer<T> = oneshot::Sender<Result<T, NetworkError>>;

#[derive(Debug)]
enum Command {
    EnsureNetwork(NetworkWish, Answer<()>),
    RemoveNetwork(String, Answer<()>),
    EnsureEndpoint(EndpointWish, Answer<Vec<PortPublished>>),
    RemoveEndpoint(ContainerUid, Answer<()>),
    Settle(Answer<()>),
    Teardown(Answer<()>),
    HostSubnets(Answer<Vec<Subnet>>),
}

/// Bridges, veth pairs and nft rules of this host.
#[derive(Debug)]
pub struct BridgeDriver {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<NetworkEvent>,
}

impl BridgeDriver {
    /// Starts the driver's thread, in the network namespace of the caller. It ends when the driver is dropped; nothing on the host is removed then.
    ///
    /// # Errors
    /// The kernel has no nf_tables or rtnetlink for us: no privilege, or no such module.
    pub fn new(instance: &Instance) -> Result<Self, NetworkError> {
        let (commands, received) = mpsc::channel(QUEUE);
        let events = broadcast::Sender::new(QUEUE);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (name, sender) = (instance.name.clone(), events.clone());
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(source) => return drop(ready.send(Err(step("making the network thread's runtime", source)))),
            };
            runtime.block_on(async move {
                match Node::open(name, sender) {
                    Ok((node, watched)) => {
                        let _ = ready.send(Ok(()));
                        node.serve(received, watched).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(run).map_err(|source| step("starting the network thread", source))?;
        is_ready.recv().map_err(|_| gone())??;
        Ok(Self { commands, events })
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command + Send) -> Result<T, NetworkError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> NetworkError {
    step("asking the network thread", io::Error::other("it has ended"))
}

impl NetworkDriver for BridgeDriver {
    fn ensure_network<'a>(&'a self, network: &'a NetworkWish) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::EnsureNetwork(network.clone(), answer)))
    }

    fn remove_network<'a>(&'a self, network_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::RemoveNetwork(network_uid.to_owned(), answer)))
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointWish) -> BoxFuture<'a, Result<Vec<PortPublished>, NetworkError>> {
        Box::pin(async move {
            let network_namespace = endpoint.network_namespace.try_clone().map_err(|source| step("keeping the network namespace", source))?;
            let (interfaces, ports) = (endpoint.interfaces.clone(), endpoint.ports.clone());
            let wish = EndpointWish { uid: endpoint.uid.clone(), network_namespace, interfaces, ports };
            self.ask(|answer| Command::EnsureEndpoint(wish, answer)).await
        })
    }

    fn remove_endpoint<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::RemoveEndpoint(uid.clone(), answer)))
    }

    fn set_names<'a>(&'a self, names: &'a [NameRecord]) -> BoxFuture<'a, Result<(), NetworkError>> {
        let reason = "this build has no name server; use addresses".to_owned();
        let refused = NetworkError::Unsupported { what: "names of containers".to_owned(), reason };
        Box::pin(std::future::ready(if names.is_empty() { Ok(()) } else { Err(refused) }))
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.ask(Command::Settle))
    }

    fn teardown(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.ask(Command::Teardown))
    }

    fn host_subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, NetworkError>> {
        Box::pin(self.ask(Command::HostSubnets))
    }

    fn events(&self) -> broadcast::Receiver<NetworkEvent> {
        self.events.subscribe()
    }
}

#[derive(Debug)]
struct Node {
    instance: String,
    home: OwnedFd,
    links: Links,
    firewall: Firewall,
    ports: PortTable,
    networks: BTreeMap<String, NetworkWish>,
    endpoints: BTreeMap<ContainerUid, EndpointWish>,
    events: broadcast::Sender<NetworkEvent>,
}

/// Events of links and addresses, and events of tables.
type Watched = (AsyncFd<OwnedFd>, AsyncFd<OwnedFd>);

impl Node {
    fn open(instance: String, events: broadcast::Sender<NetworkEvent>) -> Result<(Self, Watched), NetworkError> {
        let fail = |source| step("listening to the kernel's network events", source);
        let route = Socket::open(Family::Route).map_err(fail)?;
        for group in LINK_GROUPS {
            route.join(group).map_err(fail)?;
        }
        let tables = nft::subscribe().map_err(fail)?;
        let watched = (readable(route.into()).map_err(fail)?, readable(tables.into()).map_err(fail)?);
        let home = File::open("/proc/thread-self/ns/net").map_err(|source| step("opening the host's network namespace", source))?.into();
        let links = Links::open().map_err(|source| step("opening rtnetlink", source))?;
        let firewall = Firewall::open(&instance)?;
        let (networks, endpoints) = (BTreeMap::new(), BTreeMap::new());
        Ok((Self { instance, home, links, firewall, ports: PortTable::default(), networks, endpoints, events }, watched))
    }

    async fn serve(mut self, mut commands: mpsc::Receiver<Command>, (route, tables): Watched) {
        let mut look = Instant::now() + PERIOD;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                relevant = next(&route, |event| LINK_EVENTS.contains(&event.kind)) => if relevant {
                    look = look.min(Instant::now() + DEBOUNCE);
                },
                relevant = next(&tables, |event| nft::is_removal(event) && event.port != self.firewall.port()) => if relevant {
                    look = look.min(Instant::now() + DEBOUNCE);
                },
                () = tokio::time::sleep_until(look) => {
                    self.mend().await;
                    look = Instant::now() + PERIOD;
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        // A caller that went away does not want the answer.
        match command {
            Command::EnsureNetwork(wish, answer) => drop(answer.send(self.ensure_network(wish).await)),
            Command::RemoveNetwork(uid, answer) => drop(answer.send(self.remove_network(&uid).await)),
            Command::EnsureEndpoint(wish, answer) => drop(answer.send(self.ensure_endpoint(wish).await)),
            Command::RemoveEndpoint(uid, answer) => drop(answer.send(self.remove_endpoint(&uid))),
            Command::Settle(answer) => drop(answer.send(self.settle().await)),
            Command::Teardown(answer) => drop(answer.send(self.teardown().await)),
            Command::HostSubnets(answer) => drop(answer.send(self.host_subnets().await)),
        }
    }

    async fn ensure_network(&mut self, wish: NetworkWish) -> Result<(), NetworkError> {
        self.ensure_bridge(&wish).await?;
        self.firewall.claim(&format!("network {}", wish.uid), network_entries(&wish))?;
        self.networks.insert(wish.uid.clone(), wish);
        self.claim_lan().await
    }

    async fn ensure_bridge(&self, wish: &NetworkWish) -> Result<bool, NetworkError> {
        let mut changed = self.links.ensure_bridge(wish).await?;
        changed |= set_sysctl("/proc/sys/net/ipv4/ip_forward")?;
        changed |= set_sysctl(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", wish.bridge))?;
        Ok(changed)
    }

    /// LAN ports answer to private subnets of the host's links, our bridges included.
    async fn claim_lan(&mut self) -> Result<(), NetworkError> {
        let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = self.links.all_addresses().await?.into_iter().filter_map(private_range).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        let entries = merged.into_iter().flat_map(|(first, last)| firewall::range(first, last)).map(|element| (firewall::LAN, element));
        self.firewall.claim("lan", entries)
    }

    async fn remove_network(&mut self, uid: &str) -> Result<(), NetworkError> {
        let Some(wish) = self.networks.remove(uid) else { return Ok(()) };
        self.firewall.claim(&format!("network {uid}"), [])?;
        if let Some(link) = self.links.list().await?.into_iter().find(|link| link.name == wish.bridge) {
            self.links.delete(&link).await?;
        }
        self.claim_lan().await
    }

    async fn ensure_endpoint(&mut self, wish: EndpointWish) -> Result<Vec<PortPublished>, NetworkError> {
        let missing = wish.interfaces.iter().find(|interface| !self.networks.contains_key(&interface.network_uid));
        if let Some(missing) = missing {
            return Err(NetworkError::MissingNetwork { network_uid: missing.network_uid.clone() });
        }
        let owner = format!("container {}", wish.uid);
        let published = match self.ports.publish(&wish.uid, &wish.ports) {
            Ok(published) => published,
            Err(error) => {
                self.firewall.claim(&owner, [])?;
                return Err(error);
            }
        };
        self.ensure_links(&wish).await?;
        let address = wish.interfaces.iter().find_map(|interface| if let IpAddr::V4(ip) = interface.address.address { Some(ip) } else { None });
        let entries = address.map(|address| published.iter().flat_map(|port| ports::entries(port, address)).collect::<Vec<_>>());
        self.firewall.claim(&owner, entries.unwrap_or_default())?;
        self.endpoints.insert(wish.uid.clone(), wish);
        Ok(published)
    }

    async fn ensure_links(&self, wish: &EndpointWish) -> Result<bool, NetworkError> {
        let inside = Links::open_in(wish.netns(), &self.home)?;
        inside.ensure_loopback().await?;
        let mut changed = false;
        for (at, interface) in wish.interfaces.iter().enumerate() {
            let Some(network) = self.networks.get(&interface.network_uid) else { continue };
            let inner = format!("eth{at}");
            let (outer, namespace) = (self.outer_name(&wish.uid, at), wish.network_namespace.as_fd());
            let (bridge, alias) = (network.bridge.as_str(), wish.uid.as_str());
            let pair = Pair { outer, inner: inner.clone(), bridge, alias, mac: interface.mac, mtu: network.mtu, namespace };
            changed |= self.links.ensure_pair(&pair, &inside).await?;
            inside.ensure_inner(&inner, interface).await?;
        }
        if let Some(gateway) = wish.interfaces.iter().find_map(|interface: &InterfaceWish| interface.gateway) {
            inside.ensure_route(gateway).await?;
        }
        let wanted: Vec<String> = (0..wish.interfaces.len()).map(|at| self.outer_name(&wish.uid, at)).collect();
        for link in self.links.list().await? {
            if self.is_outer(&link) && link.alias == wish.uid.as_str() && !wanted.contains(&link.name) {
                self.links.delete(&link).await?;
            }
        }
        Ok(changed)
    }

    fn prefix(&self) -> String {
        format!("{}v", self.instance.chars().take(3).collect::<String>())
    }

    fn outer_name(&self, uid: &ContainerUid, at: usize) -> String {
        format!("{}{:010x}", self.prefix(), hash(&format!("{} {uid} {at}", self.instance)) >> 24)
    }

    /// A link of this instance's making: its name is that of the container which its alias names.
    fn is_outer(&self, link: &Link) -> bool {
        let uid = ContainerUid::new(&link.alias);
        link.name.starts_with(&self.prefix()) && uid.is_some_and(|uid| (0..64).any(|at| self.outer_name(&uid, at) == link.name))
    }

    fn is_bridge(&self, link: &Link) -> bool {
        let prefix = format!("{}-", self.instance.chars().take(6).collect::<String>());
        let rest = link.name.strip_prefix(&prefix);
        link.bridge && rest.is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn remove_endpoint(&mut self, uid: &ContainerUid) -> Result<(), NetworkError> {
        self.endpoints.remove(uid);
        self.ports.release(uid);
        self.firewall.claim(&format!("container {uid}"), [])
    }

    async fn settle(&mut self) -> Result<(), NetworkError> {
        self.firewall.settle()?;
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
        table.and(links)
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

    /// Looks whether the kernel still agrees with the wish, and says what had to be done.
    async fn mend(&mut self) {
        for wish in self.networks.values() {
            let result = self.ensure_bridge(wish).await;
            self.report(result, &format!("bridge {}", wish.bridge), None);
        }
        match self.links.list().await {
            Ok(links) => self.mend_endpoints(&links).await,
            Err(error) => self.report(Err(error), "links", None),
        }
        let table = self.firewall.mend();
        self.report(table, &format!("nft table {}", self.instance), None);
        if !self.networks.is_empty() {
            let lan = self.claim_lan().await.map(|()| false);
            self.report(lan, "sources of LAN ports", None);
        }
    }

    async fn mend_endpoints(&self, links: &[Link]) {
        for wish in self.endpoints.values() {
            let whole = wish.interfaces.iter().enumerate().all(|(at, interface)| {
                let name = self.outer_name(&wish.uid, at);
                let bridge = self.networks.get(&interface.network_uid).and_then(|net| links.iter().find(|link| link.name == net.bridge));
                links.iter().any(|link| link.name == name && link.up && link.master == bridge.map(|bridge| bridge.index))
            });
            if !whole {
                let result = self.ensure_links(wish).await;
                self.report(result, "links of a container", Some(wish.uid.clone()));
            }
        }
    }

    fn report(&self, result: Result<bool, NetworkError>, what: &str, uid: Option<ContainerUid>) {
        let event = match result {
            Ok(false) => return,
            Ok(true) => NetworkEvent::Repaired { what: format!("{what}: not as declared"), uid },
            Err(error) => NetworkEvent::RepairFailed { what: format!("{what}: {}", chain(&error)) },
        };
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }
}

/// Waits for events; true when one of them matters, or when some were lost.
async fn next(socket: &AsyncFd<OwnedFd>, matters: impl Fn(&Message) -> bool) -> bool {
    let Ok(mut guard) = socket.readable().await else { return true };
    match netlink::receive(socket.get_ref().as_fd()) {
        Ok(events) if events.is_empty() => {
            guard.clear_ready();
            false
        }
        Ok(events) => events.iter().any(matters),
        Err(_) => true,
    }
}

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
        let hairpin = nft::Element { key: twice(first), key_end: Some(twice(last)), data: None, ends: false };
        found.push((firewall::HAIRPIN, hairpin));
        if !wish.internal {
            found.extend(firewall::range(first, last).into_iter().map(|element| (firewall::OUTBOUND, element)));
        }
    }
    found
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

/// What the host offers, for `doctor`: what was looked at, whether it is well, and a sentence for people.
pub fn probe() -> Vec<(String, bool, String)> {
    let tables = Socket::open(Family::Netfilter).and_then(|socket| nft::table_exists(&socket, ""));
    let tables_say = match &tables {
        Ok(_) => "nf_tables answers".to_owned(),
        Err(error) => format!("nf_tables does not answer ({error}); load the module nf_tables and run as root"),
    };
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").map(|text| text.trim() == "1");
    let forward_says = match forward {
        Ok(true) => "net.ipv4.ip_forward is 1",
        Ok(false) => "net.ipv4.ip_forward is 0; the engine sets it to 1 with the first network",
        Err(_) => "net.ipv4.ip_forward cannot be read; mount /proc",
    };
    vec![("nf_tables".to_owned(), tables.is_ok(), tables_say), ("ip_forward".to_owned(), forward.is_ok(), forward_says.to_owned())]
}
