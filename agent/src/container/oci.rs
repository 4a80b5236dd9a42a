//! From a Container's spec and its image to an OCI runtime spec: a pure function.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use gantry_api::kinds::container::{ContainerSpec, NetworkMode, SeccompProfileType, SecurityContext, UserNamespaceMode};
use gantry_api::kinds::image::ImageConfig;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCpu, LinuxDeviceCgroupBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory,
    LinuxPids, LinuxResources, Mount, MountBuilder, Spec,
};

use crate::runtime::{IdRange, Limits, defaults, seccomp};

/// The scheduler period for `resources.limits.cpu`, in microseconds: Docker's and Kubernetes'.
const CPU_PERIOD_US: u64 = 100_000;

/// What the spec is made from.
pub(crate) struct Source<'a> {
    /// The declared spec, defaults applied.
    pub(crate) spec: &'a ContainerSpec,
    /// What the image says of its process.
    pub(crate) image: &'a ImageConfig,
    /// `NAME=value` lines.
    pub(crate) env: Vec<String>,
    /// Host name inside.
    pub(crate) hostname: &'a str,
    /// Mounts with their sources found on the node.
    pub(crate) mounts: Vec<BindSource>,
    /// Host ids given to the container.
    pub(crate) id_range: Option<IdRange>,
}

/// A directory or file of the node that is mounted inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindSource {
    /// Path on the node.
    pub(crate) host: PathBuf,
    /// Absolute path inside.
    pub(crate) inside: String,
    /// Mounted read-only.
    pub(crate) read_only: bool,
}

/// Why no spec can be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OciError {
    /// Neither the object nor the image names a program.
    #[error("nothing to run: the image has neither ENTRYPOINT nor CMD; set spec.command")]
    NoCommand,
    /// A capability that the runtime does not know.
    #[error("capability `{0}` is unknown; use a name such as NET_ADMIN, or ALL")]
    UnknownCapability(String),
}

/// The limits of a spec, in the runtime's units.
pub(crate) fn limits(spec: &ContainerSpec) -> Limits {
    let limits = &spec.resources.limits;
    Limits {
        cpu_milli: limits.cpu.as_ref().and_then(|cpu| u64::try_from(cpu.to_milli()?).ok()),
        memory_bytes: limits.memory.as_ref().and_then(|memory| u64::try_from(memory.to_value()?).ok()),
        pids: limits.pids.and_then(|pids| u64::try_from(pids).ok()),
    }
}

/// Whether the container has a user namespace of its own: not with privileged, nor with the host's network.
pub(crate) fn has_user_namespace(spec: &ContainerSpec) -> bool {
    let security = &spec.security_context;
    security.user_namespace.mode == UserNamespaceMode::Auto && !security.privileged && spec.network_mode != NetworkMode::Host
}

/// The OCI runtime spec.
pub(crate) fn spec(source: Source<'_>) -> Result<Spec, OciError> {
    let wanted = source.spec;
    let security = &wanted.security_context;
    let capabilities = capabilities(security)?;
    let mut spec = defaults::base_spec();
    spec.set_hostname(Some(source.hostname.to_owned()));
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(security.read_only_root_filesystem));
    }
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(arguments(wanted, source.image)?));
        process.set_env(Some(source.env));
        process.set_cwd(working_dir(wanted, source.image));
        process.set_capabilities(Some(capability_sets(&capabilities)));
        process.set_no_new_privileges(Some(!security.allow_privilege_escalation));
        let groups = (!wanted.supplemental_groups.is_empty()).then(|| wanted.supplemental_groups.clone());
        process.user_mut().set_additional_gids(groups);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(Some(resources(&limits(wanted), security.privileged)));
        let unconfined = security.privileged || security.seccomp_profile.type_ == SeccompProfileType::Unconfined;
        let held: Vec<Capability> = capabilities.iter().copied().collect();
        linux.set_seccomp((!unconfined).then(|| seccomp::default_profile(&held)));
        if security.privileged {
            linux.set_masked_paths(None);
            linux.set_readonly_paths(None);
        }
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(wanted.mounts.iter().filter_map(tmpfs));
    mounts.extend(source.mounts.iter().map(|bind| bind_mount(bind, source.id_range)));
    // A mount below another must come after it.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
    Ok(spec)
}

/// Docker's rule: `command` replaces ENTRYPOINT and drops CMD; `args` replace CMD.
fn arguments(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, OciError> {
    let (entrypoint, cmd) = if spec.command.is_empty() { (&image.entrypoint, &image.cmd) } else { (&spec.command, &spec.args) };
    let args = if spec.args.is_empty() { cmd } else { &spec.args };
    let all: Vec<String> = entrypoint.iter().chain(args).cloned().collect();
    if all.is_empty() { Err(OciError::NoCommand) } else { Ok(all) }
}

fn working_dir(spec: &ContainerSpec, image: &ImageConfig) -> PathBuf {
    let chosen = spec.working_dir.as_deref().or(image.working_dir.as_deref()).filter(|dir| !dir.is_empty()).unwrap_or("/");
    Path::new("/").join(chosen)
}

fn capabilities(security: &SecurityContext) -> Result<HashSet<Capability>, OciError> {
    if security.privileged {
        return Ok(defaults::all_capabilities());
    }
    let mut set: HashSet<Capability> = defaults::default_capabilities();
    for name in &security.capabilities.add {
        set.extend(named_capabilities(name)?);
    }
    for name in &security.capabilities.drop {
        for capability in named_capabilities(name)? {
            set.remove(&capability);
        }
    }
    Ok(set)
}

fn named_capabilities(name: &str) -> Result<HashSet<Capability>, OciError> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(defaults::all_capabilities());
    }
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    serde_json::from_value(serde_json::Value::String(full))
        .map(|one| HashSet::from([one]))
        .map_err(|_| OciError::UnknownCapability(name.to_owned()))
}

