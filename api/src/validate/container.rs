//! Rules of Containers.

use std::collections::BTreeSet;

use super::{Errors, name};
use crate::kinds::container::{Container, ContainerPort, ContainerSpec, KeySelector, Mount, NetworkMode, UserNamespaceMode};
use crate::quantity::Quantity;
use crate::reference::ImageReference;

const MAX_ITEMS: usize = 1024;
const CAPABILITIES: &str = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH \
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST \
    NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE \
    SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM ALL";
const SIGNALS: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG \
    XCPU XFSZ VTALRM PROF WINCH IO PWR SYS RTMIN RTMAX";

/// Everything wrong with a Container's spec.
pub(super) fn check(new: &Container, errors: &mut Errors) {
    let spec = &new.spec;
    image(spec, errors);
    process(spec, errors);
    environment(spec, errors);
    network(spec, errors);
    ports(&spec.ports, errors);
    mounts(&spec.mounts, errors);
    limits(spec, errors);
    lifecycle(spec, errors);
    security(spec, errors);
}

fn image(spec: &ContainerSpec, errors: &mut Errors) {
    match (&spec.image, &spec.image_name) {
        (None, None) => errors.required("spec.image", "exactly one of image and imageName is required"),
        (Some(_), Some(_)) => errors.forbidden("spec.imageName", "exactly one of image and imageName can be set"),
        (Some(reference), None) => {
            if let Err(error) = ImageReference::parse(reference) {
                errors.bad("spec.image", reference, &error.to_string());
            }
        }
        (None, Some(image)) => errors.rule("spec.imageName", image, name::subdomain(image)),
    }
    if let Some(secret) = &spec.pull_secret_name {
        errors.rule("spec.pullSecretName", secret, name::subdomain(secret));
    }
    if let Some(node) = &spec.node_name {
        errors.rule("spec.nodeName", node, name::subdomain(node));
    }
    for (key, value) in &spec.node_selector {
        if !name::is_qualified(key) || !name::is_label_value(value) {
            errors.bad("spec.nodeSelector", key, "must be a label and its value");
        }
    }
}

fn process(spec: &ContainerSpec, errors: &mut Errors) {
    for (path, words) in [("spec.command", &spec.command), ("spec.args", &spec.args)] {
        for (index, word) in words.iter().enumerate().filter(|(_, word)| word.contains('\0')) {
            errors.bad(&format!("{path}[{index}]"), word, "must not contain a NUL character");
        }
    }
    if spec.command.first().is_some_and(String::is_empty) {
        errors.invalid("spec.command[0]", "must name a program");
    }
    if let Some(path) = &spec.working_dir {
        errors.absolute("spec.workingDir", path);
    }
    if let Some(hostname) = &spec.hostname {
        errors.rule(
            "spec.hostname",
            hostname,
            name::subdomain(hostname)
                .and_then(|()| if hostname.len() <= 64 { Ok(()) } else { Err("must be at most 64 characters".to_owned()) }),
        );
    }
    let bound = id_bound(spec);
    if let Some(user) = &spec.user {
        check_user(user, bound, errors);
    }
    for (index, gid) in spec.supplemental_groups.iter().enumerate().filter(|(_, gid)| **gid >= bound) {
        errors.bad(&format!("spec.supplementalGroups[{index}]"), &gid.to_string(), &id_rule(bound));
    }
}

/// First id that the container's user namespace does not have.
fn id_bound(spec: &ContainerSpec) -> u32 {
    let context = &spec.security_context;
    let mapped = context.user_namespace.mode == UserNamespaceMode::Auto && !context.privileged && spec.network_mode != NetworkMode::Host;
    if mapped { context.user_namespace.size.min(1 << 31) } else { 1 << 31 }
}

fn id_rule(bound: u32) -> String {
    format!("must be an id below {bound}; a larger securityContext.userNamespace.size gives the container more ids")
}

