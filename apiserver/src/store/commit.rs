//! Operations, their expectations, and the one check that all implementations share.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::key::{Key, Revision};
use super::object::Unversioned;
use super::record::{Index, Record};
use super::{MAX_OBJECT_BYTES, MAX_OPS};

/// What must hold of an object for an operation to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// This is its last change.
    At(Revision),
}

/// One operation of a commit. There is no blind overwrite.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates or replaces.
    Put {
        /// The object.
        key: Key,
        /// What must hold.
        expect: Expect,
        /// Its new state.
        value: Unversioned,
        /// The index of the new state.
        index: Index,
    },
    /// Removes.
    Delete {
        /// The object.
        key: Key,
        /// Its last change.
        expect: Revision,
        /// The state that the event of the deletion shows.
        last: Unversioned,
        /// The index of that state.
        index: Index,
    },
    /// Changes nothing, but must hold for the commit to go through.
    Check {
        /// The object.
        key: Key,
        /// What must hold.
        expect: Expect,
    },
}

impl Op {
    /// The object that the operation is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What must hold.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Check { expect, .. } => *expect,
            Self::Delete { expect, .. } => Expect::At(*expect),
        }
    }

    pub(crate) fn is_change(&self) -> bool {
        !matches!(self, Self::Check { .. })
    }

    pub(crate) fn value(&self) -> Option<&Unversioned> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete { last, .. } => Some(last),
            Self::Check { .. } => None,
        }
    }
}

/// A failed commit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// An expectation does not hold.
    #[error("commit: operation {op} finds the object changed")]
    Conflict {
        /// Position of the first such operation.
        op: usize,
        /// The object as it stands; `None` when absent.
        current: Option<Arc<Record>>,
    },
    /// An object is too large.
    #[error("commit: the object of operation {op} has {bytes} bytes, at most {limit} are possible")]
    TooLarge {
        /// Position of the operation.
        op: usize,
        /// The object's size.
        bytes: usize,
        /// The most that is possible.
        limit: usize,
    },
    /// Too many operations, or one key changed twice: a mistake of the caller.
    #[error("commit: {why}")]
    Invalid {
        /// What is wrong.
        why: &'static str,
    },
    /// The disk is full: writes are refused until there is space again. Nothing was changed.
    #[error("commit: the disk is full")]
    Full,
    /// The store was closed. Nothing was changed.
    #[error("commit: the store is closed")]
    Closed,
    /// The storage below failed; whether the commit took effect is unknown.
    #[error("commit: the storage failed")]
    Storage(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// What needs no look at the store: sizes, number, no key changed twice.
pub(crate) fn check_shape(ops: &[Op]) -> Result<(), CommitError> {
    if ops.len() > MAX_OPS {
        return Err(CommitError::Invalid { why: "too many operations in one commit" });
    }
    let mut changed = BTreeSet::new();
    for (position, op) in ops.iter().enumerate() {
        let bytes = op.value().map_or(0, Unversioned::size_bytes);
        if bytes > MAX_OBJECT_BYTES {
            return Err(CommitError::TooLarge { op: position, bytes, limit: MAX_OBJECT_BYTES });
        }
        if op.is_change() && !changed.insert(op.key()) {
            return Err(CommitError::Invalid { why: "one key is changed twice in one commit" });
        }
    }
    Ok(())
}

/// Whether an expectation holds of an object whose last change is `current` (`None`: absent).
pub(crate) fn holds(expect: Expect, current: Option<Revision>) -> bool {
    match expect {
        Expect::Absent => current.is_none(),
        Expect::At(revision) => current == Some(revision),
    }
}
