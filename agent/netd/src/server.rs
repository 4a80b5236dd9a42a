//! The loop: sockets, the table's changes and the signals, in one thread.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt};

use crate::forward::{self, Forward, Progress};
use crate::message::{self, Code, Transport};
use crate::process::{self, say};
use crate::resolvers::Resolvers;
use crate::stream::{self, Client, Context};
use crate::table::{self, Table, Verdict, Zones};
use crate::{Failure, step};

/// Networks at most: each takes two descriptors.
const MAX_LISTENING: usize = 512;
/// Longest table that is read, in bytes.
const MAX_TABLE: u64 = 64 << 20;
/// Packets of one socket that are read before others have their turn.
const BURST: usize = 64;
/// How often deadlines are looked at while there are any.
const TICK: Duration = Duration::from_millis(100);
/// How often a port that another process holds is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an event is about: the low bits of its number; the others say which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signal,
    Directory,
    Datagram,
    Listener,
    Forward,
    Client,
    Upstream,
}

const SOURCES: [Source; 7] =
    [Source::Signal, Source::Directory, Source::Datagram, Source::Listener, Source::Forward, Source::Client, Source::Upstream];

fn event(source: Source, id: u64, flags: EpollFlags) -> EpollEvent {
    EpollEvent::new(flags, (id << 3) | source as u64)
}

/// The two sockets of one address.
#[derive(Debug)]
struct Listening {
    datagram: UdpSocket,
    listener: TcpListener,
}

/// All there is.
#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    epoll: Epoll,
    signals: SignalFd,
    directory: Inotify,
    zones: Zones,
    resolvers: Resolvers,
    wanted: Vec<IpAddr>,
    listening: BTreeMap<IpAddr, Listening>,
    addresses: HashMap<u64, IpAddr>,
    forwards: HashMap<u64, Forward>,
    clients: HashMap<u64, Client>,
    complained: BTreeMap<IpAddr, String>,
    retry_at: Option<Instant>,
    next_id: u64,
    buffer: Vec<u8>,
    ending: bool,
}

impl Server {
    pub(crate) fn new(dir: &Path) -> Result<Self, Failure> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block().map_err(step("block signals"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(step("watch signals"))?;
        let directory = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(step("make an inotify"))?;
        let events = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
        directory.add_watch(dir, events).map_err(step(format!("watch `{}`", dir.display())))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(step("make an epoll"))?;
        epoll.add(&signals, event(Source::Signal, 0, EpollFlags::EPOLLIN)).map_err(step("watch signals"))?;
        epoll.add(&directory, event(Source::Directory, 0, EpollFlags::EPOLLIN)).map_err(step("watch the directory"))?;
        let mut server = Self {
            dir: dir.to_owned(),
            epoll,
            signals,
            directory,
            zones: Zones::default(),
            resolvers: Resolvers::new(),
            wanted: Vec::new(),
            listening: BTreeMap::new(),
            addresses: HashMap::new(),
            forwards: HashMap::new(),
            clients: HashMap::new(),
            complained: BTreeMap::new(),
            retry_at: None,
            next_id: 0,
            buffer: vec![0; usize::from(u16::MAX)],
            ending: false,
        };
        server.load();
        Ok(server)
    }

    /// Runs until a signal or the end of the directory ends it.
    pub(crate) fn serve(mut self) -> Result<(), Failure> {
        let mut events = [EpollEvent::empty(); 64];
        let mut ticked = Instant::now();
        while !self.ending {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(step("wait for events")(errno)),
            };
            let now = Instant::now();
            for event in events.iter().take(count) {
                self.handle(*event, now);
            }
            if now.duration_since(ticked) >= TICK {
                self.tick(now);
                ticked = now;
            }
        }
        Ok(())
    }

    fn timeout(&self) -> EpollTimeout {
        let busy = !self.forwards.is_empty() || !self.clients.is_empty() || self.retry_at.is_some();
        if busy { EpollTimeout::try_from(TICK).unwrap_or(EpollTimeout::NONE) } else { EpollTimeout::NONE }
    }

