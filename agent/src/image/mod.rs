//! Images on this node: resolved, pulled, verified, unpacked.
//!
//! ```text
//! reference ─ registry ─► manifest ─► configuration ─► layers, several at once
//!                            │             │             │ download, hash      → content store (resumes)
//!                            ▼             ▼             │ inflate             → one thread
//!                       content store  content store     └ hash plain, extract → another, into the snapshotter
//! ```
//!
//! Every byte is checked against a digest before anything is visible under a name. What was fetched stays in the content store,
//! so that a cut pull goes on where it was and an image is found again without a registry.

mod auth;
mod controller;
mod error;
mod progress;
mod pull;
mod registry;
mod service;
#[cfg(test)]
mod tests;

pub use auth::DockerConfig;
pub use controller::run;
pub use error::{ImageError, Reason};
pub use progress::{Phase, Progress};
pub use registry::RegistryConfig;
pub use service::{ImageService, LocalImage, ResolveRequest, Resolved};
