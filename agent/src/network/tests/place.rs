//! Hosts and containers for tests: threads in network namespaces of their own, servers and clients in them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a fresh network namespace whose `lo` is up. The namespace goes with it, as soon as nobody else holds it.
pub(super) struct Place {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: File,
    task: i32,
}

impl Place {
    pub(super) fn new() -> Self {
        let (jobs, received) = channel::<Job>();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            ready.send((File::open("/proc/thread-self/ns/net").unwrap(), nix::unistd::gettid().as_raw())).unwrap();
            received.into_iter().for_each(|job| job());
        });
        let (namespace, task) = is_ready.recv().expect("tests of the network run as root");
        Self { jobs: Some(jobs), thread: Some(thread), namespace, task }
    }

    /// Runs something there and waits for it; a panic there is one here.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job: Job = Box::new(move || drop(answer.send(catch_unwind(AssertUnwindSafe(job)))));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answered.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    pub(super) fn namespace(&self) -> OwnedFd {
        self.namespace.try_clone().unwrap().into()
    }

    /// The thread, by which `ip` finds the namespace.
    pub(super) fn task(&self) -> i32 {
        self.task
    }

    pub(super) fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments))
    }

    pub(super) fn serve(&self, port: u16) -> Server {
        self.run(move || Server::tcp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap())
    }

    pub(super) fn serve_udp(&self, port: u16) -> Server {
        self.run(move || Server::udp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap())
    }

    pub(super) fn ask(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(move || ask(address, port))
    }

    pub(super) fn ask_udp(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(move || ask_udp(address, port))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "a job of this place panicked");
    }
}

/// Answers everybody with the address that it sees them at, until dropped.
pub(super) struct Server {
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn tcp(address: SocketAddrV4) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let socket = listener.try_clone()?.into();
        let thread = std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                std::thread::spawn(move || echo(stream, peer));
            }
        });
        Ok(Self { socket, thread: Some(thread) })
    }

    fn udp(address: SocketAddrV4) -> io::Result<Self> {
        let server = UdpSocket::bind(address)?;
        let socket = server.try_clone()?.into();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((size @ 1.., peer)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(format!("{} {size}", peer.ip()).as_bytes(), peer);
            }
        });
        Ok(Self { socket, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An unconnected UDP socket says that it is not connected, and wakes its reader all the same.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Says who is there, then answers each byte with the same, so that a connection can be seen to live.
fn echo(mut stream: TcpStream, peer: SocketAddr) {
    let mut byte = [0; 1];
    let _ = stream.write_all(format!("{}\n", peer.ip()).as_bytes());
    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
}

/// A connection to a [`Server`].
pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) fn open(address: Ipv4Addr, port: u16) -> io::Result<(Self, String)> {
        let mut stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut seen, mut byte) = (String::new(), [0; 1]);
        while stream.read(&mut byte)? == 1 && byte != *b"\n" {
            seen.push(char::from(byte[0]));
        }
        Ok((Self(stream), seen))
    }

    /// Does the other end still answer?
    pub(super) fn lives(&mut self) -> io::Result<()> {
        self.0.write_all(b"?")?;
        self.0.read_exact(&mut [0; 1])
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Longer than any way in one kernel takes; packets that nobody answers cost a test this much.
const PATIENCE: Duration = Duration::from_millis(700);

/// The address by which the server at the other end sees us.
pub(super) fn ask(address: Ipv4Addr, port: u16) -> io::Result<String> {
    Connection::open(address, port).map(|(_, seen)| seen)
}

pub(super) fn ask_udp(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((address, port))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 64];
    let size = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

pub(super) fn ip(arguments: &str) -> String {
    command("ip", arguments)
}

pub(super) fn nft(arguments: &str) -> String {
    command("nft", arguments)
}

/// One command that has spaces of its own.
pub(super) fn nft_script(command: &str) {
    run("nft", &[command]);
}

/// Runs a program in the namespace of this thread.
fn command(program: &str, arguments: &str) -> String {
    run(program, &arguments.split(' ').collect::<Vec<_>>())
}

#[expect(clippy::disallowed_methods, reason = "nft and ip are the judges of what the driver did")]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
