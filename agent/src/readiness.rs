//! Waiting for a descriptor to be readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's poller, for reading.
///
/// # Errors
/// When the poller refuses it, for instance a regular file.
#[expect(deprecated, reason = "its replacement is unsafe because of types that lie about their descriptor; an OwnedFd cannot")]
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
