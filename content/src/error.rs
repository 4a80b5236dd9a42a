//! What can go wrong with content.

use std::io;

use crate::digest::Digest;

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// No such blob here.
    #[error("blob {digest} is not here")]
    NotFound {
        /// The blob.
        digest: Digest,
    },
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("`{text}` is not a digest: expected sha256: and 64 lower-case hexadecimal digits")]
    InvalidDigest {
        /// What was given, cut to 100 characters.
        text: String,
    },
    /// The bytes are not what was promised; nothing was kept.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More bytes than allowed or announced.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Fewer bytes than announced; what is here is kept for a resume.
    #[error("{what} ended after {actual} of {expected} bytes")]
    Truncated {
        /// What is too short.
        what: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// Another writer has the same ingest open.
    #[error("ingest `{key}` is being written by another")]
    Busy {
        /// The ingest's key.
        key: String,
    },
    /// Not a namespace name that is safe as a directory name.
    #[error("`{namespace}` is not a namespace name")]
    InvalidNamespace {
        /// What was given.
        namespace: String,
    },
    /// The archive is broken, hostile or of an unknown kind; nothing of it is visible.
    #[error("archive: {reason}")]
    BadArchive {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The disk said no.
    #[error("{step}")]
    Io {
        /// What was being done, and to what.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ContentError {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    /// A broken archive.
    pub(crate) fn archive(reason: impl Into<String>) -> Self {
        Self::BadArchive { reason: reason.into() }
    }
}
