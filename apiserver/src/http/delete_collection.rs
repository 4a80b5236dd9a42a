//! DELETE of a collection: many objects in few transactions.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::json;

use super::delete::{DeleteOptions, plan, remove};
use super::dispatch::Target;
use super::error::ApiError;
use super::list::items;
use super::render;
use crate::cache::{Continue, Entry};
use crate::store::{CommitError, Op};
use crate::strategy::object::resource;

/// Objects of one transaction. Others write between two: more would only make them wait.
const BATCH: usize = 100;

/// Deletes the selected objects and answers them as a list, as they were or as they are marked now. With `limit` and `continue`,
/// so many of them: the token goes on behind the last one, in what is there then.
pub(super) async fn delete_collection(target: &Target, body: Body) -> Result<Response<Body>, ApiError> {
    let view = target.view(false)?;
    let options = DeleteOptions::read(&target.params, &target.headers, body).await?;
    let (entries, mut metadata) = selected(target)?;
    let mut deleted = Vec::with_capacity(entries.len());
    for batch in entries.chunks(BATCH) {
        if !delete_together(target, batch, &options, &mut deleted).await? {
            delete_each(target, batch, &options, &mut deleted).await?;
        }
    }
    metadata["resourceVersion"] = target.server.cache.revision().to_string().into();
    Ok(render::json(StatusCode::OK, items(view, &metadata, deleted)))
}

/// The objects, and the metadata of the list that they make.
fn selected(target: &Target) -> Result<(Vec<Arc<Entry>>, serde_json::Value), ApiError> {
    let (cache, resource, selection) = (&target.server.cache, resource(&target.kind), target.selection()?);
    let limit = usize::try_from(target.params.integer("limit")?.unwrap_or_default()).unwrap_or_default();
    let token = target.params.get("continue").map(Continue::decode).transpose();
    let token = token.map_err(|error| ApiError::bad_request(error.to_string()))?;
    if limit == 0 && token.is_none() {
        return Ok((cache.list(&resource, &selection).0, json!({})));
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let from = token.map(|token| Continue { revision: None, ..token });
    let page = cache.page(&resource, &selection, limit, from.as_ref()).map_err(|error| ApiError::from_page(&error))?;
    let next = page.next.map(|next| Continue { revision: None, ..next }.encode());
    Ok((page.entries, next.map_or_else(|| json!({}), |token| json!({"continue": token}))))
}

/// In one transaction; `false`, and nothing is done, when somebody else changed one of them meanwhile.
async fn delete_together(
    target: &Target,
    entries: &[Arc<Entry>],
    options: &DeleteOptions,
    deleted: &mut Vec<Bytes>,
) -> Result<bool, ApiError> {
    let plans = entries.iter().map(|entry| plan(&target.server, &target.kind, entry, options)).collect::<Result<Vec<_>, _>>()?;
    let ops: Vec<Op> = plans.iter().filter_map(|plan| plan.op.clone()).collect();
    let revisions = match target.server.cache.commit(if options.dry_run() { Vec::new() } else { ops }).await {
        Ok(revisions) => revisions,
        Err(CommitError::Conflict { .. }) => return Ok(false),
        Err(error) => return Err(ApiError::from_commit(&error)),
    };
    let mut revisions = revisions.into_iter();
    for (entry, plan) in entries.iter().zip(plans) {
        let revision = if plan.op.is_some() { revisions.next() } else { None };
        deleted.push(plan.value.map_or_else(|| entry.bytes.clone(), |value| value.at(revision.unwrap_or(entry.revision))));
    }
    Ok(true)
}

/// One by one, each against its present state.
async fn delete_each(target: &Target, entries: &[Arc<Entry>], options: &DeleteOptions, deleted: &mut Vec<Bytes>) -> Result<(), ApiError> {
    for entry in entries {
        match remove(&target.server, &target.kind, &entry.key.namespace, &entry.key.name, options).await {
            Ok((written, _)) => deleted.push(written.bytes),
            // Somebody else was faster.
            Err(error) if error.code == StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
