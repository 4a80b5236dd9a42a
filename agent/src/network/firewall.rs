//! The instance's nft table: fixed rules, and sets whose elements say which bridges, subnets and ports there are.
//!
//! Networks and published ports are elements only, so publishing never touches a rule. What an earlier engine left in the sets is kept
//! until [`Firewall::settle`], so that its ports go on answering while the new engine is told about its containers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use gantry_sys::netlink::{Family, Socket};
use gantry_sys::nft::{self, Batch, BatchError, Chain, Element, Expression as E, Hook, Part, REGISTER, Set};

use super::NetworkError;

/// Links that are bridges of ours.
pub(crate) const BRIDGES: &str = "bridges";
/// Those of them that have no way out.
pub(crate) const INTERNAL: &str = "internal";
/// A bridge and itself: traffic that stays inside one network.
pub(crate) const SAME: &str = "same";
/// Subnets whose traffic leaves under the host's address.
pub(crate) const OUTBOUND: &str = "outbound";
/// A subnet and itself: a container that reaches a published port of its own network.
pub(crate) const HAIRPIN: &str = "hairpin";
/// Sources to which LAN ports answer.
pub(crate) const LAN: &str = "lan_sources";
/// Ports for any source, kept as they are.
pub(crate) const PORTS: &str = "ports";
/// Ports for any source, translated one by one.
pub(crate) const SHIFTED: &str = "ports_shifted";
/// Ports for LAN sources, kept as they are.
pub(crate) const LAN_PORTS: &str = "lan_ports";
/// Ports for LAN sources, translated one by one.
pub(crate) const LAN_SHIFTED: &str = "lan_ports_shifted";

const PORT_KEY: &[Part] = &[Part::Ipv4, Part::Protocol, Part::Port];
const SETS: [Set<'static>; 10] = [
    Set { name: BRIDGES, key: &[Part::Interface], data: &[], interval: false },
    Set { name: INTERNAL, key: &[Part::Interface], data: &[], interval: false },
    Set { name: SAME, key: &[Part::Interface, Part::Interface], data: &[], interval: false },
    Set { name: OUTBOUND, key: &[Part::Ipv4], data: &[], interval: true },
    Set { name: HAIRPIN, key: &[Part::Ipv4, Part::Ipv4], data: &[], interval: true },
    Set { name: LAN, key: &[Part::Ipv4], data: &[], interval: true },
    Set { name: PORTS, key: PORT_KEY, data: &[Part::Ipv4], interval: true },
    Set { name: SHIFTED, key: PORT_KEY, data: &[Part::Ipv4, Part::Port], interval: true },
    Set { name: LAN_PORTS, key: PORT_KEY, data: &[Part::Ipv4], interval: true },
    Set { name: LAN_SHIFTED, key: PORT_KEY, data: &[Part::Ipv4, Part::Port], interval: true },
];

