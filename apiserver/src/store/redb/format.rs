//! The bytes on disk, format 2.
//!
//! ```text
//! objects   key bytes   ->  revision: u64, index, object JSON
//! log       revision    ->  change: u8 (1 put, 2 delete), key: text, index,
//!                           previous: u8 (0 none, 1: revision: u64, index), object JSON
//! meta      "format" | "revision" | "oldest" | "log_bytes" | "object_bytes" | "index"  ->  u64
//! times     milliseconds since 1970: u64  ->  the revision that was current then: u64
//! index     uid: text, owners: [text], labels: [text, text], fields: [text, text]
//! text      length: u32, UTF-8;   [..]  number: u32, then so many
//! ```
//!
//! All numbers are little-endian. The JSON ends with the value. What reads it trusts nothing: a value that does not hold what
//! it says is [`Corrupt`], never a panic.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::key::{Key, Revision};
use crate::store::record::{Change, Event, Index, Previous, Record};

/// A stored value is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored {what} of `{key}` is corrupt")]
pub struct Corrupt {
    /// `object` or `event`.
    pub what: &'static str,
    /// Its key.
    pub key: String,
}

pub(super) fn encode_record(record: &Record) -> Vec<u8> {
    encode_stored(record.revision, &record.index, &record.bytes)
}

pub(super) fn encode_stored(revision: Revision, index: &Index, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 256);
    out.extend_from_slice(&revision.0.to_le_bytes());
    put_index(&mut out, index);
    out.extend_from_slice(bytes);
    out
}

/// The revision alone: what a commit compares.
pub(super) fn record_revision(key: &[u8], value: &[u8]) -> Result<Revision, Corrupt> {
    Input(value).u64().map(Revision).ok_or_else(|| corrupt("object", &String::from_utf8_lossy(key)))
}

pub(super) fn decode_record(key: &[u8], value: &[u8]) -> Result<Record, Corrupt> {
    let read = || {
        let mut input = Input(value);
        let key = Key::from_bytes(key)?;
        let revision = Revision(input.u64()?);
        let index = Arc::new(input.index()?);
        Some(Record { key, revision, bytes: Bytes::copy_from_slice(input.0), index })
    };
    read().ok_or_else(|| corrupt("object", &String::from_utf8_lossy(key)))
}

/// A stored object as the `previous` of the event that replaces it.
pub(super) fn decode_previous(key: &[u8], value: &[u8]) -> Result<Previous, Corrupt> {
    let read = || {
        let mut input = Input(value);
        Some(Previous { revision: Revision(input.u64()?), index: Arc::new(input.index()?) })
    };
    read().ok_or_else(|| corrupt("object", &String::from_utf8_lossy(key)))
}

pub(super) fn encode_event(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.record.bytes.len() + 512);
    out.push(match event.change {
        Change::Put => 1,
        Change::Delete => 2,
    });
    let key = &event.record.key.to_bytes();
    put_len(&mut out, key.len());
    out.extend_from_slice(key);
    put_index(&mut out, &event.record.index);
    match &event.previous {
        None => out.push(0),
        Some(previous) => {
            out.push(1);
            out.extend_from_slice(&previous.revision.0.to_le_bytes());
            put_index(&mut out, &previous.index);
        }
    }
    out.extend_from_slice(&event.record.bytes);
    out
}

pub(super) fn decode_event(revision: Revision, value: &[u8]) -> Result<Event, Corrupt> {
    let read = || {
        let mut input = Input(value);
        let change = match input.u8()? {
            1 => Change::Put,
            2 => Change::Delete,
            _ => return None,
        };
        let key = Key::from_bytes(input.bytes()?)?;
        let index = Arc::new(input.index()?);
        let previous = match input.u8()? {
            0 => None,
            1 => Some(Previous { revision: Revision(input.u64()?), index: Arc::new(input.index()?) }),
            _ => return None,
        };
        let record = Arc::new(Record { key, revision, bytes: Bytes::copy_from_slice(input.0), index });
        Some(Event { change, record, previous })
    };
    read().ok_or_else(|| corrupt("event", &revision.to_string()))
}

pub(super) fn corrupt(what: &'static str, key: &str) -> Corrupt {
    Corrupt { what, key: key.replace('\0', " ") }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Objects are bounded far below 4 GiB, and so is every part of their index.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_index(out: &mut Vec<u8>, index: &Index) {
    put_text(out, &index.uid);
    put_len(out, index.owners.len());
    index.owners.iter().for_each(|owner| put_text(out, owner));
    put_len(out, index.labels.len());
    for (name, value) in &index.labels {
        put_text(out, name);
        put_text(out, value);
    }
    put_len(out, index.fields.len());
    for (path, value) in &index.fields {
        put_text(out, path);
        put_text(out, value);
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.take(4)?.try_into().ok()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn index(&mut self) -> Option<Index> {
        let mut index = Index { uid: self.text()?, ..Index::default() };
        for _ in 0..self.len()? {
            index.owners.push(self.text()?);
        }
        for _ in 0..self.len()? {
            let name = self.text()?;
            index.labels.insert(name, self.text()?);
        }
        for _ in 0..self.len()? {
            let path = self.text()?;
            index.fields.push((Cow::Owned(path), self.text()?));
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(mark: &str) -> Index {
        Index {
            labels: [("app".to_owned(), mark.to_owned()), ("empty".to_owned(), String::new())].into(),
            fields: vec![("spec.nodeName".into(), mark.to_owned())],
            uid: format!("uid-{mark}"),
            owners: vec!["o1".to_owned(), "o2".to_owned()],
        }
    }

    fn event(change: Change, previous: bool) -> Event {
        let key = Key::new("gantry.dev/containers", "shop", "web");
        let record = Record { key, revision: Revision(7), bytes: Bytes::from_static(b"{\"a\":\"\0\"}"), index: Arc::new(index("now")) };
        let previous = previous.then(|| Previous { revision: Revision(3), index: Arc::new(index("before")) });
        Event { change, record: Arc::new(record), previous }
    }

    #[test]
    fn what_is_written_is_read() {
        for event in [event(Change::Put, false), event(Change::Put, true), event(Change::Delete, true)] {
            let got = decode_event(Revision(7), &encode_event(&event)).unwrap();
            assert_eq!(format!("{got:?}"), format!("{event:?}"));
            let key = event.record.key.to_bytes();
            let value = encode_record(&event.record);
            assert_eq!(record_revision(&key, &value).unwrap(), Revision(7));
            assert_eq!(format!("{:?}", decode_record(&key, &value).unwrap()), format!("{:?}", event.record));
        }
    }

    #[test]
    fn every_truncation_and_every_changed_length_is_an_error_or_another_value_but_no_panic() {
        let written = encode_event(&event(Change::Put, true));
        let header = written.len() - 10;
        for cut in 0..header {
            assert!(decode_event(Revision(7), &written[..cut]).is_err(), "{cut}");
        }
        for at in 0..written.len() {
            let mut changed = written.clone();
            changed[at] ^= 0xff;
            let _ = decode_event(Revision(7), &changed);
            let _ = decode_record(b"a\0b\0c", &changed);
        }
    }
}
