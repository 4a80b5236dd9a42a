//! nf_tables by netlink: batches of changes that take effect together, and reading back what is there.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`. Only what the engine's ruleset uses is here; all of it is in the `inet` family.

use std::io;

use crate::netlink::{ACK, APPEND, CREATE, EXCL, REQUEST, Socket, Writer};

mod read;

pub use read::{concerns, elements, fingerprint, forward_drops, subscribe, table_exists};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = 1;
const IPV4: u8 = 2;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// Elements in one message: an attribute ends at 64 KiB.
const ELEMENTS: usize = 256;
/// `NFNLGRP_NFTABLES`, the multicast group of changes.
const GROUP: u32 = 7;

/// `NFT_MSG_*`.
mod message {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DEL_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENT: u16 = 12;
    pub(super) const GET_ELEMENT: u16 = 13;
    pub(super) const DEL_ELEMENT: u16 = 14;
    pub(super) const NEW_GENERATION: u16 = 15;
}

/// First of the 4-byte registers; they follow one another.
pub const REGISTER: u32 = 8;

/// Where a packet meets a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// Between two links.
    Forward = 2,
    /// Made on this host.
    Output = 3,
    /// On its way out.
    Postrouting = 4,
}

/// A base chain; its policy is accept.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// `filter` or `nat`.
    pub kind: &'a str,
    /// Its hook.
    pub hook: Hook,
    /// Lower is earlier.
    pub priority: i32,
}

