//! The name server of one instance's containers: a small process of its own, so that names outlive the engine.
//!
//! It listens on port 53 of every bridge's gateway address and tells networks apart by the address that a query arrived at. What it
//! answers stands in a [`table`], a file that the agent replaces and that it reads again at once; what it does not know goes to the
//! host's own resolvers. Its clients are containers, so every packet is hostile: whatever arrives is answered, refused or dropped within
//! fixed bounds.
//!
//! | file of the directory | what it is |
//! |---|---|
//! | `table.json` | the names, written by the agent |
//! | `lock` | held by the one process that serves the directory; its holder is found by [`process::holder`] |
//! | `netd.log` | what it could not do |

mod forward;
mod message;
pub mod process;
mod resolvers;
mod server;
mod stream;
pub mod table;

use std::io;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Failure {
    /// What was being done, and to what.
    pub step: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

pub(crate) fn step<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let step = what.into();
    move |source| Failure { step, source: source.into() }
}
