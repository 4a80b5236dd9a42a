//! What the agent says that there is to answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{self, CLASS_ANY, CLASS_IN, Code, Query, Record, Transport, Unusable};
use crate::message::{TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_DNSKEY, TYPE_DS, TYPE_NS, TYPE_PTR, TYPE_SOA};

/// Name of the file.
pub const FILE: &str = "table.json";

/// The file `table.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Names and their addresses, by the uid of the network.
    #[serde(default)]
    pub names: BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>,
    /// For a container with several networks: its address, and the uids of the networks in which its names are looked up besides the
    /// one that it asks in.
    #[serde(default)]
    pub also: BTreeMap<IpAddr, Vec<String>>,
    /// Resolvers for all other names; absent: those of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Vec<IpAddr>>,
}

/// An address of the host at which one network asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listen {
    /// Uid of the Network object.
    pub network_uid: String,
    /// The gateway's.
    pub address: IpAddr,
    /// Has no way out, so that names outside are refused too: they would carry data out (CVE-2024-29018).
    #[serde(default)]
    pub internal: bool,
}

/// What is to be done about a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Send(Vec<u8>),
    /// Ask elsewhere; the question ends here in the packet.
    Forward(usize),
}

#[derive(Debug, Default)]
struct Zone {
    names: HashMap<Box<[u8]>, Vec<IpAddr>>,
    /// The names `1.0.0.10.in-addr.arpa` and what they point to.
    reverse: HashMap<Box<[u8]>, Box<[u8]>>,
}

/// The table, made for being looked up.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    zones: HashMap<String, Zone>,
    networks: HashMap<IpAddr, String>,
    internal: HashSet<String>,
    also: BTreeMap<IpAddr, Vec<String>>,
    turn: usize,
}

impl Zones {
    pub(crate) fn new(table: Table) -> Self {
        let mut zones = Self { also: table.also, ..Self::default() };
        for listen in table.listen {
            if listen.internal {
                zones.internal.insert(listen.network_uid.clone());
            }
            zones.networks.insert(listen.address, listen.network_uid);
        }
        zones.zones = table.names.into_iter().map(|(network, names)| (network, Zone::new(names))).collect();
        zones
    }

    /// Looks at a packet of `client` that arrived at `local`.
    pub(crate) fn judge(&mut self, local: IpAddr, client: IpAddr, packet: &[u8], transport: Transport) -> Verdict {
        let query = match message::parse(packet) {
            Ok(query) => query,
            Err(Unusable::Drop) => return Verdict::Drop,
            Err(Unusable::Refuse(code)) => return Verdict::Send(message::refusal(packet, code)),
        };
        self.turn = self.turn.wrapping_add(1);
        let plain = |code| Verdict::Send(message::answer(packet, &query, transport, code, &[]));
        if ![CLASS_IN, CLASS_ANY].contains(&query.class) {
            return plain(Code::Refused);
        }
        let own = self.networks.get(&local).into_iter();
        let networks: Vec<&String> = own.chain(self.also.get(&client).into_iter().flatten()).collect();
        for zone in networks.iter().filter_map(|network| self.zones.get(*network)) {
            if let Some(records) = zone.find(&query, self.turn) {
                return Verdict::Send(message::answer(packet, &query, transport, Code::Fine, &records));
            }
        }
        let top_level = [TYPE_NS, TYPE_SOA, TYPE_DS, TYPE_DNSKEY].contains(&query.kind);
        if !query.name.is_empty() && !query.name.contains(&b'.') && !top_level {
            return plain(Code::NoSuchName);
        }
        if networks.iter().all(|network| self.internal.contains(*network)) {
            // Unlike "no such name" this makes a client with other networks ask there.
            return plain(Code::Refused);
        }
        Verdict::Forward(query.question_end)
    }
}

impl Zone {
    fn new(names: BTreeMap<String, Vec<IpAddr>>) -> Self {
        let mut zone = Self::default();
        for (name, addresses) in names {
            let name: Box<[u8]> = name.to_ascii_lowercase().into_bytes().into();
            for address in &addresses {
                // The shortest name of an address is its own one; of equal ones the first.
                let known = zone.reverse.entry(reverse_name(*address)).or_insert_with(|| name.clone());
                if name.len() < known.len() {
                    known.clone_from(&name);
                }
            }
            zone.names.insert(name, addresses);
        }
        zone
    }

    /// `None`: the name is not here. No records: it is, but has none of this type.
    fn find(&self, query: &Query, turn: usize) -> Option<Vec<Record<'_>>> {
        let any = query.kind == TYPE_ANY;
        if let Some(target) = self.reverse.get(&query.name[..]) {
            let pointer = (any || query.kind == TYPE_PTR).then_some(Record::Pointer(target));
            return Some(pointer.into_iter().collect());
        }
        let addresses = self.names.get(&query.name[..])?;
        let wanted = addresses.iter().filter(|address| any || query.kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA });
        let mut records: Vec<Record<'_>> = wanted.map(|address| Record::Address(*address)).collect();
        // Clients take the first one, so each is first in turn.
        let shift = turn.checked_rem(records.len()).unwrap_or(0);
        records.rotate_left(shift);
        Some(records)
    }
}

