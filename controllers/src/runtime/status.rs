//! Writing the fields of a status that a controller owns.

use gantry_api::Kind;
use gantry_client::{Api, Client, Informer, Patch};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::reconcile::{ClientResultExt, ReconcileError};

/// Makes the stored status of `object` what `new` says; no request when that is what it says already.
///
/// A status has several writers, each of its own fields, and conditions are one list. So the change is computed from `object` as it was
/// read (`old` is its status) and tied to that version: when another wrote meanwhile, nothing is written and the key comes back.
///
/// # Errors
/// [`ReconcileError::Conflict`] when the object changed after it was read.
pub(crate) async fn write<K: Kind, S: Serialize>(
    client: &Client,
    informer: &Informer<K>,
    object: &K,
    old: &S,
    new: &S,
) -> Result<(), ReconcileError> {
    let changed = changed_members(&to_value(old), &to_value(new));
    if changed.is_empty() {
        return Ok(());
    }
    let key = object.key();
    let patch = Patch::Merge(json!({ "metadata": precondition(object), "status": changed }));
    let written = api::<K>(client, &key.namespace)
        .patch_status(&key.name, &patch)
        .await
        .doing(|| format!("write the status of {} {key}", K::KIND))?;
    informer.observe_write(written);
    Ok(())
}

/// `metadata` of a patch that holds for exactly the version that was read.
pub(crate) fn precondition<K: Kind>(object: &K) -> Map<String, Value> {
    let mut metadata = Map::new();
    let meta = object.meta();
    if let Some(version) = &meta.resource_version {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    if let Some(uid) = &meta.uid {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    metadata
}

/// Access to a kind where `namespace` says, or to a cluster-scoped kind.
pub(crate) fn api<K: Kind>(client: &Client, namespace: &str) -> Api<K> {
    if K::NAMESPACED { Api::namespaced(client, namespace) } else { Api::all(client) }
}

fn to_value(status: &impl Serialize) -> Value {
    serde_json::to_value(status).expect("statuses are plain structs with string keys, which serialise to JSON")
}

/// Top-level members of `new` that differ from `old`, and nulls for those that it no longer has.
fn changed_members(old: &Value, new: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let differs = |(name, value): &(&String, &Value)| old.get(*name) != Some(value);
    let mut changed: Map<String, Value> = new.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect();
    changed.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null)));
    changed
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::container::{ContainerPhase, ContainerStatus};

    use super::*;

    #[test]
    fn only_what_changed_is_written() {
        let old = ContainerStatus { node_name: Some("a".into()), pid: Some(7), phase: Some(ContainerPhase::Pending), ..Default::default() };
        let new = ContainerStatus { pid: None, phase: Some(ContainerPhase::Running), ..old.clone() };
        let changed = changed_members(&to_value(&old), &to_value(&new));
        assert_eq!(Value::Object(changed), json!({"phase": "Running", "pid": null}));
        assert!(changed_members(&to_value(&new), &to_value(&new)).is_empty());
    }
}
