//! Drift: the kernel says that something changed, the driver looks whether it still agrees with the wish, and mends what does not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gantry_sys::netlink::{self, Family, Message, Socket, attribute};
use gantry_sys::nft;
use tokio::io::unix::AsyncFd;

use super::links::Link;
use super::node::Node;
use super::{NetworkError, NetworkEvent, NetworkWish, Subnet};
use crate::ids::{ContainerUid, chain};
use crate::readiness::readable;

/// Events of the kernel come in bursts; one look answers a burst.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(20);
/// A look without an event, for what sends none.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// The next try at a repair that failed.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`.
const GROUPS: [u32; 2] = [1, 5];
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
/// `RTM_NEWADDR`, `RTM_DELADDR`.
const ADDRESS_EVENTS: [u16; 2] = [20, 21];
/// `IFF_UP`.
const UP: u32 = 1;
/// `IFLA_IFNAME`.
const NAME: u16 = 3;
/// `IFLA_MASTER`.
const MASTER: u16 = 10;

/// Events of links and addresses, and events of tables.
pub(super) type Watched = (AsyncFd<OwnedFd>, AsyncFd<OwnedFd>);

/// Listens from now on, in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<Watched> {
    let route = Socket::open(Family::Route)?;
    for group in GROUPS {
        route.join(group)?;
    }
    Ok((readable(route.into())?, readable(nft::subscribe()?.into())?))
}

/// Waits for events; true when one of them matters, or when some were lost.
pub(super) async fn next(socket: &AsyncFd<OwnedFd>, matters: impl Fn(&Message) -> bool) -> bool {
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

impl Node {
    /// What this thread does itself is no drift.
    pub(super) fn link_event_matters(&self, event: &Message) -> bool {
        if event.port == self.links.port() {
            return false;
        }
        if ADDRESS_EVENTS.contains(&event.kind) {
            return true;
        }
        let (Some(flags), Some(rest)) = (event.body.get(8..12), event.body.get(16..)) else { return false };
        let name = attribute(rest, NAME).and_then(|name| std::str::from_utf8(name.strip_suffix(&[0])?).ok()).unwrap_or_default();
        let bridge = self.networks.values().any(|network| network.bridge == name);
        let veth = || self.endpoints.values().any(|wish| (0..wish.interfaces.len()).any(|at| self.outer_name(&wish.uid, at) == name));
        let flags = flags.try_into().map_or(0, u32::from_ne_bytes);
        let (down, alone) = (flags & UP == 0, attribute(rest, MASTER).is_none());
        match event.kind {
            DEL_LINK => bridge || veth(),
            NEW_LINK => (down && bridge) || ((down || alone) && veth()),
            _ => false,
        }
    }

    pub(super) fn table_event_matters(&self, event: &Message) -> bool {
        event.port != self.firewall.port() && nft::concerns(event, self.firewall.table())
    }

    /// Looks whether the kernel still agrees with the wish, and says what had to be done. True: it agrees now.
    pub(super) async fn mend(&mut self) -> bool {
        let looked = match (self.links.list().await, self.links.all_addresses().await) {
            (Ok(links), Ok(addresses)) => Ok((links, addresses)),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let linked = match looked {
            Ok((links, addresses)) => self.mend_links(links, addresses).await,
            Err(error) => self.report(Err(error), "links", None),
        };
        let table = self.firewall.mend();
        self.report(table, &format!("nft table {}", self.instance), None) && linked
    }

    async fn mend_links(&mut self, mut links: Vec<Link>, mut addresses: Vec<(u32, Subnet)>) -> bool {
        let (mut agrees, mut changed) = (true, false);
        for wish in self.networks.values().filter(|wish| !bridge_is_whole(wish, &links, &addresses)) {
            let result = self.ensure_bridge(wish).await;
            agrees &= self.report(result, &format!("bridge {}", wish.bridge), None);
            changed = true;
        }
        if changed && let (Ok(now), Ok(now_addresses)) = (self.links.list().await, self.links.all_addresses().await) {
            (links, addresses) = (now, now_addresses);
        }
        agrees &= self.mend_endpoints(&links).await;
        if !self.networks.is_empty() {
            let lan = self.claim_lan(&addresses).map(|()| false);
            agrees &= self.report(lan, "sources of LAN ports", None);
        }
        agrees
    }

    async fn mend_endpoints(&self, links: &[Link]) -> bool {
        let mut agrees = true;
        for wish in self.endpoints.values() {
            let whole = wish.interfaces.iter().enumerate().all(|(at, interface)| {
                let name = self.outer_name(&wish.uid, at);
                let bridge = self.networks.get(&interface.network_uid).and_then(|net| links.iter().find(|link| link.name == net.bridge));
                links.iter().any(|link| link.name == name && link.up && link.master == bridge.map(|bridge| bridge.index))
            });
            if !whole {
                let result = self.ensure_links(wish).await;
                agrees &= self.report(result, "links of a container", Some(wish.uid.clone()));
            }
        }
        agrees
    }

    /// True unless it failed.
    fn report(&self, result: Result<bool, NetworkError>, what: &str, uid: Option<ContainerUid>) -> bool {
        let (event, done) = match result {
            Ok(false) => return true,
            Ok(true) => (NetworkEvent::Repaired { what: format!("{what}: not as declared"), uid }, true),
            Err(error) => (NetworkEvent::RepairFailed { what: format!("{what}: {}", chain(&error)) }, false),
        };
        // Nobody listening is no error.
        let _ = self.events.send(event);
        done
    }
}

fn bridge_is_whole(wish: &NetworkWish, links: &[Link], addresses: &[(u32, Subnet)]) -> bool {
    let Some(link) = links.iter().find(|link| link.name == wish.bridge) else { return false };
    let settings = ["/proc/sys/net/ipv4/ip_forward".to_owned(), format!("/proc/sys/net/ipv4/conf/{}/route_localnet", wish.bridge)];
    let on = |path: &String| std::fs::read(path).is_ok_and(|text| text.starts_with(b"1"));
    let addressed = wish.gateways.iter().all(|gateway| addresses.contains(&(link.index, *gateway)));
    link.bridge && link.up && link.mtu == wish.mtu && addressed && settings.iter().all(on)
}
