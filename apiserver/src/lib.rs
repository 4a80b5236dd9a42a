//! The API server: objects in a store, served over HTTP as Kubernetes serves its own.
//!
//! * [`http`]: from a URL to a verb and back to an answer.
//! * `discovery` and `openapi`: what there is, for clients.
//! * [`definitions`]: kinds that are added at run time.
//! * [`auth`]: who asks, and whether they may.
//! * `admission` and `strategy`: what becomes of a request before it is committed.
//! * [`cache`] and [`store`]: the objects and the log of their changes.
//! * [`stream`]: logs and exec, passed on to the node that runs the container.
//! * [`server`] has the listeners.

mod admission;
pub mod auth;
pub mod cache;
pub mod definitions;
mod discovery;
pub mod http;
mod openapi;
pub mod server;
pub mod store;
mod strategy;
pub mod stream;

pub use http::error::ApiError;
pub use http::{ApiServer, AppState, router};
pub use strategy::object::indexer;
