//! What tables show of each kind, how ages are written, and how field selectors read a field.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::Column;

/// The text of the field at a dotted path, as field selectors compare it: empty when absent or no scalar.
pub fn field_value(object: &Value, path: &str) -> String {
    // kubectl's name for the component that reported an Event.
    let path: Cow<'_, str> = if path == "source" { "source.component".into() } else { path.into() };
    let mut at = object;
    for name in path.split('.') {
        let Some(next) = at.get(name) else { return String::new() };
        at = next;
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => at.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// The time between `since` and `now` as kubectl prints it: `5s`, `2m3s`, `3h`, `4d`.
///
/// Source: `k8s.io/apimachinery/pkg/util/duration`, `HumanDuration`.
pub fn humanize_age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{}s", seconds.max(0)),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => pair(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

type Cell = fn(&Value, Timestamp) -> Value;

const fn text(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column {
        name: Cow::Borrowed(name),
        type_: Cow::Borrowed("string"),
        description: Cow::Borrowed(description),
        priority: 0,
        cell: crate::registry::Cell::BuiltIn(cell),
    }
}
const fn number(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column {
        name: Cow::Borrowed(name),
        type_: Cow::Borrowed("integer"),
        description: Cow::Borrowed(description),
        priority: 0,
        cell: crate::registry::Cell::BuiltIn(cell),
    }
}
const fn wide(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column {
        name: Cow::Borrowed(name),
        type_: Cow::Borrowed("string"),
        description: Cow::Borrowed(description),
        priority: 1,
        cell: crate::registry::Cell::BuiltIn(cell),
    }
}

fn at(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Texts joined by commas; `Null` when there are none.
fn joined(texts: impl Iterator<Item = String>) -> Value {
    let all: Vec<String> = texts.collect();
    if all.is_empty() { Value::Null } else { all.join(",").into() }
}

fn texts(object: &Value, pointer: &str) -> Value {
    joined(list(object, pointer).iter().filter_map(Value::as_str).map(str::to_owned))
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|condition| condition["type"] == type_)
}

fn ready(object: &Value, _: Timestamp) -> Value {
    condition(object, "Ready").map_or_else(|| json!("Unknown"), |condition| condition["status"].clone())
}

fn why(object: &Value, _: Timestamp) -> Value {
    condition(object, "Ready")
        .filter(|condition| condition["status"] != "True")
        .map(|condition| condition["message"].clone())
        .unwrap_or_default()
}

fn phase(object: &Value, _: Timestamp) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return json!("Terminating");
    }
    object.pointer("/status/phase").cloned().unwrap_or_else(|| json!("Pending"))
}

/// Nineteen characters of a digest tell images apart.
fn short_digest(object: &Value, pointer: &str) -> Value {
    let digest = object.pointer(pointer).and_then(Value::as_str);
    digest.map_or(Value::Null, |digest| digest.chars().take(19).collect::<String>().into())
}

fn container_image(object: &Value, _: Timestamp) -> Value {
    object.pointer("/spec/image").or_else(|| object.pointer("/spec/imageName")).cloned().unwrap_or_default()
}

fn addresses(object: &Value, _: Timestamp) -> Value {
    let bare = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
    let endpoints = list(object, "/status/networks").iter();
    joined(endpoints.filter_map(|endpoint| endpoint["ipv4Address"].as_str().or(endpoint["ipv6Address"].as_str())).map(bare))
}

fn ports(object: &Value, _: Timestamp) -> Value {
    joined(list(object, "/status/ports").iter().map(|port| {
        let range = |first: u64| match port["count"].as_u64().unwrap_or(1) {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", first.saturating_add(count - 1)),
        };
        let (host, inside) = (port["hostPort"].as_u64().unwrap_or(0), port["containerPort"].as_u64().unwrap_or(0));
        let (address, protocol) = (port["hostIP"].as_str().unwrap_or_default(), port["protocol"].as_str().unwrap_or("TCP"));
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        format!("{address}:{}->{}/{}", range(host), range(inside), protocol.to_ascii_lowercase())
    }))
}

