//! DELETE of a collection.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::delete::{DeleteOptions, remove};
use super::dispatch::Target;
use super::error::ApiError;
use super::render;
use crate::strategy::object::resource;

/// Deletes the selected objects one by one and answers them as a list, as they were or as they are marked now.
pub(super) async fn delete_collection(target: &Target, body: Body) -> Result<Response<Body>, ApiError> {
    let options = DeleteOptions::read(&target.params, &target.headers, body).await?;
    let (entries, revision) = target.server.cache.list(&resource(target.kind), &target.selection()?);
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        match remove(&target.server, target.kind, &entry.key.namespace, &entry.key.name, &options).await {
            Ok((written, _)) => items.push(render::parse(&written.bytes)?),
            // Somebody else was faster.
            Err(error) if error.code == StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": target.kind.list_kind(), "apiVersion": target.kind.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": Value::Array(items),
    });
    Ok(render::json(StatusCode::OK, list.to_string()))
}
