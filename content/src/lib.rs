//! Blobs by digest, and what names stand for them on this host.
//!
//! One directory per host, shared by all parts of the engine and by several processes. A blob has its final name only when
//! every byte is on disk and its sha256 was verified; whoever reads by digest reads what was meant.
//!
//! | path | what |
//! |---|---|
//! | `blobs/sha256/<hex>` | whole, verified blobs |
//! | `ingest/<hex of key>` | blobs on their way in, resumed by key; locked by their writer |
//! | `ingest/import-<uuid>/` | an archive on its way in; gone when it fails, cleaned at the next [`ContentStore::open`] after a crash |
//! | `index/<namespace>/<sha256 of reference>.json` | which manifest a reference stands for in a namespace |
//!
//! Methods of [`ContentStore`] block unless they are `async`; on a runtime thread call them from `spawn_blocking`.

mod archive;
mod digest;
mod error;
mod index;
mod ingest;
pub mod manifest;
mod reference;
mod store;
mod sweep;
pub mod tarball;

pub use archive::{ArchiveLimits, Imported};
pub use digest::{Digest, Hasher};
pub use error::ContentError;
pub use index::Record;
pub use ingest::{AsyncIngest, Ingest};
pub use store::ContentStore;
