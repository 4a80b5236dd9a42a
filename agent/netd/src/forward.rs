//! A query over UDP that others have to answer. Each has a socket of its own, so its port is chosen by the kernel at random and an
//! unreachable server says so at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::message;

/// Queries under way at most.
pub(crate) const MAX: usize = 1024;
/// Of one client at most, so that one cannot take the place of all others.
pub(crate) const MAX_OF_CLIENT: usize = 256;
/// How long a client is kept waiting: as long as resolvers wait.
const DEADLINE: Duration = Duration::from_secs(5);
/// After which the next server is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Packets that are read before others have their turn.
const BURST: usize = 32;

/// A query under way.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) socket: UdpSocket,
    /// Where it arrived.
    pub(crate) local: IpAddr,
    pub(crate) client: SocketAddr,
    client_id: u16,
    query: Vec<u8>,
    question_end: usize,
    servers: Rc<[SocketAddr]>,
    asked: usize,
    next_at: Instant,
    ends_at: Instant,
}

/// What has become of it.
#[derive(Debug)]
pub(crate) enum Progress {
    Waiting,
    /// For the client.
    Answer(Vec<u8>),
    /// Ask the next server.
    Next,
}

impl Forward {
    /// Asks the first server that can be asked; `None` when none can.
    pub(crate) fn start(
        (local, client): (IpAddr, SocketAddr),
        (packet, question_end): (&[u8], usize),
        id: u16,
        servers: Rc<[SocketAddr]>,
        now: Instant,
    ) -> Option<Self> {
        let mut query = packet.to_vec();
        message::set_id(&mut query, id);
        let (socket, asked) = ask(&servers, 0, &query)?;
        let (client_id, next_at, ends_at) = (message::id(packet), now + PATIENCE, now + DEADLINE);
        Some(Self { socket, local, client, client_id, query, question_end, servers, asked, next_at, ends_at })
    }

    /// Asks the next server over a new socket; false when all were asked twice.
    pub(crate) fn next(&mut self, now: Instant) -> bool {
        let Some((socket, asked)) = ask(&self.servers, self.asked, &self.query) else { return false };
        (self.socket, self.asked, self.next_at) = (socket, asked, now + PATIENCE);
        true
    }

    /// Whether it is time to ask another one; once all were asked, the last one has the rest of the time.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.asked < self.servers.len() * 2 && now >= self.next_at && now < self.ends_at
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.ends_at
    }

    /// Reads what has arrived.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Progress {
        for _ in 0..BURST {
            let length = match self.socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Progress::Next,
            };
            let Some(answer) = buffer.get_mut(..length).filter(|answer| message::answers(answer, &self.query, self.question_end)) else {
                continue;
            };
            if message::failed(answer) && self.asked < self.servers.len() {
                return Progress::Next;
            }
            message::set_id(answer, self.client_id);
            return Progress::Answer(answer.to_vec());
        }
        Progress::Waiting
    }

    /// What the client is told when nobody answers.
    pub(crate) fn failure(&self) -> Vec<u8> {
        let mut answer = message::refusal(&self.query, message::Code::ServerFailed);
        message::set_id(&mut answer, self.client_id);
        answer
    }
}

/// Sends to the first server from `asked` on that takes it; each may be asked twice.
fn ask(servers: &[SocketAddr], asked: usize, query: &[u8]) -> Option<(UdpSocket, usize)> {
    (asked..servers.len() * 2).find_map(|at| {
        let socket = send(*servers.get(at % servers.len())?, query).ok()?;
        Some((socket, at + 1))
    })
}

fn send(server: SocketAddr, query: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(query)?;
    Ok(socket)
}