fn reverse_name(address: IpAddr) -> Box<[u8]> {
    let text = match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    };
    text.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::query;

    const LEFT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const RIGHT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn zones() -> Zones {
        let table = serde_json::json!({
            "listen": [{"networkUid": "left", "address": LEFT}, {"networkUid": "right", "address": RIGHT, "internal": true}],
            "names": {
                "left": {"Web": ["10.0.0.2", "10.0.0.3"], "web-with-a-longer-name": ["10.0.0.2"], "six": ["fd00::2"]},
                "right": {"store": ["10.1.0.2"], "web": ["10.1.0.3"]},
            },
            "also": {"10.0.0.8": ["right"], "10.1.0.8": ["left"]},
        });
        Zones::new(serde_json::from_value(table).unwrap())
    }

    /// Code, number of records, and the last four bytes of the first one.
    fn ask(zones: &mut Zones, (local, client): (IpAddr, IpAddr), name: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
        let packet = query(name, kind, None);
        match zones.judge(local, client, &packet, Transport::Udp) {
            Verdict::Send(answer) => {
                let data = answer.get(packet.len() + 12..packet.len() + 16).unwrap_or_default();
                Some((answer[3] & 15, answer[7], data.to_vec()))
            }
            Verdict::Forward(end) => {
                assert_eq!(end, packet.len());
                None
            }
            Verdict::Drop => panic!("dropped"),
        }
    }

    #[test]
    fn each_network_has_its_own_names() {
        let mut zones = zones();
        let (left, right) = ((LEFT, CLIENT), (RIGHT, CLIENT));
        assert_eq!(ask(&mut zones, right, "WEB", TYPE_A), Some((0, 1, vec![10, 1, 0, 3])));
        assert_eq!(ask(&mut zones, left, "store", TYPE_A), Some((3, 0, vec![])), "of the other network");
        assert_eq!(ask(&mut zones, left, "web", TYPE_AAAA), Some((0, 0, vec![])), "there, but not of this type");
        assert_eq!(ask(&mut zones, left, "six", TYPE_AAAA).unwrap().1, 1);
        assert_eq!(ask(&mut zones, left, "six", TYPE_A), Some((0, 0, vec![])));
        assert_eq!(ask(&mut zones, left, "web", TYPE_ANY).unwrap().1, 2);
        assert_eq!(ask(&mut zones, left, "example.org", TYPE_A), None);
        assert_eq!(ask(&mut zones, left, "org", TYPE_DS), None, "a validating resolver goes on");
        assert_eq!(ask(&mut zones, right, "example.org", TYPE_A), Some((5, 0, vec![])), "no way out, by names neither");
    }

    #[test]
    fn addresses_take_turns() {
        let mut zones = zones();
        let mut first: Vec<_> = (0..2).map(|_| ask(&mut zones, (LEFT, CLIENT), "web", TYPE_A).unwrap().2).collect();
        first.sort();
        assert_eq!(first, [[10, 0, 0, 2], [10, 0, 0, 3]]);
    }

    #[test]
    fn a_container_of_two_networks_finds_the_names_of_both() {
        let mut zones = zones();
        let both = (LEFT, "10.0.0.8".parse().unwrap());
        assert_eq!(ask(&mut zones, both, "store", TYPE_A), Some((0, 1, vec![10, 1, 0, 2])));
        assert_eq!(ask(&mut zones, both, "web", TYPE_A).unwrap().1, 2, "its first network's come first");
        assert_eq!(ask(&mut zones, (RIGHT, "10.1.0.8".parse().unwrap()), "example.org", TYPE_A), None, "it has a way out");
    }

    #[test]
    fn addresses_have_names() {
        let mut zones = zones();
        let packet = query("2.0.0.10.in-addr.arpa", TYPE_PTR, None);
        let Verdict::Send(answer) = zones.judge(LEFT, CLIENT, &packet, Transport::Udp) else { panic!("forwarded") };
        assert_eq!(answer[packet.len() + 12..], *b"\x03web\x00");
        assert_eq!(ask(&mut zones, (LEFT, CLIENT), "9.0.0.10.in-addr.arpa", TYPE_PTR), None);
        let six = reverse_name("fd00::2".parse().unwrap());
        let six = String::from_utf8(six.into()).unwrap();
        assert_eq!(six, format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27)));
        assert_eq!(ask(&mut zones, (LEFT, CLIENT), &six, TYPE_PTR).unwrap().1, 1);
    }

    #[test]
    fn other_classes_are_refused() {
        let mut packet = query("version.bind", TYPE_ANY, None);
        let at = packet.len() - 1;
        packet[at] = 3;
        let Verdict::Send(answer) = zones().judge(LEFT, CLIENT, &packet, Transport::Udp) else { panic!("not answered") };
        assert_eq!(answer[3] & 15, 5);
        assert_eq!(zones().judge(LEFT, CLIENT, &[0; 5], Transport::Udp), Verdict::Drop);
    }
}
