//! Processes: one shim per container that holds its namespaces, stdio, log and exit; the OCI spec it is made from; its cgroup.
//!
//! [`Runtime`] is the contract; `shim` drives the real one, `memory` is its twin for simulations.
//!
//! # How a container comes and goes
//!
//! 1. [`Runtime::ensure_sandbox`]: the shim is up, holds the user and network namespace; the network namespace is handed
//!    back as a descriptor so that links and addresses can be made in it.
//! 2. [`Runtime::start`]: rootfs, mounts, cgroup limits, capabilities, seccomp, exec. The record is kept beside the shim.
//! 3. The process ends: [`RuntimeEvent::Exited`], within milliseconds. The shim stays, so that a restart ([`Runtime::start`]
//!    again) keeps network namespace, addresses and ports.
//! 4. [`Runtime::remove`]: every process, the shim, the cgroups and the run directory are gone. Idempotent.
//!
//! Nothing here waits for a container: every call has a time limit, and one sick shim slows no other call.

pub mod defaults;
pub mod memory;
pub mod seccomp;
pub mod shim;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use self::shim::probe;
use crate::ids::ContainerUid;
use crate::snapshot::Rootfs;

/// Makes processes and supervises them.
pub trait Runtime: Send + Sync + 'static {
    /// Everything of this instance that the host holds: shims that answer, shims that do not, and leftovers of dead ones.
    ///
    /// Reads the kernel and the shims, never memory alone. Called once at start and whenever in doubt.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>>;

    /// One container of this instance, `None` when nothing of it is on the host.
    fn inspect<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<Option<Observed>, RuntimeError>>;

    /// Exits and losses from now on. A receiver that lags must call [`Runtime::observe`].
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Ensures that the shim and its namespaces are there. Idempotent: an existing sandbox is returned as it is.
    fn ensure_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, RuntimeError>>;

    /// Starts the container's process in its sandbox. Returns once it has been exec'd.
    ///
    /// # Errors
    /// [`RuntimeError::CommandNotFound`] and [`RuntimeError::CommandNotExecutable`] when the image lacks the program;
    /// [`RuntimeError::AlreadyRunning`] when it runs.
    fn start<'a>(&'a self, uid: &'a ContainerUid, bundle: &'a Bundle) -> BoxFuture<'a, Result<Started, RuntimeError>>;

    /// Sends a signal to the container's first process, or to all of them. Succeeds when it has ended already.
    fn signal<'a>(&'a self, uid: &'a ContainerUid, signal: i32, all: bool) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Changes the limits of a running container.
    fn update<'a>(&'a self, uid: &'a ContainerUid, limits: &'a Limits) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Replaces the opaque record kept beside the shim, atomically.
    fn set_record<'a>(&'a self, uid: &'a ContainerUid, record: &'a serde_json::Value) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Runs a further process inside a running container, with the container's own restrictions. Returns once it has been exec'd.
    fn exec<'a>(&'a self, uid: &'a ContainerUid, exec: ExecSpec) -> BoxFuture<'a, Result<ExecHandle, RuntimeError>>;

    /// Kills every process, ends the shim, removes cgroups and run directory. Idempotent; goes on after an error and reports all of them.
    fn remove<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), RuntimeError>>;
}

/// What the shim is made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The container.
    pub uid: ContainerUid,
    /// Host name in the UTS namespace.
    pub hostname: String,
    /// Range of host ids given to the container; `None`: the host's user namespace.
    pub user_namespace: Option<IdRange>,
    /// False: the host's network namespace.
    pub own_network: bool,
    /// Where its output goes and how much of it is kept.
    pub log: LogTarget,
    /// Opaque to the runtime; see [`Observed::record`].
    pub record: serde_json::Value,
}

/// Host ids `first .. first + count` stand for container ids `0 .. count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First host id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Where a container's output goes: `<dir>/current.log`, rotated to `<dir>/<n>.log`, lines as CRI writes them
/// (`<RFC 3339 time, nanoseconds> stdout|stderr F|P <text>`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogTarget {
    /// Directory of this container's logs; survives the sandbox.
    pub dir: PathBuf,
    /// Size at which the current file is rotated, in bytes.
    pub max_size_bytes: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

/// A sandbox that is up.
#[derive(Debug)]
pub struct Sandbox {
    /// The network namespace, `None` when it is the host's.
    pub network_namespace: Option<OwnedFd>,
    /// True when this call made it.
    pub created: bool,
}

