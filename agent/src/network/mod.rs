//! Bridges, links, addresses, published ports and names of this node.
//!
//! The driver is told what should be; it keeps the wish in memory, makes the kernel agree, listens to netlink, and repairs what
//! drifts (a flushed nft table, a removed bridge or link) by itself. The agent tells it everything again after a restart, then calls
//! [`NetworkDriver::settle`], which removes what is ours and unwanted. Nothing of the host's is touched.
//!
//! * nft: one table named after the instance, family `inet`; published ports are elements of maps.
//! * links: bridges `<instance up to 6 characters>-<8 hex of the network uid>` with the alias `<instance> network <uid>`, veths with the
//!   container's uid as theirs.
//! * IPv4 ports on loopback need no process on the path: DNAT at the output hook, `route_localnet` on the bridge, masquerade, hairpin.
//! * names: `gantry-netd`, which reads its table from a file in the run directory and outlives the engine.

pub mod bridge;
mod firewall;
mod links;
pub mod memory;
mod names;
mod node;
mod ports;
mod probe;
#[cfg(test)]
mod tests;
mod watch;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};

use futures_util::future::BoxFuture;
use gantry_api::kinds::container::{Exposure, Protocol};
use tokio::sync::broadcast;

use crate::ids::ContainerUid;

/// Makes the node's network agree with what it is told.
pub trait NetworkDriver: Send + Sync + 'static {
    /// Ensures the bridge, its gateway addresses and its rules. Idempotent; a changed wish replaces the old one.
    fn ensure_network<'a>(&'a self, network: &'a NetworkWish) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Removes the bridge and its rules. Idempotent.
    fn remove_network<'a>(&'a self, network_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Ensures the container's links, addresses and default route in its network namespace, and its published ports.
    /// Idempotent: what is already right is left alone, so that a restart disturbs no traffic; what the wish no longer has is taken away.
    ///
    /// Returns the ports as published, with chosen host ports filled in (kept over repeated calls).
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`] when another container or a listener of the host holds a port; nothing of this container is then published.
    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointWish) -> BoxFuture<'a, Result<Vec<PortPublished>, NetworkError>>;

    /// Forgets the container: ports, names and rules. Its links go with its network namespace. Idempotent.
    fn remove_endpoint<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Replaces the names that containers can look up. Takes effect within milliseconds.
    fn set_names<'a>(&'a self, names: &'a [NameRecord]) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Removes what is ours on the host and was not ensured since this driver was made.
    fn settle(&self) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Takes everything of this instance off the host, ports, table, bridges and the names process included. Idempotent.
    fn teardown(&self) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Subnets that the host routes or owns, other than ours, so that allocation can keep clear of them.
    fn host_subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, NetworkError>>;

    /// Repairs done, and repairs that failed, from now on.
    fn events(&self) -> broadcast::Receiver<NetworkEvent>;
}

/// An address and a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// An address of the subnet.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub prefix: u8,
}

/// A bridge as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkWish {
    /// Uid of the Network object.
    pub uid: String,
    /// Link name of the bridge.
    pub bridge: String,
    /// Gateway address with the subnet's prefix, one for each address family.
    pub gateways: Vec<Subnet>,
    /// No way out and no masquerade.
    pub internal: bool,
    /// In bytes.
    pub mtu: u32,
}

/// A container's links and ports as they should be.
#[derive(Debug)]
pub struct EndpointWish {
    /// The container.
    pub uid: ContainerUid,
    /// Its network namespace.
    pub network_namespace: OwnedFd,
    /// One for each network, in order: `eth0`, `eth1`, …; the first one with a gateway carries the default route.
    pub interfaces: Vec<InterfaceWish>,
    /// Published ports.
    pub ports: Vec<PortWish>,
}

impl EndpointWish {
    /// The network namespace, borrowed.
    pub fn netns(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.network_namespace.as_fd()
    }
}

/// One link of a container as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceWish {
    /// Uid of the Network object.
    pub network_uid: String,
    /// Its address with the subnet's prefix.
    pub address: Subnet,
    /// Six bytes.
    pub mac: [u8; 6],
    /// Default route; `None` on an internal network.
    pub gateway: Option<Ipv4Addr>,
}

/// A port, or range of ports, as it should be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortWish {
    /// First port inside.
    pub container_port: u16,
    /// How many consecutive ports, 1 or more.
    pub count: u16,
    /// First port on the node; 0: chosen.
    pub host_port: u16,
    /// Address of the node; `None`: by `exposure`.
    pub host_ip: Option<IpAddr>,
    /// From where it can be reached.
    pub exposure: Exposure,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A port as published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPublished {
    /// The wish.
    pub wish: PortWish,
    /// First port on the node.
    pub host_port: u16,
    /// Address on the node: 127.0.0.1 for Loopback, 0.0.0.0 for LAN and Public.
    pub host_ip: IpAddr,
}

/// A name that the containers of one network can look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// Uid of the Network object.
    pub network_uid: String,
    /// Without a dot at its end; matched without regard to case.
    pub name: String,
    /// Every address that the name stands for.
    pub addresses: Vec<IpAddr>,
}

/// Something happened to the node's network.
#[derive(Debug, Clone)]
pub enum NetworkEvent {
    /// Drift was found and mended.
    Repaired {
        /// What was found wrong, for people.
        what: String,
        /// The container whose links or ports they were, if one's.
        uid: Option<ContainerUid>,
    },
    /// Drift was found and could not be mended; it is tried again.
    RepairFailed {
        /// What was found wrong, and why it could not be mended.
        what: String,
    },
}

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another container or a listener of the host holds the port.
    #[error("port {port}/{protocol} on {address} is taken by {holder}")]
    PortTaken {
        /// The port.
        port: u16,
        /// `tcp` or `udp`.
        protocol: String,
        /// Address on the node.
        address: IpAddr,
        /// `container NAMESPACE/NAME`-like text when known, else `a listener of this host`.
        holder: String,
    },
    /// The subnet overlaps one that the host routes.
    #[error("subnet {subnet} overlaps {other}")]
    SubnetTaken {
        /// Ours.
        subnet: String,
        /// What it overlaps, for people.
        other: String,
    },
    /// A network of the wish was never ensured.
    #[error("network `{network_uid}` is not on this node")]
    MissingNetwork {
        /// Uid of the Network object.
        network_uid: String,
    },
    /// Something cannot be done on this host; the reason names the remedy.
    #[error("{what} cannot be applied: {reason}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel said no.
    #[error("{step}")]
    Step {
        /// What was being done, and to what.
        step: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
