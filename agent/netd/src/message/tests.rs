//! What containers may send, and what they get.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

/// A query as resolvers send it; with a payload size, one that has options.
pub(crate) fn query(name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())];
    packet.extend(encode_name(name.as_bytes()));
    packet.extend(kind.to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    if let Some(size) = payload {
        packet.extend([0, 0, 41]);
        packet.extend(size.to_be_bytes());
        packet.extend([0; 6]);
    }
    packet
}

#[test]
fn a_query_is_read() {
    let packet = query("Web.Example", TYPE_A, Some(1400));
    let found = parse(&packet).unwrap();
    assert_eq!((found.name.as_slice(), found.kind, found.class), (&b"web.example"[..], TYPE_A, CLASS_IN));
    assert_eq!((found.question_end, found.payload), (packet.len() - 11, Some(1400)));
    let mut dotted = query("a", TYPE_A, None);
    dotted[13] = b'.';
    assert_eq!(parse(&dotted).unwrap().name, b"\\.");
}

#[test]
fn hostile_packets_are_refused_or_dropped() {
    let good = query("web", TYPE_A, None);
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        parse(&packet)
    };
    let malformed = Err(Unusable::Refuse(Code::Malformed));
    assert_eq!(parse(&good[..11]), Err(Unusable::Drop), "no whole header");
    assert_eq!(with(2, 0x81), Err(Unusable::Drop), "an answer");
    assert_eq!(with(2, 0x28), Err(Unusable::Refuse(Code::NotImplemented)), "an update");
    assert_eq!(with(5, 2), malformed, "two questions");
    assert_eq!(with(5, 0), malformed, "none");
    assert_eq!(with(7, 200), malformed, "more records than anybody asks with");
    assert_eq!(with(11, 1), malformed, "a record that is not there");
    assert_eq!(with(12, 0xc0), malformed, "a name that points elsewhere");
    assert_eq!(with(12, 60), malformed, "a label beyond the end");
    assert_eq!(parse(&query(&["a".repeat(63).as_str(); 4].join("."), TYPE_A, None)), malformed, "a name too long");
    assert!(parse(&query(&["a".repeat(63).as_str(), "b", &"c".repeat(63), &"d".repeat(63)].join("."), TYPE_A, None)).is_ok());
    let mut huge = good.clone();
    huge.resize(MAX_QUERY + 1, 0);
    assert_eq!(parse(&huge), malformed);
}

#[test]
fn no_cut_or_changed_packet_panics() {
    let mut packet = query("web.example", TYPE_AAAA, Some(512));
    packet[9] = 1;
    packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(parse(&packet).is_ok());
    for at in 0..packet.len() {
        let _ = refusal(&packet[..at], Code::Malformed);
        let _ = parse(&packet[..at]);
        for byte in 0..=u8::MAX {
            let mut changed = packet.clone();
            changed[at] = byte;
            if let Ok(query) = parse(&changed) {
                let _ = answer(&changed, &query, Transport::Udp, Code::Fine, &[Record::Pointer(&query.name)]);
                let _ = answers(&packet, &changed, query.question_end);
            }
        }
    }
}

#[test]
fn an_answer_repeats_the_question_and_carries_the_records() {
    let packet = query("web", TYPE_A, None);
    let found = parse(&packet).unwrap();
    let records =
        [Record::Address(Ipv4Addr::new(10, 0, 0, 2).into()), Record::Address(Ipv6Addr::LOCALHOST.into()), Record::Pointer(b"a.b")];
    let message = answer(&packet, &found, Transport::Udp, Code::Fine, &records);
    assert_eq!(message[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 3, 0, 0, 0, 0]);
    assert_eq!(message[12..packet.len()], packet[12..]);
    let rest = &message[packet.len()..];
    assert_eq!(rest[..16], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2]);
    assert_eq!(rest[16..28], [0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16]);
    assert_eq!(rest[44..], [0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 5, 0, 5, 1, b'a', 1, b'b', 0]);
    assert_eq!(refusal(&packet[..12], Code::Malformed), [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_does_not_fit_is_marked_as_missing() {
    let records = vec![Record::Address(Ipv4Addr::LOCALHOST.into()); 100];
    let length = |payload: Option<u16>, transport| {
        let packet = query("web", TYPE_A, payload);
        let message = answer(&packet, &parse(&packet).unwrap(), transport, Code::Fine, &records);
        (message.len(), message[2] & 2 != 0, u16::from_be_bytes([message[6], message[7]]))
    };
    assert_eq!(length(None, Transport::Udp), (21 + 30 * 16, true, 30));
    assert_eq!(length(Some(9000), Transport::Udp), (21 + 75 * 16 + 11, true, 75));
    assert_eq!(length(Some(0), Transport::Udp), (21 + 30 * 16 + 11, true, 30));
    assert_eq!(length(None, Transport::Tcp), (21 + 100 * 16, false, 100));
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let asked = query("web.example", TYPE_A, None);
    let found = parse(&asked).unwrap();
    let good = answer(&asked, &found, Transport::Udp, Code::Fine, &[]);
    assert!(answers(&good, &asked, found.question_end));
    let mut upper = good.clone();
    upper[13] = b'W';
    assert!(answers(&upper, &asked, found.question_end));
    for (at, byte) in [(0, 9), (2, 0), (13, b'x'), (5, 2), (5, 0)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(!answers(&bad, &asked, found.question_end), "byte {at}");
    }
    assert!(!answers(&good[..14], &asked, found.question_end));
    assert!(answers(&header(&asked, Code::Malformed), &asked, found.question_end), "an error without its question");
    assert!(failed(&refusal(&asked, Code::Refused)) && !failed(&refusal(&asked, Code::NoSuchName)));
}
