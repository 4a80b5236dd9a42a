//! What the store holds and what it tells: records, their index, events.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::key::{Key, Revision};

/// What selections and look-ups need to know of an object, kept beside its bytes so that nobody decodes them for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Selectable fields with their values, besides `metadata.name` and `metadata.namespace`, which the key holds. An absent
    /// field counts as empty, as in Kubernetes.
    pub fields: Vec<(Cow<'static, str>, String)>,
    /// `metadata.uid`.
    pub uid: String,
    /// The uids of `metadata.ownerReferences`.
    pub owners: Vec<String>,
}

/// The rules by which objects are indexed. A store remembers under which it was written, and indexes anew at its opening when
/// they are others now: a release that makes a field selectable makes it so for old objects too.
#[derive(Debug, Clone, Copy)]
pub struct Indexer {
    /// Differs whenever the rules differ; never 0.
    pub version: u64,
    /// The index of an object; `None` when its kind is not known, whose index stays as it is.
    pub index: fn(&Key, &[u8]) -> Option<Index>,
}

/// An object as it stands at `revision`. Shared, never changed.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its last change.
    pub revision: Revision,
    /// The whole object as JSON, `metadata.resourceVersion` included.
    pub bytes: Bytes,
    /// What can be asked of it without decoding.
    pub index: Arc<Index>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Created or changed.
    Put,
    /// Gone.
    Delete,
}

/// One change, as the log tells it.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object after a put; its last state after a delete. `revision` is this event's own in both cases.
    pub record: Arc<Record>,
    /// The object before; `None` when it was created.
    pub previous: Option<Previous>,
}

/// An object before a change.
#[derive(Debug, Clone)]
pub struct Previous {
    /// Its revision then.
    pub revision: Revision,
    /// Its index then: tells whether a selection held it.
    pub index: Arc<Index>,
}
