//! Links, addresses and routes by rtnetlink, on the host and inside network namespaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::firewall::step;
use super::{InterfaceWish, NetworkError, NetworkWish, Subnet};

/// `NLM_F_REQUEST | NLM_F_ACK`: change what exists.
const CHANGE: u16 = 0x05;

/// An rtnetlink connection into one network namespace; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
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
    pub(crate) bridge: bool,
}

impl Links {
    /// Opens one in the network namespace of the calling thread, which is within a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
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

    async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        Ok(self.list().await?.into_iter().find(|link| link.name == name))
    }

    pub(crate) async fn delete(&self, link: &Link) -> Result<(), NetworkError> {
        self.handle.link().del(link.index).execute().await.map_err(|error| failed(&format!("removing link {}", link.name), &error))
    }

    /// Makes the bridge what it should be. True: something had to be changed.
    pub(crate) async fn ensure_bridge(&self, wish: &NetworkWish) -> Result<bool, NetworkError> {
        let name = wish.bridge.as_str();
        let fail = |error: rtnetlink::Error| failed(&format!("making bridge {name}"), &error);
        let mut changed = false;
        let found = self.find(name).await?;
        if found.as_ref().is_some_and(|link| !link.bridge) {
            let reason = "a link of that name exists and is no bridge; remove it".to_owned();
            return Err(NetworkError::Unsupported { what: format!("bridge {name}"), reason });
        }
        if found.is_none() {
            // A bridge without an address of its own takes that of its lowest port, which changes as containers come and go.
            let builder = LinkBridge::new(name).address(mac_for(&wish.uid).to_vec()).mtu(wish.mtu);
            self.handle.link().add(builder.build()).execute().await.map_err(fail)?;
            changed = true;
        }
        let link = self.find(name).await?.ok_or_else(|| step(&format!("finding bridge {name}"), io::ErrorKind::NotFound.into()))?;
        if !link.up || link.mtu != wish.mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(wish.mtu).up().build();
            self.handle.link().set(message).execute().await.map_err(fail)?;
            changed = true;
        }
        for gateway in &wish.gateways {
            changed |= self.ensure_address(link.index, *gateway).await?;
        }
        Ok(changed)
    }

    async fn addresses(&self, index: u32) -> Result<Vec<Subnet>, NetworkError> {
        let mut found = Vec::new();
        let mut stream = Box::pin(self.handle.address().get().execute());
        while let Some(message) = stream.try_next().await.map_err(|error| failed("listing addresses", &error))? {
            if index != 0 && message.header.index != index {
                continue;
            }
            found.extend(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(Subnet { address: *address, prefix: message.header.prefix_len }),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Every address of every link but those named.
    pub(crate) async fn all_addresses(&self) -> Result<Vec<Subnet>, NetworkError> {
        self.addresses(0).await
    }

    async fn ensure_address(&self, index: u32, wish: Subnet) -> Result<bool, NetworkError> {
        if self.addresses(index).await?.contains(&wish) {
            return Ok(false);
        }
        let added = self.handle.address().add(index, wish.address, wish.prefix).execute().await;
        added.map_err(|error| failed(&format!("adding address {}", wish.address), &error))?;
        Ok(true)
    }

    /// Makes the pair of links of one interface; the inner one stays down. True: it had to be made.
    pub(crate) async fn ensure_pair(&self, pair: &Pair<'_>, inside: &Self) -> Result<bool, NetworkError> {
        let fail = |error: rtnetlink::Error| failed(&format!("making link {}", pair.outer), &error);
        let outer = self.find(&pair.outer).await?;
        let inner = inside.find(&pair.inner).await?;
        let bridge = self.find(pair.bridge).await?.ok_or_else(|| step("finding the bridge", io::ErrorKind::NotFound.into()))?;
        let paired = matches!((&outer, &inner), (Some(outer), Some(inner))
            if outer.peer == Some(inner.index) && inner.peer == Some(outer.index) && inner.mac == pair.mac);
        if paired && outer.as_ref().is_some_and(|link| link.up && link.master == Some(bridge.index) && link.alias == pair.alias) {
            return Ok(false);
        }
        if !paired {
            if let Some(stale) = outer {
                self.delete(&stale).await?;
            }
            if let Some(stale) = inside.find(&pair.inner).await? {
                inside.delete(&stale).await?;
            }
            let peer = LinkMessageBuilder::<LinkUnspec>::default().name(pair.inner.clone()).address(pair.mac.to_vec()).mtu(pair.mtu);
            let peer = peer.setns_by_fd(pair.namespace.as_raw_fd()).build();
            let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(pair.outer.clone()).mtu(pair.mtu);
            let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
            self.handle.link().add(link).execute().await.map_err(fail)?;
        }
        let outer = self.find(&pair.outer).await?.ok_or_else(|| step("finding the new link", io::ErrorKind::NotFound.into()))?;
        let set = LinkUnspec::new_with_index(outer.index).controller(bridge.index).alias(pair.alias).up().build();
        self.handle.link().set(set).execute().await.map_err(fail)?;
        // Hairpin: a container reaches its own published port through the bridge that it came from.
        let port = LinkBridgePort::new(outer.index).hairpin(true).build();
        self.handle.link().set_port(port).set_flags(CHANGE).execute().await.map_err(fail)?;
        Ok(true)
    }

    /// Brings up `lo`. Called inside.
    pub(crate) async fn ensure_loopback(&self) -> Result<(), NetworkError> {
        let Some(lo) = self.find("lo").await?.filter(|link| !link.up) else { return Ok(()) };
        let message = LinkUnspec::new_with_index(lo.index).up().build();
        self.handle.link().set(message).execute().await.map_err(|error| failed("bringing up lo", &error))
    }

    /// Address and state of an interface. Called inside.
    pub(crate) async fn ensure_inner(&self, name: &str, wish: &InterfaceWish) -> Result<(), NetworkError> {
        let link = self.find(name).await?.ok_or_else(|| step(&format!("finding {name}"), io::ErrorKind::NotFound.into()))?;
        if !link.up {
            let message = LinkUnspec::new_with_index(link.index).up().build();
            self.handle.link().set(message).execute().await.map_err(|error| failed(&format!("bringing up {name}"), &error))?;
        }
        self.ensure_address(link.index, wish.address).await?;
        Ok(())
    }

    /// The default route. Called inside.
    pub(crate) async fn ensure_route(&self, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let wanted = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        let mut stream = Box::pin(self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute());
        while let Some(route) = stream.try_next().await.map_err(|error| failed("listing routes", &error))? {
            if route.header.destination_prefix_length == 0 && route.attributes.contains(&wanted) {
                return Ok(());
            }
        }
        drop(stream);
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(|error| failed(&format!("adding the default route by {gateway}"), &error))
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

fn failed(what: &str, error: &rtnetlink::Error) -> NetworkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    step(what, source)
}