    fn handle(&mut self, event: EpollEvent, now: Instant) {
        let id = event.data() >> 3;
        let Some(source) = usize::try_from(event.data() & 7).ok().and_then(|source| SOURCES.get(source)) else { return };
        match source {
            Source::Signal => self.signal(),
            Source::Directory => self.directory_changed(),
            Source::Datagram => self.datagrams(id, now),
            Source::Listener => self.accept(id, now),
            Source::Forward => self.forward_progress(id, now),
            Source::Client if event.events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) => drop(self.clients.remove(&id)),
            Source::Client => self.with_client(id, now, Client::advance),
            Source::Upstream => self.with_client(id, now, Client::advance_upstream),
        }
    }

    fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            // A hangup is for whoever has a terminal.
            self.ending |= i32::try_from(info.ssi_signo).is_ok_and(|signal| signal != Signal::SIGHUP as i32);
        }
    }

    fn directory_changed(&mut self) {
        let mut changed = false;
        while let Ok(events) = self.directory.read_events() {
            for event in events {
                let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let about = |file: &str| event.name.as_ref().is_some_and(|name| name == file);
                changed |= lost || about(table::FILE);
                // Without it nobody could find us any more. The directory's own end comes later: our open file keeps it.
                self.ending |= event.mask.contains(AddWatchFlags::IN_DELETE) && about(process::LOCK);
            }
        }
        if changed {
            self.load();
        }
    }

    /// Reads the table. One that cannot be read changes nothing.
    fn load(&mut self) {
        let path = self.dir.join(table::FILE);
        let table = match read(&path) {
            Ok(table) => table,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return say(&step::<io::Error>(format!("read `{}`", path.display()))(error)),
        };
        self.resolvers.fix(table.upstream.clone());
        self.wanted = table.listen.iter().take(MAX_LISTENING).map(|listen| listen.address).collect();
        self.zones = Zones::new(table);
        let wanted = &self.wanted;
        self.listening.retain(|address, _| wanted.contains(address));
        let listening = &self.listening;
        self.addresses.retain(|_, address| listening.contains_key(address));
        self.complained.retain(|address, _| wanted.contains(address));
        self.listen();
    }

    fn listen(&mut self) {
        self.retry_at = None;
        for address in self.wanted.clone() {
            if self.listening.contains_key(&address) {
                continue;
            }
            let Err(error) = self.listen_at(address) else {
                self.complained.remove(&address);
                continue;
            };
            self.retry_at = Some(Instant::now() + RETRY);
            // Said once, not at each attempt.
            let text = error.to_string();
            if self.complained.get(&address) != Some(&text) {
                say(&step::<io::Error>(format!("listen at {address}, port 53"))(error));
                self.complained.insert(address, text);
            }
        }
    }

    fn listen_at(&mut self, address: IpAddr) -> io::Result<()> {
        let datagram: UdpSocket = bound(address, SockType::Datagram)?.into();
        let listener = bound(address, SockType::Stream)?;
        listen(&listener, Backlog::new(64)?)?;
        let listener: TcpListener = listener.into();
        self.next_id += 1;
        self.epoll.add(&datagram, event(Source::Datagram, self.next_id, EpollFlags::EPOLLIN))?;
        self.epoll.add(&listener, event(Source::Listener, self.next_id, EpollFlags::EPOLLIN))?;
        self.addresses.insert(self.next_id, address);
        self.listening.insert(address, Listening { datagram, listener });
        Ok(())
    }

    fn datagrams(&mut self, id: u64, now: Instant) {
        let Some(local) = self.addresses.get(&id).copied() else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BURST {
            let Some(listening) = self.listening.get(&local) else { break };
            let (length, client) = match listening.datagram.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let packet = buffer.get(..length).unwrap_or_default();
            match self.zones.judge(local, client.ip(), packet, Transport::Udp) {
                Verdict::Drop => {}
                Verdict::Send(answer) => self.send(local, client, &answer),
                Verdict::Forward(question_end) => self.forward((local, client), (packet, question_end), now),
            }
        }
        self.buffer = buffer;
    }

    /// A client that cannot be reached asks again.
    fn send(&self, local: IpAddr, client: SocketAddr, answer: &[u8]) {
        let _ = self.listening.get(&local).map(|listening| listening.datagram.send_to(answer, client));
    }

    fn forward(&mut self, (local, client): (IpAddr, SocketAddr), (packet, question_end): (&[u8], usize), now: Instant) {
        let own = self.forwards.values().filter(|forward| forward.client.ip() == client.ip()).count();
        let started = (self.forwards.len() < forward::MAX && own < forward::MAX_OF_CLIENT).then(|| {
            let (servers, id) = (self.resolvers.servers(now, &self.listening), self.resolvers.id());
            Forward::start((local, client), (packet, question_end), id, servers, now)
        });
        self.next_id += 1;
        let (id, flags) = (self.next_id, EpollFlags::EPOLLIN);
        let watched = started.flatten().filter(|forward| self.epoll.add(&forward.socket, event(Source::Forward, id, flags)).is_ok());
        match watched {
            Some(forward) => drop(self.forwards.insert(id, forward)),
            None => self.send(local, client, &message::refusal(packet, Code::ServerFailed)),
        }
    }

    fn forward_progress(&mut self, id: u64, now: Instant) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        match forward.receive(&mut self.buffer) {
            Progress::Waiting => {}
            Progress::Answer(answer) => self.end_forward(id, Some(&answer)),
            Progress::Next => self.next_server(id, now),
        }
    }

    fn next_server(&mut self, id: u64, now: Instant) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        // The former socket leaves the epoll by being closed.
        let asked = forward.next(now) && self.epoll.add(&forward.socket, event(Source::Forward, id, EpollFlags::EPOLLIN)).is_ok();
        if !asked {
            self.end_forward(id, None);
        }
    }

    fn end_forward(&mut self, id: u64, answer: Option<&[u8]>) {
        let Some(forward) = self.forwards.remove(&id) else { return };
        match answer {
            Some(answer) => self.send(forward.local, forward.client, answer),
            None => self.send(forward.local, forward.client, &forward.failure()),
        }
    }

    fn accept(&mut self, id: u64, now: Instant) {
        let Some(local) = self.addresses.get(&id).copied() else { return };
        for _ in 0..BURST {
            let Some(Ok((stream, peer))) = self.listening.get(&local).map(|listening| listening.listener.accept()) else { return };
            let peer = peer.ip();
            let own = self.clients.values().filter(|client| client.peer == peer).count();
            // One too many is closed at once: it asks again, and others have their turn.
            if self.clients.len() >= stream::MAX || own >= stream::MAX_OF_CLIENT || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.next_id += 1;
            if self.epoll.add(&stream, event(Source::Client, self.next_id, EpollFlags::EPOLLIN)).is_ok() {
                self.clients.insert(self.next_id, Client::new(stream, local, peer, now));
            }
        }
    }

    /// Lets a connection go on, and watches for what it waits for then.
    fn with_client(&mut self, id: u64, now: Instant, act: impl FnOnce(&mut Client, &mut Context<'_, Listening>) -> bool) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let (zones, resolvers, own, buffer) = (&mut self.zones, &mut self.resolvers, &self.listening, &mut self.buffer[..]);
        if act(&mut client, &mut Context { zones, resolvers, own, buffer, now }) && self.watch(id, &mut client).is_ok() {
            self.clients.insert(id, client);
        }
    }

    fn watch(&self, id: u64, client: &mut Client) -> nix::Result<()> {
        let flag = |wanted, flag| if wanted { flag } else { EpollFlags::empty() };
        let (reads, writes) = client.interest();
        let flags = flag(reads, EpollFlags::EPOLLIN) | flag(writes, EpollFlags::EPOLLOUT);
        self.epoll.modify(&client.stream, &mut event(Source::Client, id, flags))?;
        let Some(upstream) = client.upstream.as_mut() else { return Ok(()) };
        let flags = if upstream.is_writing() { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        let mut wanted = event(Source::Upstream, id, flags);
        if std::mem::replace(&mut upstream.watched, true) {
            return self.epoll.modify(&upstream.stream, &mut wanted);
        }
        self.epoll.add(&upstream.stream, wanted)
    }

    fn tick(&mut self, now: Instant) {
        let over: Vec<u64> = self.forwards.iter().filter(|(_, forward)| forward.is_over(now)).map(|(id, _)| *id).collect();
        for id in over {
            self.end_forward(id, None);
        }
        let late: Vec<u64> = self.forwards.iter().filter(|(_, forward)| forward.is_late(now)).map(|(id, _)| *id).collect();
        for id in late {
            self.next_server(id, now);
        }
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        for id in clients {
            self.with_client(id, now, Client::tick);
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.listen();
        }
    }
}

fn read(path: &Path) -> io::Result<Table> {
    if fs::metadata(path)?.len() > MAX_TABLE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// A socket at port 53 of an address that this host may not have yet, or no longer. Reuse lets it be more exact than a server of the
/// host that listens at every address.
fn bound(address: IpAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // Holds for IPv6 as well (ip(7) and ipv6(7) share the flag).
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    bind(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 53)))?;
    Ok(socket)
}
