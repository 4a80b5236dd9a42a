//! The real runtime: one shim process per container, found again through its directory `<run-dir>/containers/<uid>`.
//!
//! A request is one connection to the shim's socket with a time limit, so a stopped shim delays nobody but its own container. One task
//! per shim waits for its news and for its death (`watch`). Nothing is kept in memory that the files and the shims do not say as well.

mod connection;
mod convert;
mod probe;
mod spawn;
mod watch;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gantry_shim::files;
use gantry_shim::protocol::{Answer, Exec, Operation, Signal, Start, State};
use gantry_sys::cgroup::{ContainerCgroup, Layout, Part, Resources};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
pub use self::probe::probe;
use super::{
    Bundle, ExecHandle, ExecSpec, Limits, Observed, ObservedState, Runtime, RuntimeError, RuntimeEvent, Sandbox, SandboxSpec, Started,
};
use crate::ids::{ContainerUid, Instance};

/// How long a shim may take to answer what it knows.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long making a sandbox or a process may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the processes of a container may take to die of SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Events that a slow receiver may lag behind.
const EVENTS: usize = 4096;

/// Drives the shims of one instance.
#[derive(Debug)]
pub struct ShimRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    instance: Instance,
    layout: Layout,
    program: OwnedFd,
    events: broadcast::Sender<RuntimeEvent>,
    /// The tasks that watch shims, each with its stop signal.
    watches: Mutex<HashMap<ContainerUid, CancellationToken>>,
    cancel: CancellationToken,
}

impl Drop for ShimRuntime {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let step = step.into();
    move |source| RuntimeError::Step { step, source }
}

impl ShimRuntime {
    /// Makes the directory of the instance's containers and the carried program's memory file; touches no container.
    ///
    /// # Errors
    /// No cgroups are mounted, or the run directory cannot be made.
    pub fn new(instance: Instance) -> Result<Self, RuntimeError> {
        let layout = Layout::probe().map_err(step("find the cgroup hierarchies in /proc/self/mountinfo"))?;
        let dir = instance.run_dir.join("containers");
        spawn::make_private_dir(&dir).map_err(step(format!("make `{}`", dir.display())))?;
        let program = spawn::program().map_err(step("put the shim into memory"))?;
        let (events, _) = broadcast::channel(EVENTS);
        let watches = Mutex::new(HashMap::new());
        Ok(Self { shared: Arc::new(Shared { instance, layout, program, events, watches, cancel: CancellationToken::new() }) })
    }
}

impl Shared {
    fn dir(&self, uid: &ContainerUid) -> PathBuf {
        self.instance.run_dir.join("containers").join(uid.as_str())
    }

    fn cgroup(&self, uid: &ContainerUid) -> ContainerCgroup {
        ContainerCgroup::new(&self.layout, &self.instance.name, uid.as_str())
    }

