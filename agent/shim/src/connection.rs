//! One connection of the agent: bytes in until a request is whole, answers out. Nothing here ever waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::fd::{MAX_FDS, recv_with_fds, send_with_fds};
use nix::errno::Errno;

use crate::protocol::{Answer, HEADER_LEN, Header, Operation, message};

/// A whole request.
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What came of reading.
pub(crate) enum Received {
    /// Not whole yet.
    Nothing,
    /// A whole request.
    Request(Request),
    /// The peer is gone or speaks nonsense.
    Closed,
}

pub(crate) struct Connection {
    socket: OwnedFd,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
    pub(crate) subscribed: bool,
}

impl Connection {
    /// Refuses peers of another user: the socket is in a directory of ours alone, this is the second lock.
    pub(crate) fn new(socket: OwnedFd) -> Option<Self> {
        let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        let own = nix::unistd::geteuid().as_raw();
        (peer.uid() == own).then(|| Self { socket, buffer: Vec::new(), fds: Vec::new(), subscribed: false })
    }

    pub(crate) fn receive(&mut self) -> Received {
        let mut chunk = [0_u8; 16 << 10];
        loop {
            match recv_with_fds(self.socket.as_fd(), &mut chunk) {
                Ok((0, _)) => return Received::Closed,
                Ok((count, fds)) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    self.fds.extend(fds);
                    if self.fds.len() > MAX_FDS {
                        return Received::Closed;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
                Err(_) => return Received::Closed,
            }
            match self.take_request() {
                Received::Nothing => {}
                other => return other,
            }
        }
    }

    fn take_request(&mut self) -> Received {
        let Some(head) = self.buffer.first_chunk::<HEADER_LEN>() else { return Received::Nothing };
        let Some(header) = Header::parse(*head) else { return Received::Closed };
        if self.buffer.len() < HEADER_LEN + header.length {
            return Received::Nothing;
        }
        let rest = self.buffer.split_off(HEADER_LEN + header.length);
        let mut body = std::mem::replace(&mut self.buffer, rest);
        body.drain(..HEADER_LEN);
        Received::Request(Request { operation: header.operation, body, fds: std::mem::take(&mut self.fds) })
    }

    /// False when the peer does not take it: then the connection is of no use any more.
    pub(crate) fn send(&self, answer: &Answer, fds: &[BorrowedFd<'_>]) -> bool {
        let Ok(body) = serde_json::to_vec(answer) else { return false };
        let Some(bytes) = message(Operation::Answer, &body) else { return false };
        loop {
            match send_with_fds(self.socket.as_fd(), &bytes, fds) {
                Ok(count) => return count == bytes.len(),
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
