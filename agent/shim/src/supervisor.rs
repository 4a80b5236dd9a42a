//! The shim's loop: one thread, one epoll, nothing that waits for anybody.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::cgroup::{ContainerCgroup, Layout, Part};
use gantry_sys::fd::take_inherited_listener;
use gantry_sys::init::reset_signals;
use gantry_sys::process::{Cloned, SingleThread, clone_process, exit_now, pidfd_open};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Backlog, listen};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use crate::connection::{Connection, Received, Request};
use crate::create::{self, Context, Report};
use crate::files;
use crate::log::{LogWriter, Stream, now_unix_nanos};
use crate::protocol::{Answer, Exit, Failure, Operation, Phase, SandboxFile, Signal as SignalBody, Started, State, errno_step, step};
use crate::sandbox::{self, Namespaces};

/// Events taken at once.
const BATCH: usize = 32;
/// Connections at once; more are turned away.
const MAX_CONNECTIONS: usize = 64;
/// Longest report of a creator, in bytes.
const MAX_REPORT: usize = 64 << 10;
/// Ends of unknown processes that are remembered while a start or an exec is on its way.
const MAX_REAPED: usize = 1024;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const STDOUT: u64 = 2;
const STDERR: u64 = 3;
/// First of the ids of connections and launches.
const FIRST_ID: u64 = 16;

/// Runs until it is told to end.
///
/// # Errors
/// What kept it from coming up.
pub fn run(dir: &Path, instance: &str) -> Result<(), Failure> {
    let single = SingleThread::claim().map_err(step("be single-threaded"))?;
    let sandbox: SandboxFile = files::read_json(dir, files::SANDBOX).map_err(step("read the sandbox"))?;
    let layout = Layout::probe().map_err(step("find the cgroup hierarchies"))?;
    let cgroup = ContainerCgroup::new(&layout, instance, &sandbox.uid);
    cgroup.create(Part::Shim)?;
    cgroup.join(Part::Shim)?;
    cgroup.create(Part::Container)?;
    // A service manager that ends the engine's session must not end ours.
    let _ = nix::unistd::setsid();
    let listener = take_inherited_listener().map_err(step("take the socket"))?;
    // Again, so that whoever connects sees this process as its peer.
    listen(&listener, Backlog::new(16).unwrap_or(Backlog::MAXCONN)).map_err(errno_step("listen"))?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block().map_err(errno_step("block signals"))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(errno_step("watch signals"))?;
    let namespaces = sandbox::make(&single, sandbox.user_namespace, sandbox.own_network)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(errno_step("make an epoll"))?;
    let log = LogWriter::new(sandbox.log_dir.clone(), sandbox.log_max_size_bytes, sandbox.log_max_files);
    let state = State { shim_pid: nix::unistd::getpid().as_raw(), starts: 0, phase: Phase::Created };
    let mut supervisor = Supervisor {
        dir: dir.to_owned(),
        sandbox,
        single,
        cgroup,
        namespaces,
        epoll,
        listener,
        signals,
        state,
        log,
        outputs: [None, None],
        connections: HashMap::new(),
        launches: HashMap::new(),
        execs: HashMap::new(),
        reaped: HashMap::new(),
        next_id: FIRST_ID,
        oom_kills_before: 0,
        ending: false,
    };
    supervisor.keep_state()?;
    supervisor.watch_all()?;
    supervisor.serve()
}

/// A start or an exec on its way: the creator's pipe is open.
struct Launch {
    connection: u64,
    pipe: OwnedFd,
    text: Vec<u8>,
    exec: bool,
}

/// A further process that runs.
struct ExecRun {
    connection: u64,
    started: Started,
}

/// A process that ended before anybody said what it was.
struct Reaped {
    code: i32,
    signal: Option<i32>,
    at_unix_nanos: i64,
    /// Opened before it was reaped, so that an exec has a handle to hand over however short it was.
    handle: Option<OwnedFd>,
}

struct Supervisor {
    dir: PathBuf,
    sandbox: SandboxFile,
    single: SingleThread,
    cgroup: ContainerCgroup,
    namespaces: Namespaces,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    state: State,
    log: LogWriter,
    outputs: [Option<OwnedFd>; 2],
    connections: HashMap<u64, Connection>,
    launches: HashMap<u64, Launch>,
    /// By process id.
    execs: HashMap<i32, ExecRun>,
    /// Ends of processes that are not known yet: an exec may be over before its creator's pipe was read.
    reaped: HashMap<i32, Reaped>,
    next_id: u64,
    oom_kills_before: u64,
    ending: bool,
}

