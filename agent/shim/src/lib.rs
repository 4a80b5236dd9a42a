//! The supervisor of one container: small, single-threaded, and longer-lived than the engine.
//!
//! The agent spawns one shim for each container and speaks to it over a Unix socket ([`protocol`]). The shim
//!
//! 1. leaves the engine's cgroup, before anything else ([`supervisor`]);
//! 2. makes the user and the network namespace, and holds them for as long as it lives (`sandbox`), so that a restart of the
//!    container keeps its addresses;
//! 3. for each start forks a *creator* that makes mounts and namespaces and clones the container as the shim's own child (`create`);
//!    all memory that this dirties goes with the creator;
//! 4. writes the container's output to its log ([`log`]), waits for it, and writes down how it ended before it tells anybody;
//! 5. starts further processes inside (`create::exec`).
//!
//! What must outlive a crash of either side is in files of the container's directory, each replaced atomically ([`files`]).

pub mod files;
pub mod log;
pub mod probe;
pub mod protocol;
pub mod supervisor;

mod connection;
mod create;
mod sandbox;
