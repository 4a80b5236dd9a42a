//! A copy of all objects, Secrets included, for administrators: the authorizer knows no other rule for its path.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

use super::AppState;
use super::error::ApiError;
use crate::store::backup;

/// The backup as a stream; writes go on meanwhile.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn backup(server: &AppState) -> Result<Response<Body>, ApiError> {
    let stream = backup::stream(&**server.cache.store(), server.now(), env!("CARGO_PKG_VERSION")).await;
    let mut response = Response::new(Body::from_stream(stream.map_err(|error| ApiError::from_read(&error))?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    Ok(response)
}