impl Supervisor {
    fn watch(&self, fd: BorrowedFd<'_>, id: u64) -> Result<(), Failure> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, id)).map_err(errno_step("watch a descriptor"))
    }

    fn watch_all(&self) -> Result<(), Failure> {
        self.watch(self.listener.as_fd(), LISTENER)?;
        self.watch(self.signals.as_fd(), SIGNALS)
    }

    fn serve(&mut self) -> Result<(), Failure> {
        while !self.ending {
            let mut events = [EpollEvent::empty(); BATCH];
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno_step("wait for events")(errno)),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    LISTENER => self.accept(),
                    SIGNALS => self.signals_arrived(),
                    STDOUT => self.read_output(Stream::Stdout, false),
                    STDERR => self.read_output(Stream::Stderr, false),
                    id if self.launches.contains_key(&id) => self.launch_speaks(id),
                    id => self.connection_speaks(id),
                }
            }
        }
        self.drain_outputs();
        Ok(())
    }

    /// Replaces the state file. Nobody is told of a state that is not in it.
    fn keep_state(&self) -> Result<(), Failure> {
        files::replace_json(&self.dir, files::STATE, &self.state).map_err(step("write the state"))
    }

    fn accept(&mut self) {
        let Ok(socket) = gantry_sys::fd::accept(self.listener.as_fd()) else { return };
        let Some(connection) = Connection::new(socket) else { return };
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let id = self.new_id();
        if self.watch(connection.as_fd(), id).is_ok() {
            self.connections.insert(id, connection);
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn connection_speaks(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.receive() {
            Received::Nothing => {}
            Received::Closed => self.close(id),
            Received::Request(request) => self.answer(id, request),
        }
    }

    fn close(&mut self, id: u64) {
        // Dropping the descriptor ends its watch, too: nobody else holds it.
        self.connections.remove(&id);
    }

    fn send(&mut self, id: u64, answer: &Answer, fds: &[BorrowedFd<'_>]) {
        if self.connections.get(&id).is_some_and(|connection| !connection.send(answer, fds)) {
            self.close(id);
        }
    }

    fn answer(&mut self, id: u64, request: Request) {
        match request.operation {
            Operation::Hello => self.hello(id),
            Operation::Subscribe => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.subscribed = true;
                }
                self.send(id, &Answer::State(self.state), &[]);
            }
            Operation::Start => self.start(id, &request.body),
            Operation::Exec => self.exec(id, request),
            Operation::Signal => {
                let answer = self.signal(&request.body).map_or_else(Answer::Failed, |()| Answer::Done);
                self.send(id, &answer, &[]);
            }
            Operation::Shutdown => {
                self.ending = true;
                self.drain_outputs();
                self.send(id, &Answer::Done, &[]);
            }
            Operation::Answer => self.close(id),
        }
    }

    fn hello(&mut self, id: u64) {
        let own = match pidfd_open(self.state.shim_pid) {
            Ok(own) => own,
            Err(error) => return self.send(id, &Answer::Failed(step("open our own handle")(error)), &[]),
        };
        let network = self.namespaces.network.as_ref().and_then(|network| network.try_clone().ok());
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(own.as_fd()).chain(network.as_ref().map(AsFd::as_fd)).collect();
        self.send(id, &Answer::State(self.state), &fds);
    }

    fn signal(&self, body: &[u8]) -> Result<(), Failure> {
        let signal: SignalBody = serde_json::from_slice(body).map_err(|error| step("read the signal")(error.into()))?;
        let signal = Signal::try_from(signal.signal).map_err(errno_step(format!("send signal {}", signal.signal)))?;
        match self.state.phase {
            // Its end is not reaped yet, so the number means no other.
            Phase::Running(started) => nix::sys::signal::kill(Pid::from_raw(started.pid), signal).map_err(errno_step("send the signal")),
            Phase::Exited(_) => Ok(()),
            Phase::Created => Err(Failure::NotRunning),
        }
    }

    /// Forks a creator; `work` runs in it and never returns.
    fn fork(&mut self, connection: u64, exec: bool, work: impl FnOnce(&Context<'_>, io::PipeWriter)) -> Result<(), Failure> {
        let (reader, writer) = io::pipe().map_err(step("make a pipe"))?;
        match clone_process(&self.single, 0, None).map_err(step("fork the creator"))? {
            Cloned::Child => {
                reset_signals();
                let context = Context {
                    single: &self.single,
                    dir: &self.dir,
                    sandbox: &self.sandbox,
                    namespaces: &self.namespaces,
                    cgroup: &self.cgroup,
                };
                work(&context, writer);
                exit_now(1)
            }
            Cloned::Parent(_) => {}
        }
        drop(writer);
        let pipe = OwnedFd::from(reader);
        set_nonblocking(&pipe)?;
        let id = self.new_id();
        self.watch(pipe.as_fd(), id)?;
        self.launches.insert(id, Launch { connection, pipe, text: Vec::new(), exec });
        Ok(())
    }

    fn start(&mut self, id: u64, body: &[u8]) {
        if let Err(failure) = self.try_start(id, body) {
            self.outputs = [None, None];
            self.send(id, &Answer::Failed(failure), &[]);
        }
    }

    fn try_start(&mut self, id: u64, body: &[u8]) -> Result<(), Failure> {
        if matches!(self.state.phase, Phase::Running(_)) || self.launches.values().any(|launch| !launch.exec) {
            return Err(Failure::AlreadyRunning);
        }
        self.drain_outputs();
        let stdin = create::null(OFlag::O_RDONLY)?;
        let (stdout, stdout_inside) = io::pipe().map_err(step("make a pipe"))?;
        let (stderr, stderr_inside) = io::pipe().map_err(step("make a pipe"))?;
        let outputs = [OwnedFd::from(stdout), OwnedFd::from(stderr)];
        for (output, token) in outputs.iter().zip([STDOUT, STDERR]) {
            set_nonblocking(output)?;
            self.watch(output.as_fd(), token)?;
        }
        self.outputs = outputs.map(Some);
        self.oom_kills_before = self.cgroup.oom_kills();
        let stdio = [stdin, OwnedFd::from(stdout_inside), OwnedFd::from(stderr_inside)];
        self.fork(id, false, |context, pipe| create::start(context, body, stdio, pipe))
    }

    fn exec(&mut self, id: u64, request: Request) {
        let Phase::Running(first) = self.state.phase else { return self.send(id, &Answer::Failed(Failure::NotRunning), &[]) };
        let Request { body, fds, .. } = request;
        if let Err(failure) = self.fork(id, true, |context, pipe| create::exec(context, first.pid, &body, fds, pipe)) {
            self.send(id, &Answer::Failed(failure), &[]);
        }
    }

    /// Reads a creator's pipe; its end means that the program was exec'd, or that all is said about why not.
    fn launch_speaks(&mut self, id: u64) {
        let Some(launch) = self.launches.get_mut(&id) else { return };
        let mut chunk = [0_u8; 4096];
        loop {
            match nix::unistd::read(&launch.pipe, &mut chunk) {
                Ok(0) => break,
                Ok(count) if launch.text.len() < MAX_REPORT => launch.text.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => break,
            }
        }
        let Some(launch) = self.launches.remove(&id) else { return };
        let reports = launch.text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Report>(line).ok());
        let (mut pid, mut failure) = (None, None);
        for report in reports {
            match report {
                Report::Cloned(cloned) => pid = Some(cloned),
                Report::Failed(why) => failure = Some(why),
            }
        }
        let outcome = match (pid, failure) {
            (_, Some(failure)) => Err(failure),
            (Some(pid), None) => Ok(pid),
            (None, None) => Err(Failure::Step { step: "the creator ended without a word".to_owned(), errno: 0 }),
        };
        match outcome {
            Ok(pid) => self.launched(&launch, pid),
            Err(failure) => {
                if !launch.exec {
                    self.outputs = [None, None];
                }
                self.send(launch.connection, &Answer::Failed(failure), &[]);
            }
        }
        if self.launches.is_empty() {
            self.reaped.clear();
        }
    }

    fn launched(&mut self, launch: &Launch, pid: i32) {
        let mut over = self.reaped.remove(&pid);
        let now = now_unix_nanos();
        let started = Started { pid, at_unix_nanos: over.as_ref().map_or(now, |over| over.at_unix_nanos.min(now)) };
        let handle = match (launch.exec, &mut over) {
            (true, Some(over)) => over.handle.take(),
            // Not reaped yet, so the number means no other.
            (true, None) => pidfd_open(pid).ok(),
            (false, _) => None,
        };
        if launch.exec {
            self.execs.insert(pid, ExecRun { connection: launch.connection, started });
        } else {
            self.state.starts += 1;
            self.state.phase = Phase::Running(started);
            let _ = self.keep_state();
        }
        let fds: Vec<BorrowedFd<'_>> = handle.iter().map(AsFd::as_fd).collect();
        self.send(launch.connection, &Answer::Started(started), &fds);
        match over {
            Some(over) => self.ended(pid, over),
            None if !launch.exec => self.tell_subscribers(),
            None => {}
        }
    }

    fn signals_arrived(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGCHLD as i32) {
                continue;
            }
            // The others are ignored: only `Shutdown` or SIGKILL end a shim, a stray SIGTERM must not.
        }
        // Looked at first and reaped afterwards: between the two the number means this process and no other.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let status = match waitid(Id::All, look) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let Some((pid, code, signal)) = create::exit_status(status) else { return };
            let handle = if self.awaits(pid) { pidfd_open(pid).ok() } else { None };
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            self.ended(pid, Reaped { code, signal, at_unix_nanos: now_unix_nanos(), handle });
        }
    }

    fn is_first(&self, pid: i32) -> bool {
        matches!(self.state.phase, Phase::Running(started) if started.pid == pid)
    }

    /// Whether a process that is not known may turn out to be one that a creator has just made.
    fn awaits(&self, pid: i32) -> bool {
        !self.launches.is_empty() && self.reaped.len() < MAX_REAPED && !self.is_first(pid) && !self.execs.contains_key(&pid)
    }

    fn ended(&mut self, pid: i32, end: Reaped) {
        let Reaped { code, signal, at_unix_nanos, .. } = end;
        if let Some(run) = self.execs.remove(&pid) {
            let exit = Exit { code, signal, oom_killed: false, at_unix_nanos, started: run.started };
            return self.send(run.connection, &Answer::Exited(exit), &[]);
        }
        match self.state.phase {
            Phase::Running(started) if started.pid == pid => {
                // Every process of its pid namespace has ended before this one could be reaped: the pipes hold all there is.
                self.drain_outputs();
                let oom_killed = self.cgroup.oom_kills() > self.oom_kills_before;
                self.state.phase = Phase::Exited(Exit { code, signal, oom_killed, at_unix_nanos, started });
                let _ = self.keep_state();
                self.tell_subscribers();
            }
            _ if self.awaits(pid) => {
                self.reaped.insert(pid, end);
            }
            _ => {}
        }
    }

    fn tell_subscribers(&mut self) {
        let ids: Vec<u64> = self.connections.iter().filter(|(_, connection)| connection.subscribed).map(|(id, _)| *id).collect();
        for id in ids {
            self.send(id, &Answer::State(self.state), &[]);
        }
    }

    /// Reads what an output holds: one buffer, so that a loud container cannot keep us from the rest, or all of it.
    fn read_output(&mut self, stream: Stream, all: bool) {
        let slot = usize::from(stream == Stream::Stderr);
        let mut chunk = [0_u8; 16 << 10];
        loop {
            let Some(output) = self.outputs.get(slot).and_then(Option::as_ref) else { return };
            match nix::unistd::read(output, &mut chunk) {
                Ok(0) => return self.close_output(slot),
                Ok(count) => self.log.write(stream, chunk.get(..count).unwrap_or_default(), now_unix_nanos()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return,
                Err(_) => return self.close_output(slot),
            }
            if !all {
                return;
            }
        }
    }

    fn close_output(&mut self, slot: usize) {
        if let Some(output) = self.outputs.get_mut(slot) {
            *output = None;
        }
    }

    fn drain_outputs(&mut self) {
        self.read_output(Stream::Stdout, true);
        self.read_output(Stream::Stderr, true);
        self.log.finish(now_unix_nanos());
        self.outputs = [None, None];
    }
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Failure> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).map_err(errno_step("make a pipe non-blocking"))
}
