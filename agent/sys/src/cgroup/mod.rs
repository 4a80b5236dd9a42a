//! Cgroups of one container: `/<instance>/<container>/{shim,c}` at the root of every hierarchy that is mounted, v1 and v2 alike.
//!
//! `c` holds the container's processes and its limits, `shim` the process that supervises them; on v2 the level above them is the
//! inner node that enables controllers and holds no process (cgroup-v2.rst, "No Internal Process Constraint").

mod devices;
mod kill;
mod layout;
mod limits;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use layout::{Hierarchy, Layout};
pub use limits::{DeviceRule, Resources};

/// A step on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct CgroupError {
    /// What was being done, and to what.
    pub step: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let step = format!("{what} `{}`", path.display());
    move |source| CgroupError { step, source }
}

/// Writes a file of a cgroup in one write, as the kernel demands.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(failed(&format!("write `{value}` to"), path))
}

/// Which of a container's two cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The supervisor's.
    Shim,
    /// The container's.
    Container,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Container => "c",
        }
    }
}

/// The cgroups of one container.
#[derive(Debug, Clone)]
pub struct ContainerCgroup {
    layout: Layout,
    instance: String,
    name: String,
}

impl ContainerCgroup {
    /// Names them; makes nothing.
    pub fn new(layout: &Layout, instance: &str, name: &str) -> Self {
        Self { layout: layout.clone(), instance: instance.to_owned(), name: name.to_owned() }
    }

    fn base(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.path.join(&self.instance).join(&self.name)
    }

    fn part(&self, hierarchy: &Hierarchy, part: Part) -> PathBuf {
        self.base(hierarchy).join(part.name())
    }

    /// Makes one of the two in every hierarchy. Idempotent.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn create(&self, part: Part) -> Result<(), CgroupError> {
        for hierarchy in &self.layout.hierarchies {
            let levels = [hierarchy.path.join(&self.instance), self.base(hierarchy), self.part(hierarchy, part)];
            let mut above = hierarchy.path.clone();
            for level in levels {
                hierarchy.enable_below(&above)?;
                make_level(hierarchy, &above, &level)?;
                above = level;
            }
        }
        Ok(())
    }

    /// Moves this process into one of the two, in every hierarchy.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn join(&self, part: Part) -> Result<(), CgroupError> {
        for hierarchy in &self.layout.hierarchies {
            write(&self.part(hierarchy, part).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The way for a process to be made in one of the two: with a handle it is cloned into it (`CLONE_INTO_CGROUP`, which takes no
    /// machine-wide lock), without one this process has joined and its children are there too.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn enter(&self, part: Part) -> Result<Option<OwnedFd>, CgroupError> {
        if let [hierarchy] = self.layout.hierarchies.as_slice()
            && hierarchy.v2
        {
            let dir = self.part(hierarchy, part);
            return Ok(Some(fs::File::open(&dir).map_err(failed("open cgroup", &dir))?.into()));
        }
        self.join(part)?;
        Ok(None)
    }

    /// Sets the limits of the container's cgroup.
    ///
    /// # Errors
    /// The first that could not be applied; a missing controller is named.
    pub fn apply(&self, resources: &Resources) -> Result<(), CgroupError> {
        for one in resources.writes(&self.layout)? {
            let file = self.part(one.hierarchy, Part::Container).join(one.file);
            let written = write(&file, &one.value);
            let missing = one.hierarchy.v2 && written.as_ref().is_err_and(|error| error.source.kind() == io::ErrorKind::NotFound);
            match (missing, one.lifts) {
                (false, _) => written?,
                // What was never limited need not be set free.
                (true, true) => {}
                (true, false) => {
                    let step = format!("limit `{}`: the host does not pass this cgroup controller on to `{}`", one.file, file.display());
                    return Err(CgroupError { step, source: io::Error::from_raw_os_error(libc::EOPNOTSUPP) });
                }
            }
        }
        Ok(())
    }

    /// Puts device rules into force: by the files of v1's controller, or by a program on v2.
    ///
    /// # Errors
    /// No such controller and no BPF, or what the kernel says.
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if rules.is_empty() {
            return Ok(());
        }
        if let Some(hierarchy) = self.layout.with("devices") {
            let dir = self.part(hierarchy, Part::Container);
            return rules.iter().try_for_each(|rule| {
                let (file, value) = rule.v1();
                write(&dir.join(file), &value)
            });
        }
        let Some(unified) = self.layout.unified() else { return limits::find(&self.layout, "devices").map(drop) };
        let dir = self.part(unified, Part::Container);
        devices::restrict(&dir, rules).map_err(failed("attach the program with the device rules to", &dir))
    }

    /// How often the kernel has killed a process of the container for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(hierarchy) = self.layout.with("memory") else { return 0 };
        let file = if hierarchy.v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.part(hierarchy, Part::Container).join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes what is there of them, children first. Idempotent; goes on after an error.
    ///
    /// # Errors
    /// All that could not be removed.
    pub fn remove(&self) -> Result<(), Vec<CgroupError>> {
        let mut errors = Vec::new();
        for hierarchy in &self.layout.hierarchies {
            let base = self.base(hierarchy);
            errors.extend(remove_tree(&base).err());
            // The instance's own level goes with its last container.
            let _ = fs::remove_dir(hierarchy.path.join(&self.instance));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Whether any of them is there.
    pub fn exists(&self) -> bool {
        self.layout.hierarchies.iter().any(|hierarchy| self.base(hierarchy).exists())
    }
}

/// Names of the containers that have cgroups of this instance.
pub fn list(layout: &Layout, instance: &str) -> Vec<String> {
    let dirs = layout.hierarchies.iter().filter_map(|hierarchy| fs::read_dir(hierarchy.path.join(instance)).ok());
    let entries = dirs.flat_map(|dir| dir.flatten()).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.dedup();
    names
}

fn make_level(hierarchy: &Hierarchy, above: &Path, level: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(level) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // Another container's removal has taken the level above between the two steps.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(level).map_err(failed("make cgroup", level))?;
        }
        Err(error) => return Err(failed("make cgroup", level)(error)),
    }
    if hierarchy.v2 || !hierarchy.has("cpuset") {
        return Ok(());
    }
    // A new v1 cpuset is empty and takes no process until both are set (cgroup-v1/cpusets.rst).
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(above.join(file)).map_err(failed("read", &above.join(file)))?;
        write(&level.join(file), value.trim())?;
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read cgroup", dir)(error)),
    };
    // What a container has made below its own cgroup goes too; the depth is bounded by the kernel's path length.
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove cgroup", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
