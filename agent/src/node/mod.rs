//! This node as an object: what it is, what it has, and that it is here.

use std::collections::BTreeMap;

use gantry_api::k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSystemInfo};
use gantry_api::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use gantry_api::meta::Time;
use gantry_client::{Api, Client, ClientError, Patch, WriteParams};
use serde_json::json;

use crate::ids::Clock;
use crate::network::Subnet;

/// Containers that a node takes by default.
const CAPACITY: &str = "1000";
/// Subnets of the host that allocation keeps clear of, comma-separated.
const HOST_SUBNETS: &str = "gantry.dev/host-subnets";

/// Makes the Node object say what this node is. Idempotent.
///
/// # Errors
/// When the API refuses or cannot be reached; a conflict when another wrote the Node meanwhile: call it again.
pub async fn register(client: &Client, name: &str, host_subnets: &[Subnet], clock: &Clock) -> Result<(), ClientError> {
    let api: Api<Node> = Api::all(client);
    let subnets: Vec<String> = host_subnets.iter().map(|subnet| format!("{}/{}", subnet.address, subnet.prefix)).collect();
    let metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture()},
        "annotations": {HOST_SUBNETS: subnets.join(",")},
    });
    if api.find(name).await?.is_none() {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        match api.create(&node, &WriteParams::default()).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    let found = api.patch(name, &Patch::Merge(json!({"metadata": metadata})), &WriteParams::default()).await?;
    let version = found.metadata.resource_version.clone();
    let (ready, others): (Vec<_>, Vec<_>) =
        found.status.and_then(|status| status.conditions).unwrap_or_default().into_iter().partition(|c| c.type_ == "Ready");
    let since = ready.into_iter().find(|condition| condition.status == "True").and_then(|condition| condition.last_transition_time);
    let status = status(name, since, others, &Time(clock()));
    // Tied to the version that was read: conditions are one list, and another's that came meanwhile would be lost.
    api.patch_status(name, &Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}))).await?;
    Ok(())
}

/// `others`: conditions that are not this agent's, such as that of the store.
fn status(name: &str, ready_since: Option<Time>, others: Vec<NodeCondition>, now: &Time) -> serde_json::Value {
    let capacity = BTreeMap::from([
        ("cpu", Quantity(std::thread::available_parallelism().map_or(1, usize::from).to_string())),
        ("memory", Quantity(format!("{}Ki", memory_kib()))),
        ("pods", Quantity(CAPACITY.to_owned())),
    ]);
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("AgentRunning".to_owned()),
        message: Some("the agent of this node is running".to_owned()),
        last_transition_time: Some(ready_since.unwrap_or_else(|| now.clone())),
        last_heartbeat_time: None,
    };
    let conditions: Vec<NodeCondition> = std::iter::once(ready).chain(others).collect();
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": conditions,
        "addresses": [
            NodeAddress { type_: "InternalIP".to_owned(), address: "127.0.0.1".to_owned() },
            NodeAddress { type_: "Hostname".to_owned(), address: name.to_owned() },
        ],
        "nodeInfo": node_info(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    })
}

fn node_info() -> NodeSystemInfo {
    let version = env!("CARGO_PKG_VERSION");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("gantry://{version}"),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: format!("v{version}"),
        machine_id: line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: os_image(),
        system_uuid: line("/etc/machine-id"),
        ..NodeSystemInfo::default()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
