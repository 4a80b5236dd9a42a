//! What the agent and a shim say to each other.
//!
//! A message is a [`Header`] of eight bytes and a JSON body; descriptors travel with the first byte of the header (SCM_RIGHTS).
//! A connection carries one request and its answers: one for most, two for [`Operation::Exec`] (started, ended), any number for
//! [`Operation::Subscribe`]. Both sides refuse bodies above [`MAX_BODY`]. A shim answers every operation of an older version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version that this code speaks.
pub const VERSION: u16 = 1;

/// Longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who are you? Answer: [`Answer::State`] with the shim's pidfd and, when it has one of its own, the network namespace.
    Hello,
    /// Ends of the container from now on. Answer: [`Answer::State`] at once and at every change.
    Subscribe,
    /// Start the container; body: [`Start`]. Answer: [`Answer::Started`] once it has been exec'd.
    Start,
    /// Send a signal to the container's first process; body: [`Signal`]. Answer: [`Answer::Done`].
    Signal,
    /// Start a further process; body: [`Exec`], descriptors for what its `stdio` names. Answers: [`Answer::Started`] with its pidfd,
    /// then [`Answer::Exited`].
    Exec,
    /// Write out what is left of the output and end. Answer: [`Answer::Done`].
    Shutdown,
    /// An answer.
    Answer,
}

impl Operation {
    fn code(self) -> u16 {
        match self {
            Self::Hello => 1,
            Self::Subscribe => 2,
            Self::Start => 3,
            Self::Signal => 4,
            Self::Exec => 5,
            Self::Shutdown => 6,
            Self::Answer => 100,
        }
    }

    fn from_code(code: u16) -> Option<Self> {
        let all = [Self::Hello, Self::Subscribe, Self::Start, Self::Signal, Self::Exec, Self::Shutdown, Self::Answer];
        all.into_iter().find(|operation| operation.code() == code)
    }
}

/// What precedes a body: its length (u32), the version (u16), the operation (u16), all little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub length: usize,
    /// What is asked.
    pub operation: Operation,
}

impl Header {
    /// `None` for an unknown operation, a newer version or a body that is too long.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [a, b, c, d, v0, v1, o0, o1] = bytes;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let operation = Operation::from_code(u16::from_le_bytes([o0, o1]))?;
        (length <= MAX_BODY && u16::from_le_bytes([v0, v1]) <= VERSION).then_some(Self { length, operation })
    }
}

/// A whole message, `None` when the body is too long.
pub fn message(operation: Operation, body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(operation.code().to_le_bytes());
    bytes.extend(body);
    Some(bytes)
}

/// What a sandbox is made with: the file `sandbox.json`, written by the agent before the shim is spawned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxFile {
    /// The container's uid: names its cgroups.
    pub uid: String,
    /// Host name in the UTS namespace.
    pub hostname: String,
    /// Host ids of the container; `None`: the host's user namespace.
    pub user_namespace: Option<IdRange>,
    /// False: the host's network namespace.
    pub own_network: bool,
    /// Directory of its logs.
    pub log_dir: PathBuf,
    /// Size at which the current log file is rotated, in bytes.
    pub log_max_size_bytes: u64,
    /// Log files kept.
    pub log_max_files: u32,
}

/// Host ids `first .. first + count` stand for container ids `0 .. count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First host id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// All that is needed to make the container's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// OCI runtime spec.
    pub spec: oci_spec::runtime::Spec,
    /// Layer directories, topmost first.
    pub lowers: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs' work directory.
    pub work: PathBuf,
    /// Path inside and whole text of files made by the engine.
    pub files: Vec<(String, String)>,
    /// `user` as declared, looked up in the image's own files.
    pub user: Option<String>,
    /// Runs a reaper as PID 1.
    pub init: bool,
}

/// A signal for the container's first process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Signal {
    /// Its number.
    pub signal: i32,
}

/// A further process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's own.
    pub env: Vec<String>,
    /// Default: the container's.
    pub cwd: Option<String>,
    /// Default: the container's.
    pub user: Option<String>,
    /// Which of standard input, output and error come with the message, in this order; the others are `/dev/null`.
    pub stdio: [bool; 3],
}

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id as the host sees it.
    pub pid: i32,
    /// When it was exec'd, in nanoseconds since the Unix epoch.
    pub at_unix_nanos: i64,
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

/// What a container is doing: the file `state.json`, and part of every [`Answer::State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Process id of the shim.
    pub shim_pid: i32,
    /// How often the container was started.
    pub starts: u32,
    /// What it does.
    pub phase: Phase,
}

/// See [`State::phase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing was started yet.
    Created,
    /// It runs.
    Running(Started),
    /// It ended.
    Exited(Exit),
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// What the container is doing.
    State(State),
    /// The process was exec'd.
    Started(Started),
    /// The process ended.
    Exited(Exit),
    /// It was done.
    Done,
    /// It could not be done.
    Failed(Failure),
}

/// Why something could not be done, as far as a caller can do something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The image has no such program.
    #[error("command `{command}` not found")]
    CommandNotFound {
        /// `args[0]`.
        command: String,
    },
    /// The program cannot be executed.
    #[error("command `{command}` cannot be executed: {reason}")]
    CommandNotExecutable {
        /// `args[0]`.
        command: String,
        /// What the kernel said.
        reason: String,
    },
    /// `user` names nobody in the image.
    #[error("user `{user}` not found")]
    UserNotFound {
        /// As declared.
        user: String,
    },
    /// It runs already.
    #[error("the container runs already")]
    AlreadyRunning,
    /// It does not run.
    #[error("the container does not run")]
    NotRunning,
    /// It cannot be done on this host.
    #[error("{what} cannot be applied: {reason}")]
    Unsupported {
        /// The field or option.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A step failed.
    #[error("{step}: errno {errno}")]
    Step {
        /// What was being done, and to what.
        step: String,
        /// The kernel's answer; 0 when it was not the kernel's.
        errno: i32,
    },
}

/// Names a step in an I/O error.
pub(crate) fn step(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let step = what.into();
    move |error| match error.raw_os_error() {
        Some(errno) => Failure::Step { step, errno },
        None => Failure::Step { step: format!("{step}: {error}"), errno: 0 },
    }
}

/// Names a step in an errno.
pub(crate) fn errno_step(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Failure {
    let step = what.into();
    move |errno| Failure::Step { step, errno: errno as i32 }
}

impl From<gantry_sys::cgroup::CgroupError> for Failure {
    fn from(error: gantry_sys::cgroup::CgroupError) -> Self {
        step(error.step)(error.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire_and_bad_ones_are_refused() {
        let bytes = message(Operation::Exec, b"{}").unwrap();
        let (head, body) = bytes.split_at(HEADER_LEN);
        let head: [u8; HEADER_LEN] = head.try_into().unwrap();
        assert_eq!(Header::parse(head), Some(Header { length: 2, operation: Operation::Exec }));
        assert_eq!(body, b"{}");
        let mut newer = head;
        newer[4] = 2;
        assert_eq!(Header::parse(newer), None);
        let mut unknown = head;
        unknown[6] = 77;
        assert_eq!(Header::parse(unknown), None);
        let mut long = head;
        long[3] = 0xff;
        assert_eq!(Header::parse(long), None);
        assert!(message(Operation::Start, &vec![0; MAX_BODY + 1]).is_none());
    }
}