fn check_user(user: &str, bound: u32, errors: &mut Errors) {
    let mut parts = user.split(':');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let good_name = |text: &str| !text.is_empty() && text.len() <= 256 && !text.contains(['\0', '\n', '/', ' ']);
    if parts.next().is_some() || ![Some(first), second].into_iter().flatten().all(good_name) {
        errors.bad("spec.user", user, "must be name, uid, name:group or uid:gid");
        return;
    }
    for part in [Some(first), second].into_iter().flatten().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
        if part.parse::<u32>().map_or(true, |id| id >= bound) {
            errors.bad("spec.user", user, &id_rule(bound));
        }
    }
}

fn environment(spec: &ContainerSpec, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, variable) in spec.env.iter().enumerate() {
        let path = format!("spec.env[{index}]");
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            errors.bad(&format!("{path}.name"), &variable.name, "must not be empty nor contain '='");
        }
        if !seen.insert(&variable.name) {
            errors.duplicate(&format!("{path}.name"), &variable.name);
        }
        if variable.value.as_deref().is_some_and(|value| value.contains('\0')) {
            errors.invalid(&format!("{path}.value"), "must not contain a NUL character");
        }
        let Some(source) = &variable.value_from else { continue };
        if variable.value.is_some() {
            errors.forbidden(&format!("{path}.valueFrom"), "at most one of value and valueFrom can be set");
        }
        errors.exactly_one(
            &format!("{path}.valueFrom"),
            &[("secretKeyRef", source.secret_key_ref.is_some()), ("configMapKeyRef", source.config_map_key_ref.is_some())],
        );
        for (field, key) in [("secretKeyRef", &source.secret_key_ref), ("configMapKeyRef", &source.config_map_key_ref)] {
            if let Some(key) = key {
                key_selector(&format!("{path}.valueFrom.{field}"), key, errors);
            }
        }
    }
    for (index, source) in spec.env_from.iter().enumerate() {
        let path = format!("spec.envFrom[{index}]");
        errors.exactly_one(&path, &[("secretRef", source.secret_ref.is_some()), ("configMapRef", source.config_map_ref.is_some())]);
        for (field, target) in [("secretRef", &source.secret_ref), ("configMapRef", &source.config_map_ref)] {
            if let Some(target) = target {
                errors.rule(&format!("{path}.{field}.name"), &target.name, name::subdomain(&target.name));
            }
        }
        if source.prefix.as_deref().is_some_and(|prefix| prefix.contains(['=', '\0'])) {
            errors.invalid(&format!("{path}.prefix"), "must not contain '='");
        }
    }
}

fn key_selector(path: &str, selector: &KeySelector, errors: &mut Errors) {
    errors.rule(&format!("{path}.name"), &selector.name, name::subdomain(&selector.name));
    if !name::is_data_key(&selector.key) {
        errors.bad(&format!("{path}.key"), &selector.key, "must be letters, digits, '-', '_' or '.'");
    }
}

