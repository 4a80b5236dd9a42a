//! x
use super::AppState;
use super::error::ApiError;
use super::params::Params;
use crate::auth::Identity;
use axum::body::Body;
use axum::http::{HeaderMap, Response};
pub(super) async fn apply(
    _server: &AppState,
    _identity: &Identity,
    _params: &Params,
    _headers: &HeaderMap,
    _body: Body,
) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_such_resource())
}