    /// One request and its first answer, within a time limit. A failure that the shim reports is an error.
    async fn ask(
        &self,
        uid: &ContainerUid,
        limit: Duration,
        operation: Operation,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> Result<(Answer, Vec<OwnedFd>, Connection), RuntimeError> {
        let lost = |reason: String| RuntimeError::ShimLost { uid: uid.clone(), reason };
        let dir = self.dir(uid);
        let exchange = async {
            let mut connection = Connection::open(&dir).await?;
            connection.send(operation, body, fds).await?;
            let (answer, fds) = connection.receive().await?;
            Ok::<_, io::Error>((answer, fds, connection))
        };
        match tokio::time::timeout(limit, exchange).await {
            Err(_) => Err(lost(format!("no answer within {} s", limit.as_secs()))),
            Ok(Err(error)) => Err(lost(error.to_string())),
            Ok(Ok((Answer::Failed(failure), ..))) => Err(convert::failure(uid, failure)),
            Ok(Ok(answered)) => Ok(answered),
        }
    }

    async fn hello(&self, uid: &ContainerUid) -> Result<(State, Vec<OwnedFd>), RuntimeError> {
        match self.ask(uid, ASK_LIMIT, Operation::Hello, b"{}", &[]).await? {
            (Answer::State(state), fds, _) => Ok((state, fds)),
            (other, ..) => Err(unexpected(uid, &other)),
        }
    }

    async fn inspect(self: &Arc<Self>, uid: &ContainerUid) -> Result<Option<Observed>, RuntimeError> {
        let dir = self.dir(uid);
        let cgroup = self.cgroup(uid);
        let (there, leftovers, kept, record) = blocking(move || {
            let record = files::read_json(&dir, files::RECORD).unwrap_or(serde_json::Value::Null);
            let kept: Option<State> = files::read_json(&dir, files::STATE).ok();
            Ok((dir.exists(), cgroup.exists(), kept, record))
        })
        .await?;
        if !there && !leftovers {
            return Ok(None);
        }
        let (state, starts) = match self.hello(uid).await {
            Ok((state, fds)) => {
                watch::ensure(self, uid, fds.into_iter().next(), state.phase);
                (convert::state(&state), state.starts)
            }
            Err(error) => (ObservedState::Lost { reason: crate::ids::chain(&error) }, kept.map_or(0, |kept| kept.starts)),
        };
        Ok(Some(Observed { uid: uid.clone(), state, starts, record }))
    }

    async fn observe(self: &Arc<Self>) -> Result<Vec<Observed>, RuntimeError> {
        let (dir, layout, instance) = (self.instance.run_dir.join("containers"), self.layout.clone(), self.instance.name.clone());
        let mut names = blocking(move || {
            let entries = std::fs::read_dir(&dir).map_err(step(format!("read `{}`", dir.display())))?;
            let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.extend(gantry_sys::cgroup::list(&layout, &instance));
            Ok(names)
        })
        .await?;
        names.sort();
        names.dedup();
        let uids: Vec<ContainerUid> = names.iter().filter_map(|name| ContainerUid::new(name)).collect();
        let all = futures_util::future::join_all(uids.iter().map(|uid| self.inspect(uid))).await;
        all.into_iter().filter_map(Result::transpose).collect()
    }

    async fn ensure_sandbox(self: &Arc<Self>, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let dir = self.dir(&spec.uid);
        let created = if tokio::fs::try_exists(&dir).await.unwrap_or(false) {
            false
        } else {
            let (shared, spec) = (self.clone(), spec.clone());
            blocking(move || {
                let dir = shared.dir(&spec.uid);
                spawn::spawn(&dir, &shared.instance.name, shared.program.as_fd(), &convert::sandbox(&spec), &spec.record)
                    .map_err(step(format!("spawn the shim of container `{}`", spec.uid)))
            })
            .await?;
            true
        };
        let limit = if created { START_LIMIT } else { ASK_LIMIT };
        let answered = self.ask(&spec.uid, limit, Operation::Hello, b"{}", &[]).await;
        let (answer, fds, _) = answered.map_err(|error| with_shim_log(&dir, error))?;
        let Answer::State(state) = answer else { return Err(unexpected(&spec.uid, &answer)) };
        let mut fds = fds.into_iter();
        watch::ensure(self, &spec.uid, fds.next(), state.phase);
        Ok(Sandbox { network_namespace: fds.next(), created })
    }

    async fn start(&self, uid: &ContainerUid, bundle: &Bundle) -> Result<Started, RuntimeError> {
        self.set_record(uid, &bundle.record).await?;
        let start: Start = convert::start(bundle);
        let body = json(&start)?;
        match self.ask(uid, START_LIMIT, Operation::Start, &body, &[]).await? {
            (Answer::Started(started), ..) => Ok(convert::started(started)),
            (other, ..) => Err(unexpected(uid, &other)),
        }
    }

    async fn signal(&self, uid: &ContainerUid, signal: i32, all: bool) -> Result<(), RuntimeError> {
        if all {
            let cgroup = self.cgroup(uid);
            let named = step(format!("send signal {signal} to the processes of container `{uid}`"));
            return blocking(move || cgroup.signal_all(signal).map_err(named)).await;
        }
        self.ask(uid, ASK_LIMIT, Operation::Signal, &json(&Signal { signal })?, &[]).await.map(drop)
    }

    async fn update(&self, uid: &ContainerUid, limits: &Limits) -> Result<(), RuntimeError> {
        let cgroup = self.cgroup(uid);
        let resources = convert::limits(limits);
        blocking(move || apply(&cgroup, &resources)).await
    }

    async fn set_record(&self, uid: &ContainerUid, record: &serde_json::Value) -> Result<(), RuntimeError> {
        let dir = self.dir(uid);
        let record = record.clone();
        let named = step(format!("keep the record of container `{uid}`"));
        blocking(move || files::replace_json(&dir, files::RECORD, &record).map_err(named)).await
    }

    async fn exec(&self, uid: &ContainerUid, spec: ExecSpec) -> Result<ExecHandle, RuntimeError> {
        let stdio = [spec.stdin.is_some(), spec.stdout.is_some(), spec.stderr.is_some()];
        let fds: Vec<OwnedFd> = [spec.stdin, spec.stdout, spec.stderr].into_iter().flatten().collect();
        let body = json(&Exec { args: spec.args, env: spec.env, cwd: spec.cwd, user: spec.user, stdio })?;
        let (answer, handles, mut connection) = self.ask(uid, START_LIMIT, Operation::Exec, &body, &fds).await?;
        let Answer::Started(started) = answer else { return Err(unexpected(uid, &answer)) };
        let lost = |uid: &ContainerUid, reason: &str| RuntimeError::ShimLost { uid: uid.clone(), reason: reason.to_owned() };
        let pidfd = handles.into_iter().next().ok_or_else(|| lost(uid, "it sent no handle of the process"))?;
        let uid = uid.clone();
        let exit = async move {
            match connection.receive().await {
                Ok((Answer::Exited(exit), _)) => Ok(convert::exit(exit)),
                Ok((other, _)) => Err(unexpected(&uid, &other)),
                Err(error) => Err(lost(&uid, &error.to_string())),
            }
        };
        Ok(ExecHandle { pid: started.pid, exit: exit.boxed(), pidfd })
    }

    async fn remove(&self, uid: &ContainerUid) -> Result<(), RuntimeError> {
        watch::stop(self, uid);
        let (dir, cgroup) = (self.dir(uid), self.cgroup(uid));
        let kill = cgroup.clone();
        let killed = blocking(move || kill.kill_all(Part::Container, KILL_LIMIT).map_err(cgroup_error)).await;
        // The last lines of output are read; a shim that does not answer is killed all the same.
        let _ = self.ask(uid, ASK_LIMIT, Operation::Shutdown, b"{}", &[]).await;
        let shim = cgroup.clone();
        let ended = blocking(move || shim.kill_all(Part::Shim, KILL_LIMIT).map_err(cgroup_error)).await;
        let removed = blocking(move || Ok(cgroup.remove().err().unwrap_or_default())).await;
        let mut errors: Vec<RuntimeError> = [killed.err(), ended.err()].into_iter().flatten().collect();
        match removed {
            Ok(failed) => errors.extend(failed.into_iter().map(cgroup_error)),
            Err(error) => errors.push(error),
        }
        // The directory goes last: as long as it is there the container is observed and removed again.
        if errors.is_empty() {
            match tokio::fs::remove_dir_all(&dir).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => errors.push(step(format!("remove `{}`", dir.display()))(error)),
                _ => {}
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(RuntimeError::Several(errors)),
        }
    }
}

fn apply(cgroup: &ContainerCgroup, resources: &Resources) -> Result<(), RuntimeError> {
    cgroup.apply(resources).map_err(cgroup_error)
}

fn cgroup_error(error: gantry_sys::cgroup::CgroupError) -> RuntimeError {
    RuntimeError::Step { step: error.step, source: error.source }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, RuntimeError> {
    serde_json::to_vec(value).map_err(|error| step("encode a request to the shim")(error.into()))
}

fn unexpected(uid: &ContainerUid, answer: &Answer) -> RuntimeError {
    RuntimeError::ShimLost { uid: uid.clone(), reason: format!("it answered out of turn: {answer:?}") }
}

/// A shim that did not come up has said why in its file.
fn with_shim_log(dir: &Path, error: RuntimeError) -> RuntimeError {
    let said = std::fs::read_to_string(dir.join(files::LOG)).unwrap_or_default();
    match (said.lines().last(), error) {
        (Some(line), RuntimeError::ShimLost { uid, .. }) => RuntimeError::ShimLost { uid, reason: line.to_owned() },
        (_, error) => error,
    }
}

/// Runs blocking work on its own thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| step("run blocking work")(io::Error::other(error)))?
}

impl Runtime for ShimRuntime {
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        self.shared.observe().boxed()
    }

    fn inspect<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<Option<Observed>, RuntimeError>> {
        self.shared.inspect(uid).boxed()
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.shared.events.subscribe()
    }

    fn ensure_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, RuntimeError>> {
        self.shared.ensure_sandbox(spec).boxed()
    }

    fn start<'a>(&'a self, uid: &'a ContainerUid, bundle: &'a Bundle) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        self.shared.start(uid, bundle).boxed()
    }

    fn signal<'a>(&'a self, uid: &'a ContainerUid, signal: i32, all: bool) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.shared.signal(uid, signal, all).boxed()
    }

    fn update<'a>(&'a self, uid: &'a ContainerUid, limits: &'a Limits) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.shared.update(uid, limits).boxed()
    }

    fn set_record<'a>(&'a self, uid: &'a ContainerUid, record: &'a serde_json::Value) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.shared.set_record(uid, record).boxed()
    }

    fn exec<'a>(&'a self, uid: &'a ContainerUid, exec: ExecSpec) -> BoxFuture<'a, Result<ExecHandle, RuntimeError>> {
        self.shared.exec(uid, exec).boxed()
    }

    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.shared.remove(uid).boxed()
    }
}

#[cfg(test)]
mod tests;
