//! Making a container's process, in a short-lived copy of the shim.
//!
//! The *creator* has the host's privileges: it prepares every mount detached ([`rootfs`], [`mounts`]; on an older kernel by way of a
//! [`stage`]), enters the sandbox's namespaces, clones the container into its cgroup as a child of the shim, and ends. The clone, in its new namespaces, attaches
//! the mounts handle to handle ([`inside`]), takes on the user's identity and restrictions ([`identity`], [`launch`]) and execs.
//!
//! Both report on one pipe that closes at exec: [`Report`] lines, then the end of the file.

mod exec;
mod identity;
mod inside;
mod launch;
mod mounts;
mod rootfs;
mod seccomp;
mod stage;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_sys::cgroup::{ContainerCgroup, DeviceRule, Part, Resources};
use gantry_sys::process::{Cloned, SingleThread, clone_process, exit_now};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};

pub(crate) use exec::{exec, null};
pub(crate) use launch::exit_status;
pub(crate) use stage::Stage;

use crate::files;
use crate::protocol::{Failure, IdRange, SandboxFile, Start, errno_step, step};
use crate::sandbox::Namespaces;

/// What a creator needs of the shim.
pub(crate) struct Context<'a> {
    pub(crate) single: &'a SingleThread,
    pub(crate) dir: &'a Path,
    pub(crate) sandbox: &'a SandboxFile,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: &'a ContainerCgroup,
}

impl Context<'_> {
    fn range(&self) -> Option<IdRange> {
        self.sandbox.user_namespace
    }
}

/// One line on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process was cloned; it is a child of the shim.
    Cloned(i32),
    /// It will not come to an exec.
    Failed(Failure),
}

/// Writes one line; nobody may be listening any more.
fn report(pipe: &mut io::PipeWriter, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = pipe.write_all(&line);
    }
}

/// The creator: never returns to the shim's loop.
pub(crate) fn start(context: &Context<'_>, body: &[u8], stdio: [OwnedFd; 3], mut pipe: io::PipeWriter) -> ! {
    if let Err(failure) = create(context, body, stdio, &mut pipe) {
        report(&mut pipe, &Report::Failed(failure));
        exit_now(1);
    }
    exit_now(0)
}

fn create(context: &Context<'_>, body: &[u8], stdio: [OwnedFd; 3], pipe: &mut io::PipeWriter) -> Result<(), Failure> {
    let start: Start = serde_json::from_slice(body).map_err(|error| step("read the bundle")(error.into()))?;
    files::replace(context.dir, files::START, body).map_err(step("keep the bundle"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    refuse_unsupported(&start.spec)?;
    if let Some(resources) = start.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        context.cgroup.apply(&limits(resources)?)?;
        restrict_devices(context, resources)?;
    }
    // Copies of the host's mounts come first: on a stage they would be copies of copies.
    let mut mounts = mounts::prepare(context, &start.spec)?;
    let mut stage = None;
    let root = rootfs::prepare(context, &start, &mut stage)?;
    mounts::finish(context, &mut mounts, &mut stage)?;
    if let Some(stage) = stage {
        stage.leave()?;
    }
    let launch = launch::Launch::new(&start.spec, start.user.as_deref(), start.init)?;
    launch.raise_limits()?;
    own_pipes(&stdio, context.range());
    let cgroup = context.cgroup.enter(Part::Container)?;
    enter(context.namespaces)?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PARENT;
    let cloned = clone_process(context.single, flags, cgroup.as_ref().map(AsFd::as_fd));
    match cloned.map_err(step("make the container's namespaces"))? {
        Cloned::Parent(pid) => {
            report(pipe, &Report::Cloned(pid));
            Ok(())
        }
        Cloned::Child => {
            let world = inside::World { root, mounts, spec: &start.spec, files: &start.files, sandbox: context.sandbox };
            let failure = match inside::enter(world) {
                Ok(root) => launch.run(context.single, &root, stdio, pipe),
                Err(failure) => failure,
            };
            report(pipe, &Report::Failed(failure));
            exit_now(1);
        }
    }
}

/// Enters the sandbox's user and network namespace. All handles of the host were opened before.
fn enter(namespaces: &Namespaces) -> Result<(), Failure> {
    // The network first: that needs rights over the host's user namespace when it is not the container's.
    if let Some(user) = &namespaces.user {
        setns(user.as_fd(), CloneFlags::CLONE_NEWUSER).map_err(errno_step("enter the user namespace"))?;
    }
    if let Some(network) = &namespaces.network {
        setns(network.as_fd(), CloneFlags::CLONE_NEWNET).map_err(errno_step("enter the network namespace"))?;
    }
    Ok(())
}

/// The pipes belong to root inside, so that the container may pass them on to the user it runs as.
fn own_pipes(stdio: &[OwnedFd; 3], range: Option<IdRange>) {
    let Some(range) = range else { return };
    for pipe in &stdio[1..] {
        let (user, group) = (nix::unistd::Uid::from_raw(range.first), nix::unistd::Gid::from_raw(range.first));
        let _ = nix::unistd::fchown(pipe, Some(user), Some(group));
    }
}

/// What was asked for and would be left out is an error, never silence.
fn refuse_unsupported(spec: &Spec) -> Result<(), Failure> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let asked = [
        ("process.terminal", process.is_some_and(|process| process.terminal() == Some(true))),
        ("process.apparmorProfile", process.is_some_and(|process| process.apparmor_profile().is_some())),
        ("process.selinuxLabel", process.is_some_and(|process| process.selinux_label().is_some())),
        ("hooks", spec.hooks().is_some()),
        ("linux.intelRdt", linux.is_some_and(|linux| linux.intel_rdt().is_some())),
        ("linux.personality", linux.is_some_and(|linux| linux.personality().is_some())),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((what, _)) => {
            Err(Failure::Unsupported { what: what.to_owned(), reason: "the built-in runtime has no such feature; leave it out".to_owned() })
        }
        None => Ok(()),
    }
}

