//! Figures of this process, from `/proc` (proc_pid_stat(5)).

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Figures of this process.
pub(super) struct Figures {
    pub(super) resident_bytes: f64,
    pub(super) virtual_bytes: f64,
    pub(super) open_fds: f64,
    pub(super) max_fds: f64,
    pub(super) threads: f64,
    pub(super) cpu_seconds: f64,
}

impl Figures {
    /// `None` where there is no `/proc`.
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold anything; the third field follows it.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let unit = |variable| sysconf(variable).ok().flatten().map(|value| value as f64);
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / unit(SysconfVar::CLK_TCK)?,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * unit(SysconfVar::PAGE_SIZE)?,
            // Less the one that reads the directory.
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64,
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok()?.0 as f64,
        })
    }
}
