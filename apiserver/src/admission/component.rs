//! What the parts of the engine may change: each only its own fields, an agent only those of objects that its node has to do with.
//!
//! Users own specs and components own status, and each field of a status has one writer. For the controllers these rules keep a
//! slip from spreading; for agents they are a border: whoever takes over a node must not get at the rest through it.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use gantry_api::registry::KindInfo;
use serde_json::Value;

use super::changes::changes;
use crate::auth::{Component, Identity};
use crate::http::error::ApiError;
use crate::strategy::Part;
use crate::strategy::decoding::normalize;
use crate::strategy::object::{meta_text, set_field};

/// Label of Images that the controllers made for a bare reference.
const GENERATED: &str = "gantry.dev/generated";

/// Refuses a write of a component that changes what is not its own; `old` is `None` for a new object.
///
/// # Errors
/// 403 that names the fields, or says that the object is not the node's.
pub(crate) fn check_write(identity: &Identity, kind: &KindInfo, part: Part, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
    let component = identity.component();
    if component == Component::None || part == Part::Binding || part == Part::Finalize {
        return Ok(());
    }
    let name = meta_text(new, "name");
    let Some(old) = old else {
        return match component {
            Component::Node(node) if matches!(kind.built_in(), "Node" | "Lease") && name != node => {
                Err(forbidden(identity, kind, name, "an agent makes only the one named as its node"))
            }
            _ => Ok(()),
        };
    };
    let rule = match component {
        Component::Node(node) => node_rule(node, kind, part, old),
        Component::Controllers => controllers_rule(kind, part, old, new),
        Component::None => Rule::Everything,
    };
    let changed = match (rule, part) {
        (Rule::Everything, _) => return Ok(()),
        (Rule::Nothing(why), _) => return Err(forbidden(identity, kind, name, why)),
        (Rule::Only(own), Part::Status) => not_own(changes(&status_of(&with_defaults(kind, part, old)), &status_of(new)), &own),
        (Rule::Only(own), _) => not_own(changes(&with_defaults(kind, part, old), new), &own),
    };
    if changed.is_empty() {
        return Ok(());
    }
    let fields = changed.into_iter().take(8).collect::<Vec<_>>().join(", ");
    Err(forbidden(identity, kind, name, &format!("it may not change {fields}")))
}

fn forbidden(identity: &Identity, kind: &KindInfo, name: &str, why: &str) -> ApiError {
    let message = format!("{} {name:?} is forbidden: User {:?}: {why}", kind.qualified(), identity.user);
    ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message)
}

