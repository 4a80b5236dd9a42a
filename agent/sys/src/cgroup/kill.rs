//! Ending every process of a container, with or without its supervisor.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{CgroupError, ContainerCgroup, Part, failed};
use crate::process::{pidfd_open, pidfd_signal};

/// How deep below a container's own cgroup its processes are looked for.
const MAX_DEPTH: u32 = 32;

impl ContainerCgroup {
    /// Processes in one of the two, from the first hierarchy in which it is.
    pub fn pids(&self, part: Part) -> Vec<i32> {
        let dirs = self.layout.hierarchies.iter().map(|hierarchy| self.part(hierarchy, part));
        let mut found = Vec::new();
        if let Some(dir) = dirs.into_iter().find(|dir| dir.exists()) {
            collect(&dir, MAX_DEPTH, &mut found);
        }
        found
    }

    /// Sends a signal to every process of the container, by handles.
    ///
    /// # Errors
    /// The last that failed otherwise than by the process having ended.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        let handles = self.handles(Part::Container);
        let results = handles.values().map(|handle| pidfd_signal(handle.as_fd(), signal));
        results.filter(|result| result.as_ref().is_err_and(|error| error.raw_os_error() != Some(libc::ESRCH))).last().unwrap_or(Ok(()))
    }

    /// Kills every process in one of the two and waits until none is left. Thaws a frozen cgroup first.
    ///
    /// Blocks: not for an asynchronous thread.
    ///
    /// # Errors
    /// `ETIMEDOUT` when some are left at the end of `limit`.
    pub fn kill_all(&self, part: Part, limit: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + limit;
        self.thaw(part);
        loop {
            if let Some(unified) = self.layout.unified() {
                // Atomic, forks included (Linux 5.14); where the file is missing the handles below do it.
                let _ = fs::write(self.part(unified, part).join("cgroup.kill"), "1");
            }
            let handles = self.handles(part);
            if handles.is_empty() && self.pids(part).is_empty() {
                return Ok(());
            }
            for handle in handles.values() {
                let _ = pidfd_signal(handle.as_fd(), libc::SIGKILL);
            }
            if !wait_for_ends(handles.values(), deadline) {
                let left = self.pids(part);
                let step = format!("kill the processes of container `{}`: {left:?} are left", self.name);
                return Err(CgroupError { step, source: io::Error::from_raw_os_error(libc::ETIMEDOUT) });
            }
        }
    }

    /// Handles of the processes that are certainly ours: still in the cgroup after the handle was opened.
    fn handles(&self, part: Part) -> HashMap<i32, OwnedFd> {
        let opened = self.pids(part).into_iter().filter_map(|pid| Some((pid, pidfd_open(pid).ok()?)));
        let mut opened: HashMap<i32, OwnedFd> = opened.collect();
        let still = self.pids(part);
        opened.retain(|pid, _| still.contains(pid));
        opened
    }

    fn thaw(&self, part: Part) {
        for hierarchy in &self.layout.hierarchies {
            let dir = self.part(hierarchy, part);
            if hierarchy.v2 {
                let _ = fs::write(dir.join("cgroup.freeze"), "0");
            } else if hierarchy.has("freezer") {
                let _ = fs::write(dir.join("freezer.state"), "THAWED");
            }
        }
    }

    /// Stops (or lets go on) every process of the container.
    ///
    /// # Errors
    /// Without a freezer, or what the kernel says.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let freezer = self.layout.with("freezer").or_else(|| self.layout.unified());
        let Some(hierarchy) = freezer else {
            return Err(CgroupError {
                step: "freeze: this host has no freezer".to_owned(),
                source: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            });
        };
        let dir = self.part(hierarchy, Part::Container);
        let (file, value) = match (hierarchy.v2, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = dir.join(file);
        fs::write(&path, value).map_err(failed("write", &path))
    }
}

fn collect(dir: &Path, depth: u32, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of a pid namespace that is not ours.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    if depth == 0 {
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), depth - 1, found);
    }
}

/// False when the deadline came first.
fn wait_for_ends<'a>(handles: impl Iterator<Item = &'a OwnedFd>, deadline: Instant) -> bool {
    for handle in handles {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut wait = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut wait, timeout);
    }
    Instant::now() < deadline
}
