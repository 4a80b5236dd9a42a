//! DNS messages (RFC 1035, 6891), as far as a server needs them that knows addresses and names and passes the rest on.

use std::net::IpAddr;

/// Length of the header.
const HEADER: usize = 12;
/// Longest query that is looked at.
pub(crate) const MAX_QUERY: usize = 4096;
/// Longest answer to a client that did not say that it takes more (RFC 1035, 2.3.4).
const PLAIN_LIMIT: usize = 512;
/// Longest answer over UDP at all: no path has to cut it up.
const UDP_LIMIT: usize = 1232;
/// Longest answer over TCP.
const TCP_LIMIT: usize = 65_535;
/// Longest name in its encoded form.
const MAX_NAME: usize = 255;
/// Most records of a query that are looked at for its options.
const MAX_RECORDS: usize = 8;
/// How long clients may keep an answer, in seconds: containers come and go.
const TTL: u32 = 5;

pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_NS: u16 = 2;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
pub(crate) const TYPE_DS: u16 = 43;
pub(crate) const TYPE_DNSKEY: u16 = 48;
pub(crate) const TYPE_ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const CLASS_ANY: u16 = 255;

/// How a query ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Fine = 0,
    Malformed = 1,
    ServerFailed = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A query that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Lower case, labels parted by dots, none at its end; a dot or backslash inside a label is escaped, so that it matches no name of ours.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// Where the question ends in the packet.
    pub(crate) question_end: usize,
    /// The sender's UDP payload size, when it has options.
    payload: Option<usize>,
}

/// A record of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record<'a> {
    Address(IpAddr),
    Pointer(&'a [u8]),
}

/// Why there is no query in a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// No answer is due: it is no query, or too short to be told what.
    Drop,
    Refuse(Code),
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.packet.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|end| *end <= self.packet.len())?;
        Some(())
    }

    /// A name without compression, as the first of a message always is.
    fn name(&mut self) -> Option<Vec<u8>> {
        let (mut name, start) = (Vec::new(), self.at);
        loop {
            let length = usize::from(self.u8()?);
            if length == 0 {
                return Some(name);
            }
            if length > 63 || self.at + length - start >= MAX_NAME {
                return None;
            }
            if !name.is_empty() {
                name.push(b'.');
            }
            let label = self.packet.get(self.at..self.at + length)?;
            for byte in label {
                if matches!(byte, b'.' | b'\\') {
                    name.push(b'\\');
                }
                name.push(byte.to_ascii_lowercase());
            }
            self.at += length;
        }
    }

    /// Passes over a record; the payload size if it holds the options.
    fn record(&mut self) -> Option<Option<usize>> {
        loop {
            match self.u8()? {
                0 => break,
                length @ 1..=63 => self.skip(usize::from(length))?,
                192..=255 => {
                    self.skip(1)?;
                    break;
                }
                _ => return None,
            }
        }
        let (kind, class) = (self.u16()?, self.u16()?);
        self.skip(4)?;
        let length = self.u16()?;
        self.skip(usize::from(length))?;
        Some((kind == TYPE_OPT).then(|| usize::from(class)))
    }
}

/// Reads a query.
pub(crate) fn parse(packet: &[u8]) -> Result<Query, Unusable> {
    let (Some(flags), true) = (packet.get(2), packet.len() >= HEADER) else { return Err(Unusable::Drop) };
    if flags & 0x80 != 0 {
        return Err(Unusable::Drop);
    }
    if flags & 0x78 != 0 {
        return Err(Unusable::Refuse(Code::NotImplemented));
    }
    question(packet).ok_or(Unusable::Refuse(Code::Malformed))
}

fn question(packet: &[u8]) -> Option<Query> {
    let mut reader = Reader { packet, at: 4 };
    let questions = reader.u16()?;
    let records = usize::from(reader.u16()?) + usize::from(reader.u16()?) + usize::from(reader.u16()?);
    if questions != 1 || records > MAX_RECORDS || packet.len() > MAX_QUERY {
        return None;
    }
    let (name, kind, class) = (reader.name()?, reader.u16()?, reader.u16()?);
    let (question_end, mut payload) = (reader.at, None);
    for _ in 0..records {
        payload = reader.record()?.or(payload);
    }
    Some(Query { name, kind, class, question_end, payload })
}

