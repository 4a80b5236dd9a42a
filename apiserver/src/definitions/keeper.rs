//! The task that ends definitions: the objects of one that is deleted are deleted first. It also makes selectable what a change of a
//! definition made selectable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::custom::{self, CLEANUP_FINALIZER, set_condition};
use gantry_api::registry::KindRef;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{definition_kind, settle, stored};
use crate::cache::{Entry, Selection, WatchStart, Watcher};
use crate::http::delete::{DeleteOptions, plan};
use crate::http::error::ApiError;
use crate::http::write::{encode, operation};
use crate::http::{ApiServer, AppState};
use crate::store::{Expect, Op, Revision};
use crate::strategy::object::{decode, finalizers, index, is_terminating, key, meta_text, resource, set_field, set_finalizers, time_text};
use crate::strategy::{Change, Prepared};

/// Objects of one transaction.
const BATCH: usize = 100;
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);

/// Looks after the definitions until `stop`: after every change of one, and while objects of a deleted one are left, after every change of
/// those.
pub async fn keep(server: AppState, stop: CancellationToken) {
    stop.run_until_cancelled(follow(&server)).await;
}

async fn follow(server: &ApiServer) {
    let Some(kind) = definition_kind() else { return };
    let mut indexed = BTreeMap::new();
    loop {
        // Before the look, so that no change is missed between the two.
        let Ok(definitions) = server.cache.watch(&resource(kind), Selection::default(), WatchStart::Now) else { return };
        let looked = look(server, &mut indexed).await;
        let left = match looked {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(error = error.message, "CustomResourceDefinitions could not be looked after; will try again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        any(left.into_iter().chain([definitions]).collect()).await;
    }
}

/// Returns with the first event of any of these watches, or with the end of one.
async fn any(mut watchers: Vec<Watcher>) {
    let next = watchers.iter_mut().map(|watcher| Box::pin(watcher.next()));
    // What happened is looked at from the store.
    drop(futures_util::future::select_all(next).await);
}

/// One look at everything. Answers watches of what is waited for. `indexed`: as of which revision of a definition its objects were looked
/// at for their index.
async fn look(server: &ApiServer, indexed: &mut BTreeMap<String, Revision>) -> Result<Vec<Watcher>, ApiError> {
    settle(server).await;
    let mut waits = Vec::new();
    let definitions = stored(&server.cache);
    indexed.retain(|name, _| definitions.iter().any(|(_, definition)| meta_text(definition, "name") == name));
    for (revision, definition) in definitions {
        let name = meta_text(&definition, "name").to_owned();
        let established = server.kinds.of_definition(&name);
        if is_terminating(&definition) && finalizers(&definition).iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
            // One that never was established may have the objects of an earlier one.
            let any = || custom::kinds(&definition).into_iter().next().map(|kind| KindRef::Custom(Arc::new(kind)));
            if let Some(kind) = established.or_else(any) {
                waits.extend(remove(server, &kind, revision, definition).await?);
            }
            continue;
        }
        let Some(kind) = established.filter(|_| indexed.get(&name) != Some(&revision)) else { continue };
        if !kind.indexed().is_empty() {
            reindex(server, &kind).await?;
        }
        indexed.insert(name, revision);
    }
    Ok(waits)
}

/// Deletes the objects of a definition, and lets go of it when none is left. Answers a watch of those that stay.
async fn remove(server: &ApiServer, kind: &KindRef, revision: Revision, mut definition: Value) -> Result<Option<Watcher>, ApiError> {
    let watcher = server.cache.watch(&resource(kind), Selection::default(), WatchStart::Now).ok();
    let objects = || server.cache.list(&resource(kind), &Selection::default()).0;
    let staying: Vec<Arc<Entry>> =
        objects().into_iter().filter(|entry| decode(entry).is_ok_and(|object| !is_terminating(&object))).collect();
    for batch in staying.chunks(BATCH) {
        let plans = batch.iter().map(|entry| plan(server, kind, entry, &DeleteOptions::default())).collect::<Result<Vec<_>, _>>()?;
        let ops: Vec<Op> = plans.into_iter().filter_map(|plan| plan.op).collect();
        server.cache.commit(ops).await.map_err(|error| ApiError::from_commit(&error))?;
    }
    let Some(definitions) = definition_kind() else { return Ok(None) };
    let left = objects().len();
    let change = if left == 0 {
        let kept: Vec<String> = finalizers(&definition).into_iter().filter(|finalizer| finalizer != CLEANUP_FINALIZER).collect();
        set_finalizers(&mut definition, &kept);
        if kept.is_empty() { Change::Delete } else { Change::Put }
    } else {
        let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
        let message = "objects of the kind are left; what holds them back are their finalizers".to_owned();
        set_condition(&mut status, "Terminating", ("True", "InstanceDeletionInProgress", message), &time_text(server.now()));
        let change = if definition.get("status") == Some(&status) { Change::None } else { Change::Put };
        set_field(&mut definition, "status", Some(status));
        change
    };
    let prepared = Prepared { object: definition, change, warnings: Vec::new() };
    if let Some(op) = operation(definitions, &prepared, Expect::At(revision))? {
        server.cache.commit(vec![op]).await.map_err(|error| ApiError::from_commit(&error))?;
        settle(server).await;
    }
    if left == 0 {
        tracing::info!(name = meta_text(&prepared.object, "name"), "CustomResourceDefinition removed with its objects");
        return Ok(None);
    }
    Ok(watcher)
}

/// Writes anew, with the index that they have now, the objects whose index lacks a field that became selectable.
async fn reindex(server: &ApiServer, kind: &KindRef) -> Result<(), ApiError> {
    let (entries, _) = server.cache.list(&resource(kind), &Selection::default());
    let mut ops = Vec::new();
    for entry in entries {
        let Ok(object) = decode(&entry) else { continue };
        let wanted = index(kind, &object);
        if wanted != *entry.index {
            let key = key(kind, &entry.key.namespace, &entry.key.name);
            ops.push(Op::Put { key, expect: Expect::At(entry.revision), value: encode(&object)?, index: wanted });
        }
    }
    for batch in ops.chunks(BATCH) {
        server.cache.commit(batch.to_vec()).await.map_err(|error| ApiError::from_commit(&error))?;
    }
    Ok(())
}
