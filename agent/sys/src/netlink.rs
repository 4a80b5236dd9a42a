//! Netlink sockets and messages: what rtnetlink and nf_tables have in common.
//!
//! The kernel works on a request inside `sendmsg`, so its answers wait in the socket when that returns: nothing here sleeps for one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send, setsockopt, socket,
};

/// Bytes that one answer of the kernel may have; it sends at most 32 KiB at a time.
const ANSWER: usize = 64 * 1024;
/// Room for a batch of the largest change that is asked for in one transaction.
const SEND_BUFFER: usize = 4 << 20;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x04;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: an error when it exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// A subsystem of the kernel that speaks netlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nf_tables.
    Netfilter,
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// Opens and binds one, close-on-exec and non-blocking.
    ///
    /// # Errors
    /// What the kernel says; the family is not supported where its module is missing.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Best effort: without CAP_NET_ADMIN the default sizes do for small requests.
        let _ = setsockopt(&fd, nix::sys::socket::sockopt::SndBufForce, &SEND_BUFFER);
        let _ = setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &SEND_BUFFER);
        let socket = Self { fd, port };
        socket.set_option(libc::NETLINK_CAP_ACK, 1)?;
        Ok(socket)
    }

    /// Receives the messages of a multicast group from now on.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set_option(libc::NETLINK_ADD_MEMBERSHIP, libc::c_int::try_from(group).unwrap_or(0))
    }

    fn set_option(&self, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
        // SAFETY: the descriptor is open, and the pointer and size are those of a live integer.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_NETLINK, name, (&raw const value).cast(), size) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The address by which the kernel names this socket as the cause of an event.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends messages in one piece: what must be done together.
    ///
    /// # Errors
    /// What `send` says.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), messages, MsgFlags::empty())?;
        Ok(())
    }

    /// The messages that wait in the socket; none: an empty list.
    ///
    /// # Errors
    /// What `recv` says; `ENOBUFS` when messages of a multicast group were lost.
    pub fn receive(&self) -> io::Result<Vec<Message>> {
        receive(self.as_fd())
    }

    /// Sends one request for a list and collects the list.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn dump(&self, request: &[u8]) -> io::Result<Vec<Message>> {
        self.send(request)?;
        let mut found = Vec::new();
        loop {
            let messages = self.receive()?;
            if messages.is_empty() {
                return Ok(found);
            }
            for message in messages {
                match message.kind {
                    DONE => return Ok(found),
                    ERROR => return message.error().map_or(Ok(found), Err),
                    _ => found.push(message),
                }
            }
        }
    }
}

/// The messages that wait in a socket of which only the descriptor is left; none: an empty list.
///
/// # Errors
/// As [`Socket::receive`].
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Vec<Message>> {
    let mut buffer = vec![0; ANSWER];
    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(size) => Ok(Message::parse(buffer.get(..size).unwrap_or_default())),
        Err(nix::errno::Errno::EAGAIN) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// A message from the kernel.
#[derive(Debug, Clone)]
pub struct Message {
    /// `nlmsg_type`.
    pub kind: u16,
    /// Sequence number of the request that it answers.
    pub sequence: u32,
    /// Port of the socket whose request caused it.
    pub port: u32,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Message {
    /// Cuts what one `recv` returned; a truncated rest is dropped.
    pub fn parse(mut bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some(length) = u32_at(bytes, 0).and_then(|n| usize::try_from(n).ok()) {
            let (Some(kind), Some(sequence), Some(port), Some(body)) =
                (u16_at(bytes, 4), u32_at(bytes, 8), u32_at(bytes, 12), bytes.get(16..length))
            else {
                break;
            };
            found.push(Self { kind, sequence, port, body: body.to_vec() });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        found
    }

    /// Is it an error or an acknowledgement?
    pub fn is_answer(&self) -> bool {
        self.kind == ERROR
    }

    /// The error that it carries; `None` for an acknowledgement and for any other message.
    pub fn error(&self) -> Option<io::Error> {
        let code = (self.kind == ERROR).then(|| u32_at(&self.body, 0)).flatten()?.cast_signed();
        (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
    }
}

/// The attributes of a message or of a nest, as kind (without its flags) and content.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(content) = bytes.get(4..length) else { break };
        found.push((kind & 0x3fff, content));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Content of the first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(found, _)| *found == kind).map(|(_, content)| content)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Messages being written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    start: usize,
}

impl Writer {
    /// Begins a message, after ending the one before it. `header` is the family's own, a multiple of four bytes.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, header: &[u8]) {
        self.close();
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
    }

    /// Adds an attribute.
    pub fn put(&mut self, kind: u16, content: &[u8]) {
        let length = u16::try_from(content.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a number, most significant byte first.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Adds a text with its ending zero.
    pub fn put_text(&mut self, kind: u16, text: &str) {
        let mut content = text.as_bytes().to_vec();
        content.push(0);
        self.put(kind, &content);
    }

    /// Adds an attribute made of attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.put(kind | 0x8000, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// The messages, ready to be sent.
    pub fn finish(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }

    fn close(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.message(7, REQUEST, 1, &[1, 2, 3, 4]);
        writer.put_text(1, "abc");
        writer.nest(2, |w| w.put_u32(3, 9));
        writer.message(8, REQUEST, 2, &[0; 4]);
        let messages = Message::parse(&writer.finish());
        assert_eq!(messages.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(), [(7, 1), (8, 2)]);
        let body = &messages[0].body[4..];
        assert_eq!(attribute(body, 1), Some(&b"abc\0"[..]));
        assert_eq!(attribute(attribute(body, 2).unwrap(), 3), Some(&[0, 0, 0, 9][..]));
    }

    #[test]
    fn nonsense_is_no_reason_to_panic() {
        for size in 0..64 {
            for fill in [0_u8, 1, 3, 17, 255] {
                let bytes = vec![fill; size];
                Message::parse(&bytes);
                attributes(&bytes);
            }
        }
    }
}
