//! Descriptors that arrive from the kernel or from another process, and become owned here.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Most descriptors that one message may carry.
pub const MAX_FDS: usize = 8;

/// The descriptor number at which a carried program finds its listening socket.
pub const LISTENER: RawFd = 3;

static LISTENER_TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes ownership of a number that a system call has just returned.
pub(crate) fn owned(raw: libc::c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(raw).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: callers pass the result of a system call that creates a descriptor, checked above to be one; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Takes a connection from a listening socket; it is close-on-exec and non-blocking.
///
/// # Errors
/// What `accept4` says.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (flags, nobody) = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, std::ptr::null_mut());
    // SAFETY: null pointers ask for no address (accept(2)); the call creates a descriptor or fails.
    owned(libc::c_long::from(unsafe { libc::accept4(listener.as_raw_fd(), nobody, std::ptr::null_mut(), flags) }))
}

/// The listening socket that was passed at [`LISTENER`]. It becomes close-on-exec.
///
/// # Errors
/// `EBADF` when none was passed, or at the second call.
pub fn take_inherited_listener() -> io::Result<OwnedFd> {
    let taken = LISTENER_TAKEN.swap(true, Ordering::SeqCst);
    // SAFETY: F_GETFD reads one flag of a number and touches no memory.
    let flags = unsafe { libc::fcntl(LISTENER, libc::F_GETFD) };
    if taken || flags < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD sets one flag of a descriptor that exists (checked above).
    unsafe { libc::fcntl(LISTENER, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    // SAFETY: the number is open (checked above), was inherited over exec and is taken at most once (LISTENER_TAKEN).
    Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) })
}

/// Sends bytes on a Unix socket, the descriptors with the first of them.
///
/// # Errors
/// What `sendmsg` says; never raises SIGPIPE.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let messages: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], messages, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes and up to [`MAX_FDS`] descriptors, all close-on-exec. Zero bytes: the peer has closed.
///
/// # Errors
/// What `recvmsg` says.
pub fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            for fd in raw {
                fds.push(owned(libc::c_long::from(fd))?);
            }
        }
    }
    Ok((message.bytes, fds))
}

/// Marks all descriptors from `first` on as close-on-exec.
///
/// # Errors
/// What `close_range` says.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(4);
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing now and touches no memory.
    let result = unsafe { libc::close_range(first, u32::MAX, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_travels_with_its_bytes() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        send_with_fds(left.as_fd(), b"take", &[reader.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (count, fds) = recv_with_fds(right.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"take");
        assert_eq!(fds.len(), 1);
        writer.write_all(b"x").unwrap();
        let mut copy = std::fs::File::from(fds.into_iter().next().unwrap());
        let mut byte = [0; 1];
        copy.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(writer);
        assert_eq!(reader.read(&mut byte).unwrap(), 0, "the copy was the only other reader");
    }

    #[test]
    fn no_listener_was_passed_to_the_tests_twice() {
        let first = take_inherited_listener();
        assert!(take_inherited_listener().is_err());
        // Whatever stands at that number belongs to the test runner.
        std::mem::forget(first);
    }
}
