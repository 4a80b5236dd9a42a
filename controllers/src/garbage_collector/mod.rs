//! Garbage collection by `ownerReferences`, as Kubernetes': an object whose owners are all gone goes too.
//!
//! An owner is the object of that kind and name *with that uid*: one made anew under the same name is another. Deletion of an owner with
//! the finalizer `foregroundDeletion` waits for its blocking dependents; one with `orphan` lets go of them first.
//!
//! The graph ([`graph::Graph`]) is fed by the informers and says who concerns whom; before anything is deleted for want of an owner, the
//! server itself is asked whether the owner is really gone, because informers of different kinds are not in step.

pub(crate) mod access;
mod events;
mod graph;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::meta::OwnerReference;
use gantry_api::{ObjectKey, ObjectMeta};
use gantry_client::{DeleteParams, Propagation};
use serde_json::json;
use tracing::{debug, info};

use crate::context::Context;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Sources};
use crate::table::ControllerInfo;
use access::{Access, Accesses, accesses};
use graph::Graph;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "garbage-collector",
    purpose: "deletes objects whose owners are gone; foreground and orphan deletion; removes old Events",
    watches: &[
        "ConfigMap",
        "Container",
        "CustomResourceDefinition",
        "Image",
        "Lease",
        "Namespace",
        "Network",
        "Node",
        "Secret",
        "ServiceAccount",
        "Volume",
        "every kind that is added at run time",
    ],
    writes: &[
        ("any", "(delete of dependents)"),
        ("any", "metadata.ownerReferences (removed)"),
        ("any", "metadata.finalizers[foregroundDeletion, orphan] (removed)"),
        ("Event", "(delete)"),
    ],
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// A kind (by its number in [`Accesses`]) and a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Item {
    kind: usize,
    key: ObjectKey,
}

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let context = context.named(INFO.name);
    let accesses = accesses(&context);
    let graph = Arc::new(Mutex::new(Graph::default()));
    let mut sources = Sources::new();
    for (kind, access) in accesses.built_in.iter().enumerate() {
        sources = access.watch(sources, kind, Arc::clone(&graph));
    }
    let fed = Arc::clone(&graph);
    sources = sources.watch_custom(Duration::ZERO, &context.custom_kinds, move |kind, key, object| {
        let item = Item { kind: kind.id, key: key.clone() };
        fed.lock().unwrap_or_else(PoisonError::into_inner).update(&item, object.map(|object| &object.metadata))
    });
    manager.spawn(events::expire(context, manager.stop_token()));
    manager.add(Collector { accesses, graph }, sources, 4);
}

struct Collector {
    accesses: Accesses,
    graph: Arc<Mutex<Graph>>,
}

