//! Container: one isolated process tree from one image.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Time, define_kind};
use crate::quantity::Quantity;

define_kind!(
    /// One isolated process tree from one image, kept as declared for ever.
    Container, "containers", ContainerSpec, ContainerStatus
);

/// Finalizer under which the node's agent takes a container off the host before its record goes.
pub const AGENT_FINALIZER: &str = "gantry.dev/agent";

/// What a Container should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerSpec {
    /// Image reference, normalised as Docker does; object names are never tried. Exactly one of `image` and `imageName` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Name of an Image of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson` with which `image` is pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_secret_name: Option<String>,
    /// Pins the container to a node. Left out: the scheduler chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Labels that the node must carry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Replaces the image's ENTRYPOINT (and drops its CMD).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's CMD.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables, over the image's own and those of `envFrom`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Whole Secrets or ConfigMaps as environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// Working directory. Default: the image's, else `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`. Default: the image's, else root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further group ids of the process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supplemental_groups: Vec<u32>,
    /// Host name inside. Default: the object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Runs a small init as PID 1 that reaps orphans and forwards signals.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// Published ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["containerPort", "protocol"]))]
    pub ports: Vec<ContainerPort>,
    /// Networks to join. Left out with `networkMode: Networks`: the namespace's `default` Network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub networks: Vec<ContainerNetwork>,
    /// What network the container sees. Default: `Networks`.
    pub network_mode: NetworkMode,
    /// File systems mounted inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mountPath"]))]
    pub mounts: Vec<Mount>,
    /// Limits on what it may use.
    pub resources: Resources,
    /// What happens when the process ends. Default: `Always`.
    pub restart_policy: RestartPolicy,
    /// How fast it is started again.
    pub restart_backoff: RestartBackoff,
    /// Changing this time restarts the process once (`gantry restart`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted_at: Option<Time>,
    /// How it is stopped.
    pub stop: StopSpec,
    /// How far it is isolated from the host.
    pub security_context: SecurityContext,
    /// How much of its output is kept.
    pub logs: LogSpec,
    /// Whether it should run now. Default: `Running`.
    pub desired_state: DesiredState,
    /// Whether a new digest of its Image replaces the running container. Default: `Pinned`.
    pub update_policy: UpdatePolicy,
}

/// One environment variable; at most one of `value` and `valueFrom`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name: not empty, without `=`.
    pub name: String,
    /// Literal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is read at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Exactly one member is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVarSource {
    /// A key of a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySelector>,
    /// A key of a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
}

/// A key of a Secret or ConfigMap of this namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySelector {
    /// The object's name.
    pub name: String,
    /// The key within `data`.
    pub key: String,
    /// Whether a missing object or key is no error (the variable is then not set).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Exactly one of `secretRef` and `configMapRef` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFromSource {
    /// Put before every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Every key of a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectSelector>,
    /// Every key of a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectSelector>,
}

/// A Secret or ConfigMap of this namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSelector {
    /// The object's name.
    pub name: String,
    /// Whether a missing object is no error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    TCP,
    /// UDP.
    UDP,
}

/// From where a published port can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// From this machine only.
    #[default]
    Loopback,
    /// From peers on directly connected private subnets too.
    LAN,
    /// From anywhere.
    Public,
}

/// A port, or a range of ports, published on the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port inside, 1 to 65535.
    pub container_port: u16,
    /// Last port of a range that starts at `containerPort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// Port on the node. Left out: not published (only documented). 0: chosen and shown in status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Address of the node to publish on, instead of `exposure`.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// From where the port can be reached. Default: `Loopback`.
    // Not written when it is the default: kubectl's merge patch replaces lists whole, and would find a difference at every apply.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "Loopback"))]
    pub exposure: Exposure,
    /// Default: `TCP`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "TCP"))]
    pub protocol: Protocol,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Membership of one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerNetwork {
    /// Name of a Network of this namespace.
    pub name: String,
    /// Further names under which the container is found on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// A fixed IPv4 address of the network's subnet.
    #[serde(default, rename = "ipv4Address", skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<String>,
}

/// What network a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// Those in `networks`.
    #[default]
    Networks,
    /// The node's own.
    Host,
    /// Loopback only.
    None,
}

/// A file system mounted inside; exactly one source is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path inside.
    pub mount_path: String,
    /// Path within the source, without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Mounted read-only, everything below included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// A Volume of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeMountSource>,
    /// A path of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathMountSource>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<TmpfsMountSource>,
    /// The keys of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ObjectSelector>,
    /// The keys of a Secret as files, in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectSelector>,
}

/// A Volume of this namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMountSource {
    /// The Volume's name.
    pub name: String,
}

/// A path of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPathMountSource {
    /// Absolute path on the node.
    pub path: String,
    /// Whether a missing directory is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
}

/// Memory as a file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TmpfsMountSource {
    /// Most bytes it may hold. Default: half of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
    /// Permission bits of its root in octal. Default: `"1777"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Limits on what a container may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Never more than this.
    pub limits: ResourceLimits,
}

/// Upper bounds; absent means none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceLimits {
    /// Processor time in cores: `500m` is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory in bytes, swap not added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
}

/// What happens when the process ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again unless it ended with 0.
    OnFailure,
    /// It stays ended.
    Never,
}