/// What the container may do with device nodes. In a user namespace it can make none and the host's do not work for it, so a host that
/// has neither v1's controller nor BPF for us does no harm there.
fn restrict_devices(context: &Context<'_>, resources: &LinuxResources) -> Result<(), Failure> {
    let rules = resources.devices().iter().flatten().map(|rule| DeviceRule {
        allow: rule.allow(),
        kind: rule.typ().map_or('a', |kind| kind.as_str().chars().next().unwrap_or('a')),
        major: rule.major().filter(|number| *number >= 0),
        minor: rule.minor().filter(|number| *number >= 0),
        access: rule.access().clone().unwrap_or_else(|| "rwm".to_owned()),
    });
    match context.cgroup.restrict_devices(&rules.collect::<Vec<_>>()) {
        Err(error) if context.namespaces.user.is_none() => Err(Failure::Unsupported {
            what: "linux.resources.devices".to_owned(),
            reason: format!("{error}: {}; allow BPF or mount the devices controller, or use a user namespace", error.source),
        }),
        _ => Ok(()),
    }
}

/// The limits of an OCI spec, in the cgroups' form.
fn limits(resources: &LinuxResources) -> Result<Resources, Failure> {
    let (cpu, memory) = (resources.cpu().as_ref(), resources.memory().as_ref());
    let asked = [
        ("linux.resources.blockIO", resources.block_io().is_some()),
        ("linux.resources.network", resources.network().is_some()),
        ("linux.resources.rdma", resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty())),
        ("linux.resources.unified", resources.unified().as_ref().is_some_and(|unified| !unified.is_empty())),
        ("linux.resources.hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty())),
    ];
    if let Some((what, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        return Err(Failure::Unsupported { what: what.to_owned(), reason: "not supported yet; leave it out".to_owned() });
    }
    Ok(Resources {
        cpu_quota_us: cpu.and_then(|cpu| cpu.quota()),
        cpu_period_us: cpu.and_then(|cpu| cpu.period()),
        cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        memory_bytes: memory.and_then(|memory| memory.limit()),
        memory_and_swap_bytes: memory.and_then(|memory| memory.swap()),
        memory_reservation_bytes: memory.and_then(|memory| memory.reservation()),
        pids: resources.pids().as_ref().map(|pids| pids.limit()),
    })
}
