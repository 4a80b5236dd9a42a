//! A small PID 1: starts one process, hands signals on to it, reaps whatever is left to it, and ends as that process ended.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::{Cloned, SingleThread, clone_process, exit_now};

/// Sets every signal to its default action and blocks none: what a program expects that is about to be exec'd.
pub fn reset_signals() {
    for signal in Signal::iterator() {
        // SAFETY: SIG_DFL installs no handler; SIGKILL and SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(signal as libc::c_int, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Runs `program` in a copy of this process and serves it as PID 1, every descriptor above 2 closed. `program` execs, or reports
/// why it could not and returns an exit code.
pub fn serve_as_init(single: &SingleThread, program: impl FnOnce() -> i32) -> ! {
    let all = SigSet::all();
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None);
    match clone_process(single, 0, None) {
        Ok(Cloned::Child) => {
            reset_signals();
            exit_now(program());
        }
        Ok(Cloned::Parent(child)) => {
            let _ = nix::sys::prctl::set_dumpable(false);
            close_from(3);
            serve(Pid::from_raw(child), &all)
        }
        Err(error) => exit_now(error.raw_os_error().unwrap_or(1)),
    }
}

fn close_from(first: u32) {
    // SAFETY: only `serve` runs from here to the end of the process, and it owns no descriptor.
    unsafe { libc::close_range(first, u32::MAX, 0) };
}

fn serve(child: Pid, all: &SigSet) -> ! {
    loop {
        match wait_signal(all) {
            Ok(signal) if signal == libc::SIGCHLD => reap(child),
            Ok(signal) => {
                // SAFETY: sends a signal to our own child, which is not reaped before `reap` sees its end.
                unsafe { libc::kill(child.as_raw(), signal) };
            }
            Err(_) => reap(child),
        }
    }
}

fn wait_signal(all: &SigSet) -> io::Result<i32> {
    let mut signal = 0;
    // SAFETY: both pointers are to values that live over the call.
    let result = unsafe { libc::sigwait(all.as_ref(), &raw mut signal) };
    if result == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(result)) }
}

fn reap(child: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => exit_now(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => exit_now(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => exit_now(1),
        }
    }
}
