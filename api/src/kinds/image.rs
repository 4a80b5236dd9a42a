//! Image: a named, read-only template for containers. Says where it comes from; status says what it resolved to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{Condition, Time, define_kind};

define_kind!(
    /// A named, read-only template for containers.
    Image, "images", ImageSpec, ImageStatus
);

/// What an Image is made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageSpec {
    /// Where the content comes from; exactly one member is set.
    pub source: ImageSource,
    /// Further references by which the image is known on this engine, such as `localhost/team/web:1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `os/architecture[/variant]` to choose from a multi-platform index. Default: the node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When a registry is asked. Default: `Always` for the tag `latest`, else `IfNotPresent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
}

/// Exactly one of the members is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageSource {
    /// Pulled from a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistrySource>,
    /// An uploaded `docker save` or OCI layout archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSource>,
}

/// An image in a registry, or in this engine's local index under the same reference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistrySource {
    /// Image reference, normalised as Docker does (`nginx` is `docker.io/library/nginx:latest`).
    pub reference: String,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson` in this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_secret_name: Option<String>,
}

/// An uploaded archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveSource {
    /// `sha256:` digest of the uploaded archive.
    pub digest: String,
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Ask at every resolution; content that is here is not fetched again.
    Always,
    /// Ask only when the reference is not in the local index.
    IfNotPresent,
    /// Never ask; the reference must be in the local index.
    Never,
}

/// What an Image resolved to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageStatus {
    /// The generation that the resolver last acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `sha256:` digest of the image manifest: what a Container pins. Written by the resolver's agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Normalised references by which the image is known. Written by the resolver's agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Sum of the compressed layers and the config, in bytes. Written by the resolver's agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// The layers, lowest first. Written by the resolver's agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<ImageLayer>,
    /// What the image says of its process. Written by the resolver's agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// The node whose agent talks to the registry. Written by the image controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver_node_name: Option<String>,
    /// Where the image is. Each agent writes its own entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<ImageNodeStatus>,
    /// `Resolved` (by the resolver's agent), `Ready` (by the image controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One layer of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageLayer {
    /// `sha256:` digest of the compressed blob.
    pub digest: String,
    /// Size of the compressed blob in bytes.
    pub size_bytes: i64,
    /// `sha256:` digest of the uncompressed tar.
    pub diff_id: String,
}

/// The parts of an OCI image configuration that concern a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageConfig {
    /// ENTRYPOINT.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// CMD.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// ENV, as `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// USER.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// WORKDIR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// EXPOSE, as `80/tcp`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// VOLUME paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// LABEL.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// How far one node has got with an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageNodeStatus {
    /// Node name.
    pub name: String,
    /// How far it has got.
    pub phase: ImageNodePhase,
    /// Bytes of compressed layers, while pulling; written at most twice a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ImageProgress>,
    /// Why it failed, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the phase last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// How far one node has got with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageNodePhase {
    /// Blobs are being fetched.
    Pulling,
    /// Layers are being unpacked.
    Unpacking,
    /// Runnable on this node.
    Present,
    /// Stopped by an error; tried again with back-off.
    Failed,
}

/// Bytes fetched of bytes wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageProgress {
    /// Bytes here.
    pub current_bytes: i64,
    /// Bytes in all; 0 while unknown.
    pub total_bytes: i64,
}
