//! Which container has which port of the host, and the sockets that keep others off them.
//!
//! A rule that redirects a port would silently shadow a listener of the host, and a listener started later would hear nothing. So each
//! port is held by a bound socket: a listener that was first is a conflict, one that comes later gets `EADDRINUSE`. Ranges wider than
//! [`HELD`] ports are kept apart from other containers' ports only: holding them would cost more than the rule.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use gantry_api::kinds::container::{Exposure, Protocol};
use gantry_sys::nft::Element;
use nix::sys::socket::{self, AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, sockopt};

use super::firewall::{Entry, LAN_PORTS, LAN_SHIFTED, PORTS, SHIFTED, step};
use super::{NetworkError, PortPublished, PortWish};
use crate::ids::ContainerUid;

/// Most ports of one range that are held by sockets.
const HELD: u16 = 64;
/// Most ports of a range whose numbers differ inside and outside: each is an element of its own.
const MOST_SHIFTED: u16 = 1024;
/// Tries at finding a free range.
const TRIES: usize = 64;

#[derive(Debug)]
struct Published {
    port: PortPublished,
    _held: Vec<OwnedFd>,
}

/// Ports by container.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    published: BTreeMap<ContainerUid, Vec<Published>>,
}

impl PortTable {
    /// Makes the wish the container's ports; those it has already stay held. On an error it has none.
    pub(crate) fn publish(&mut self, uid: &ContainerUid, wishes: &[PortWish]) -> Result<Vec<PortPublished>, NetworkError> {
        let mut before = self.published.remove(uid).unwrap_or_default();
        let mut kept: Vec<Option<Published>> = Vec::new();
        for wish in wishes {
            kept.push(before.iter().position(|have| have.port.wish == *wish).map(|at| before.swap_remove(at)));
        }
        drop(before);
        let mut now: Vec<Published> = Vec::new();
        for (at, wish) in wishes.iter().enumerate() {
            let published = match kept.get_mut(at).and_then(Option::take) {
                Some(published) => published,
                None => self.take(wish, now.iter().chain(kept.iter().flatten()))?,
            };
            now.push(published);
        }
        let ports = now.iter().map(|one| one.port.clone()).collect();
        if !now.is_empty() {
            self.published.insert(uid.clone(), now);
        }
        Ok(ports)
    }

    /// Lets go of the container's ports.
    pub(crate) fn release(&mut self, uid: &ContainerUid) {
        self.published.remove(uid);
    }

    fn take<'a>(&self, wish: &PortWish, own: impl Iterator<Item = &'a Published>) -> Result<Published, NetworkError> {
        let address = check(wish)?;
        let own: Vec<&Published> = own.collect();
        let taken = |first: u16| {
            let others = self.published.iter().flat_map(|(uid, list)| list.iter().map(move |one| (format!("container {uid}"), one)));
            let mine = own.iter().map(|one| ("another port of the same container".to_owned(), *one));
            others.chain(mine).find(|(_, one)| overlaps(&one.port, wish, first, address)).map(|(holder, _)| holder)
        };
        if wish.host_port != 0 {
            if let Some(holder) = taken(wish.host_port) {
                return Err(conflict(wish, wish.host_port, address, holder));
            }
            return hold(wish, address, wish.host_port);
        }
        for _ in 0..TRIES {
            let (_, first) = bind(wish.protocol, address, 0).map_err(|source| step("choosing a free port", source.into()))?;
            let fits = first.checked_add(wish.count - 1).is_some();
            if fits
                && taken(first).is_none()
                && let Ok(held) = hold(wish, address, first)
            {
                return Ok(held);
            }
        }
        Err(NetworkError::Unsupported {
            what: format!("{} consecutive free ports", wish.count),
            reason: "none were found; name the first one in hostPort".to_owned(),
        })
    }
}

fn check(wish: &PortWish) -> Result<Ipv4Addr, NetworkError> {
    let refuse = |reason: &str| NetworkError::Unsupported { what: format!("port {}", wish.container_port), reason: reason.to_owned() };
    let last = |first: u16| wish.count.checked_sub(1).and_then(|more| first.checked_add(more));
    if wish.container_port == 0 || last(wish.container_port).is_none() || last(wish.host_port).is_none() {
        return Err(refuse("the range is empty or goes beyond 65535"));
    }
    if wish.host_port != wish.container_port && wish.count > MOST_SHIFTED {
        return Err(refuse("a range whose host ports differ has at most 1024 ports; use equal ports"));
    }
    match (wish.host_ip, wish.exposure) {
        (Some(IpAddr::V4(address)), _) => Ok(address),
        (Some(IpAddr::V6(_)), _) => Err(refuse("ports are published on IPv4 addresses only; use an IPv4 hostIP")),
        (None, Exposure::Loopback) => Ok(Ipv4Addr::LOCALHOST),
        (None, Exposure::LAN | Exposure::Public) => Ok(Ipv4Addr::UNSPECIFIED),
    }
}

