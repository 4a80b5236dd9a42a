//! What can be declared to Gantry: the kinds, their defaults, validation, patches and schemas.
//!
//! This crate is pure. It does no I/O, starts no task and reads no clock, so that the server, the
//! command line, the agent and the tests all mean the same thing by the same object.
//!
//! * [`kinds`]: one file per kind of ours.
//! * [`registry`]: the one list of kinds; discovery, OpenAPI, tables and the command line come from it.
//! * [`meta`]: object metadata, keys and conditions.
//! * [`quantity`]: Kubernetes resource quantities.
//! * [`mod@reference`]: image references.
//! * [`schema`]: structural OpenAPI schemas, checking and pruning.
//! * [`validate`]: the rules that go beyond types.
//! * [`patch`]: JSON, merge, strategic merge and apply patches, and the record of who owns which field.
//! * [`effects`]: what an edit does to a running container.
//! * [`references`]: which other objects an object names.
//! * [`custom`]: kinds that are added at run time.
//! * [`apply_set`]: objects that are applied and pruned together.

pub mod apply_set;
mod columns;
pub mod custom;
mod default;
pub mod effects;
pub mod kinds;
pub mod meta;
pub mod patch;
pub mod pod;
pub mod quantity;
pub mod reference;
pub mod references;
pub mod registry;
pub mod schema;
pub mod validate;

pub use k8s_openapi;
pub use kinds::{container::Container, image::Image, network::Network, volume::Volume};
pub use meta::{Condition, Kind, ObjectKey, ObjectMeta};
