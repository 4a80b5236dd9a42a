//! What is on the host: the kernel's own files, before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::host::{Host, run};

/// Everything of one host that an engine could leave behind, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState(BTreeSet<String>);

impl HostState {
    /// What is there now.
    pub fn of(host: &Host) -> Self {
        let mut lines = BTreeSet::new();
        cgroups(host, &mut lines);
        processes(host, &mut lines);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
        let ours = host.dir().display().to_string();
        lines.extend(mounts.lines().filter(|line| line.contains(&ours)).map(|line| format!("mount {line}")));
        let links = run(Command::new("ip").args(["-n", host.netns(), "-o", "link"]));
        lines.extend(links.lines().filter_map(|line| Some(format!("link {}", line.split(": ").nth(1)?.split('@').next()?))));
        let tables = run(host.command("nft").args(["list", "tables"]));
        lines.extend(tables.lines().map(|line| format!("nft {line}")));
        files(&host.run_dir(), &mut lines);
        for dir in ["containers", "logs", "records", "snapshots/containers"] {
            files(&host.data_dir().join(dir), &mut lines);
        }
        Self(lines)
    }

    /// What is in `self` but not in `before`.
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn cgroups(host: &Host, lines: &mut BTreeSet<String>) {
    for root in std::iter::once("/sys/fs/cgroup".into()).chain(directories(Path::new("/sys/fs/cgroup"))) {
        let ours = root.join(host.instance());
        if ours.is_dir() {
            below(&ours, &mut |path| {
                lines.insert(format!("cgroup {}", path.display()));
            });
        }
    }
}

/// Processes that are in a cgroup of the instance, the engine itself apart, which stays where it was started.
fn processes(host: &Host, lines: &mut BTreeSet<String>) {
    let marker = format!("/{}/", host.instance());
    for process in directories(Path::new("/proc")) {
        let in_ours = std::fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.contains(&marker));
        // One that has ended and waits for its parent runs no more.
        let ended = std::fs::read_to_string(process.join("stat")).is_ok_and(|text| text.contains(") Z "));
        if in_ours && !ended {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            lines.insert(format!("process {} {}", process.display(), name.trim()));
        }
    }
}

fn files(dir: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    lines.extend(entries.flatten().map(|entry| format!("file {}", entry.path().display())));
}

fn directories(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn below(dir: &Path, seen: &mut impl FnMut(&Path)) {
    seen(dir);
    for child in directories(dir) {
        below(&child, seen);
    }
}