fn image_reference(object: &Value, _: Timestamp) -> Value {
    let registry = object.pointer("/spec/source/registry/reference");
    registry.cloned().unwrap_or_else(|| texts(object, "/spec/tags"))
}

/// Bytes with a decimal unit, as `docker images` prints them.
fn image_size(object: &Value, _: Timestamp) -> Value {
    let Some(bytes) = object.pointer("/status/sizeBytes").and_then(Value::as_f64) else { return Value::Null };
    let units = ["B", "kB", "MB", "GB", "TB"];
    let power = units.len().min((0..units.len()).filter(|power| bytes >= 1000_f64.powi(*power as i32)).count().max(1)) - 1;
    let scaled = bytes / 1000_f64.powi(power as i32);
    if scaled < 10.0 && power > 0 { format!("{scaled:.1}{}", units[power]).into() } else { format!("{scaled:.0}{}", units[power]).into() }
}

fn image_progress(object: &Value, _: Timestamp) -> Value {
    joined(list(object, "/status/nodes").iter().map(|node| {
        let (name, phase) = (node["name"].as_str().unwrap_or_default(), node["phase"].as_str().unwrap_or_default());
        match (node["progress"]["currentBytes"].as_u64(), node["progress"]["totalBytes"].as_u64()) {
            (Some(done), Some(all)) if all > 0 && phase == "Pulling" => {
                format!("{name}:{phase} {}%", u128::from(done) * 100 / u128::from(all))
            }
            _ => format!("{name}:{phase}"),
        }
    }))
}

fn in_use_or_wished(object: &Value, field: &str) -> Value {
    match texts(object, &format!("/status/{field}")) {
        Value::Null => texts(object, &format!("/spec/{field}")),
        found => found,
    }
}

fn node_status(object: &Value, _: Timestamp) -> Value {
    let ready = match condition(object, "Ready").and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    };
    let unschedulable = object.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    if unschedulable { format!("{ready},SchedulingDisabled").into() } else { ready.into() }
}

fn node_address(object: &Value, _: Timestamp) -> Value {
    let internal = list(object, "/status/addresses").iter().find(|address| address["type"] == "InternalIP");
    internal.map(|address| address["address"].clone()).unwrap_or_default()
}

fn data_count(object: &Value, _: Timestamp) -> Value {
    let count = |name: &str| object.get(name).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    (count("data") + count("binaryData")).into()
}

fn last_seen(object: &Value, now: Timestamp) -> Value {
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"];
    let seen = times.iter().filter_map(|pointer| object.pointer(pointer).and_then(Value::as_str)).find_map(|text| text.parse().ok());
    seen.map_or_else(|| json!("<unknown>"), |since| humanize_age(since, now).into())
}

fn involved(object: &Value, _: Timestamp) -> Value {
    let part = |name: &str| object["involvedObject"][name].as_str().unwrap_or_default().to_ascii_lowercase();
    format!("{}/{}", part("kind"), part("name")).into()
}

/// Namespace: Status.
pub(crate) const NAMESPACE: &[Column] =
    &[text("Status", "Active or Terminating.", |object, _| object.pointer("/status/phase").cloned().unwrap_or_else(|| json!("Active")))];

/// Node: Status, Version; wide: Internal-IP, OS-Image, Kernel-Version.
pub(crate) const NODE: &[Column] = &[
    text("Status", "Whether containers can run on it.", node_status),
    text("Version", "Version of the engine on it.", |object, _| at(object, "/status/nodeInfo/kubeletVersion")),
    wide("Internal-IP", "Its address.", node_address),
    wide("OS-Image", "Its operating system.", |object, _| at(object, "/status/nodeInfo/osImage")),
    wide("Kernel-Version", "Its kernel.", |object, _| at(object, "/status/nodeInfo/kernelVersion")),
];