impl Reconciler for Collector {
    type Key = Item;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, item: &Item) -> Result<Action, ReconcileError> {
        let Some(meta) = self.cached(item) else { return Ok(Action::Done) };
        if meta.deletion_timestamp.is_some() {
            return self.help_deletion(item, &meta).await;
        }
        self.check_owners(item, &meta).await
    }
}

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerState {
    /// It is there.
    Present,
    /// It is there, waits for its dependents to go first, and this reference blocks it.
    WaitsForUs,
    /// No object of that kind and name has that uid.
    Gone,
    /// Its kind is not served here: nothing can be said.
    Unknown,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self, item: &Item) -> Option<Arc<dyn Access>> {
        self.accesses.get(item.kind)
    }

    fn cached(&self, item: &Item) -> Option<ObjectMeta> {
        self.access(item)?.cached(&item.key)
    }

    /// Deletes an object all of whose owners are gone, or one of whose owners waits for it to go first; takes out references to owners that
    /// are gone beside ones that are there.
    async fn check_owners(&self, item: &Item, meta: &ObjectMeta) -> Result<Action, ReconcileError> {
        let references = meta.owner_references.as_deref().unwrap_or_default();
        let mut states = Vec::with_capacity(references.len());
        for reference in references {
            states.push(self.owner_state(&item.key.namespace, reference).await?);
        }
        let Some(access) = self.access(item) else { return Ok(Action::Done) };
        match verdict(&states) {
            Verdict::Keep => {}
            Verdict::Delete(propagation) => {
                info!(
                    controller = INFO.name,
                    kind = access.kind(),
                    namespace = item.key.namespace,
                    name = item.key.name,
                    "its owners are gone"
                );
                let params = DeleteParams { uid: meta.uid.clone(), propagation: Some(propagation), ..DeleteParams::default() };
                ignore_missing(access.delete(&item.key, &params).await).doing(|| format!("delete {} {}", access.kind(), item.key))?;
            }
            Verdict::Prune => {
                let kept = references.iter().zip(&states).filter(|(_, state)| **state != OwnerState::Gone).map(|(reference, _)| reference);
                let kept: Vec<&OwnerReference> = kept.collect();
                self.patch(item, meta, "ownerReferences", json!(kept)).await?;
            }
        }
        Ok(Action::Done)
    }

    async fn owner_state(&self, namespace: &str, reference: &OwnerReference) -> Result<OwnerState, ReconcileError> {
        let is_kind = |access: &Arc<dyn Access>| access.is_called(&reference.api_version, &reference.kind);
        let Some(access) = self.accesses.all().into_iter().find(is_kind) else {
            debug!(controller = INFO.name, kind = reference.kind, name = reference.name, "the kind of an owner is not served here");
            return Ok(OwnerState::Unknown);
        };
        let key = ObjectKey::new(if access.namespaced() { namespace } else { "" }, reference.name.clone());
        if access.namespaced() && namespace.is_empty() {
            // A cluster-scoped object cannot be owned by a namespaced one; nothing is deleted on such grounds.
            return Ok(OwnerState::Unknown);
        }
        let is_owner = |meta: &ObjectMeta| meta.uid.as_deref() == Some(reference.uid.as_str());
        if let Some(owner) = access.cached(&key).filter(is_owner) {
            let waits = owner.deletion_timestamp.is_some() && has_finalizer(&owner, FOREGROUND);
            return Ok(if waits { OwnerState::WaitsForUs } else { OwnerState::Present });
        }
        let live = access.live(&key).await.doing(|| format!("look for the owner {} {key}", access.kind()))?;
        Ok(if live.as_ref().is_some_and(is_owner) { OwnerState::Present } else { OwnerState::Gone })
    }

    /// Does the collector's part in the deletion of an owner.
    async fn help_deletion(&self, item: &Item, meta: &ObjectMeta) -> Result<Action, ReconcileError> {
        let uid = meta.uid.as_deref().unwrap_or_default();
        let dependents = self.graph().dependents(uid);
        if has_finalizer(meta, ORPHAN) {
            for dependent in &dependents {
                self.let_go(dependent, uid).await?;
            }
            return self.drop_finalizer(item, meta, ORPHAN).await;
        }
        if has_finalizer(meta, FOREGROUND) {
            if dependents.iter().any(|dependent| self.blocks(dependent, uid)) {
                // Each dependent deletes itself on seeing its owner wait; the last one to go brings this key back.
                return Ok(Action::Done);
            }
            return self.drop_finalizer(item, meta, FOREGROUND).await;
        }
        Ok(Action::Done)
    }

    fn blocks(&self, dependent: &Item, owner_uid: &str) -> bool {
        let Some(meta) = self.cached(dependent) else { return false };
        let references = meta.owner_references.as_deref().unwrap_or_default();
        references.iter().any(|reference| reference.uid == owner_uid && reference.block_owner_deletion == Some(true))
    }

    /// Takes the reference to an owner out of a dependent.
    async fn let_go(&self, dependent: &Item, owner_uid: &str) -> Result<(), ReconcileError> {
        let Some(meta) = self.cached(dependent) else { return Ok(()) };
        let references = meta.owner_references.as_deref().unwrap_or_default();
        let kept: Vec<&OwnerReference> = references.iter().filter(|reference| reference.uid != owner_uid).collect();
        self.patch(dependent, &meta, "ownerReferences", json!(kept)).await
    }

    async fn drop_finalizer(&self, item: &Item, meta: &ObjectMeta, finalizer: &str) -> Result<Action, ReconcileError> {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let kept: Vec<&String> = finalizers.iter().filter(|name| *name != finalizer).collect();
        self.patch(item, meta, "finalizers", json!(kept)).await?;
        Ok(Action::Done)
    }

    async fn patch(&self, item: &Item, meta: &ObjectMeta, field: &str, value: serde_json::Value) -> Result<(), ReconcileError> {
        let Some(access) = self.access(item) else { return Ok(()) };
        let patch = json!({ "metadata": { "resourceVersion": meta.resource_version, "uid": meta.uid, field: value } });
        ignore_missing(access.patch(&item.key, patch).await).doing(|| format!("write {field} of {} {}", access.kind(), item.key))
    }
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.as_ref().is_some_and(|all| all.iter().any(|name| name == finalizer))
}

fn ignore_missing(result: Result<(), gantry_client::ClientError>) -> Result<(), gantry_client::ClientError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// What becomes of an object with such owners.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// References to owners that are gone are taken out.
    Prune,
    Delete(Propagation),
}

fn verdict(states: &[OwnerState]) -> Verdict {
    let has = |state| states.contains(&state);
    if has(OwnerState::Present) || has(OwnerState::Unknown) {
        return if has(OwnerState::Gone) { Verdict::Prune } else { Verdict::Keep };
    }
    if has(OwnerState::WaitsForUs) {
        // Its own dependents have to go first as well.
        return Verdict::Delete(Propagation::Foreground);
    }
    if has(OwnerState::Gone) { Verdict::Delete(Propagation::Background) } else { Verdict::Keep }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Gone, Present, Unknown, WaitsForUs};
    use super::*;

    #[test]
    fn an_object_goes_with_its_last_owner() {
        for (states, expected) in [
            (vec![], Verdict::Keep),
            (vec![Present], Verdict::Keep),
            (vec![Unknown], Verdict::Keep),
            (vec![Gone], Verdict::Delete(Propagation::Background)),
            (vec![Gone, Gone], Verdict::Delete(Propagation::Background)),
            (vec![Gone, Present], Verdict::Prune),
            (vec![Gone, Unknown], Verdict::Prune),
            (vec![WaitsForUs], Verdict::Delete(Propagation::Foreground)),
            (vec![WaitsForUs, Gone], Verdict::Delete(Propagation::Foreground)),
            (vec![WaitsForUs, Present], Verdict::Keep),
        ] {
            assert_eq!(verdict(&states), expected, "{states:?}");
        }
    }
}
