//! The client of the Gantry API: transports, typed access, watches and informers.
//!
//! All parts of the engine and all tools go through it; in the engine's own process the transport is the server's router itself,
//! called over http types without a socket.
//!
//! * [`Client`]: one server, however it is reached; [`config`] finds out how.
//! * [`Api`]: the verbs of one kind; [`DynamicApi`]: the same for a kind known only at run time.
//! * [`Informer`]: a local copy of the objects of one kind, kept current.
//! * `wait_for` on both APIs: waits until something holds of one object.

mod api;
mod backoff;
pub mod body;
mod cache;
pub mod config;
mod connect;
mod dynamic;
mod endpoint;
mod error;
mod informer;
mod request;
mod retry;
mod transport;
mod wait;

pub use api::{Api, DeleteParams, List, ListParams, Patch, Propagation, WatchEvent, WatchParams, WriteParams};
pub use body::Lines;
pub use cache::Changes;
pub use connect::TlsEndpoint;
pub use dynamic::{DynamicApi, Resource, TABLE};
pub use error::{ClientError, Status, StatusCause, StatusDetails};
pub use informer::Informer;
pub use request::{PathBuilder, Upgraded};
pub use transport::{Body, Client, Transport};
