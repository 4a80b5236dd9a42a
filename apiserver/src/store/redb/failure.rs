//! Why a group of commits was not written.

use std::io;
use std::sync::Arc;

use super::file::OpenError;
use super::read::LookError;
use crate::store::Health;
use crate::store::commit::CommitError;

#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Refused before anything was begun.
    Full,
    /// The disk filled up on the way.
    NoSpace(Cause),
    Storage(Cause),
}

pub(super) type Cause = Arc<dyn std::error::Error + Send + Sync>;

impl Failure {
    /// The storage panicked: what it holds in memory is worth nothing any more, as after an error.
    pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Storage(Arc::new(io::Error::other(format!("the database panicked: {}", said.unwrap_or("no message")))))
    }

    /// The answer when it is sure that nothing was changed.
    pub(super) fn unchanged(&self) -> CommitError {
        match self {
            Self::Full | Self::NoSpace(_) => CommitError::Full,
            Self::Storage(cause) => CommitError::Storage(cause.clone()),
        }
    }

    /// The answer when nobody can say whether anything was changed.
    pub(super) fn unknown(&self) -> CommitError {
        match self {
            Self::Full => CommitError::Full,
            Self::NoSpace(cause) | Self::Storage(cause) => CommitError::Storage(cause.clone()),
        }
    }

    /// How the store is while this lasts.
    pub(super) fn health(&self) -> Health {
        match self {
            Self::Full | Self::NoSpace(_) => Health::DiskFull,
            Self::Storage(cause) => Health::Failed { error: chain(&**cause) },
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn is_no_space(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(io) if is_full(io))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        match &error {
            LookError::Database(cause) if is_no_space(cause) => Self::NoSpace(Arc::new(error)),
            _ => Self::Storage(Arc::new(error)),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let full = match &error {
            OpenError::Database { source, .. } => is_no_space(source),
            OpenError::Io { source, .. } => is_full(source),
            _ => false,
        };
        if full { Self::NoSpace(Arc::new(error)) } else { Self::Storage(Arc::new(error)) }
    }
}