/// Secret: Type, Data.
pub(crate) const SECRET: &[Column] =
    &[text("Type", "What sort of secret it is.", |object, _| at(object, "/type")), number("Data", "How many keys it has.", data_count)];

/// ConfigMap: Data.
pub(crate) const CONFIG_MAP: &[Column] = &[number("Data", "How many keys it has.", data_count)];

/// ServiceAccount: Secrets.
pub(crate) const SERVICE_ACCOUNT: &[Column] =
    &[number("Secrets", "How many secrets it may use.", |object, _| list(object, "/secrets").len().into())];

/// Service: Type, Cluster-IP, Port(s).
pub(crate) const SERVICE: &[Column] = &[
    text("Type", "How it is reached.", |object, _| at(object, "/spec/type")),
    text("Cluster-IP", "Its address.", |object, _| at(object, "/spec/clusterIP")),
    text("Port(s)", "Its ports.", |object, _| {
        joined(list(object, "/spec/ports").iter().filter_map(|port| port["port"].as_i64()).map(|port| port.to_string()))
    }),
];

/// Event: Last Seen, Type, Reason, Object, Message; wide: Count.
pub(crate) const EVENT: &[Column] = &[
    text("Last Seen", "When it last happened.", last_seen),
    text("Type", "Normal or Warning.", |object, _| at(object, "/type")),
    text("Reason", "What happened, in one word.", |object, _| at(object, "/reason")),
    text("Object", "What it happened to.", involved),
    text("Message", "What happened, in one sentence.", |object, _| at(object, "/message")),
    wide("Count", "How often it happened.", |object, _| at(object, "/count")),
];

/// Lease: Holder.
pub(crate) const LEASE: &[Column] = &[text("Holder", "Who holds it.", |object, _| at(object, "/spec/holderIdentity"))];

/// Image: Reference, Digest, Size, Ready; wide: Nodes, Message.
pub(crate) const IMAGE: &[Column] = &[
    text("Reference", "Where it comes from.", image_reference),
    text("Digest", "What it resolved to.", |object, _| short_digest(object, "/status/digest")),
    text("Size", "Size of its compressed layers.", image_size),
    text("Ready", "Whether it can be run.", ready),
    wide("Nodes", "How far each node has got with it.", image_progress),
    wide("Message", "Why it is not ready.", why),
];

/// Container: Phase, Ready, Restarts, Image, Node, IP, Ports; wide: Digest, Container-ID, Message.
pub(crate) const CONTAINER: &[Column] = &[
    text("Phase", "Where it stands in its life.", phase),
    text("Ready", "Whether it runs as wished.", ready),
    number("Restarts", "Restarts of this instance by policy.", |object, _| at(object, "/status/restartCount")),
    text("Image", "What it is made from.", container_image),
    text("Node", "Where it runs.", |object, _| at(object, "/status/nodeName")),
    text("IP", "Its addresses.", addresses),
    text("Ports", "Its published ports.", ports),
    wide("Digest", "Digest of the image that it was started from.", |object, _| short_digest(object, "/status/imageDigest")),
    wide("Container-ID", "Id of this instance.", |object, _| {
        at(object, "/status/containerID").as_str().map_or(Value::Null, |id| id.chars().take(12).collect::<String>().into())
    }),
    wide("Message", "Why it is not ready.", why),
];

/// Pod: Ready, Status, Restarts; wide: IP, Node. As kubectl's users know them.
pub(crate) const POD: &[Column] = &[
    text("Ready", "How many of its containers are ready.", |object, _| {
        let ready = object.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true));
        json!(if ready { "1/1" } else { "0/1" })
    }),
    text("Status", "Where it stands in its life, or why it does not.", pod_status),
    number("Restarts", "How often its container was restarted.", |object, _| at(object, "/status/containerStatuses/0/restartCount")),
    wide("IP", "Its first address.", |object, _| at(object, "/status/podIP")),
    wide("Node", "Where it runs.", |object, _| at(object, "/spec/nodeName")),
];

