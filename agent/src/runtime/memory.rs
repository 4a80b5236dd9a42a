//! The runtime's twin in memory: processes are scripts on tokio's clock, so that simulations are deterministic.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

use super::{
    Bundle, ExecHandle, ExecSpec, Exit, Limits, Observed, ObservedState, Runtime, RuntimeError, RuntimeEvent, Sandbox, SandboxSpec, Started,
};
use crate::ids::ContainerUid;

/// Events that a slow receiver may lag behind.
const EVENTS: usize = 4096;

/// What the process of a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// Ends by itself after this time with this code; `None`: runs until it is killed.
    pub ends: Option<(Duration, i32)>,
    /// How long it takes to end after SIGTERM; `None`: it ignores all but SIGKILL.
    pub obeys_term_after: Option<Duration>,
    /// There is no such program.
    pub missing: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self { ends: None, obeys_term_after: Some(Duration::ZERO), missing: false }
    }
}

#[derive(Debug)]
struct Entry {
    state: ObservedState,
    starts: u32,
    record: serde_json::Value,
    script: Script,
}

#[derive(Debug)]
struct World {
    containers: Mutex<BTreeMap<ContainerUid, Entry>>,
    scripts: Mutex<HashMap<String, Script>>,
    events: broadcast::Sender<RuntimeEvent>,
    began: tokio::time::Instant,
}

/// Containers that exist in memory only. Clones share them, as two engines one after the other share a host.
#[derive(Debug, Clone)]
pub struct MemoryRuntime {
    world: Arc<World>,
}

impl Default for MemoryRuntime {
    fn default() -> Self {
        Self::new()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryRuntime {
    /// Nothing runs. Must be called on a tokio runtime, whose clock it keeps.
    pub fn new() -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (containers, scripts) = (Mutex::new(BTreeMap::new()), Mutex::new(HashMap::new()));
        Self { world: Arc::new(World { containers, scripts, events, began: tokio::time::Instant::now() }) }
    }

    /// What programs of this name (`args[0]`) do from now on; others run until they are told to end.
    pub fn script(&self, program: &str, script: Script) {
        locked(&self.world.scripts).insert(program.to_owned(), script);
    }

    /// Ends a container's process as a crash would. Nothing happens when it does not run.
    pub fn crash(&self, uid: &ContainerUid, code: i32) {
        let running = locked(&self.world.containers).get(uid).map(|entry| entry.starts);
        if let Some(starts) = running {
            self.world.end(uid, starts, code, None);
        }
    }

    /// Ends a container's shim.
    pub fn lose(&self, uid: &ContainerUid) {
        if let Some(entry) = locked(&self.world.containers).get_mut(uid) {
            entry.state = ObservedState::Lost { reason: "the shim was killed".to_owned() };
            let _ = self.world.events.send(RuntimeEvent::Lost { uid: uid.clone() });
        }
    }
}

impl World {
    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// Ends the run with this number, if it is still the one that runs.
    fn end(&self, uid: &ContainerUid, starts: u32, code: i32, signal: Option<i32>) {
        let mut containers = locked(&self.containers);
        let Some(entry) = containers.get_mut(uid).filter(|entry| entry.starts == starts) else { return };
        let ObservedState::Running(started) = entry.state else { return };
        let exit = Exit { code, signal, oom_killed: false, at_unix_nanos: self.now(), started };
        entry.state = ObservedState::Exited(exit);
        let _ = self.events.send(RuntimeEvent::Exited { uid: uid.clone(), exit });
    }

    /// A timer holds the world weakly and ends by itself: the run that it means may be over by then.
    fn end_later(self: &Arc<Self>, uid: &ContainerUid, starts: u32, after: Duration, code: i32, signal: Option<i32>) {
        let (world, uid) = (Arc::downgrade(self), uid.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(world) = world.upgrade() {
                world.end(&uid, starts, code, signal);
            }
        });
    }

    fn start(self: &Arc<Self>, uid: &ContainerUid, bundle: &Bundle) -> Result<Started, RuntimeError> {
        let process = bundle.spec.process().as_ref();
        let program = process.and_then(|process| process.args().as_ref()?.first().cloned()).unwrap_or_default();
        let script = locked(&self.scripts).get(&program).copied().unwrap_or_default();
        let mut containers = locked(&self.containers);
        let entry = containers.get_mut(uid).ok_or_else(|| RuntimeError::NotRunning { uid: uid.clone() })?;
        if matches!(entry.state, ObservedState::Running(_)) {
            return Err(RuntimeError::AlreadyRunning { uid: uid.clone() });
        }
        entry.record = bundle.record.clone();
        if script.missing {
            return Err(RuntimeError::CommandNotFound { command: program });
        }
        entry.starts += 1;
        entry.script = script;
        let started = Started { pid: i32::try_from(entry.starts).unwrap_or(i32::MAX), at_unix_nanos: self.now() };
        entry.state = ObservedState::Running(started);
        if let Some((after, code)) = script.ends {
            self.end_later(uid, entry.starts, after, code, None);
        }
        Ok(started)
    }

