//! Reading back what is there, and listening to what others change.

use std::io;

use super::{Element, GROUP, Hook, INET, INTERVAL_END, IPV4, SUBSYSTEM, Set, message, number};
use crate::netlink::{DUMP, Family, Message, REQUEST, Socket, Writer, attribute, attributes};

/// Rules and chains of a table as the kernel lists them: equal exactly when they are the same, whoever made them. Empty: no table.
///
/// # Errors
/// What the kernel answers.
pub fn fingerprint(socket: &Socket, table: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    // Handles and use counts differ between two makings of the same thing.
    for (kind, kept) in [(message::GET_CHAIN, &[3_u16, 4, 5, 7][..]), (message::GET_RULE, &[2, 4][..])] {
        for answer in dump(socket, kind, |writer| writer.put_text(1, table))? {
            let body = answer.body.get(4..).unwrap_or_default();
            if text(attribute(body, 1)) == table {
                let parts = attributes(body).into_iter().filter(|(kind, _)| kept.contains(kind));
                found.push(parts.flat_map(|(kind, content)| [&kind.to_be_bytes(), content].concat()).collect());
            }
        }
    }
    Ok(found)
}

/// Is there a table of this name?
///
/// # Errors
/// What the kernel answers.
pub fn table_exists(socket: &Socket, table: &str) -> io::Result<bool> {
    let tables = dump(socket, message::GET_TABLE, |_| {})?;
    Ok(tables.iter().any(|answer| text(answer.body.get(4..).and_then(|body| attribute(body, 1))) == table))
}

/// Elements of a set, in no order; none when there is no such set.
///
/// # Errors
/// What the kernel answers.
pub fn elements(socket: &Socket, table: &str, set: Set<'_>) -> io::Result<Vec<Element>> {
    let request = |writer: &mut Writer| {
        writer.put_text(1, table);
        writer.put_text(2, set.name);
    };
    let answers = match dump(socket, message::GET_ELEMENT, request) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let lists = answers.iter().filter_map(|answer| attribute(answer.body.get(4..)?, 3));
    let found: Vec<(Element, bool)> = lists.flat_map(attributes).filter_map(|(_, element)| read_element(element)).collect();
    Ok(if set.interval && set.key.len() == 1 { join_pairs(found) } else { found.into_iter().map(|(element, _)| element).collect() })
}

/// An element, and whether it is the one after a range.
fn read_element(bytes: &[u8]) -> Option<(Element, bool)> {
    let value = |kind| attribute(attribute(bytes, kind)?, 1).map(<[u8]>::to_vec);
    let ends = attribute(bytes, 3).and_then(number).is_some_and(|flags| flags & INTERVAL_END != 0);
    Some((Element { key: value(1)?, key_end: value(10), data: value(2) }, ends))
}

fn join_pairs(mut found: Vec<(Element, bool)>) -> Vec<Element> {
    // Where one range ends and the next begins, the end comes first.
    found.sort_unstable_by(|one, other| (&one.0.key, !one.1).cmp(&(&other.0.key, !other.1)));
    let mut ranges: Vec<Element> = Vec::new();
    for (element, ends) in found {
        match ranges.last_mut() {
            Some(open) if ends => {
                open.key_end = number(&element.key).and_then(|next| next.checked_sub(1)).map(|last| last.to_be_bytes().to_vec());
            }
            _ if ends => {}
            _ => ranges.push(Element { key_end: Some(vec![u8::MAX; element.key.len()]), ..element }),
        }
    }
    ranges
}

fn dump(socket: &Socket, kind: u16, fill: impl FnOnce(&mut Writer)) -> io::Result<Vec<Message>> {
    while !socket.receive()?.is_empty() {}
    let mut writer = Writer::default();
    writer.message(SUBSYSTEM << 8 | kind, REQUEST | DUMP, 1, &[INET, 0, 0, 0]);
    fill(&mut writer);
    socket.dump(&writer.finish())
}

fn text(bytes: Option<&[u8]>) -> &str {
    let bytes = bytes.unwrap_or_default();
    std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).unwrap_or_default()
}

/// A socket that becomes readable at each change of any table.
///
/// # Errors
/// What the kernel answers.
pub fn subscribe() -> io::Result<Socket> {
    let socket = Socket::open(Family::Netfilter)?;
    socket.join(GROUP)?;
    Ok(socket)
}

/// Is the event about something of this table?
pub fn concerns(event: &Message, table: &str) -> bool {
    let named = |body| text(attribute(body, 1)) == table;
    // A new generation says nothing but its number.
    event.kind >> 8 == SUBSYSTEM && event.kind & 0xff != message::NEW_GENERATION && event.body.get(4..).is_some_and(named)
}

/// Chains of other programs that drop forwarded packets unless a rule of theirs says otherwise, as `table chain`.
///
/// # Errors
/// What the kernel answers.
pub fn forward_drops(socket: &Socket) -> io::Result<Vec<String>> {
    let mut writer = Writer::default();
    writer.message(SUBSYSTEM << 8 | message::GET_CHAIN, REQUEST | DUMP, 1, &[0; 4]);
    let chains = socket.dump(&writer.finish())?;
    let drops = chains.iter().filter_map(|answer| {
        let (family, body) = (*answer.body.first()?, answer.body.get(4..)?);
        let hook = number(attribute(attribute(body, 4)?, 1)?)?;
        let policy = number(attribute(body, 5)?)?;
        let forwards = matches!(family, INET | IPV4) && hook == Hook::Forward as u32 && policy == 0;
        forwards.then(|| format!("{} {}", text(attribute(body, 1)), text(attribute(body, 3))))
    });
    Ok(drops.collect())
}
