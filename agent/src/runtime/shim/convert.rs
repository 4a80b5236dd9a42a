//! Between the runtime's contract and the shim's protocol.

use std::io;

use gantry_shim::protocol::{self, Failure, Phase, SandboxFile, State};
use gantry_sys::cgroup::Resources;

use crate::ids::ContainerUid;
use crate::runtime::{Bundle, Exit, Limits, ObservedState, RuntimeError, SandboxSpec, Started};

/// The processor controller's period, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses quotas below 1 ms.
const MIN_CPU_QUOTA_US: u64 = 1_000;

pub(super) fn sandbox(spec: &SandboxSpec) -> SandboxFile {
    SandboxFile {
        uid: spec.uid.as_str().to_owned(),
        hostname: spec.hostname.clone(),
        user_namespace: spec.user_namespace.map(|range| protocol::IdRange { first: range.first, count: range.count }),
        own_network: spec.own_network,
        log_dir: spec.log.dir.clone(),
        log_max_size_bytes: spec.log.max_size_bytes,
        log_max_files: spec.log.max_files,
    }
}

pub(super) fn start(bundle: &Bundle) -> protocol::Start {
    protocol::Start {
        spec: bundle.spec.clone(),
        lowers: bundle.rootfs.lowers.clone(),
        upper: bundle.rootfs.upper.clone(),
        work: bundle.rootfs.work.clone(),
        files: bundle.files.iter().map(|file| (file.path.clone(), file.text.clone())).collect(),
        user: bundle.user.clone(),
        init: bundle.init,
    }
}

pub(super) fn started(started: protocol::Started) -> Started {
    Started { pid: started.pid, at_unix_nanos: started.at_unix_nanos }
}

pub(super) fn exit(exit: protocol::Exit) -> Exit {
    Exit {
        code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        at_unix_nanos: exit.at_unix_nanos,
        started: started(exit.started),
    }
}

pub(super) fn state(state: &State) -> ObservedState {
    match state.phase {
        Phase::Created => ObservedState::Created,
        Phase::Running(running) => ObservedState::Running(started(running)),
        Phase::Exited(ended) => ObservedState::Exited(exit(ended)),
    }
}

/// Absent means none: the limit is lifted.
pub(super) fn limits(limits: &Limits) -> Resources {
    let or_none = |value: Option<u64>| Some(value.map_or(-1, |value| i64::try_from(value).unwrap_or(i64::MAX)));
    let quota = limits.cpu_milli.map(|milli| (milli * CPU_PERIOD_US / 1000).max(MIN_CPU_QUOTA_US));
    Resources {
        cpu_quota_us: or_none(quota),
        cpu_period_us: Some(CPU_PERIOD_US),
        memory_bytes: or_none(limits.memory_bytes),
        pids: or_none(limits.pids),
        ..Resources::default()
    }
}

pub(super) fn failure(uid: &ContainerUid, failure: Failure) -> RuntimeError {
    match failure {
        Failure::CommandNotFound { command } => RuntimeError::CommandNotFound { command },
        Failure::CommandNotExecutable { command, reason } => RuntimeError::CommandNotExecutable { command, reason },
        Failure::UserNotFound { user } => RuntimeError::UserNotFound { user },
        Failure::AlreadyRunning => RuntimeError::AlreadyRunning { uid: uid.clone() },
        Failure::NotRunning => RuntimeError::NotRunning { uid: uid.clone() },
        Failure::Unsupported { what, reason } => RuntimeError::Unsupported { what, reason },
        Failure::Step { step, errno: 0 } => RuntimeError::Step { step, source: io::Error::other("the shim refused") },
        Failure::Step { step, errno } => RuntimeError::Step { step, source: io::Error::from_raw_os_error(errno) },
    }
}