    fn signal(self: &Arc<Self>, uid: &ContainerUid, signal: i32) -> Result<(), RuntimeError> {
        let found = locked(&self.containers).get(uid).map(|entry| (entry.starts, entry.script));
        let (starts, script) = found.ok_or_else(|| RuntimeError::NotRunning { uid: uid.clone() })?;
        match (signal, script.obeys_term_after) {
            (nix::libc::SIGKILL, _) => self.end(uid, starts, 128 + signal, Some(signal)),
            (nix::libc::SIGTERM, Some(after)) => self.end_later(uid, starts, after, 128 + signal, Some(signal)),
            _ => {}
        }
        Ok(())
    }

    fn inspect(&self, uid: &ContainerUid) -> Option<Observed> {
        let containers = locked(&self.containers);
        let entry = containers.get(uid)?;
        Some(Observed { uid: uid.clone(), state: entry.state.clone(), starts: entry.starts, record: entry.record.clone() })
    }

    fn ensure_sandbox(&self, spec: &SandboxSpec) -> Sandbox {
        let mut containers = locked(&self.containers);
        let created = !containers.contains_key(&spec.uid);
        let fresh = || Entry { state: ObservedState::Created, starts: 0, record: spec.record.clone(), script: Script::default() };
        containers.entry(spec.uid.clone()).or_insert_with(fresh);
        // Any descriptor will do: the network's twin does not look at it.
        let network_namespace = if spec.own_network { std::fs::File::open("/dev/null").ok().map(Into::into) } else { None };
        Sandbox { network_namespace, created }
    }

    fn set_record(&self, uid: &ContainerUid, record: &serde_json::Value) -> Result<(), RuntimeError> {
        let mut containers = locked(&self.containers);
        let entry = containers.get_mut(uid).ok_or_else(|| RuntimeError::NotRunning { uid: uid.clone() })?;
        entry.record = record.clone();
        Ok(())
    }
}

impl Runtime for MemoryRuntime {
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        let uids: Vec<ContainerUid> = locked(&self.world.containers).keys().cloned().collect();
        async move { Ok(uids.iter().filter_map(|uid| self.world.inspect(uid)).collect()) }.boxed()
    }

    fn inspect<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<Option<Observed>, RuntimeError>> {
        async move { Ok(self.world.inspect(uid)) }.boxed()
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.world.events.subscribe()
    }

    fn ensure_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, RuntimeError>> {
        async move { Ok(self.world.ensure_sandbox(spec)) }.boxed()
    }

    fn start<'a>(&'a self, uid: &'a ContainerUid, bundle: &'a Bundle) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        async move { self.world.start(uid, bundle) }.boxed()
    }

    fn signal<'a>(&'a self, uid: &'a ContainerUid, signal: i32, _all: bool) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move { self.world.signal(uid, signal) }.boxed()
    }

    fn update<'a>(&'a self, _uid: &'a ContainerUid, _limits: &'a Limits) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async { Ok(()) }.boxed()
    }

    fn set_record<'a>(&'a self, uid: &'a ContainerUid, record: &'a serde_json::Value) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move { self.world.set_record(uid, record) }.boxed()
    }

    fn exec<'a>(&'a self, _uid: &'a ContainerUid, _exec: ExecSpec) -> BoxFuture<'a, Result<ExecHandle, RuntimeError>> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        async { Err(RuntimeError::Step { step: "exec in a container that exists in memory only".to_owned(), source }) }.boxed()
    }

    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move {
            locked(&self.world.containers).remove(uid);
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_shim_is_told_and_removal_is_idempotent() {
        let runtime = MemoryRuntime::new();
        let uid = ContainerUid::new("one").unwrap();
        assert!(runtime.inspect(&uid).await.unwrap().is_none());
        runtime.world.containers.lock().unwrap().insert(
            uid.clone(),
            Entry {
                state: ObservedState::Running(Started { pid: 1, at_unix_nanos: 0 }),
                starts: 1,
                record: serde_json::Value::Null,
                script: Script { obeys_term_after: Some(Duration::from_secs(3)), ..Script::default() },
            },
        );
        let mut events = runtime.events();
        runtime.signal(&uid, nix::libc::SIGTERM, false).await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(events.recv().await.unwrap(), RuntimeEvent::Exited { exit, .. } if exit.code == 143));
        assert_eq!(before.elapsed().as_secs(), 3);
        runtime.lose(&uid);
        assert!(matches!(events.recv().await.unwrap(), RuntimeEvent::Lost { .. }));
        runtime.remove(&uid).await.unwrap();
        runtime.remove(&uid).await.unwrap();
        assert!(runtime.observe().await.unwrap().is_empty());
    }
}
