//! POST to a collection.

use axum::body::Body;
use axum::http::Response;
use serde_json::Value;

use super::ApiServer;
use super::body::{self, Decoded};
use super::dispatch::Target;
use super::error::ApiError;
use super::options::WriteOptions;
use super::write::{MAX_ATTEMPTS, Written, encode, operation};
use crate::admission::{check_namespace, check_write};
use crate::definitions::{check_definition, room};
use crate::store::{CommitError, Expect, Op};
use crate::strategy::object::{key, meta_text, set_meta};
use crate::strategy::{self, Part, claims, decoding};

/// The most characters of a prefix that random ones are added to (apiserver `names/generate.go`).
const MAX_PREFIX_CHARS: usize = 58;
/// Characters of generated names: no vowels and no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Names tried for one object.
const MAX_NAMES: usize = 8;

/// Creates the object in the body.
pub(super) async fn create(target: &Target, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse("CreateOptions", &target.params, &target.headers)?;
    let bytes = body::read(body).await?;
    let mut decoded = body::decode(&target.headers, &bytes)?;
    decoding::identify(&target.kind, &mut decoded.value, target.namespace(), None)?;
    let written = insert(target, decoded, &options).await?;
    written.respond(target)
}

/// Creates an object whose identity is checked.
///
/// # Errors
/// 404 and 403 for the namespace, 409 when it exists, and what the strategy refuses.
pub(super) async fn insert(target: &Target, decoded: Decoded, options: &WriteOptions) -> Result<Written, ApiError> {
    let (server, kind, namespace) = (&*target.server, &*target.kind, target.namespace());
    let _claims = if claims::claims_anything(kind) { Some(server.image_claims.lock().await) } else { None };
    let Decoded { mut value, duplicates } = decoded;
    let generated = meta_text(&value, "name").is_empty() && !meta_text(&value, "generateName").is_empty();
    let prefix: String = meta_text(&value, "generateName").chars().take(MAX_PREFIX_CHARS).collect();
    let api_version = kind.api_version();
    let (mut names, mut attempts) = (0, 0);
    loop {
        if generated {
            names += 1;
            set_meta(&mut value, "name", Some(format!("{prefix}{}", suffix(server)).into()));
        }
        let writer = options.writer(&api_version, Part::Main, server.now());
        let made = (server.uid(), options.applied);
        let prepared = strategy::prepare_create(kind, value.clone(), &duplicates, options.strictness(kind), &writer, made)?;
        let name = meta_text(&prepared.object, "name").to_owned();
        if server.cache.get(&key(kind, namespace, &name)).is_some() {
            if generated && names < MAX_NAMES {
                continue;
            }
            return Err(ApiError::already_exists(kind, &name));
        }
        let check = check_namespace(&server.cache, kind, &name, namespace)?.into_iter().chain(check_definition(&server.cache, kind)?);
        room(&server.cache, kind, &name)?;
        check_write(&target.identity, kind, Part::Main, None, &prepared.object)?;
        claims::check(&server.cache, kind, &prepared.object)?;
        let encoded = encode(&prepared.object)?;
        if options.dry_run {
            return Ok(Written { bytes: unversioned(prepared.object), created: true, warnings: prepared.warnings });
        }
        let put = operation(kind, &prepared, Expect::Absent)?;
        let ops: Vec<Op> = put.into_iter().chain(check).collect();
        match server.cache.commit(ops).await {
            Ok(revisions) => {
                let revision = revisions.first().copied().unwrap_or_default();
                return Ok(Written { bytes: encoded.at(revision), created: true, warnings: prepared.warnings });
            }
            Err(CommitError::Conflict { op: 0, .. }) if generated && names < MAX_NAMES => {}
            Err(CommitError::Conflict { op: 0, .. }) => return Err(ApiError::already_exists(kind, &name)),
            // The namespace or the definition changed meanwhile: look again whether it still takes objects.
            Err(CommitError::Conflict { .. }) if attempts < MAX_ATTEMPTS => attempts += 1,
            Err(error) => return Err(ApiError::from_commit(&error)),
        }
    }
}

/// An object that has no revision yet, for dry runs.
fn unversioned(mut object: Value) -> bytes::Bytes {
    set_meta(&mut object, "resourceVersion", None);
    object.to_string().into()
}

fn suffix(server: &ApiServer) -> String {
    let mut random = (server.random)();
    let mut digit = || {
        let at = usize::try_from(random % ALPHABET.len() as u128).unwrap_or_default();
        random /= ALPHABET.len() as u128;
        char::from(ALPHABET[at])
    };
    (0..5).map(|_| digit()).collect()
}