/// All that is needed to make the container's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// OCI runtime spec. `root.path` is ignored in favour of `rootfs`; `linux.resources` carries the limits;
    /// bind mounts with `uidMappings` are ID-mapped (OCI runtime spec, "Mounts").
    pub spec: oci_spec::runtime::Spec,
    /// Layers and writable layer of the root file system.
    pub rootfs: Rootfs,
    /// Files made inside by the engine: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub files: Vec<EtcFile>,
    /// `user` as declared (`name`, `uid`, `name:group`, `uid:gid`), looked up in the image's own files without leaving the root.
    pub user: Option<String>,
    /// Runs the carried init as PID 1.
    pub init: bool,
    /// Opaque to the runtime; see [`Observed::record`].
    pub record: serde_json::Value,
}

/// A small file that the engine provides inside a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EtcFile {
    /// Absolute path inside.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// Limits that can be changed while it runs; absent means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time, in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id as the host sees it.
    pub pid: i32,
    /// When it was exec'd, in nanoseconds since the Unix epoch.
    pub at_unix_nanos: i64,
}

/// What is on the host of one container.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The container.
    pub uid: ContainerUid,
    /// What its shim says, or that it says nothing.
    pub state: ObservedState,
    /// How often its process was started in this sandbox.
    pub starts: u32,
    /// What the agent asked to be kept beside the shim: the spec it was started from.
    pub record: serde_json::Value,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    /// The sandbox is up; nothing was started in it yet.
    Created,
    /// The process runs.
    Running(Started),
    /// The process ended; the sandbox is up.
    Exited(Exit),
    /// The shim is gone or does not answer within the time limit; only [`Runtime::remove`] helps.
    Lost {
        /// Why.
        reason: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of its cgroup for want of memory.
    pub oom_killed: bool,
    /// When it ended, in nanoseconds since the Unix epoch.
    pub at_unix_nanos: i64,
    /// When that run had started.
    pub started: Started,
}

/// Something happened to a container.
#[derive(Debug, Clone)]
pub enum RuntimeEvent {
    /// Its first process ended.
    Exited {
        /// The container.
        uid: ContainerUid,
        /// How.
        exit: Exit,
    },
    /// Its shim is gone.
    Lost {
        /// The container.
        uid: ContainerUid,
    },
}

/// A further process inside a container.
#[derive(Debug)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's own.
    pub env: Vec<String>,
    /// Default: the container's.
    pub cwd: Option<String>,
    /// Default: the container's.
    pub user: Option<String>,
    /// Its standard input; `None`: empty.
    pub stdin: Option<OwnedFd>,
    /// Its standard output; `None`: discarded.
    pub stdout: Option<OwnedFd>,
    /// Its standard error; `None`: discarded.
    pub stderr: Option<OwnedFd>,
}

/// A further process that was started.
pub struct ExecHandle {
    /// Its process id as the host sees it.
    pub pid: i32,
    /// Resolves when it has ended. Dropping it leaves the process alone.
    pub exit: BoxFuture<'static, Result<Exit, RuntimeError>>,
    /// A descriptor of the process, so that a signal can mean no other.
    pub pidfd: OwnedFd,
}

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The image has no such program (exit code 127).
    #[error("command `{command}` not found in the image")]
    CommandNotFound {
        /// `args[0]`.
        command: String,
    },
    /// The program cannot be executed (exit code 126).
    #[error("command `{command}` cannot be executed: {reason}")]
    CommandNotExecutable {
        /// `args[0]`.
        command: String,
        /// What the kernel said.
        reason: String,
    },
    /// `user` names nobody in the image.
    #[error("user `{user}` is not in the image's /etc/passwd or /etc/group")]
    UserNotFound {
        /// As declared.
        user: String,
    },
    /// The process runs already.
    #[error("container `{uid}` runs already")]
    AlreadyRunning {
        /// The container.
        uid: ContainerUid,
    },
    /// No sandbox, or nothing runs in it.
    #[error("container `{uid}` does not run")]
    NotRunning {
        /// The container.
        uid: ContainerUid,
    },
    /// Something that was asked for cannot be done on this host; the message names it and the remedy.
    #[error("{what} cannot be applied: {reason}")]
    Unsupported {
        /// The field or option.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The shim did not answer in time or is gone.
    #[error("the shim of container `{uid}` does not answer: {reason}")]
    ShimLost {
        /// The container.
        uid: ContainerUid,
        /// Why.
        reason: String,
    },
    /// A step of making or removing it failed.
    #[error("{step}")]
    Step {
        /// What was being done, and to what.
        step: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Several steps failed; removal went on after each.
    #[error("{} steps failed, the first: {}", .0.len(), .0.first().map_or(String::new(), ToString::to_string))]
    Several(Vec<RuntimeError>),
}
