//! Limits in one form, and the files in which v1 and v2 want them.

use std::io;

use super::{CgroupError, Hierarchy, Layout};

/// What a container may use; absent means none set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Microseconds of processor time in each period; -1 for no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Relative weight as v1 has it, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Processors, as a list such as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Bytes; -1 for no limit.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together as v1 has it, in bytes; -1 for no limit.
    pub memory_and_swap_bytes: Option<i64>,
    /// Bytes that are left alone under pressure.
    pub memory_reservation_bytes: Option<i64>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
}

/// One rule of the devices controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// `a`, `b` or `c`.
    pub kind: char,
    /// Major number; `None`: all.
    pub major: Option<i64>,
    /// Minor number; `None`: all.
    pub minor: Option<i64>,
    /// Some of `rwm`.
    pub access: String,
}

/// One file to write below the container's cgroup of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write<'a> {
    pub(super) hierarchy: &'a Hierarchy,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// It sets no limit, it takes one away.
    pub(super) lifts: bool,
}

/// The default period of the processor controller, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

impl Resources {
    /// The writes, in the order in which the kernel takes them.
    pub(super) fn writes<'a>(&self, layout: &'a Layout) -> Result<Vec<Write<'a>>, CgroupError> {
        let mut writes = Vec::new();
        self.cpu(layout, &mut writes)?;
        self.cpuset(layout, &mut writes)?;
        self.memory(layout, &mut writes)?;
        if let Some(pids) = self.pids
            && let Some(hierarchy) = needed(layout, "pids", pids < 0)?
        {
            writes.push(Write { hierarchy, file: "pids.max", value: or_max(pids), lifts: pids < 0 });
        }
        Ok(writes)
    }

    fn cpu<'a>(&self, layout: &'a Layout, writes: &mut Vec<Write<'a>>) -> Result<(), CgroupError> {
        if self.cpu_quota_us.is_none() && self.cpu_period_us.is_none() && self.cpu_shares.is_none() {
            return Ok(());
        }
        let lifts = self.cpu_shares.is_none() && self.cpu_quota_us.is_none_or(|quota| quota < 0);
        let Some(hierarchy) = needed(layout, "cpu", lifts)? else { return Ok(()) };
        let period = self.cpu_period_us.unwrap_or(CPU_PERIOD_US);
        let mut push = |file, value| writes.push(Write { hierarchy, file, value, lifts });
        if hierarchy.v2 {
            if let Some(quota) = self.cpu_quota_us {
                push("cpu.max", format!("{} {period}", or_max(quota)));
            }
            if let Some(shares) = self.cpu_shares {
                push("cpu.weight", weight(shares).to_string());
            }
            return Ok(());
        }
        if let Some(period) = self.cpu_period_us {
            push("cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = self.cpu_quota_us {
            push("cpu.cfs_quota_us", quota.to_string());
        }
        if let Some(shares) = self.cpu_shares {
            push("cpu.shares", shares.to_string());
        }
        Ok(())
    }

    fn cpuset<'a>(&self, layout: &'a Layout, writes: &mut Vec<Write<'a>>) -> Result<(), CgroupError> {
        for (file, value) in [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)] {
            if let Some(value) = value {
                writes.push(Write { hierarchy: find(layout, "cpuset")?, file, value: value.clone(), lifts: false });
            }
        }
        Ok(())
    }

    fn memory<'a>(&self, layout: &'a Layout, writes: &mut Vec<Write<'a>>) -> Result<(), CgroupError> {
        let (limit, both, soft) = (self.memory_bytes, self.memory_and_swap_bytes, self.memory_reservation_bytes);
        if limit.is_none() && both.is_none() && soft.is_none() {
            return Ok(());
        }
        let lifts = [limit, both, soft].into_iter().flatten().all(|value| value < 0);
        let Some(hierarchy) = needed(layout, "memory", lifts)? else { return Ok(()) };
        let files = if hierarchy.v2 {
            let swap = both.map(|both| if both < 0 { -1 } else { (both - limit.unwrap_or(0)).max(0) });
            [("memory.low", soft), ("memory.max", limit), ("memory.swap.max", swap)]
        } else {
            [("memory.soft_limit_in_bytes", soft), ("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", both)]
        };
        for (file, value) in files {
            if let Some(value) = value {
                let text = if hierarchy.v2 { or_max(value) } else { value.to_string() };
                writes.push(Write { hierarchy, file, value: text, lifts: value < 0 });
            }
        }
        Ok(())
    }
}

impl DeviceRule {
    /// The file of v1's controller and what is written to it.
    pub(super) fn v1(&self) -> (&'static str, String) {
        let number = |number: Option<i64>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        if self.kind == 'a' {
            return (file, "a".to_owned());
        }
        (file, format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access))
    }
}

/// The hierarchy of a controller; none is needed to lift a limit.
fn needed<'a>(layout: &'a Layout, controller: &str, lifts: bool) -> Result<Option<&'a Hierarchy>, CgroupError> {
    match find(layout, controller) {
        Ok(hierarchy) => Ok(Some(hierarchy)),
        Err(_) if lifts => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn find<'a>(layout: &'a Layout, controller: &str) -> Result<&'a Hierarchy, CgroupError> {
    layout.with(controller).ok_or_else(|| CgroupError {
        step: format!("limit `{controller}`: this host has no such cgroup controller; enable it or leave the limit out"),
        source: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
    })
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// From v1's 2..262144 to v2's 1..10000, as the OCI runtimes convert it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}
