//! GET of one object.

use axum::body::Body;
use axum::http::{Response, StatusCode};

use super::dispatch::Target;
use super::error::ApiError;
use super::{render, watch};
use crate::store::Revision;
use crate::strategy::object::key;

/// The object as it stands; `resourceVersion` asks for one not older than that.
pub(super) async fn get(target: &Target, name: &str) -> Result<Response<Body>, ApiError> {
    if let Some(text) = target.params.get("resourceVersion") {
        let revision = Revision::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid resource version {text:?}")))?;
        watch::reach(target, revision).await?;
    }
    let key = key(&target.kind, target.namespace(), name);
    let entry = target.server.cache.get(&key).filter(|entry| target.shows(entry)).ok_or_else(|| ApiError::not_found(&target.kind, name))?;
    let body = target.view(true)?.encode(&entry.bytes)?;
    Ok(render::json(StatusCode::OK, body))
}
