//! Queries over TCP (RFC 1035, 4.2.2; RFC 7766): one after the other on each connection, asked elsewhere over TCP too.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::message::{self, Code, MAX_QUERY, Transport};
use crate::resolvers::Resolvers;
use crate::table::{Verdict, Zones};

/// Connections at most.
pub(crate) const MAX: usize = 64;
/// Of one client at most.
pub(crate) const MAX_OF_CLIENT: usize = 16;
/// How long a connection may do nothing, or take over one query.
const DEADLINE: Duration = Duration::from_secs(10);
/// After which the next server is asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// Queries of one connection that are answered before others have their turn.
const BURST: usize = 32;

/// What a connection needs of the rest.
pub(crate) struct Context<'a, T> {
    pub(crate) zones: &'a mut Zones,
    pub(crate) resolvers: &'a mut Resolvers,
    pub(crate) own: &'a BTreeMap<IpAddr, T>,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) now: Instant,
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) peer: IpAddr,
    local: IpAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    pub(crate) upstream: Option<Upstream>,
    ends_at: Instant,
}

/// The connection to a server that is asked for a client.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    /// Whether the event loop knows the stream.
    pub(crate) watched: bool,
    output: Vec<u8>,
    input: Vec<u8>,
    query: Vec<u8>,
    question_end: usize,
    client_id: u16,
    servers: Rc<[SocketAddr]>,
    asked: usize,
    next_at: Instant,
}

impl Client {
    pub(crate) fn new(stream: TcpStream, local: IpAddr, peer: IpAddr, now: Instant) -> Self {
        Self { stream, peer, local, input: Vec::new(), output: Vec::new(), upstream: None, ends_at: now + DEADLINE }
    }

    /// Whether the client may speak, and whether it is spoken to.
    pub(crate) fn interest(&self) -> (bool, bool) {
        (self.upstream.is_none() && self.output.is_empty(), !self.output.is_empty())
    }

    /// Goes on as far as it can without waiting. False: the connection is at its end.
    pub(crate) fn advance<T>(&mut self, context: &mut Context<'_, T>) -> bool {
        for _ in 0..BURST {
            if !flush(&mut self.stream, &mut self.output) {
                return false;
            }
            if !self.output.is_empty() || self.upstream.is_some() {
                return true;
            }
            let packet = match frame(&mut self.input, MAX_QUERY) {
                Ok(Some(packet)) => packet,
                Ok(None) => match fill(&mut self.stream, &mut self.input, context.buffer) {
                    Filled::Some => continue,
                    Filled::Waiting => return true,
                    Filled::End => return false,
                },
                Err(()) => return false,
            };
            self.ends_at = context.now + DEADLINE;
            match context.zones.judge(self.local, self.peer, &packet, Transport::Tcp) {
                Verdict::Drop => return false,
                Verdict::Send(answer) => self.say(&answer),
                Verdict::Forward(question_end) => self.ask(packet, question_end, context),
            }
        }
        true
    }

    fn say(&mut self, answer: &[u8]) {
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(answer);
    }

    fn ask<T>(&mut self, mut query: Vec<u8>, question_end: usize, context: &mut Context<'_, T>) {
        let servers = context.resolvers.servers(context.now, context.own);
        let client_id = message::id(&query);
        message::set_id(&mut query, context.resolvers.id());
        self.ask_from(servers, 0, (query, question_end, client_id), context.now);
    }

    /// Connects to the first server from `asked` on; tells the client when none is left.
    fn ask_from(&mut self, servers: Rc<[SocketAddr]>, asked: usize, (query, question_end, client_id): (Vec<u8>, usize, u16), now: Instant) {
        let connected = (asked..servers.len()).find_map(|at| Some((open(*servers.get(at)?).ok()?, at + 1)));
        let Some((stream, asked)) = connected else {
            let mut answer = message::refusal(&query, Code::ServerFailed);
            message::set_id(&mut answer, client_id);
            self.say(&answer);
            return;
        };
        let mut output = u16::try_from(query.len()).unwrap_or(0).to_be_bytes().to_vec();
        output.extend_from_slice(&query);
        let (input, next_at) = (Vec::new(), now + PATIENCE);
        self.upstream = Some(Upstream { stream, watched: false, output, input, query, question_end, client_id, servers, asked, next_at });
    }