/// One part of a key, as `nft` names and sizes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `ipv4_addr`.
    Ipv4,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`.
    Port,
    /// `ifname`.
    Interface,
}

impl Part {
    fn id(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    fn size(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Interface => 16,
        }
    }
}

/// A set, or a map when it has data.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a str,
    /// Parts of the key.
    pub key: &'a [Part],
    /// Parts of the data; none: a set.
    pub data: &'a [Part],
    /// Keys are ranges.
    pub interval: bool,
}

/// An element of a set or map. Each part fills whole words of four bytes, in network order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Key, or the first key of a range.
    pub key: Vec<u8>,
    /// Last key of a range.
    pub key_end: Option<Vec<u8>>,
    /// Data, in a map.
    pub data: Option<Vec<u8>>,
}

impl Element {
    /// Is there a key that both stand for? Ranges of several parts overlap when every part does.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ends = (self.key_end.as_ref().unwrap_or(&self.key), other.key_end.as_ref().unwrap_or(&other.key));
        let parts = self.key.chunks(4).zip(ends.0.chunks(4)).zip(other.key.chunks(4).zip(ends.1.chunks(4)));
        parts.into_iter().all(|((first, last), (other_first, other_last))| first <= other_last && other_first <= last)
    }
}

/// One step of a rule.
#[derive(Debug, Clone)]
pub enum Expression<'a> {
    /// Loads a fact about the packet (`NFT_META_*`) into a register.
    Meta {
        /// Register.
        register: u32,
        /// Which fact.
        key: u32,
    },
    /// Loads what connection tracking knows (`NFT_CT_*`).
    Tracked {
        /// Register.
        register: u32,
        /// What.
        key: u32,
    },
    /// Loads the type of the destination address, as routing knows it.
    DestinationType {
        /// Register.
        register: u32,
    },
    /// Loads bytes of a header.
    Payload {
        /// Register.
        register: u32,
        /// 1: network header, 2: transport header.
        base: u32,
        /// First byte.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// Goes on when the register has, or has not, this content.
    Compare {
        /// Register.
        register: u32,
        /// Equal, or else different.
        equal: bool,
        /// Content.
        content: Vec<u8>,
    },
    /// Keeps the bits of a mask.
    Mask {
        /// Register.
        register: u32,
        /// The mask.
        mask: Vec<u8>,
    },
    /// Goes on when the register is in the set, or is not in it; in a map, loads the data.
    Lookup {
        /// Register of the key.
        register: u32,
        /// Name of the set or map.
        set: &'a str,
        /// Register for the data of a map.
        into: Option<u32>,
        /// Goes on when it is not in the set.
        absent: bool,
    },
    /// Replaces the destination.
    Destination {
        /// Register of the address.
        address: u32,
        /// Register of the port; without one it stays.
        port: Option<u32>,
    },
    /// Replaces the source by the address of the link that the packet leaves by.
    Masquerade,
    /// Lets it pass this chain.
    Accept,
    /// Drops it.
    Drop,
}

/// Why a batch was refused: nothing of it took effect.
#[derive(Debug)]
pub struct BatchError {
    /// The change that failed first, for people.
    pub what: String,
    /// Why.
    pub source: io::Error,
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was refused", self.what)
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Changes to one table that take effect together or not at all.
#[derive(Debug)]
pub struct Batch<'a> {
    table: &'a str,
    writer: Writer,
    changes: Vec<String>,
}

impl<'a> Batch<'a> {
    /// An empty batch for a table.
    pub fn new(table: &'a str) -> Self {
        let mut writer = Writer::default();
        writer.message(BATCH_BEGIN, REQUEST, 0, &[0, 0, 0, 10]);
        Self { table, writer, changes: Vec::new() }
    }

    fn change(&mut self, kind: u16, flags: u16, what: String) -> &mut Writer {
        self.changes.push(what);
        let sequence = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        self.writer.message(SUBSYSTEM << 8 | kind, REQUEST | ACK | flags, sequence, &[INET, 0, 0, 0]);
        &mut self.writer
    }

    /// Makes the table, if it is not there.
    pub fn add_table(&mut self) {
        let table = self.table;
        self.change(message::NEW_TABLE, CREATE, format!("table {table}")).put_text(1, table);
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) {
        let table = self.table;
        self.change(message::DEL_TABLE, 0, format!("removal of table {table}")).put_text(1, table);
    }

    /// Makes a chain.
    pub fn add_chain(&mut self, chain: Chain<'_>) {
        let table = self.table;
        let writer = self.change(message::NEW_CHAIN, CREATE, format!("chain {}", chain.name));
        writer.put_text(1, table);
        writer.put_text(3, chain.name);
        writer.nest(4, |hook| {
            hook.put_u32(1, chain.hook as u32);
            hook.put_u32(2, chain.priority.cast_unsigned());
        });
        writer.put_u32(5, 1);
        writer.put_text(7, chain.kind);
    }

    /// Makes a set or map.
    pub fn add_set(&mut self, set: Set<'_>) {
        let table = self.table;
        let identity = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        let writer = self.change(message::NEW_SET, CREATE, format!("set {}", set.name));
        let concatenated = set.key.len() > 1;
        let flags = u32::from(set.interval) << 2 | u32::from(!set.data.is_empty()) << 3 | u32::from(concatenated) << 7;
        writer.put_text(1, table);
        writer.put_text(2, set.name);
        writer.put_u32(3, flags);
        writer.put_u32(4, type_of(set.key));
        writer.put_u32(5, size_of_parts(set.key));
        if !set.data.is_empty() {
            writer.put_u32(6, type_of(set.data));
            writer.put_u32(7, size_of_parts(set.data));
        }
        if concatenated {
            writer.nest(9, |description| {
                description.nest(2, |parts| {
                    for part in set.key {
                        parts.nest(1, |field| field.put_u32(1, part.size()));
                    }
                });
            });
        }
        writer.put_u32(10, identity);
        if set.key == [Part::Interface] {
            // `nft` keeps the byte order of keys here, and shows link names as empty without it: type 0, 4 bytes, the host's order.
            writer.put(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
        }
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        let table = self.table;
        let writer = self.change(message::NEW_RULE, CREATE | APPEND, format!("a rule of chain {chain}"));
        writer.put_text(1, table);
        writer.put_text(2, chain);
        writer.nest(4, |list| {
            for expression in expressions {
                write_expression(list, expression);
            }
        });
    }

    /// Adds elements. One that is there already, with the same data or other, is an error: `EEXIST`.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(message::NEW_ELEMENT, CREATE | EXCL, set, elements);
    }

    /// Removes elements. One that is not there is an error: `ENOENT`.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(message::DEL_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        let table = self.table;
        for chunk in elements.chunks(ELEMENTS) {
            let writer = self.change(kind, flags, format!("elements of set {set}"));
            writer.put_text(1, table);
            writer.put_text(2, set);
            writer.nest(3, |list| {
                for element in chunk {
                    write_element(list, element);
                }
            });
        }
    }

    /// Sends it. All of it is in effect when this returns.
    ///
    /// # Errors
    /// The first change that was refused; then nothing has changed.
    pub fn commit(mut self, socket: &Socket) -> Result<(), BatchError> {
        let whole = |source| BatchError { what: format!("a change of table {}", self.table), source };
        // Answers to an earlier batch that its caller did not wait for.
        while !socket.receive().map_err(whole)?.is_empty() {}
        self.writer.message(BATCH_END, REQUEST, u32::MAX, &[0, 0, 0, 10]);
        socket.send(&self.writer.finish()).map_err(whole)?;
        let mut acknowledged = 0;
        loop {
            let answers = socket.receive().map_err(whole)?;
            if answers.is_empty() {
                break;
            }
            for answer in answers {
                if let Some(source) = answer.error() {
                    let at = usize::try_from(answer.sequence).unwrap_or(0).wrapping_sub(1);
                    let what = self.changes.get(at).cloned().unwrap_or_else(|| format!("a change of table {}", self.table));
                    return Err(BatchError { what, source });
                }
                acknowledged += usize::from(answer.is_answer() && answer.sequence != u32::MAX && answer.sequence != 0);
            }
        }
        if acknowledged < self.changes.len() {
            return Err(whole(io::Error::other("the kernel did not answer for each change")));
        }
        Ok(())
    }
}

fn type_of(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |all, part| all << 6 | part.id())
}

fn size_of_parts(parts: &[Part]) -> u32 {
    if let [single] = parts {
        return single.size();
    }
    parts.iter().map(|part| part.size().next_multiple_of(4)).sum()
}

/// Writes an element into a list. A range of keys of one part is a pair of elements: its first key, and the first key after it.
fn write_element(list: &mut Writer, element: &Element) {
    let pair = element.key_end.as_ref().filter(|_| element.key.len() <= 4);
    list.nest(1, |one| {
        one.nest(1, |key| key.put(1, &element.key));
        if let Some(end) = element.key_end.as_ref().filter(|_| pair.is_none()) {
            one.nest(10, |key| key.put(1, end));
        }
        if let Some(data) = &element.data {
            one.nest(2, |value| value.put(1, data));
        }
    });
    // Nothing comes after the last key of all, so a range that reaches it has no second element.
    if let Some(next) = pair.and_then(|last| number(last)?.checked_add(1)) {
        list.nest(1, |one| {
            one.nest(1, |key| key.put(1, &next.to_be_bytes()));
            one.put_u32(3, INTERVAL_END);
        });
    }
}

fn number(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}

fn write_expression(list: &mut Writer, expression: &Expression<'_>) {
    let name = match expression {
        Expression::Meta { .. } => "meta",
        Expression::Tracked { .. } => "ct",
        Expression::DestinationType { .. } => "fib",
        Expression::Payload { .. } => "payload",
        Expression::Compare { .. } => "cmp",
        Expression::Mask { .. } => "bitwise",
        Expression::Lookup { .. } => "lookup",
        Expression::Destination { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::Accept | Expression::Drop => "immediate",
    };
    list.nest(1, |one| {
        one.put_text(1, name);
        one.nest(2, |data| write_operands(data, expression));
    });
}

fn write_operands(data: &mut Writer, expression: &Expression<'_>) {
    match expression {
        Expression::Meta { register, key } | Expression::Tracked { register, key } => {
            data.put_u32(1, *register);
            data.put_u32(2, *key);
        }
        Expression::DestinationType { register } => {
            data.put_u32(1, *register);
            data.put_u32(2, 3);
            data.put_u32(3, 2);
        }
        Expression::Payload { register, base, offset, length } => {
            for (kind, value) in [(1, *register), (2, *base), (3, *offset), (4, *length)] {
                data.put_u32(kind, value);
            }
        }
        Expression::Compare { register, equal, content } => {
            data.put_u32(1, *register);
            data.put_u32(2, u32::from(!equal));
            data.nest(3, |value| value.put(1, content));
        }
        Expression::Mask { register, mask } => {
            data.put_u32(1, *register);
            data.put_u32(2, *register);
            data.put_u32(3, u32::try_from(mask.len()).unwrap_or(0));
            data.nest(4, |value| value.put(1, mask));
            data.nest(5, |value| value.put(1, &vec![0; mask.len()]));
        }
        Expression::Lookup { register, set, into, absent } => {
            data.put_text(1, set);
            data.put_u32(2, *register);
            if let Some(into) = into {
                data.put_u32(3, *into);
            }
            if *absent {
                data.put_u32(5, 1);
            }
        }
        Expression::Destination { address, port } => {
            data.put_u32(1, 1);
            data.put_u32(2, 2);
            data.put_u32(3, *address);
            if let Some(port) = port {
                data.put_u32(5, *port);
            }
        }
        Expression::Masquerade => {}
        Expression::Accept | Expression::Drop => {
            data.put_u32(1, 0);
            let verdict = u32::from(matches!(expression, Expression::Accept));
            data.nest(2, |value| value.nest(2, |code| code.put_u32(1, verdict)));
        }
    }
}
