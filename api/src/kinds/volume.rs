//! Volume: data that outlives containers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{Condition, define_kind};
use crate::quantity::Quantity;

define_kind!(
    /// A directory of data that outlives the containers that mount it.
    Volume, "volumes", VolumeSpec, VolumeStatus
);

/// Finalizer that keeps a Volume while a Container mounts it.
pub const IN_USE_FINALIZER: &str = "gantry.dev/in-use";
/// Finalizer under which the Volume's node retains or removes the data.
pub const DATA_FINALIZER: &str = "gantry.dev/volume-data";

/// What a Volume should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// What holds the data. Default: `local`.
    pub driver: VolumeDriver,
    /// Most bytes it may hold, enforced where the file system can; status says where not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Owner and mode of the volume's root directory. Default: 0, 0, 0755, or those of the image's directory on first use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<VolumeOwner>,
    /// Whether several containers may mount it at once. Default: `ReadWriteMany`.
    pub access_mode: AccessMode,
    /// Pins the volume to a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// What happens to the data when the Volume is deleted. Default: `Retain`.
    pub reclaim_policy: ReclaimPolicy,
    /// Driver options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// What holds a volume's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VolumeDriver {
    /// A directory on the node's disk.
    #[default]
    Local,
}

/// Owner and mode of a volume's root directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeOwner {
    /// User id as seen in the container.
    pub uid: u32,
    /// Group id as seen in the container.
    pub gid: u32,
    /// Permission bits in octal, such as `"0750"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Whether several containers may mount a volume at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// Any number of containers.
    #[default]
    ReadWriteMany,
    /// One container at a time.
    ReadWriteOnce,
}

/// What happens to the data of a deleted volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// Moved to the retained area; a new Volume of the same name never gets it.
    #[default]
    Retain,
    /// Removed.
    Delete,
}

/// What a Volume is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// The generation last acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands in its life. Written by the volume controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<VolumePhase>,
    /// The node that holds the data. Written once, by the volume controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Names of the Containers of this namespace that mount it. Written by the volume controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// `DataReady` (by the node's agent: the directory exists), `Ready` (by the volume controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a volume stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// No node yet.
    Pending,
    /// Has a node; no Container mounts it.
    Bound,
    /// A Container mounts it.
    InUse,
    /// Cannot be provided; see the conditions.
    Failed,
}