    /// Goes on with the server that is asked. False: the connection is at its end.
    pub(crate) fn advance_upstream<T>(&mut self, context: &mut Context<'_, T>) -> bool {
        let Some(upstream) = self.upstream.as_mut() else { return true };
        match upstream.advance(context.buffer) {
            Ok(None) => return true,
            Ok(Some(answer)) => {
                self.upstream = None;
                self.say(&answer);
            }
            Err(()) => self.ask_next(context.now),
        }
        self.ends_at = context.now + DEADLINE;
        self.advance(context)
    }

    fn ask_next(&mut self, now: Instant) {
        let Some(Upstream { servers, asked, query, question_end, client_id, .. }) = self.upstream.take() else { return };
        self.ask_from(servers, asked, (query, question_end, client_id), now);
    }

    /// Looks at the time. False: it is over.
    pub(crate) fn tick<T>(&mut self, context: &mut Context<'_, T>) -> bool {
        if context.now >= self.ends_at {
            return false;
        }
        if self.upstream.as_ref().is_some_and(|upstream| context.now >= upstream.next_at) {
            self.ask_next(context.now);
            return self.advance(context);
        }
        true
    }
}

impl Upstream {
    pub(crate) fn is_writing(&self) -> bool {
        !self.output.is_empty()
    }

    /// The answer with the client's id, once it is whole; an error when this server will not give one.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<Option<Vec<u8>>, ()> {
        if !flush(&mut self.stream, &mut self.output) {
            return Err(());
        }
        while self.output.is_empty() {
            if let Some(mut answer) = frame(&mut self.input, usize::from(u16::MAX))? {
                let more = self.asked < self.servers.len();
                if !message::answers(&answer, &self.query, self.question_end) || (more && message::failed(&answer)) {
                    return Err(());
                }
                message::set_id(&mut answer, self.client_id);
                return Ok(Some(answer));
            }
            match fill(&mut self.stream, &mut self.input, buffer) {
                Filled::Some => {}
                Filled::Waiting => return Ok(None),
                Filled::End => return Err(()),
            }
        }
        Ok(None)
    }
}

enum Filled {
    Some,
    Waiting,
    End,
}

fn fill(stream: &mut TcpStream, input: &mut Vec<u8>, buffer: &mut [u8]) -> Filled {
    match stream.read(buffer) {
        Ok(0) => Filled::End,
        Ok(length) => {
            input.extend_from_slice(buffer.get(..length).unwrap_or_default());
            Filled::Some
        }
        Err(error) if is_passing(&error) => Filled::Waiting,
        Err(_) => Filled::End,
    }
}

/// Writes what can be written. False: the connection is broken.
fn flush(stream: &mut TcpStream, output: &mut Vec<u8>) -> bool {
    while !output.is_empty() {
        match stream.write(output) {
            Ok(0) => return false,
            Ok(length) => drop(output.drain(..length)),
            Err(error) if is_passing(&error) => return true,
            Err(_) => return false,
        }
    }
    true
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Takes a message off the front; an error when it is longer than it may be.
fn frame(input: &mut Vec<u8>, limit: usize) -> Result<Option<Vec<u8>>, ()> {
    let Some(length) = input.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes))) else { return Ok(None) };
    if length > limit {
        return Err(());
    }
    if input.len() < length + 2 {
        return Ok(None);
    }
    let rest = input.split_off(length + 2);
    let mut packet = std::mem::replace(input, rest);
    packet.drain(..2);
    Ok(Some(packet))
}

/// Begins to connect.
fn open(server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_one_by_one() {
        let mut input = vec![0, 2, 1, 2, 0, 1, 3, 0];
        assert_eq!(frame(&mut input, 9), Ok(Some(vec![1, 2])));
        assert_eq!(frame(&mut input, 9), Ok(Some(vec![3])));
        assert_eq!(frame(&mut input, 9), Ok(None));
        input.push(200);
        assert_eq!(frame(&mut input, 199), Err(()));
    }
}
