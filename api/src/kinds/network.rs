//! Network: a private bridge that containers join.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::volume::IN_USE_FINALIZER;
use crate::meta::{Condition, define_kind};

define_kind!(
    /// A private network that containers join and on which they find each other by name.
    Network, "networks", NetworkSpec, NetworkStatus
);

/// What a Network should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// What carries it. Default: `bridge`.
    pub driver: NetworkDriver,
    /// CIDR subnets, at most one of each address family. Left out: an IPv4 /20 is allocated without collision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub subnets: Vec<String>,
    /// Gateway address in each subnet. Default: the first address of the subnet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub gateways: Vec<String>,
    /// No way out of the network and no default route.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Maximum transmission unit in bytes, 576 to 65535. Default: 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i32>,
    /// Driver options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// What carries a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NetworkDriver {
    /// A Linux bridge on the node.
    #[default]
    Bridge,
}

/// What a Network is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatus {
    /// The generation that the network controller last acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Subnets in use. Written by the network controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Gateways in use, one for each subnet. Written by the network controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// How many containers have an address in it. Written by the network controller.
    pub endpoint_count: i32,
    /// Name of the bridge on each node, derived from the instance and the network's uid. Written by the network controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// `Ready` (by the network controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
