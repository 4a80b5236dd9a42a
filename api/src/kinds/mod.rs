//! The kinds: Gantry's own, one file each, and the ones of Kubernetes' own that are served as they are.

pub mod container;
pub mod core;
pub mod image;
pub mod network;
pub mod volume;
