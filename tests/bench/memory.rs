//! Memory, as the kernel counts it: proportional set size.

use gantry_tests::host::Host;

use crate::table::Table;

/// PSS of a process in MiB.
pub(crate) fn pss_mib(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    Ok(kib / 1024.0)
}

/// Processor time of a process so far, in seconds.
pub(crate) fn cpu_seconds(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 and 15 of proc_pid_stat(5); ours begin with the third.
    let ticks: f64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// The engine before its first container.
pub(crate) fn idle(host: &Host, table: &mut Table) -> anyhow::Result<()> {
    table.add("engine idle: PSS", "gantry", "MiB", pss_mib(host.engine_pid())?);
    Ok(())
}

/// Process ids of this host's shims.
pub(crate) fn shims(host: &Host) -> Vec<i32> {
    let marker = format!("/{}/", host.instance());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        cgroup.lines().any(|line| line.contains(&marker) && line.ends_with("/shim"))
    })
    .collect()
}