fn pod_status(object: &Value, _: Timestamp) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return json!("Terminating");
    }
    let state = |path: &str| object.pointer(&format!("/status/containerStatuses/0/state/{path}/reason")).cloned();
    state("waiting").or_else(|| state("terminated")).unwrap_or_else(|| at(object, "/status/phase"))
}

/// Network: Subnets, Gateways, Endpoints, Ready; wide: Bridge, Message.
pub(crate) const NETWORK: &[Column] = &[
    text("Subnets", "Its address ranges.", |object, _| in_use_or_wished(object, "subnets")),
    text("Gateways", "Its way out.", |object, _| in_use_or_wished(object, "gateways")),
    number("Endpoints", "How many containers are in it.", |object, _| at(object, "/status/endpointCount")),
    text("Ready", "Whether containers can join it.", ready),
    wide("Bridge", "Name of its link on each node.", |object, _| at(object, "/status/bridge")),
    wide("Message", "Why it is not ready.", why),
];

/// Volume: Phase, Node, Capacity, Used-By; wide: Reclaim-Policy, Message.
pub(crate) const VOLUME: &[Column] = &[
    text("Phase", "Where it stands in its life.", phase),
    text("Node", "Where its data is.", |object, _| at(object, "/status/nodeName")),
    text("Capacity", "Most bytes it may hold.", |object, _| at(object, "/spec/capacity")),
    text("Used-By", "Containers that mount it.", |object, _| texts(object, "/status/usedBy")),
    wide("Reclaim-Policy", "What happens to its data when it is deleted.", |object, _| at(object, "/spec/reclaimPolicy")),
    wide("Message", "Why it is not ready.", why),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (seconds, written) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (123, "2m3s"),
            (180, "3m"),
            (11 * 60, "11m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (47 * 3600, "47h"),
            (3 * 86400 + 7200, "3d2h"),
            (4 * 86400, "4d"),
            (100 * 86400, "100d"),
            (3 * 365 * 86400, "3y"),
        ] {
            let since = Timestamp::from_second(now.as_second() - seconds).unwrap();
            assert_eq!(humanize_age(since, now), written, "{seconds}");
        }
    }

    #[test]
    fn a_container_s_cells() {
        let object = json!({"spec": {"image": "nginx"}, "status": {"phase": "Running", "imageDigest": "sha256:0123456789abcdef",
            "networks": [{"ipv4Address": "10.88.0.5/20"}], "ports": [
            {"containerPort": 80, "hostIP": "127.0.0.1", "hostPort": 8080, "count": 1, "protocol": "TCP"},
            {"containerPort": 53, "hostIP": "::1", "hostPort": 1053, "count": 3, "protocol": "UDP"}]}});
        let cells: Vec<Value> = CONTAINER.iter().take(7).map(|column| column.cell(&object, Timestamp::UNIX_EPOCH)).collect();
        let ports = "127.0.0.1:8080->80/tcp,[::1]:1053-1055->53-55/udp";
        assert_eq!(cells, [json!("Running"), json!("Unknown"), Value::Null, json!("nginx"), Value::Null, json!("10.88.0.5"), json!(ports)]);
        assert_eq!(field_value(&object, "status.phase"), "Running");
        assert_eq!(field_value(&object, "status.absent.deeper"), "");
        assert_eq!(field_value(&object, "status"), "");
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, written) in [(0, "0B"), (999, "999B"), (1_500, "1.5kB"), (25_000_000, "25MB"), (3_200_000_000_i64, "3.2GB")] {
            assert_eq!(image_size(&json!({"status": {"sizeBytes": bytes}}), Timestamp::UNIX_EPOCH), json!(written));
        }
    }
}
