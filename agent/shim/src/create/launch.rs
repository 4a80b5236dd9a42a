//! The last steps before exec: identity, restrictions, standard streams, the program.
//!
//! Order matters. The bounding set needs CAP_SETPCAP, ids need CAP_SETUID and CAP_SETGID, a seccomp filter needs CAP_SYS_ADMIN
//! unless no_new_privs is set; so the filter comes before capabilities go, or after them with no_new_privs.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_sys::fd::cloexec_from;
use gantry_sys::init::{reset_signals, serve_as_init};
use gantry_sys::process::{SingleThread, exec, limit_bounding_set, new_session_keyring, set_capabilities};
use gantry_sys::seccomp::Program;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Capabilities, PosixRlimitType, Process, Spec};

use super::{Report, identity, inside, report, seccomp};
use crate::protocol::{Failure, errno_step, step};

/// Docker's, for an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known before the namespaces are entered.
pub(super) struct Launch<'a> {
    process: &'a Process,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: Option<&'a str>,
    init: bool,
    filter: Option<Program>,
}

/// The capability sets, bit n for capability n.
#[derive(Debug, Clone, Copy, Default)]
struct Sets {
    bounding: u64,
    permitted: u64,
    effective: u64,
    inheritable: u64,
}

impl<'a> Launch<'a> {
    /// Checks the spec and compiles its seccomp policy.
    pub(super) fn new(spec: &'a Spec, user: Option<&'a str>, init: bool) -> Result<Self, Failure> {
        let process = spec.process().as_ref().ok_or_else(|| invalid("the spec has no process"))?;
        let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()).map(seccomp::compile).transpose()?;
        Ok(Self {
            process,
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().display().to_string(),
            user,
            init,
            filter,
        })
    }

    /// The same restrictions for another program.
    pub(super) fn with_program(mut self, args: Vec<String>, env: Vec<String>, cwd: Option<String>) -> Self {
        self.args = args;
        for line in env {
            let name = line.split('=').next().unwrap_or_default().to_owned();
            self.env.retain(|old| old.split('=').next() != Some(name.as_str()));
            self.env.push(line);
        }
        self.cwd = cwd.unwrap_or(self.cwd);
        self.init = false;
        self
    }

    /// With the host's rights: hard limits that lie above our own, and the OOM score. Never above what the host lets us.
    pub(super) fn raise_limits(&self) -> Result<(), Failure> {
        for limit in self.process.rlimits().iter().flatten() {
            let (resource, name) = resource(limit.typ());
            let (soft, hard) = getrlimit(resource).map_err(errno_step(format!("read the limit {name}")))?;
            if limit.hard() <= hard {
                continue;
            }
            setrlimit(resource, soft, limit.hard()).map_err(|_| Failure::Unsupported {
                what: format!("ulimit {name} = {}", limit.hard()),
                reason: format!("the engine's own hard limit is {hard} and it lacks CAP_SYS_RESOURCE; ask for less"),
            })?;
        }
        if let Some(score) = self.process.oom_score_adj() {
            std::fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(step(format!("set the OOM score to {score}")))?;
        }
        Ok(())
    }

    /// Becomes the program. Returns only when that failed.
    pub(super) fn run(self, single: &SingleThread, root: &OwnedFd, stdio: [OwnedFd; 3], pipe: &mut io::PipeWriter) -> Failure {
        match self.restrict(root, stdio) {
            Err(failure) => failure,
            Ok(()) if self.init => serve_as_init(single, || {
                let Err(failure) = self.exec();
                report(pipe, &Report::Failed(failure));
                127
            }),
            Ok(()) => {
                let Err(failure) = self.exec();
                failure
            }
        }
    }

    fn restrict(&self, root: &OwnedFd, stdio: [OwnedFd; 3]) -> Result<(), Failure> {
        let who = identity::find(root, self.user, Some(self.process))?;
        if self.args.is_empty() {
            return Err(invalid("the spec has no program"));
        }
        inside::ensure_directory(root, Path::new(&self.cwd))?;
        self.take_streams(stdio, who.uid, who.gid)?;
        self.set_limits()?;
        new_session_keyring();
        let sets = self.capability_sets();
        limit_bounding_set(sets.bounding).map_err(step("limit the bounding set"))?;
        let groups: Vec<Gid> = who.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        nix::unistd::setgroups(&groups).map_err(errno_step("set the groups"))?;
        let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
        nix::unistd::setresgid(gid, gid, gid).map_err(errno_step(format!("become group {gid}")))?;
        nix::sys::prctl::set_keepcaps(true).map_err(errno_step("keep capabilities"))?;
        nix::unistd::setresuid(uid, uid, uid).map_err(errno_step(format!("become user {uid}")))?;
        self.enter_cwd()?;
        let no_new_privileges = self.process.no_new_privileges() == Some(true);
        if let (Some(filter), false) = (&self.filter, no_new_privileges) {
            // Permitted survived the change of ids, effective did not.
            set_capabilities(sets.permitted | SYS_ADMIN, sets.permitted | SYS_ADMIN, 0).map_err(step("prepare for the seccomp filter"))?;
            cloexec_from(3).map_err(step("close what is open"))?;
            filter.load().map_err(step("load the seccomp filter"))?;
            return self.drop_capabilities(sets, uid);
        }
        cloexec_from(3).map_err(step("close what is open"))?;
        self.drop_capabilities(sets, uid)?;
        if no_new_privileges {
            nix::sys::prctl::set_no_new_privs().map_err(errno_step("set no_new_privs"))?;
        }
        match &self.filter {
            Some(filter) => filter.load().map_err(step("load the seccomp filter")),
            None => Ok(()),
        }
    }

    /// What a user other than root holds at exec is gone after it anyway: ambient is empty.
    fn drop_capabilities(&self, sets: Sets, uid: Uid) -> Result<(), Failure> {
        let effective = if uid.is_root() { sets.effective } else { 0 };
        set_capabilities(effective, sets.permitted, sets.inheritable).map_err(step("set the capabilities"))
    }

    fn capability_sets(&self) -> Sets {
        let Some(sets) = self.process.capabilities() else { return Sets::default() };
        let bits = |set: &Option<Capabilities>| set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability));
        Sets {
            bounding: bits(sets.bounding()),
            permitted: bits(sets.permitted()),
            effective: bits(sets.effective()),
            inheritable: bits(sets.inheritable()),
        }
    }

    /// The streams belong to the user, who may open them again through /proc/self/fd.
    fn take_streams(&self, stdio: [OwnedFd; 3], uid: u32, gid: u32) -> Result<(), Failure> {
        let [stdin, stdout, stderr] = stdio;
        for stream in [&stdin, &stdout, &stderr] {
            let kind = nix::sys::stat::fstat(stream).map_or(0, |stat| stat.st_mode & libc::S_IFMT);
            if kind == libc::S_IFIFO {
                // Streams of an exec come from elsewhere and may not be ours to give.
                let _ = nix::unistd::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            }
        }
        nix::unistd::dup2_stdin(&stdin).map_err(errno_step("set standard input"))?;
        nix::unistd::dup2_stdout(&stdout).map_err(errno_step("set standard output"))?;
        nix::unistd::dup2_stderr(&stderr).map_err(errno_step("set standard error"))
    }

    fn set_limits(&self) -> Result<(), Failure> {
        for limit in self.process.rlimits().iter().flatten() {
            let (resource, name) = resource(limit.typ());
            setrlimit(resource, limit.soft(), limit.hard()).map_err(errno_step(format!("set the limit {name}")))?;
        }
        Ok(())
    }

    /// Entered as the user, then checked to be inside: a handle of the host could lie behind /proc/self/fd (CVE-2024-21626).
    fn enter_cwd(&self) -> Result<(), Failure> {
        nix::unistd::chdir(self.cwd.as_str()).map_err(errno_step(format!("enter the working directory `{}`", self.cwd)))?;
        match nix::unistd::getcwd() {
            Ok(path) if path.is_absolute() => Ok(()),
            _ => Err(invalid(&format!("the working directory `{}` is outside of the root", self.cwd))),
        }
    }

    fn exec(&self) -> Result<Infallible, Failure> {
        reset_signals();
        let command = self.args.first().cloned().unwrap_or_default();
        let text = |words: &[String]| words.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>();
        let (Ok(args), Ok(env)) = (text(&self.args), text(&self.env)) else {
            return Err(invalid("an argument or variable holds a NUL byte"));
        };
        let mut refused = None;
        for path in self.candidates(&command) {
            let Ok(program) = CString::new(path.as_str()) else { continue };
            let Err(error) = exec(&program, &args, &env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if !Path::new(&path).exists() => {}
                Some(libc::ENOENT) => refused = Some("its interpreter is missing".to_owned()),
                Some(errno) => {
                    let why = if errno == libc::ENOEXEC { "its format is not known here" } else { Errno::from_raw(errno).desc() };
                    refused = refused.or_else(|| Some(why.to_owned()));
                }
                None => {}
            }
        }
        Err(match refused {
            Some(reason) => Failure::CommandNotExecutable { command, reason },
            None => Failure::CommandNotFound { command },
        })
    }

    /// Where the program may be: as it is with a slash in it, else in each directory of the container's own PATH.
    fn candidates(&self, command: &str) -> Vec<String> {
        if command.is_empty() {
            return Vec::new();
        }
        if command.contains('/') {
            return vec![command.to_owned()];
        }
        let path = self.env.iter().find_map(|line| line.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        path.split(':').map(|dir| if dir.is_empty() { format!("./{command}") } else { format!("{dir}/{command}") }).collect()
    }
}

