//! Which cgroup hierarchies this host has mounted, and with which controllers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, failed};

/// Controllers that are joined on v1; `name=systemd` so that a service manager no longer counts the process to its unit.
const V1: &[&str] = &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd"];
/// Controllers that are enabled for children on v2, where the host has them.
const V2: &[&str] = &["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// One mounted tree of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The unified hierarchy.
    pub v2: bool,
    /// Controllers that work in it.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether this controller works in it.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// On v2, lets the children of a cgroup have every controller that it has itself and we use.
    pub(super) fn enable_below(&self, dir: &Path) -> Result<(), CgroupError> {
        if !self.v2 {
            return Ok(());
        }
        let file = dir.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).map_err(failed("read", &file))?;
        let missing: Vec<String> = V2
            .iter()
            .filter(|wanted| self.has(wanted) && !enabled.split_whitespace().any(|have| have == **wanted))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if super::write(&file, &missing.join(" ")).is_ok() {
            return Ok(());
        }
        // One that the host withholds must not keep the others away; a limit that needs it says so.
        for controller in missing {
            let _ = super::write(&file, &controller);
        }
        Ok(())
    }
}

/// All hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order in which they were mounted.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// `ENOENT` when no hierarchy is mounted.
    pub fn probe() -> io::Result<Self> {
        let layout = Self::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        if layout.hierarchies.is_empty() { Err(io::Error::from_raw_os_error(libc::ENOENT)) } else { Ok(layout) }
    }

    /// From the text of a mountinfo file; the controllers of v2 are read from the hierarchy itself.
    pub fn parse(mountinfo: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(parse_line) {
            let known = hierarchies.iter().any(|other| other.v2 == hierarchy.v2 && other.controllers == hierarchy.controllers);
            if !known {
                hierarchies.push(hierarchy);
            }
        }
        Self { hierarchies }
    }

    /// The hierarchy in which a controller works.
    pub fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }

    /// The unified hierarchy, if mounted.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.v2)
    }

    /// Whether the unified hierarchy is the only one.
    pub fn is_pure_v2(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.v2)
    }
}

/// `36 35 98:0 /root /mount options optional - type source super`, proc_pid_mountinfo(5).
fn parse_line(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let mut before = before.split(' ').skip(3);
    let (root, path) = (before.next()?, PathBuf::from(before.next()?));
    if root != "/" {
        return None;
    }
    match kind {
        "cgroup2" => {
            let text = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
            Some(Hierarchy { path, v2: true, controllers: text.split_whitespace().map(str::to_owned).collect() })
        }
        "cgroup" => {
            let options = after.nth(1)?;
            let controllers: Vec<String> = options.split(',').filter(|name| V1.contains(name)).map(str::to_owned).collect();
            (!controllers.is_empty()).then_some(Hierarchy { path, v2: false, controllers })
        }
        _ => None,
    }
}
