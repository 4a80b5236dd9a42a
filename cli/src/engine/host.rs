//! What this machine can do.

use std::path::Path;

use super::config::EngineConfig;

/// One thing that was looked at.
pub(crate) struct Finding {
    /// What it is.
    pub(crate) what: String,
    /// Whether it is as the engine needs it.
    pub(crate) good: bool,
    /// What was found, or how to mend it.
    pub(crate) sentence: String,
}

/// Looks at everything that an engine with this data directory needs. Blocking.
pub(crate) fn examine(data_dir: &Path) -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let sentence = if root { "the engine may set up containers" } else { "run it as root: sudo gantry serve" };
    let mut findings = vec![Finding { what: "root".to_owned(), good: root, sentence: sentence.to_owned() }];
    let runtime = gantry_agent::runtime::probe(data_dir);
    let told = runtime.into_iter().chain(gantry_agent::network::bridge::probe());
    findings.extend(told.map(|(what, good, sentence)| Finding { what, good, sentence }));
    findings
}

/// Refuses to start without what nothing works without, in one sentence.
pub(crate) fn require(_config: &EngineConfig) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the engine needs root to set up containers; try: sudo gantry serve");
    for (name, why) in [("overlay", "layers of images are stacked with it"), ("proc", "processes are watched through it")] {
        let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.split_whitespace().any(|word| word == name));
        let loadable = || std::path::Path::new(&format!("/sys/module/{name}")).exists() || module_exists(name);
        anyhow::ensure!(known || loadable(), "this kernel has no file system `{name}` ({why}); run: modprobe {name}");
    }
    Ok(())
}

/// Whether the running kernel comes with a module, which mounting then loads.
fn module_exists(name: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let index = std::fs::read_to_string(format!("/lib/modules/{}/modules.dep", release.trim())).unwrap_or_default();
    index.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
}
