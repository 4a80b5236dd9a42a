//! The agent of one node: it makes Container objects real and keeps them so.
//!
//! It watches the objects bound to its node, compares what is wished with what the kernel and the shims
//! say is there, and takes the next step of a pure plan. It keeps no database: after a restart it
//! rebuilds its picture from the host ([`runtime::Runtime::observe`]).
//!
//! | module | what it is about | its trait has an in-memory twin |
//! |---|---|---|
//! | [`container`] | the worker of each container: observe, plan, step; status | |
//! | [`runtime`] | processes: shims, sandboxes, OCI specs, cgroups | yes |
//! | [`network`] | bridges, links, addresses, published ports, names | yes |
//! | [`snapshot`] | unpacked layers and writable layers | yes |
//! | [`volume`] | data that outlives containers | yes |
//! | [`image`] | registries, verification, unpacking | |
//! | [`logs`], [`stream`] | what containers wrote, and further processes in them, for clients | |
//! | [`node`] | this node as an object | |

pub mod agent;
mod carried;
pub mod container;
pub mod ids;
pub mod image;
pub mod logs;
pub mod network;
pub mod node;
pub mod readiness;
pub mod runtime;
pub mod snapshot;
pub mod stream;
pub mod volume;
