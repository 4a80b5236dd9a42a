//! PUT of an object, of its status, and of a namespace's finalizers.

use axum::body::Body;
use axum::http::Response;
use gantry_api::validate::{FieldError, FieldErrorReason};

use super::body;
use super::dispatch::Target;
use super::error::ApiError;
use super::options::WriteOptions;
use super::write::modify;
use crate::strategy::object::meta_text;
use crate::strategy::{Part, decoding};

/// Replaces the part of the object that the URL names.
pub(super) async fn update(target: &Target, name: &str, part: Part, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse("UpdateOptions", &target.params, &target.headers)?;
    let bytes = body::read(body).await?;
    let mut decoded = body::decode(&target.headers, &bytes)?;
    decoding::identify(&target.kind, &mut decoded.value, target.namespace(), Some(name))?;
    if target.kind.has_generation() && meta_text(&decoded.value, "resourceVersion").is_empty() {
        let error = FieldError {
            path: "metadata.resourceVersion".into(),
            reason: FieldErrorReason::Invalid,
            value: Some("0x0".into()),
            message: "must be specified for an update".into(),
        };
        return Err(ApiError::invalid(&target.kind, name, &[error]));
    }
    modify(target, name, part, &options, |_| Ok(decoded.clone())).await?.respond(target)
}