/// The answer to a query: as many of the records as fit, and a mark when that is not all of them.
pub(crate) fn answer(packet: &[u8], query: &Query, transport: Transport, code: Code, records: &[Record<'_>]) -> Vec<u8> {
    let limit = match (transport, query.payload) {
        (Transport::Tcp, _) => TCP_LIMIT,
        (Transport::Udp, payload) => payload.map_or(PLAIN_LIMIT, |size| size.clamp(PLAIN_LIMIT, UDP_LIMIT)),
    };
    let options: &[u8] = if query.payload.is_some() { &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0] } else { &[] };
    let mut message = header(packet, code);
    message.extend_from_slice(packet.get(HEADER..query.question_end).unwrap_or_default());
    let mut count: u16 = 0;
    for record in records {
        let encoded = encode(*record);
        if message.len() + encoded.len() + options.len() > limit {
            // Truncated: a client that wants them all asks again over TCP.
            message[2] |= 0x02;
            break;
        }
        message.extend_from_slice(&encoded);
        count += 1;
    }
    message.extend_from_slice(options);
    message[5] = 1;
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message[11] = u8::from(!options.is_empty());
    message
}

/// An answer that says only how it ended.
pub(crate) fn refusal(packet: &[u8], code: Code) -> Vec<u8> {
    let Ok(query) = question(packet).ok_or(()) else { return header(packet, code) };
    answer(packet, &query, Transport::Udp, code, &[])
}

/// Twelve bytes; authoritative when the answer is ours.
fn header(packet: &[u8], code: Code) -> Vec<u8> {
    let mut header = packet.get(..4).map_or_else(|| vec![0; 4], <[u8]>::to_vec);
    let authoritative = if matches!(code, Code::Fine | Code::NoSuchName) { 0x04 } else { 0 };
    header[2] = 0x80 | (header[2] & 0x79) | authoritative;
    header[3] = 0x80 | code as u8;
    header.resize(HEADER, 0);
    header
}

fn encode(record: Record<'_>) -> Vec<u8> {
    let (kind, data) = match record {
        Record::Address(IpAddr::V4(address)) => (TYPE_A, address.octets().to_vec()),
        Record::Address(IpAddr::V6(address)) => (TYPE_AAAA, address.octets().to_vec()),
        Record::Pointer(name) => (TYPE_PTR, encode_name(name)),
    };
    // The owner is the question's name, which stands behind the header.
    let mut encoded = vec![0xc0, 12];
    encoded.extend(kind.to_be_bytes());
    encoded.extend(CLASS_IN.to_be_bytes());
    encoded.extend(TTL.to_be_bytes());
    encoded.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    encoded.extend(data);
    encoded
}

fn encode_name(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in name.split(|byte| *byte == b'.').filter(|label| (1..=63).contains(&label.len())) {
        encoded.push(u8::try_from(label.len()).unwrap_or(0));
        encoded.extend_from_slice(label);
    }
    encoded.push(0);
    encoded
}

/// The id, which a client chose.
pub(crate) fn id(packet: &[u8]) -> u16 {
    packet.get(..2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// Gives a message another id.
pub(crate) fn set_id(packet: &mut [u8], id: u16) {
    if let Some(bytes) = packet.get_mut(..2) {
        bytes.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether `message` answers `query`: same id, same question. A server that failed may leave the question out.
pub(crate) fn answers(message: &[u8], query: &[u8], question_end: usize) -> bool {
    let (Some(head), Some(asked)) = (message.get(..HEADER), query.get(HEADER..question_end)) else { return false };
    if id(message) != id(query) || head[2] & 0x80 == 0 {
        return false;
    }
    match u16::from_be_bytes([head[4], head[5]]) {
        0 => head[3] & 0x0f != 0,
        1 => message.get(HEADER..question_end).is_some_and(|question| question.eq_ignore_ascii_case(asked)),
        _ => false,
    }
}

/// Whether a server says that it could not, so that another may be asked.
pub(crate) fn failed(message: &[u8]) -> bool {
    message.get(3).is_some_and(|byte| [Code::ServerFailed as u8, Code::Refused as u8].contains(&(byte & 0x0f)))
}

#[cfg(test)]
pub(crate) mod tests;
