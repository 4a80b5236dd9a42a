//! The client of the Gantry API: transports, typed access, watches and informers.
//!
//! All parts of the engine and all tools go through it; in the engine's own process the transport is the server's router itself,
//! called over http types without a socket.

mod api;
mod error;
mod informer;
mod transport;

pub use api::{Api, DeleteParams, List, ListParams, Patch, Propagation, WatchEvent, WatchParams, WriteParams};
pub use error::{ClientError, Status, StatusCause, StatusDetails};
pub use informer::Informer;
pub use transport::{Body, Client, Transport};