/// An element and the set that it is in.
pub(crate) type Entry = (&'static str, Element);

/// The table, as wished and as it is.
#[derive(Debug)]
pub(crate) struct Firewall {
    table: String,
    socket: Socket,
    wished: BTreeMap<String, BTreeSet<Entry>>,
    adopted: BTreeSet<Entry>,
    fingerprint: Vec<Vec<u8>>,
}

impl Firewall {
    /// Opens the table, which may be there already.
    pub(crate) fn open(table: &str) -> Result<Self, NetworkError> {
        let socket = Socket::open(Family::Netfilter).map_err(|source| step("opening nf_tables", source))?;
        let mut adopted = BTreeSet::new();
        for set in &SETS {
            let found = nft::elements(&socket, table, *set).map_err(|source| step("reading the nft table", source))?;
            adopted.extend(found.into_iter().map(|element| (set.name, element)));
        }
        Ok(Self { table: table.to_owned(), socket, wished: BTreeMap::new(), adopted, fingerprint: Vec::new() })
    }

    /// The port by which netlink events name this socket.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Replaces the elements of an owner.
    pub(crate) fn claim(&mut self, owner: &str, entries: impl IntoIterator<Item = Entry>) -> Result<(), NetworkError> {
        let new: BTreeSet<Entry> = entries.into_iter().collect();
        if self.fingerprint.is_empty() {
            self.rebuild()?;
        }
        let old = self.wished.get(owner).cloned().unwrap_or_default();
        // What an earlier engine left in the way, for another container or address, gives way.
        let in_the_way = |have: &&Entry| !new.contains(*have) && new.iter().any(|want| rival(want.0, have.0) && want.1.overlaps(&have.1));
        let removed: BTreeSet<Entry> = old.difference(&new).chain(self.adopted.iter().filter(in_the_way)).cloned().collect();
        let added: Vec<Entry> = new.difference(&old).filter(|entry| !self.adopted.contains(entry)).cloned().collect();
        if let Err(refused) = self.apply(&removed, &added) {
            // The table may have been taken away a moment ago; when it is there, it is the wish that is wrong.
            if self.is_whole()? {
                return Err(refused);
            }
            self.rebuild()?;
            self.apply(&removed, &added)?;
        }
        self.adopted.retain(|entry| !removed.contains(entry) && !new.contains(entry));
        if new.is_empty() {
            self.wished.remove(owner)
        } else {
            self.wished.insert(owner.to_owned(), new)
        };
        Ok(())
    }

    fn apply(&self, removed: &BTreeSet<Entry>, added: &[Entry]) -> Result<(), NetworkError> {
        if removed.is_empty() && added.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        for set in &SETS {
            let of = |entries: &mut dyn Iterator<Item = &Entry>| -> Vec<Element> {
                entries.filter(|(name, _)| *name == set.name).map(|(_, element)| element.clone()).collect()
            };
            batch.delete_elements(set.name, &of(&mut removed.iter()));
            batch.add_elements(set.name, &of(&mut added.iter()));
        }
        batch.commit(&self.socket).map_err(refused)
    }

    /// Makes the whole table anew, in one step that no packet sees.
    pub(crate) fn rebuild(&mut self) -> Result<(), NetworkError> {
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        let all: BTreeSet<&Entry> = self.wished.values().flatten().chain(&self.adopted).collect();
        for set in SETS {
            batch.add_set(set);
            let elements: Vec<Element> = all.iter().filter(|(name, _)| *name == set.name).map(|(_, element)| element.clone()).collect();
            batch.add_elements(set.name, &elements);
        }
        add_rules(&mut batch);
        batch.commit(&self.socket).map_err(refused)?;
        self.fingerprint = self.read()?;
        Ok(())
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, NetworkError> {
        nft::fingerprint(&self.socket, &self.table).map_err(|source| step("reading the nft table", source))
    }

    /// Compares the table with the wish, and makes it anew when they differ. True: it was made anew.
    pub(crate) fn mend(&mut self) -> Result<bool, NetworkError> {
        if self.fingerprint.is_empty() || self.is_whole()? {
            return Ok(false);
        }
        self.rebuild()?;
        Ok(true)
    }

    fn is_whole(&self) -> Result<bool, NetworkError> {
        Ok(self.read()? == self.fingerprint && self.elements_are_there()?)
    }

    fn elements_are_there(&self) -> Result<bool, NetworkError> {
        let mut present = BTreeSet::new();
        for set in &SETS {
            let found = nft::elements(&self.socket, &self.table, *set).map_err(|source| step("reading the nft table", source))?;
            present.extend(found.into_iter().map(|element| (set.name, element)));
        }
        let wished: BTreeSet<Entry> = self.wished.values().flatten().chain(&self.adopted).cloned().collect();
        Ok(present == wished)
    }

    /// Removes what nobody has claimed since the start.
    pub(crate) fn settle(&mut self) -> Result<(), NetworkError> {
        let unclaimed = std::mem::take(&mut self.adopted);
        let result = self.apply(&unclaimed, &[]);
        if result.is_err() {
            self.adopted = unclaimed;
        }
        result
    }

    /// Removes the table.
    pub(crate) fn teardown(&mut self) -> Result<(), NetworkError> {
        self.wished.clear();
        self.adopted.clear();
        self.fingerprint.clear();
        if !nft::table_exists(&self.socket, &self.table).map_err(|source| step("reading the nft tables", source))? {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        batch.delete_table();
        batch.commit(&self.socket).map_err(refused)
    }
}

/// Do elements of these sets stand in each other's way? A port is led by whichever map has it first.
fn rival(one: &str, other: &str) -> bool {
    let maps = [PORTS, SHIFTED, LAN_PORTS, LAN_SHIFTED];
    one == other || (maps.contains(&one) && maps.contains(&other))
}

fn refused(error: BatchError) -> NetworkError {
    step(&format!("changing the nft table: {error}"), error.source)
}

pub(crate) fn step(what: &str, source: io::Error) -> NetworkError {
    NetworkError::Step { step: what.to_owned(), source }
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
/// Established and related.
const STATE_KNOWN: u32 = 2 | 4;

fn add_rules(batch: &mut Batch<'_>) {
    // Before connection tracking: replies to masqueraded loopback traffic carry the gateway's address there, so only strangers match.
    batch.add_chain(Chain { name: "guard", kind: "filter", hook: Hook::Prerouting, priority: -300 });
    batch.add_chain(Chain { name: "publish", kind: "nat", hook: Hook::Prerouting, priority: -100 });
    batch.add_chain(Chain { name: "publish_local", kind: "nat", hook: Hook::Output, priority: -100 });
    batch.add_chain(Chain { name: "isolate", kind: "filter", hook: Hook::Forward, priority: 0 });
    batch.add_chain(Chain { name: "leave", kind: "nat", hook: Hook::Postrouting, priority: 100 });
    let mut outside = ipv4();
    outside.extend([E::Meta { register: 1, key: META_IIFNAME }, E::Compare { register: 1, equal: false, content: interface("lo") }]);
    outside.extend([address(16, REGISTER), E::Mask { register: REGISTER, mask: vec![255, 0, 0, 0] }]);
    outside.extend([E::Compare { register: REGISTER, equal: true, content: vec![127, 0, 0, 0] }, E::Drop]);
    batch.add_rule("guard", &outside);
    for chain in ["publish", "publish_local"] {
        for (map, lan, shifted) in [(PORTS, false, false), (SHIFTED, false, true), (LAN_PORTS, true, false), (LAN_SHIFTED, true, true)] {
            // The host itself may always reach its LAN ports.
            batch.add_rule(chain, &publish(map, lan && chain == "publish", shifted));
        }
    }
    batch.add_rule("isolate", &masked(CT_STATE, STATE_KNOWN, E::Accept));
    let same = E::Lookup { register: 1, set: SAME, into: None, absent: false };
    batch.add_rule("isolate", &[E::Meta { register: 1, key: META_IIFNAME }, E::Meta { register: 2, key: META_OIFNAME }, same, E::Accept]);
    // Before published ports: those of other networks are no way out either.
    batch.add_rule("isolate", &[E::Meta { register: 1, key: META_IIFNAME }, member(1, INTERNAL), E::Drop]);
    batch.add_rule("isolate", &masked(CT_STATUS, STATUS_DNAT, E::Accept));
    batch.add_rule("isolate", &[E::Meta { register: 1, key: META_OIFNAME }, member(1, BRIDGES), E::Drop]);
    add_masquerade(batch);
}

fn add_masquerade(batch: &mut Batch<'_>) {
    let mut local = ipv4();
    local.extend([address(12, REGISTER), E::Mask { register: REGISTER, mask: vec![255, 0, 0, 0] }]);
    local.push(E::Compare { register: REGISTER, equal: true, content: vec![127, 0, 0, 0] });
    local.extend([E::Meta { register: 1, key: META_OIFNAME }, member(1, BRIDGES), E::Masquerade]);
    batch.add_rule("leave", &local);
    let mut hairpin = ipv4();
    hairpin.extend([address(12, REGISTER), address(16, REGISTER + 1), member(REGISTER, HAIRPIN)]);
    hairpin.extend(masked(CT_STATUS, STATUS_DNAT, E::Masquerade));
    batch.add_rule("leave", &hairpin);
    let mut away = ipv4();
    away.extend([address(12, REGISTER), member(REGISTER, OUTBOUND), E::Meta { register: 1, key: META_OIFNAME }]);
    away.extend([E::Lookup { register: 1, set: BRIDGES, into: None, absent: true }, E::Masquerade]);
    batch.add_rule("leave", &away);
}

fn publish(map: &'static str, lan: bool, shifted: bool) -> Vec<E<'static>> {
    let mut rule = ipv4();
    rule.extend([E::DestinationType { register: 1 }, E::Compare { register: 1, equal: true, content: 2_u32.to_ne_bytes().to_vec() }]);
    if lan {
        rule.extend([address(12, REGISTER), member(REGISTER, LAN)]);
    }
    rule.extend([address(16, REGISTER), E::Meta { register: REGISTER + 1, key: META_L4PROTO }]);
    rule.push(E::Payload { register: REGISTER + 2, base: 2, offset: 2, length: 2 });
    rule.push(E::Lookup { register: REGISTER, set: map, into: Some(REGISTER), absent: false });
    rule.push(E::Destination { address: REGISTER, port: shifted.then_some(REGISTER + 1) });
    rule
}

fn ipv4() -> Vec<E<'static>> {
    vec![E::Meta { register: 1, key: META_NFPROTO }, E::Compare { register: 1, equal: true, content: vec![2] }]
}

fn address(offset: u32, register: u32) -> E<'static> {
    E::Payload { register, base: 1, offset, length: 4 }
}

fn member(register: u32, set: &'static str) -> E<'static> {
    E::Lookup { register, set, into: None, absent: false }
}

fn masked(key: u32, bits: u32, verdict: E<'static>) -> Vec<E<'static>> {
    let mask = E::Mask { register: 1, mask: bits.to_ne_bytes().to_vec() };
    vec![E::Tracked { register: 1, key }, mask, E::Compare { register: 1, equal: false, content: vec![0; 4] }, verdict]
}

/// A link name as a key.
pub(crate) fn interface(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// An element of one value.
pub(crate) fn single(key: Vec<u8>) -> Element {
    Element { key, key_end: None, data: None }
}

/// An element of an address range, both ends included.
pub(crate) fn range(first: Ipv4Addr, last: Ipv4Addr) -> Element {
    Element { key: first.octets().to_vec(), key_end: Some(last.octets().to_vec()), data: None }
}