/// What a component may change of an object.
enum Rule {
    Everything,
    /// Fields by path; whole branches by the path of their root.
    Only(Vec<String>),
    Nothing(&'static str),
}

fn only(paths: &[&str]) -> Rule {
    Rule::Only(paths.iter().map(|path| (*path).to_owned()).collect())
}

fn status_of(object: &Value) -> Value {
    serde_json::json!({"status": object.get("status")})
}

/// The stored object as it would be written now: defaults, those of a first status included, are no write's doing.
fn with_defaults(kind: &KindInfo, part: Part, old: &Value) -> Value {
    let mut object = old.clone();
    if part == Part::Status && object.get("status").is_none_or(Value::is_null) {
        set_field(&mut object, "status", Some(serde_json::json!({})));
    }
    normalize(kind, object).unwrap_or_else(|_| old.clone())
}

fn not_own(changed: BTreeSet<String>, own: &[String]) -> Vec<String> {
    let is_own = |path: &String| {
        own.iter().any(|own| path.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    };
    changed.into_iter().filter(|path| !is_own(path)).collect()
}

fn node_rule(node: &str, kind: &KindInfo, part: Part, old: &Value) -> Rule {
    let status = |field: &str| old.get("status").and_then(|status| status.get(field)).and_then(Value::as_str).unwrap_or_default();
    // A container that is leaving its node is that node's until the agent has let go of it.
    let bound = || status("nodeName") == node || (status("nodeName").is_empty() && status("formerNodeName") == node);
    match (kind.built_in(), part) {
        ("Node" | "Lease", _) if meta_text(old, "name") == node => Rule::Everything,
        ("Node" | "Lease", _) => Rule::Nothing("it belongs to another node"),
        ("Event", _) => Rule::Everything,
        ("Container" | "Volume", _) if !bound() => Rule::Nothing("it is not bound to this node"),
        ("Container", Part::Main) => only(&["metadata.finalizers[gantry.dev/agent]-"]),
        ("Container", _) => only(&CONTAINER_STATUS_OF_AGENT),
        ("Volume", Part::Main) => only(&["metadata.finalizers[gantry.dev/volume-data]-"]),
        ("Volume", _) => only(&["status.conditions[DataReady]"]),
        ("Image", Part::Status) => {
            let mut own = vec![format!("status.nodes[{node}]")];
            if status("resolverNodeName") == node {
                own.extend(IMAGE_STATUS_OF_RESOLVER.map(str::to_owned));
            }
            Rule::Only(own)
        }
        _ => Rule::Nothing("agents do not write it"),
    }
}

/// What the agent of the container's node reports.
const CONTAINER_STATUS_OF_AGENT: [&str; 17] = [
    "status.observedGeneration",
    "status.phase",
    "status.containerID",
    "status.imageDigest",
    "status.pid",
    "status.startedAt",
    "status.finishedAt",
    "status.exitCode",
    "status.signal",
    "status.oomKilled",
    "status.restartCount",
    "status.ports",
    "status.conditions[ImageReady]",
    "status.conditions[VolumesReady]",
    "status.conditions[NetworkReady]",
    "status.conditions[Started]",
    "status.conditions[Ready]",
];

/// What the agent writes that resolves an Image.
const IMAGE_STATUS_OF_RESOLVER: [&str; 7] = [
    "status.observedGeneration",
    "status.digest",
    "status.references",
    "status.sizeBytes",
    "status.layers",
    "status.config",
    "status.conditions[Resolved]",
];

/// As the controllers' own table says.
fn controllers_rule(kind: &KindInfo, part: Part, old: &Value, new: &Value) -> Rule {
    // Of every kind, by the garbage collector.
    let with_collected = |more: &[&str]| {
        let collected = ["metadata.ownerReferences", "metadata.finalizers[foregroundDeletion]-", "metadata.finalizers[orphan]-"];
        only(&[&collected, more].concat())
    };
    match (kind.built_in(), part) {
        ("Event" | "Lease", _) | ("Network" | "Namespace", Part::Status) => Rule::Everything,
        ("Container", Part::Main) => with_collected(&["metadata.finalizers[gantry.dev/agent]-"]),
        ("Container", _) => {
            let lost = new.get("status").and_then(|status| status.get("phase")).is_some_and(|phase| phase == "Unknown");
            let mut own =
                vec!["status.imageObjectName", "status.networks", "status.conditions[Scheduled]", "status.conditions[NetworkAllocated]"];
            own.extend(if lost { ["status.phase", "status.conditions[Ready]"].as_slice() } else { &[] });
            only(&own)
        }
        ("Network", Part::Main) => with_collected(&["metadata.finalizers[gantry.dev/in-use]+", "metadata.finalizers[gantry.dev/in-use]-"]),
        ("Volume", Part::Main) => with_collected(&[
            "metadata.finalizers[gantry.dev/in-use]+",
            "metadata.finalizers[gantry.dev/in-use]-",
            "metadata.finalizers[gantry.dev/volume-data]+",
        ]),
        ("Volume", _) => {
            only(&["status.phase", "status.nodeName", "status.usedBy", "status.observedGeneration", "status.conditions[Ready]"])
        }
        ("Image", Part::Status) => only(&["status.resolverNodeName", "status.conditions[Ready]"]),
        ("Image", _) if is_generated(old) => with_collected(&["spec.source.registry.pullSecretName"]),
        (_, Part::Main) => with_collected(&[]),
        _ => Rule::Nothing("controllers do not write it"),
    }
}

fn is_generated(image: &Value) -> bool {
    image.get("metadata").and_then(|meta| meta.get("labels")?.get(GENERATED)).is_some_and(|value| value == "true")
}

#[cfg(test)]
#[path = "component_tests.rs"]
mod tests;
