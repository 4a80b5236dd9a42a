//! What all changing verbs share: read, change, check, commit; again when somebody else was faster.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use gantry_api::registry::KindInfo;
use serde_json::Value;

use super::body::Decoded;
use super::dispatch::Target;
use super::error::ApiError;
use super::options::WriteOptions;
use super::render;
use crate::admission::check_write;
use crate::store::{CommitError, Expect, Op, Revision, Unversioned};
use crate::strategy::object::{decode_as, index, key, meta_text, set_field};
use crate::strategy::{self, Change, Part, Prepared, claims};

/// How often a write is tried against others that win the race.
pub(crate) const MAX_ATTEMPTS: usize = 5;

/// A write that took effect, or would have.
pub(crate) struct Written {
    /// The object as it is now, or its last state.
    pub(crate) bytes: Bytes,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Written {
    /// The answer: 201 for a new object.
    pub(crate) fn respond(&self, target: &Target) -> Result<Response<Body>, ApiError> {
        let status = if self.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = render::json(status, target.view(false)?.encode(&self.bytes)?);
        render::warn(&mut response, &self.warnings);
        Ok(response)
    }
}

/// An object as it is to be sent to the store.
pub(crate) fn encode(object: &Value) -> Result<Unversioned, ApiError> {
    Unversioned::encode(object).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// The operation that brings about a prepared change; `None` when there is nothing to change.
pub(crate) fn operation(kind: &KindInfo, prepared: &Prepared, expect: Expect) -> Result<Option<Op>, ApiError> {
    let mut stored = Cow::Borrowed(&prepared.object);
    if kind.is_converted() {
        set_field(stored.to_mut(), "apiVersion", Some(kind.storage_version().into()));
    }
    let object = &*stored;
    let key = key(kind, meta_text(object, "namespace"), meta_text(object, "name"));
    let index = index(kind, object);
    Ok(match (prepared.change, expect) {
        (Change::None, _) => None,
        (Change::Delete, Expect::At(expect)) => Some(Op::Delete { key, expect, last: encode(object)?, index }),
        (Change::Put | Change::Delete, _) => Some(Op::Put { key, expect, value: encode(object)?, index }),
    })
}

/// Changes an existing object: `change` gets its present state and answers what it should be.
///
/// A `metadata.resourceVersion` in the answer is a precondition. Without one that differs, races are tried again.
///
/// # Errors
/// 404, 409, and what `change` and the strategy refuse.
pub(crate) async fn modify(
    target: &Target,
    name: &str,
    part: Part,
    options: &WriteOptions,
    mut change: impl FnMut(&Value) -> Result<Decoded, ApiError>,
) -> Result<Written, ApiError> {
    let (server, kind) = (&target.server, &*target.kind);
    let _claims = if claims::claims_anything(kind) { Some(server.image_claims.lock().await) } else { None };
    let key = key(kind, target.namespace(), name);
    let api_version = kind.api_version();
    for _ in 0..MAX_ATTEMPTS {
        let entry = server.cache.get(&key).ok_or_else(|| ApiError::not_found(kind, name))?;
        let old = decode_as(kind, &entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
        let Decoded { value: new, duplicates } = change(&old)?;
        check_revision(kind, name, &new, entry.revision)?;
        let writer = options.writer(&api_version, part, server.now());
        let recording = (options.strictness(kind), (!options.applied).then_some(&writer));
        let prepared = strategy::prepare_update(kind, part, &old, new, &duplicates, recording)?;
        check_write(&target.identity, kind, part, Some(&old), &prepared.object)?;
        if part == Part::Main {
            claims::check(&server.cache, kind, &prepared.object)?;
        }
        let Some(op) = operation(kind, &prepared, Expect::At(entry.revision))? else {
            return Ok(Written { bytes: entry.bytes.clone(), created: false, warnings: prepared.warnings });
        };
        let value = encode(&prepared.object)?;
        if options.dry_run {
            return Ok(Written { bytes: value.at(entry.revision), created: false, warnings: prepared.warnings });
        }
        match server.cache.commit(vec![op]).await {
            Ok(revisions) => {
                let revision = revisions.first().copied().unwrap_or_default();
                return Ok(Written { bytes: value.at(revision), created: false, warnings: prepared.warnings });
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::from_commit(&error)),
        }
    }
    Err(ApiError::modified(kind, name))
}

/// A `resourceVersion` that was sent must be the present one.
fn check_revision(kind: &KindInfo, name: &str, new: &Value, current: Revision) -> Result<(), ApiError> {
    let asked = meta_text(new, "resourceVersion");
    if asked.is_empty() {
        return Ok(());
    }
    match Revision::parse(asked) {
        None => Err(ApiError::bad_request(format!("invalid resource version {asked:?}"))),
        Some(revision) if revision == current => Ok(()),
        Some(_) => Err(ApiError::modified(kind, name)),
    }
}