fn network(spec: &ContainerSpec, errors: &mut Errors) {
    if spec.network_mode != NetworkMode::Networks {
        if !spec.networks.is_empty() {
            errors.forbidden("spec.networks", "can only be set with networkMode Networks");
        }
        if spec.ports.iter().any(|port| port.host_port.is_some()) {
            errors.forbidden(
                "spec.ports",
                "ports can only be published with networkMode Networks; with Host the process listens on the node itself",
            );
        }
    }
    let mut seen = BTreeSet::new();
    for (index, network) in spec.networks.iter().enumerate() {
        let path = format!("spec.networks[{index}]");
        errors.rule(&format!("{path}.name"), &network.name, name::label(&network.name));
        if !seen.insert(&network.name) {
            errors.duplicate(&format!("{path}.name"), &network.name);
        }
        for (at, alias) in network.aliases.iter().enumerate() {
            errors.rule(&format!("{path}.aliases[{at}]"), alias, name::subdomain(alias));
        }
        if let Some(address) = &network.ipv4_address
            && address
                .parse::<std::net::Ipv4Addr>()
                .map_or(true, |ip| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
        {
            errors.bad(&format!("{path}.ipv4Address"), address, "must be a unicast IPv4 address such as 10.88.0.5");
        }
    }
}

fn ports(ports: &[ContainerPort], errors: &mut Errors) {
    if ports.len() > MAX_ITEMS {
        errors.invalid("spec.ports", "must be at most 1024 entries; a range needs one only");
        return;
    }
    let mut names = BTreeSet::new();
    let span = |port: &ContainerPort| u32::from(port.end_port.unwrap_or(port.container_port).saturating_sub(port.container_port));
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.container_port == 0 {
            errors.bad(&format!("{path}.containerPort"), "0", "must be from 1 to 65535");
        }
        if port.end_port.is_some_and(|end| end < port.container_port) {
            errors.invalid(&format!("{path}.endPort"), "must not be less than containerPort");
        }
        let host = u32::from(port.host_port.unwrap_or(0));
        if host != 0 && host + span(port) > 65535 {
            errors.invalid(&format!("{path}.hostPort"), "the range must end at or below 65535");
        }
        if let Some(address) = &port.host_ip
            && address.parse::<std::net::IpAddr>().map_or(true, |ip| ip.is_multicast())
        {
            errors.bad(&format!("{path}.hostIP"), address, "must be an IP address");
        }
        if let Some(text) = &port.name {
            errors.rule(&format!("{path}.name"), text, name::label(text));
            if !names.insert(text) {
                errors.duplicate(&format!("{path}.name"), text);
            }
        }
        let overlaps = |a: u32, b: u32, other: &ContainerPort| a <= b + span(other) && b <= a + span(port);
        for other in ports[..index].iter().filter(|other| other.protocol == port.protocol) {
            if overlaps(u32::from(port.container_port), u32::from(other.container_port), other) {
                errors.duplicate(&format!("{path}.containerPort"), &port.container_port.to_string());
            }
            let same_address = other.host_ip == port.host_ip || other.host_ip.is_none() || port.host_ip.is_none();
            let other_host = u32::from(other.host_port.unwrap_or(0));
            if host != 0 && other_host != 0 && same_address && overlaps(host, other_host, other) {
                errors.duplicate(&format!("{path}.hostPort"), &host.to_string());
            }
        }
    }
}

fn mounts(mounts: &[Mount], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("spec.mounts[{index}]");
        errors.absolute(&format!("{path}.mountPath"), &mount.mount_path);
        let parts: Vec<&str> = mount.mount_path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.is_empty() && mount.mount_path.starts_with('/') {
            errors.invalid(&format!("{path}.mountPath"), "must not be the root directory");
        }
        if !seen.insert(parts) {
            errors.duplicate(&format!("{path}.mountPath"), &mount.mount_path);
        }
        if let Some(sub) = &mount.sub_path
            && (sub.starts_with('/') || sub.split('/').any(|part| part == "..") || sub.contains('\0'))
        {
            errors.bad(&format!("{path}.subPath"), sub, "must be a relative path without '..'");
        }
        let sources = [
            ("volume", mount.volume.is_some()),
            ("hostPath", mount.host_path.is_some()),
            ("tmpfs", mount.tmpfs.is_some()),
            ("configMap", mount.config_map.is_some()),
            ("secret", mount.secret.is_some()),
        ];
        errors.exactly_one(&path, &sources);
        for (field, target) in [
            ("volume", mount.volume.as_ref().map(|source| &source.name)),
            ("configMap", mount.config_map.as_ref().map(|source| &source.name)),
            ("secret", mount.secret.as_ref().map(|source| &source.name)),
        ] {
            if let Some(target) = target {
                errors.rule(&format!("{path}.{field}.name"), target, name::subdomain(target));
            }
        }
        if let Some(source) = &mount.host_path {
            errors.absolute(&format!("{path}.hostPath.path"), &source.path);
        }
        if let Some(source) = &mount.tmpfs {
            errors.positive(&format!("{path}.tmpfs.sizeLimit"), source.size_limit.as_ref().map(Quantity::to_value));
            errors.mode(&format!("{path}.tmpfs.mode"), source.mode.as_deref());
        }
    }
}

