//! From the OCI form of a seccomp policy to rules by number.

use gantry_sys::seccomp::{Action, Argument, Compare, Program, Rule};
use gantry_sys::syscalls::number;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use crate::protocol::{Failure, step};

/// Names that this architecture does not have are left out: profiles name calls of all architectures.
pub(super) fn compile(policy: &LinuxSeccomp) -> Result<Program, Failure> {
    if policy.listener_path().is_some() {
        return Err(unsupported("linux.seccomp.listenerPath"));
    }
    let default = action(policy.default_action(), policy.default_errno_ret())?;
    let mut rules = Vec::new();
    for group in policy.syscalls().iter().flatten() {
        let action = action(group.action(), group.errno_ret())?;
        let arguments: Vec<Argument> = group.args().iter().flatten().map(argument).collect::<Result<_, _>>()?;
        for number in group.names().iter().filter_map(|name| number(name)) {
            rules.push(Rule { number, action, arguments: arguments.clone() });
        }
    }
    Program::compile(default, &rules).map_err(step("compile the seccomp policy"))
}

fn unsupported(what: &str) -> Failure {
    Failure::Unsupported { what: what.to_owned(), reason: "the built-in runtime has no such feature; leave it out".to_owned() }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, Failure> {
    let number = || u16::try_from(errno.unwrap_or(nix::libc::EPERM.cast_unsigned())).unwrap_or(1);
    match action {
        LinuxSeccompAction::ScmpActAllow => Ok(Action::Allow),
        LinuxSeccompAction::ScmpActLog => Ok(Action::Log),
        LinuxSeccompAction::ScmpActErrno => Ok(Action::Errno(number())),
        LinuxSeccompAction::ScmpActTrace => Ok(Action::Trace(number())),
        LinuxSeccompAction::ScmpActTrap => Ok(Action::Trap),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(Action::KillThread),
        LinuxSeccompAction::ScmpActKillProcess => Ok(Action::KillProcess),
        LinuxSeccompAction::ScmpActNotify => Err(unsupported("seccomp action SCMP_ACT_NOTIFY")),
    }
}

fn argument(arg: &LinuxSeccompArg) -> Result<Argument, Failure> {
    let (compare, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Compare::Ne, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Compare::Lt, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Compare::Le, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Compare::Eq, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Compare::Ge, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Compare::Gt, arg.value()),
        // libseccomp's order: the mask first, then the datum.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (Compare::MaskedEq { mask: arg.value() }, arg.value_two().unwrap_or(0)),
    };
    let index =
        u8::try_from(arg.index()).map_err(|_| Failure::Step { step: "read the seccomp policy".to_owned(), errno: nix::libc::EINVAL })?;
    Ok(Argument { index, compare, value })
}
