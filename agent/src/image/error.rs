//! Why an image is not here, in words for programs and for people.

use std::time::Duration;

use gantry_content::ContentError;

use crate::ids::chain;
use crate::snapshot::SnapshotError;

/// CamelCase words that stand in conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The reference cannot be read.
    InvalidReference,
    /// The registry wants credentials, or others.
    Unauthorized,
    /// No such image in the registry.
    ImageNotInRegistry,
    /// No such image here, and the policy forbids to ask a registry.
    NotPresent,
    /// The registry cannot be reached or fails.
    RegistryUnavailable,
    /// This node trusts no certificate authority, so that no registry can prove who it is.
    NoCertificateAuthorities,
    /// The registry limits requests.
    TooManyRequests,
    /// Content is not what its digest says.
    DigestMismatch,
    /// The manifest or configuration is broken or beyond limits.
    BadManifest,
    /// The image is not made for the wanted platform.
    PlatformNotFound,
    /// A layer is broken or hostile.
    BadLayer,
    /// The archive is broken or holds no image.
    BadArchive,
    /// The pull Secret is missing or broken.
    InvalidPullSecret,
    /// The registry's answer breaks the rules: a redirect to plain HTTP, a size that does not fit.
    ProtocolViolation,
    /// This node's disk failed.
    DiskError,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidReference => "InvalidReference",
            Self::Unauthorized => "Unauthorized",
            Self::ImageNotInRegistry => "ImageNotInRegistry",
            Self::NotPresent => "NotPresent",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::NoCertificateAuthorities => "NoCertificateAuthorities",
            Self::TooManyRequests => "TooManyRequests",
            Self::DigestMismatch => "DigestMismatch",
            Self::BadManifest => "BadManifest",
            Self::PlatformNotFound => "PlatformNotFound",
            Self::BadLayer => "BadLayer",
            Self::BadArchive => "BadArchive",
            Self::InvalidPullSecret => "InvalidPullSecret",
            Self::ProtocolViolation => "ProtocolViolation",
            Self::DiskError => "DiskError",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::InvalidReference => "write it as [host[:port]/]path[:tag][@digest]",
            Self::Unauthorized => "set spec.source.registry.pullSecretName to a Secret of type kubernetes.io/dockerconfigjson with access",
            Self::ImageNotInRegistry => {
                "check name and tag; a private image also answers so without credentials (spec.source.registry.pullSecretName)"
            }
            Self::NotPresent => "load it with `gantry load`, or set spec.imagePullPolicy to IfNotPresent",
            Self::RegistryUnavailable => "check that the registry runs, its name and port, and the network between; it is tried again",
            Self::NoCertificateAuthorities => "install this node's package `ca-certificates`; it is tried again",
            Self::TooManyRequests => "it is tried again later; a pull Secret usually raises the limit",
            Self::DigestMismatch => "what came is not what was asked for: check the registry and what lies between; nothing was kept",
            Self::BadManifest => "push the image again with a current tool",
            Self::PlatformNotFound => "set spec.platform to one that the image has",
            Self::BadLayer => "nothing of the layer was kept; rebuild the image",
            Self::BadArchive => "make it with `docker save` or `skopeo copy … oci-archive:`",
            Self::InvalidPullSecret => "make it with `kubectl create secret docker-registry`",
            Self::ProtocolViolation => "the registry or a proxy before it is set up wrongly",
            Self::DiskError => "check space and health of this node's disk; it is tried again",
        }
    }
}

/// Why an image is not here. Displays what was being done, to what, why it failed and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {}", .reason.remedy())]
pub struct ImageError {
    /// For programs.
    pub reason: Reason,
    /// What was being done and why it failed.
    pub message: String,
    /// The registry asked not to be asked before.
    pub retry_after: Option<Duration>,
}

impl ImageError {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    /// The same, with what explains it.
    pub(crate) fn because(mut self, why: &str) -> Self {
        self.message.push_str(": ");
        self.message.push_str(why);
        self
    }
}

impl From<ContentError> for ImageError {
    fn from(error: ContentError) -> Self {
        let reason = match &error {
            ContentError::DigestMismatch { .. } => Reason::DigestMismatch,
            ContentError::BadArchive { .. } | ContentError::TooLarge { .. } => Reason::BadArchive,
            ContentError::InvalidDigest { .. } => Reason::BadManifest,
            _ => Reason::DiskError,
        };
        Self::new(reason, chain(&error))
    }
}

impl From<SnapshotError> for ImageError {
    fn from(error: SnapshotError) -> Self {
        let reason = if matches!(error, SnapshotError::BadLayer { .. }) { Reason::BadLayer } else { Reason::DiskError };
        Self::new(reason, chain(&error))
    }
}
