//! Uploads of image archives, streamed to disk.

use std::io;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use futures_util::TryStreamExt as _;
use gantry_api::registry::find_resource;
use gantry_content::ContentError;
use serde_json::json;
use tokio_util::io::StreamReader;

use super::AppState;
use super::error::ApiError;
use super::render;
use crate::strategy::object::key;

/// Imports the `docker save` or OCI archive in the body, of any size, and records its references in the namespace.
pub(super) async fn import_archive(server: &AppState, namespace: &str, body: Body) -> Result<Response<Body>, ApiError> {
    let content = server.content.clone().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            "this server keeps no content: it was started without a content directory",
        )
    })?;
    let namespaces = find_resource("", "v1", "namespaces").ok_or_else(ApiError::no_such_resource)?;
    if server.cache.get(&key(namespaces, "", namespace)).is_none() {
        return Err(ApiError::not_found(namespaces, namespace));
    }
    let reader = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let images = content.import_archive(namespace, reader).await.map_err(|error| failure(&error))?;
    let images: Vec<_> = images.iter().map(|image| json!({"reference": image.reference, "digest": image.digest.to_string()})).collect();
    Ok(render::json(StatusCode::CREATED, json!({"images": images}).to_string()))
}

/// What is wrong with an archive is told to the client; what is wrong with the disk too, as the remedy is the user's.
fn failure(error: &ContentError) -> ApiError {
    let mut message = format!("import the archive: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    match error {
        ContentError::Io { .. } => {
            tracing::error!(%message, "upload of an archive");
            ApiError::internal(message)
        }
        _ => ApiError::bad_request(message),
    }
}