fn limits(spec: &ContainerSpec, errors: &mut Errors) {
    let limits = &spec.resources.limits;
    errors.positive("spec.resources.limits.cpu", limits.cpu.as_ref().map(Quantity::to_milli));
    errors.positive("spec.resources.limits.memory", limits.memory.as_ref().map(Quantity::to_value));
    errors.positive("spec.resources.limits.pids", limits.pids.map(Some));
    if limits.memory.as_ref().and_then(Quantity::to_value).is_some_and(|bytes| (1..6 << 20).contains(&bytes)) {
        errors.invalid("spec.resources.limits.memory", "must be at least 6Mi, as a process cannot start in less");
    }
    if limits.cpu.as_ref().and_then(Quantity::to_milli).is_some_and(|milli| (1..10).contains(&milli)) {
        errors.invalid("spec.resources.limits.cpu", "must be at least 10m, the least that the kernel can enforce");
    }
}

fn lifecycle(spec: &ContainerSpec, errors: &mut Errors) {
    let backoff = &spec.restart_backoff;
    for (field, seconds) in [
        ("initialSeconds", backoff.initial_seconds),
        ("maxSeconds", backoff.max_seconds),
        ("resetAfterSeconds", backoff.reset_after_seconds),
    ] {
        if !(0.0..=86400.0).contains(&seconds) {
            errors.bad(&format!("spec.restartBackoff.{field}"), &seconds.to_string(), "must be from 0 to 86400");
        }
    }
    if backoff.max_seconds < backoff.initial_seconds {
        errors.invalid("spec.restartBackoff.maxSeconds", "must not be less than initialSeconds");
    }
    if backoff.max_retries.is_some_and(|retries| retries < 0) {
        errors.invalid("spec.restartBackoff.maxRetries", "must not be negative");
    }
    if !(0..=31_536_000).contains(&spec.stop.grace_period_seconds) {
        errors.bad("spec.stop.gracePeriodSeconds", &spec.stop.grace_period_seconds.to_string(), "must be from 0 to 31536000");
    }
    if let Some(signal) = &spec.stop.signal
        && !is_signal(signal)
    {
        errors.bad("spec.stop.signal", signal, "must be a signal such as SIGTERM");
    }
    if spec.logs.max_size_bytes < 4096 {
        errors.bad("spec.logs.maxSizeBytes", &spec.logs.max_size_bytes.to_string(), "must be at least 4096");
    }
    if !(1..=100).contains(&spec.logs.max_files) {
        errors.bad("spec.logs.maxFiles", &spec.logs.max_files.to_string(), "must be from 1 to 100");
    }
}

/// A name with or without `SIG`, `RTMIN+n`, `RTMAX-n`, or a number.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let bare = text.strip_prefix("SIG").unwrap_or(text);
    let offset = bare.strip_prefix("RTMIN+").or_else(|| bare.strip_prefix("RTMAX-"));
    offset.map_or_else(|| SIGNALS.split_whitespace().any(|known| known == bare), |n| n.parse::<u8>().is_ok_and(|n| n <= 30))
}

fn security(spec: &ContainerSpec, errors: &mut Errors) {
    let context = &spec.security_context;
    for (path, names) in [("add", &context.capabilities.add), ("drop", &context.capabilities.drop)] {
        for (index, capability) in names.iter().enumerate() {
            if !CAPABILITIES.split_whitespace().any(|known| known == capability) {
                let path = format!("spec.securityContext.capabilities.{path}[{index}]");
                errors.bad(&path, capability, "must be ALL or a capability without CAP_, such as NET_ADMIN");
            }
        }
    }
    if context.privileged && !context.allow_privilege_escalation {
        errors.forbidden("spec.securityContext.allowPrivilegeEscalation", "cannot be false with privileged");
    }
    if context.privileged && !context.capabilities.drop.is_empty() {
        errors.forbidden("spec.securityContext.capabilities.drop", "cannot be set with privileged");
    }
    let size = context.user_namespace.size;
    if size == 0 || !size.is_multiple_of(65536) || size > 1 << 31 {
        errors.bad("spec.securityContext.userNamespace.size", &size.to_string(), "must be a multiple of 65536, at most 2147483648");
    }
}