fn overlaps(have: &PortPublished, wish: &PortWish, first: u16, address: Ipv4Addr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    let same_address = have.host_ip == IpAddr::V4(address) || any(have.host_ip) || address.is_unspecified();
    let (a, b) = (u32::from(have.host_port), u32::from(first));
    have.wish.protocol == wish.protocol && same_address && a < b + u32::from(wish.count) && b < a + u32::from(have.wish.count)
}

fn conflict(wish: &PortWish, port: u16, address: Ipv4Addr, holder: String) -> NetworkError {
    let protocol = if wish.protocol == Protocol::UDP { "udp" } else { "tcp" };
    NetworkError::PortTaken { port, protocol: protocol.to_owned(), address: IpAddr::V4(address), holder }
}

fn hold(wish: &PortWish, address: Ipv4Addr, first: u16) -> Result<Published, NetworkError> {
    let count = if wish.count <= HELD { wish.count } else { 0 };
    let mut held = Vec::new();
    for port in (0..count).filter_map(|more| first.checked_add(more)) {
        match bind(wish.protocol, address, port) {
            Ok((socket, _)) => held.push(socket),
            Err(nix::errno::Errno::EADDRINUSE) => return Err(conflict(wish, port, address, "a listener of this host".to_owned())),
            Err(source) => return Err(step(&format!("holding port {port} on {address}"), source.into())),
        }
    }
    Ok(Published { port: PortPublished { wish: wish.clone(), host_port: first, host_ip: IpAddr::V4(address) }, _held: held })
}

/// A socket on the port that neither serves it nor lets anybody else bind it.
fn bind(protocol: Protocol, address: Ipv4Addr, port: u16) -> nix::Result<(OwnedFd, u16)> {
    let kind = if protocol == Protocol::UDP { SockType::Datagram } else { SockType::Stream };
    let fd = socket::socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let wanted = SockaddrIn::from(SocketAddrV4::new(address, port));
    if protocol == Protocol::TCP {
        // Connections of an earlier holder that linger in TIME_WAIT are no conflict; a listener is, and listening for a moment finds it.
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &wanted)?;
        socket::listen(&fd, Backlog::new(1)?)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &false)?;
        socket::shutdown(fd.as_raw_fd(), Shutdown::Both)?;
    } else {
        socket::setsockopt(&fd, sockopt::RcvBuf, &0)?;
        socket::bind(fd.as_raw_fd(), &wanted)?;
    }
    let port = socket::getsockname::<SockaddrIn>(fd.as_raw_fd())?.port();
    Ok((fd, port))
}

/// The map elements that lead the published port to the container.
pub(crate) fn entries(port: &PortPublished, container: Ipv4Addr) -> Vec<Entry> {
    let lan = port.wish.host_ip.is_none() && port.wish.exposure == Exposure::LAN;
    let (low, high) = match port.host_ip {
        IpAddr::V4(address) if !address.is_unspecified() => (address, address),
        _ => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
    };
    let key = |address: Ipv4Addr, port_number: u16| {
        let protocol = if port.wish.protocol == Protocol::UDP { 17 } else { 6 };
        [&address.octets()[..], &[protocol, 0, 0, 0], &port_number.to_be_bytes(), &[0, 0]].concat()
    };
    let more = port.wish.count.saturating_sub(1);
    if port.host_port == port.wish.container_port {
        let (key, end) = (key(low, port.host_port), key(high, port.host_port.saturating_add(more)));
        let element = Element { key, key_end: Some(end), data: Some(container.octets().to_vec()) };
        return vec![(if lan { LAN_PORTS } else { PORTS }, element)];
    }
    let numbers = (0..=more).map(|offset| (port.host_port.saturating_add(offset), port.wish.container_port.saturating_add(offset)));
    let shifted = numbers.map(|(outside, inside)| {
        let data = [&container.octets()[..], &inside.to_be_bytes(), &[0, 0]].concat();
        Element { key: key(low, outside), key_end: Some(key(high, outside)), data: Some(data) }
    });
    shifted.map(|element| (if lan { LAN_SHIFTED } else { SHIFTED }, element)).collect()
}