fn invalid(what: &str) -> Failure {
    Failure::Step { step: what.to_owned(), errno: libc::EINVAL }
}

/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// Exit code and signal as shells and Docker report them.
pub(crate) fn exit_status(status: WaitStatus) -> Option<(i32, i32, Option<i32>)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid.as_raw(), code, None)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid.as_raw(), 128 + signal as i32, Some(signal as i32))),
        _ => None,
    }
}

fn resource(kind: PosixRlimitType) -> (Resource, &'static str) {
    match kind {
        PosixRlimitType::RlimitAs => (Resource::RLIMIT_AS, "as"),
        PosixRlimitType::RlimitCore => (Resource::RLIMIT_CORE, "core"),
        PosixRlimitType::RlimitCpu => (Resource::RLIMIT_CPU, "cpu"),
        PosixRlimitType::RlimitData => (Resource::RLIMIT_DATA, "data"),
        PosixRlimitType::RlimitFsize => (Resource::RLIMIT_FSIZE, "fsize"),
        PosixRlimitType::RlimitLocks => (Resource::RLIMIT_LOCKS, "locks"),
        PosixRlimitType::RlimitMemlock => (Resource::RLIMIT_MEMLOCK, "memlock"),
        PosixRlimitType::RlimitMsgqueue => (Resource::RLIMIT_MSGQUEUE, "msgqueue"),
        PosixRlimitType::RlimitNice => (Resource::RLIMIT_NICE, "nice"),
        PosixRlimitType::RlimitNofile => (Resource::RLIMIT_NOFILE, "nofile"),
        PosixRlimitType::RlimitNproc => (Resource::RLIMIT_NPROC, "nproc"),
        PosixRlimitType::RlimitRss => (Resource::RLIMIT_RSS, "rss"),
        PosixRlimitType::RlimitRtprio => (Resource::RLIMIT_RTPRIO, "rtprio"),
        PosixRlimitType::RlimitRttime => (Resource::RLIMIT_RTTIME, "rttime"),
        PosixRlimitType::RlimitSigpending => (Resource::RLIMIT_SIGPENDING, "sigpending"),
        PosixRlimitType::RlimitStack => (Resource::RLIMIT_STACK, "stack"),
    }
}

/// Numbers of `linux/capability.h`.
fn number(capability: oci_spec::runtime::Capability) -> u32 {
    use oci_spec::runtime::Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}