/// Exponential delay between restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartBackoff {
    /// Delay before the second restart in a row, in seconds; the first is immediate. Default: 0.1.
    pub initial_seconds: f64,
    /// Longest delay, in seconds. Default: 60.
    pub max_seconds: f64,
    /// Restarts in a row before giving up. Left out: never gives up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// A run of at least this many seconds starts the count afresh. Default: 10.
    pub reset_after_seconds: f64,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self { initial_seconds: 0.1, max_seconds: 60.0, max_retries: None, reset_after_seconds: 10.0 }
    }
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StopSpec {
    /// Signal name such as `SIGTERM`. Default: the image's STOPSIGNAL, else `SIGTERM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Seconds between the signal and SIGKILL, 0 or more. Default: 10.
    pub grace_period_seconds: i64,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: None, grace_period_seconds: 10 }
    }
}

/// How far a container is isolated from the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityContext {
    /// All capabilities, all devices, nothing masked, no user namespace, no seccomp. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Changes to Docker's default set of capabilities.
    pub capabilities: Capabilities,
    /// The image's file system is read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
    /// False sets no_new_privs. Default: true, as Docker's and Kubernetes'.
    pub allow_privilege_escalation: bool,
    /// Which system calls are let through. Default: `RuntimeDefault`.
    pub seccomp_profile: SeccompProfile,
    /// Whether root inside is root outside.
    pub user_namespace: UserNamespace,
}

impl Default for SecurityContext {
    fn default() -> Self {
        Self {
            privileged: false,
            capabilities: Capabilities::default(),
            read_only_root_filesystem: false,
            allow_privilege_escalation: true,
            seccomp_profile: SeccompProfile::default(),
            user_namespace: UserNamespace::default(),
        }
    }
}

/// Changes to the default set of capabilities; names without `CAP_`, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Taken away, after `add`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// Which system calls are let through.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompProfile {
    /// Kind of profile.
    #[serde(rename = "type")]
    pub type_: SeccompProfileType,
}

/// Kind of seccomp profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SeccompProfileType {
    /// Docker's default list.
    #[default]
    RuntimeDefault,
    /// Everything.
    Unconfined,
}

/// Whether root inside is root outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UserNamespace {
    /// Default: `Auto`.
    pub mode: UserNamespaceMode,
    /// Ids in the container's range, a multiple of 65536. Default: 65536.
    pub size: u32,
}

impl Default for UserNamespace {
    fn default() -> Self {
        Self { mode: UserNamespaceMode::Auto, size: 65536 }
    }
}

/// Whether root inside is root outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UserNamespaceMode {
    /// A range of its own, chosen anew at each start; `Host` with privileged or the host's network.
    #[default]
    Auto,
    /// Root inside is root outside.
    Host,
}

/// How much of a container's output is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LogSpec {
    /// Size at which a log file is rotated, in bytes, 4096 or more. Default: 64 MiB.
    pub max_size_bytes: i64,
    /// Files kept, the current one included, 1 to 100. Default: 4.
    pub max_files: i32,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { max_size_bytes: 64 << 20, max_files: 4 }
    }
}

/// Whether a container should run now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// It runs.
    #[default]
    Running,
    /// Its process is stopped; writable layer, addresses and ports are kept.
    Stopped,
}

/// Whether a new digest of the image replaces the running container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdatePolicy {
    /// The digest it was started from stays until the spec's image changes.
    #[default]
    Pinned,
    /// A new digest replaces it.
    OnImageChange,
}

/// What a Container is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// The generation that the agent last acted on. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands in its life. Written by the agent; `Unknown` by the node lifecycle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<ContainerPhase>,
    /// The node it is bound to. Written by the scheduler, through the `binding` subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The node that it is leaving: it is bound to another only after the agent there has let go. Written with `nodeName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_node_name: Option<String>,
    /// Uid of the latest binding to a node: that of the Pod which shows this container there.
    #[serde(rename = "bindingUID", skip_serializing_if = "Option::is_none")]
    pub binding_uid: Option<String>,
    /// The Image of this namespace that `spec.image` or `spec.imageName` stands for. Written by the image controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_object_name: Option<String>,
    /// Id of this instance, new at each replacement: 64 hexadecimal digits. Written by the agent.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Digest of the image that it was started from. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Process id on the node. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When the process was last started. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the process last ended. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Exit code of the last run: 128 + n when a signal n ended it. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Name of the signal that ended the last run. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether the kernel ended the last run for want of memory. Written by the agent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// Restarts of this instance by policy. Written by the agent.
    pub restart_count: i32,
    /// Addresses. Written by the network controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub networks: Vec<NetworkEndpoint>,
    /// Ports as published. Written by the agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// `Scheduled` (scheduler), `ImageReady`, `VolumesReady`, `NetworkReady`, `Started`, `Ready` (agent).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a container stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ContainerPhase {
    /// Waits for a node, its image, a volume or a network.
    Pending,
    /// Is being made.
    Creating,
    /// Its process runs.
    Running,
    /// Its process ended and will be started again after the back-off.
    Restarting,
    /// Its process ended and stays so.
    Exited,
    /// It could not be started; see the conditions.
    Failed,
    /// It is being taken off the node.
    Terminating,
    /// Its node is gone.
    Unknown,
}

/// A container's address on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkEndpoint {
    /// Name of the Network.
    pub name: String,
    /// Uid of the Network, so that one made anew under the same name is another.
    pub network_uid: String,
    /// IPv4 address with prefix length, such as `10.88.0.5/20`.
    #[serde(default, rename = "ipv4Address", skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<String>,
    /// IPv6 address with prefix length.
    #[serde(default, rename = "ipv6Address", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<String>,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// IPv4 gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A port as published on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// Port inside.
    pub container_port: u16,
    /// Address on the node.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Port on the node.
    pub host_port: u16,
    /// Number of consecutive ports, 1 when it is no range.
    pub count: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl ContainerStatus {
    /// The condition named `type_`, if present.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        crate::meta::find_condition(&self.conditions, type_)
    }
}