/// Inheritable and ambient stay empty (CVE-2022-29162).
fn capability_sets(capabilities: &HashSet<Capability>) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    let chosen: Capabilities = capabilities.clone();
    sets.set_bounding(Some(chosen.clone()));
    sets.set_permitted(Some(chosen.clone()));
    sets.set_effective(Some(chosen));
    sets.set_inheritable(None);
    sets.set_ambient(None);
    sets
}

fn resources(limits: &Limits, privileged: bool) -> LinuxResources {
    let mut resources = LinuxResources::default();
    if privileged {
        let all = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm".to_owned()).build();
        resources.set_devices(all.ok().map(|rule| vec![rule]));
    } else {
        resources.set_devices(Some(defaults::device_rules()));
    }
    if let Some(milli) = limits.cpu_milli {
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(CPU_PERIOD_US));
        // The kernel refuses quotas below 1 ms (cgroup-v1/sched-bwc).
        cpu.set_quota(i64::try_from((milli * CPU_PERIOD_US / 1000).max(1000)).ok());
        resources.set_cpu(Some(cpu));
    }
    if let Some(bytes) = limits.memory_bytes {
        let mut memory = LinuxMemory::default();
        memory.set_limit(i64::try_from(bytes).ok());
        resources.set_memory(Some(memory));
    }
    if let Some(pids) = limits.pids {
        let mut limit = LinuxPids::default();
        limit.set_limit(i64::try_from(pids).unwrap_or(i64::MAX));
        resources.set_pids(Some(limit));
    }
    resources
}

fn tmpfs(mount: &gantry_api::kinds::container::Mount) -> Option<Mount> {
    let tmpfs = mount.tmpfs.as_ref()?;
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), format!("mode={}", tmpfs.mode.as_deref().unwrap_or("1777"))];
    if let Some(size) = tmpfs.size_limit.as_ref().and_then(gantry_api::quantity::Quantity::to_value) {
        options.push(format!("size={size}"));
    }
    if mount.read_only {
        options.push("ro".to_owned());
    }
    MountBuilder::default().destination(&mount.mount_path).typ("tmpfs").source("tmpfs").options(options).build().ok()
}

/// Ids on disk are the container's: the mount is ID-mapped with the container's own range (OCI runtime spec, "Mounts").
fn bind_mount(bind: &BindSource, range: Option<IdRange>) -> Mount {
    let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
    if bind.read_only {
        options.push("rro".to_owned());
    }
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(&bind.inside));
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(bind.host.clone()));
    mount.set_options(Some(options));
    if let Some(mapping) = range.and_then(id_mapping) {
        mount.set_uid_mappings(Some(vec![mapping]));
        mount.set_gid_mappings(Some(vec![mapping]));
    }
    mount
}

fn id_mapping(range: IdRange) -> Option<LinuxIdMapping> {
    LinuxIdMappingBuilder::default().container_id(0_u32).host_id(range.first).size(range.count).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_docker_does() {
        let image = ImageConfig { entrypoint: words("/entry"), cmd: words("a b"), ..Default::default() };
        for (command, args, expected) in [("", "", "/entry a b"), ("", "c", "/entry c"), ("/x", "", "/x"), ("/x", "c", "/x c")] {
            let spec = ContainerSpec { command: words(command), args: words(args), ..Default::default() };
            assert_eq!(arguments(&spec, &image).unwrap(), words(expected), "{command}|{args}");
        }
        assert_eq!(arguments(&ContainerSpec::default(), &ImageConfig::default()), Err(OciError::NoCommand));
    }

    #[test]
    fn capabilities_are_added_and_then_dropped() {
        let mut security = SecurityContext::default();
        let plain = capabilities(&security).unwrap();
        assert_eq!(plain.len(), 14, "Docker's default set");
        security.capabilities.add = words("NET_ADMIN");
        security.capabilities.drop = words("cap_chown");
        let changed = capabilities(&security).unwrap();
        assert!(changed.contains(&Capability::NetAdmin) && !changed.contains(&Capability::Chown));
        security.capabilities.drop = words("ALL");
        assert!(capabilities(&security).unwrap().is_empty());
        security.capabilities.add = words("FLY");
        assert_eq!(capabilities(&security), Err(OciError::UnknownCapability("FLY".into())));
    }

    #[test]
    fn a_relative_working_directory_is_below_the_root() {
        let spec = ContainerSpec { working_dir: Some("srv".into()), ..Default::default() };
        assert_eq!(working_dir(&spec, &ImageConfig::default()), Path::new("/srv"));
        assert_eq!(working_dir(&ContainerSpec::default(), &ImageConfig::default()), Path::new("/"));
    }

    #[test]
    fn the_host_s_network_and_privileged_give_up_the_user_namespace() {
        let mut spec = ContainerSpec::default();
        assert!(has_user_namespace(&spec));
        spec.network_mode = NetworkMode::Host;
        assert!(!has_user_namespace(&spec));
        spec.network_mode = NetworkMode::None;
        spec.security_context.privileged = true;
        assert!(!has_user_namespace(&spec));
    }
}
