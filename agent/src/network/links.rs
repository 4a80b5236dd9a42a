//! Links, addresses and routes by rtnetlink, on the host and inside network namespaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{AddressMessageBuilder, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::firewall::step;
use super::{InterfaceWish, NetworkError, NetworkWish, Subnet};

/// `NLM_F_REQUEST | NLM_F_ACK`: change what exists.
const CHANGE: u16 = 0x05;

/// Milliseconds that the kernel may take to notice a link before the container goes on without.
const MOST_WAITS: usize = 50;
/// `RT_TABLE_MAIN`.
const MAIN_TABLE: u8 = 254;

/// An rtnetlink connection into one network namespace; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
    port: u32,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What is asked about a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) master: Option<u32>,
    pub(crate) peer: Option<u32>,
    pub(crate) up: bool,
    /// The kernel has seen it work, and so has its bridge.
    pub(crate) carries: bool,
    pub(crate) bridge: bool,
}

impl Links {
    /// Opens one in the network namespace of the calling thread, which is within a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        let port = connection.socket_mut().socket_mut().bind_auto()?.port_number();
        Ok(Self { handle, port, connection: tokio::spawn(connection) })
    }

    /// The port by which netlink events name this connection.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Opens one in another network namespace. The calling thread is there for a moment, so it must be one that does nothing else.
    pub(crate) fn open_in(namespace: BorrowedFd<'_>, home: &OwnedFd) -> Result<Self, NetworkError> {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| step("entering the container's network namespace", error.into()))?;
        let opened = Self::open();
        setns(home.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|error| step("leaving the container's network namespace", error.into()))?;
        opened.map_err(|source| step("opening rtnetlink in the container's network namespace", source))
    }

    /// Every link.
    pub(crate) async fn list(&self) -> Result<Vec<Link>, NetworkError> {
        let found = self.handle.link().get().execute().map_ok(|message| read(&message)).try_collect().await;
        found.map_err(|error| failed("listing links", &error))
    }

    /// The link of a name, asked for by that.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut stream = Box::pin(self.handle.link().get().match_name(name.to_owned()).execute());
        match stream.try_next().await {
            Ok(found) => Ok(found.map(|message| read(&message))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(failed(&format!("looking for link {name}"), &error)),
        }
    }

    /// Removes a link; one that has gone with its namespace meanwhile is removed.
    pub(crate) async fn delete(&self, link: &Link) -> Result<(), NetworkError> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is_gone(&error) => Err(failed(&format!("removing link {}", link.name), &error)),
            _ => Ok(()),
        }
    }

    /// Makes the bridge what it should be, and ours by its alias. True: something had to be changed.
    pub(crate) async fn ensure_bridge(&self, wish: &NetworkWish, alias: &str) -> Result<bool, NetworkError> {
        let name = wish.bridge.as_str();
        let fail = |error: rtnetlink::Error| failed(&format!("making bridge {name}"), &error);
        let mut changed = false;
        let found = self.find(name).await?;
        if let Some(link) = found.as_ref().filter(|link| !link.bridge || (!link.alias.is_empty() && link.alias != alias)) {
            let other = if link.bridge { format!("belongs to {}", link.alias) } else { "is no bridge".to_owned() };
            let reason = format!("a link of that name exists and {other}; remove it");
            return Err(NetworkError::Unsupported { what: format!("bridge {name}"), reason });
        }
        if found.is_none() {
            // A bridge without an address of its own takes that of its lowest port, which changes as containers come and go.
            let builder = LinkBridge::new(name).address(mac_for(&wish.uid).to_vec()).mtu(wish.mtu);
            self.handle.link().add(builder.build()).execute().await.map_err(fail)?;
            changed = true;
        }
        let link = self.find(name).await?.ok_or_else(|| step(&format!("finding bridge {name}"), io::ErrorKind::NotFound.into()))?;
        if !link.up || link.mtu != wish.mtu || link.alias != alias {
            let message = LinkUnspec::new_with_index(link.index).mtu(wish.mtu).alias(alias).up().build();
            self.handle.link().set(message).execute().await.map_err(fail)?;
            // Ports that it has already work at once, not when the kernel comes round to it.
            let _ = gantry_sys::interface::carrier(name);
            changed = true;
        }
        changed |= self.ensure_addresses(link.index, &wish.gateways).await?;
        Ok(changed)
    }

    /// Every address, with the index of its link.
    pub(crate) async fn all_addresses(&self) -> Result<Vec<(u32, Subnet)>, NetworkError> {
        let listed = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let found = listed.map_err(|error| failed("listing addresses", &error))?.into_iter().filter_map(|message| {
            let local =
                message.attributes.iter().find_map(|a| if let AddressAttribute::Local(address) = a { Some(*address) } else { None });
            let other =
                || message.attributes.iter().find_map(|a| if let AddressAttribute::Address(address) = a { Some(*address) } else { None });
            Some((message.header.index, Subnet { address: local.or_else(other)?, prefix: message.header.prefix_len }))
        });
        Ok(found.collect())
    }

    /// Gives the link these addresses and no others, except those that the kernel makes by itself. True: something had to be changed.
    async fn ensure_addresses(&self, index: u32, wishes: &[Subnet]) -> Result<bool, NetworkError> {
        let present: Vec<Subnet> =
            self.all_addresses().await?.into_iter().filter(|(on, _)| *on == index).map(|(_, subnet)| subnet).collect();
        let mut changed = false;
        // First: an address of the same subnet that came later goes with the one before it.
        for stale in present.iter().filter(|have| !wishes.contains(have) && !of_the_kernel(have.address)) {
            let message = match stale.address {
                IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, stale.prefix).build(),
                IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, stale.prefix).build(),
            };
            let removed = self.handle.address().del(message).execute().await;
            removed.map_err(|error| failed(&format!("removing address {}", stale.address), &error))?;
            changed = true;
        }
        let again = changed;
        for wish in wishes.iter().filter(|wish| again || !present.contains(wish)) {
            changed |= self.add_address(index, *wish).await?;
        }
        Ok(changed)
    }

    async fn add_address(&self, index: u32, wish: Subnet) -> Result<bool, NetworkError> {
        match self.handle.address().add(index, wish.address, wish.prefix).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code().abs() == nix::libc::EEXIST => Ok(false),
            Err(error) => Err(failed(&format!("adding address {}", wish.address), &error)),
        }
    }

    /// Makes the pair of links of one interface, of which `inner` is there already. True: it had to be made, or joined to its bridge again.
    pub(crate) async fn ensure_pair(&self, pair: &Pair<'_>, inner: Option<&Link>, inside: &Self) -> Result<bool, NetworkError> {
        let fail = |error: rtnetlink::Error| failed(&format!("making link {}", pair.outer), &error);
        let outer = self.find(&pair.outer).await?;
        let bridge = self.find(pair.bridge).await?.ok_or_else(|| step("finding the bridge", io::ErrorKind::NotFound.into()))?;
        let paired = matches!((&outer, inner), (Some(outer), Some(inner))
            if outer.peer == Some(inner.index) && inner.peer == Some(outer.index) && inner.mac == pair.mac);
        let joined = |link: &Link| link.up && link.master == Some(bridge.index) && link.alias == pair.alias && link.mtu == pair.mtu;
        if paired && outer.as_ref().is_some_and(joined) {
            return Ok(false);
        }
        if !paired {
            if let Some(stale) = &outer {
                self.delete(stale).await?;
            }
            if let Some(stale) = inner.filter(|inner| outer.as_ref().is_none_or(|outer| outer.peer != Some(inner.index))) {
                inside.delete(stale).await?;
            }
            let peer = LinkMessageBuilder::<LinkUnspec>::default().name(pair.inner.clone()).address(pair.mac.to_vec()).mtu(pair.mtu);
            let peer = peer.setns_by_fd(pair.namespace.as_raw_fd()).build();
            let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(pair.outer.clone()).mtu(pair.mtu);
            let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
            self.handle.link().add(link).execute().await.map_err(fail)?;
        }
        let set = LinkUnspec::new_with_name(&pair.outer).controller(bridge.index).alias(pair.alias).mtu(pair.mtu).up().build();
        self.handle.link().set(set).execute().await.map_err(fail)?;
        // Hairpin: a container reaches its own published port through the bridge that it came from.
        let port = LinkMessageBuilder::<LinkBridgePort>::default().name(pair.outer.clone()).set_port_kind(InfoPortKind::Bridge);
        self.handle.link().set_port(port.hairpin(true).build()).set_flags(CHANGE).execute().await.map_err(fail)?;
        Ok(true)
    }

    /// Waits until what comes out of a new link reaches its bridge, which is when the kernel has seen that both ends are up.
    ///
    /// A packet that is sent before is lost, and a connection then waits a second for its second try.
    pub(crate) async fn ensure_carrier(&self, name: &str) -> Result<(), NetworkError> {
        for _ in 0..MOST_WAITS {
            let carrier = gantry_sys::interface::carrier(name).map_err(|source| step(&format!("reading the carrier of {name}"), source))?;
            if carrier && self.find(name).await?.is_some_and(|link| link.carries) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Brings up `lo`, unless it is among these links and up. Called inside.
    pub(crate) async fn ensure_loopback(&self, present: &[Link]) -> Result<(), NetworkError> {
        let Some(lo) = present.iter().find(|link| link.name == "lo" && !link.up) else { return Ok(()) };
        let message = LinkUnspec::new_with_index(lo.index).up().build();
        self.handle.link().set(message).execute().await.map_err(|error| failed("bringing up lo", &error))
    }

    /// Address and state of an interface, which was `found` like this unless it is new. Called inside.
    pub(crate) async fn ensure_inner(&self, name: &str, wish: &InterfaceWish, mtu: u32, found: Option<&Link>) -> Result<(), NetworkError> {
        // One end cannot be up before the other one is there, so a new one is down.
        let link = match found {
            Some(link) => link.clone(),
            None => self.find(name).await?.ok_or_else(|| step(&format!("finding {name}"), io::ErrorKind::NotFound.into()))?,
        };
        if !link.up || link.mtu != mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(mtu).up().build();
            self.handle.link().set(message).execute().await.map_err(|error| failed(&format!("bringing up {name}"), &error))?;
        }
        self.ensure_addresses(link.index, &[wish.address]).await.map(drop)
    }

    /// The default route; one of ours that is no longer wished goes. Called inside.
    pub(crate) async fn ensure_route(&self, gateway: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let listed = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect::<Vec<_>>().await;
        let defaults = listed.map_err(|error| failed("listing routes", &error))?.into_iter().filter(is_default);
        let by =
            |route: &RouteMessage| gateway.is_some_and(|ip| route.attributes.contains(&RouteAttribute::Gateway(RouteAddress::Inet(ip))));
        let (right, wrong): (Vec<_>, Vec<_>) = defaults.partition(by);
        if let (Some(gateway), true) = (gateway, right.is_empty()) {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
            let added = self.handle.route().add(route).replace().execute().await;
            return added.map_err(|error| failed(&format!("adding the default route by {gateway}"), &error));
        }
        // A container that may do so can have made others, which are its own.
        for route in wrong.into_iter().filter(|route| gateway.is_none() && route.header.protocol == RouteProtocol::Static) {
            self.handle.route().del(route).execute().await.map_err(|error| failed("removing a default route", &error))?;
        }
        Ok(())
    }

    /// Destinations of all IPv4 routes but the default one, with the link that they leave by.
    pub(crate) async fn routes(&self) -> Result<Vec<(Subnet, u32)>, NetworkError> {
        let mut found = Vec::new();
        let mut stream = Box::pin(self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute());
        while let Some(route) = stream.try_next().await.map_err(|error| failed("listing routes", &error))? {
            let prefix = route.header.destination_prefix_length;
            let link = route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None });
            let destination = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                _ => None,
            });
            let destination = destination.filter(|_| route.header.kind == RouteType::Unicast);
            found.extend(destination.map(|address| (Subnet { address, prefix }, link.unwrap_or(0))));
        }
        Ok(found)
    }
}

/// The two ends of one interface.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) outer: String,
    pub(crate) inner: String,
    pub(crate) bridge: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) namespace: BorrowedFd<'a>,
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast && route.header.table == MAIN_TABLE
}

/// Link-local addresses of IPv6 come with a link.
fn of_the_kernel(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::OperState(state) => link.carries = *state == State::Up,
            LinkAttribute::LinkInfo(infos) => link.bridge |= infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => {}
        }
    }
    link
}

/// A stable number for a text: names of links and addresses of bridges are made of it.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn mac_for(text: &str) -> [u8; 6] {
    let [a, b, c, d, e, ..] = hash(text).to_be_bytes();
    [0x02, a, b, c, d, e]
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code().abs() == nix::libc::ENODEV)
}

fn failed(what: &str, error: &rtnetlink::Error) -> NetworkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    step(what, source)
}
