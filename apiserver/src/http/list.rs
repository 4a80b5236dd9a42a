//! GET of a collection.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use gantry_api::validate::FieldErrorReason;
use serde_json::{Value, json};

use super::compress::compress;
use super::dispatch::Target;
use super::error::ApiError;
use super::negotiate::Form;
use super::render::{self, LIST_TAIL, View};
use super::watch;
use crate::cache::{Continue, Entry, ListPage, PageError, Selection};
use crate::store::Revision;
use crate::strategy::object::resource;

/// Bytes of a list that are put together before they are sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// How recent a list must be (`resourceVersion` and `resourceVersionMatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Now,
    NotOlderThan(Revision),
    Exactly(Revision),
}

/// The selected objects, or a page of them.
pub(super) async fn list(target: &Target) -> Result<Response<Body>, ApiError> {
    let view = target.view(true)?;
    let selection = target.selection()?;
    let page = read(target, &selection).await?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        metadata["continue"] = next.encode().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let objects: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.bytes.clone()).collect();
    let bytes = objects.iter().map(Bytes::len).sum();
    Ok(compress(&target.headers, bytes, render::json(StatusCode::OK, items(view, &metadata, objects))))
}

async fn read(target: &Target, selection: &Selection) -> Result<ListPage, ApiError> {
    let cache = &target.server.cache;
    let resource = resource(&target.kind);
    let limit = usize::try_from(target.params.integer("limit")?.unwrap_or_default()).unwrap_or_default();
    let token = target.params.get("continue");
    let at = at(target, limit, token.is_some())?;
    if let Some(token) = token {
        let from = Continue::decode(token).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        return cache.page(&resource, selection, limit, Some(&from)).map_err(|error| ApiError::from_page(&error));
    }
    if let At::NotOlderThan(revision) | At::Exactly(revision) = at {
        watch::reach(target, revision).await?;
    }
    if let At::Exactly(revision) = at {
        let entries = cache.list_at(&resource, selection, revision).map_err(|error| ApiError::from_page(&error))?;
        return Ok(cut(entries, revision, limit));
    }
    if limit == 0 {
        let (entries, revision) = cache.list(&resource, selection);
        return Ok(ListPage { entries, revision, next: None, remaining: None });
    }
    cache.page(&resource, selection, limit, None).map_err(|error: PageError| ApiError::from_page(&error))
}

/// The first page of a list at a revision of the past; later ones go by token.
fn cut(mut entries: Vec<Arc<Entry>>, revision: Revision, limit: usize) -> ListPage {
    let total = entries.len();
    if limit == 0 || total <= limit {
        return ListPage { entries, revision, next: None, remaining: None };
    }
    entries.truncate(limit);
    let next = entries.last().map(|last| Continue {
        revision: Some(revision),
        namespace: last.key.namespace.to_string(),
        name: last.key.name.to_string(),
    });
    ListPage { entries, revision, next, remaining: None }
}

fn at(target: &Target, limit: usize, continued: bool) -> Result<At, ApiError> {
    let invalid = |field: &str, reason, message: &str| Err(ApiError::invalid_options("ListOptions", field, reason, message));
    if target.params.has("sendInitialEvents") {
        return invalid("sendInitialEvents", FieldErrorReason::Forbidden, "sendInitialEvents is forbidden for list");
    }
    let text = target.params.get("resourceVersion");
    let matching = target.params.get("resourceVersionMatch");
    if matching.is_some() && text.is_none() {
        return invalid(
            "resourceVersionMatch",
            FieldErrorReason::Forbidden,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    }
    if matching.is_some() && continued {
        return invalid("resourceVersionMatch", FieldErrorReason::Forbidden, "resourceVersionMatch is forbidden when continue is provided");
    }
    let Some(text) = text else { return Ok(At::Now) };
    let revision = Revision::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid resource version {text:?}")))?;
    if continued && revision != Revision(0) {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    match matching {
        Some("Exact") if revision == Revision(0) => invalid(
            "resourceVersionMatch",
            FieldErrorReason::Forbidden,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        Some("Exact") => Ok(At::Exactly(revision)),
        Some("NotOlderThan") => Ok(At::NotOlderThan(revision)),
        Some(_) => invalid("resourceVersionMatch", FieldErrorReason::NotSupported, "supported values: \"Exact\", \"NotOlderThan\", \"\""),
        None if limit > 0 && !continued && revision != Revision(0) => Ok(At::Exactly(revision)),
        None => Ok(At::NotOlderThan(revision)),
    }
}

/// A list of encoded objects as a stream, put together piece by piece.
pub(super) fn items(view: View, metadata: &Value, objects: Vec<Bytes>) -> Body {
    let list = |kind: &str, api_version: &str| {
        format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[", json!(kind), json!(api_version))
    };
    let head = match view.form {
        Form::Full => list(&view.kind.list_kind, &view.kind.api_version()),
        Form::Partial(version) => list("PartialObjectMetadataList", &format!("meta.k8s.io/{version}")),
        Form::Table(_) => view.table_head(&metadata.to_string()),
    };
    let start = (Some(head.into_bytes()), objects.into_iter(), true);
    Body::from_stream(stream::try_unfold(start, move |state| std::future::ready(chunk(&view, state))))
}

/// What is put together so far (`None`: all is sent), what is left, and whether nothing stands before the next item.
type Chunk = (Option<Vec<u8>>, std::vec::IntoIter<Bytes>, bool);

fn chunk(view: &View, (buffer, mut objects, mut first): Chunk) -> Result<Option<(Bytes, Chunk)>, ApiError> {
    let Some(mut buffer) = buffer else { return Ok(None) };
    while buffer.len() < CHUNK_BYTES {
        let Some(object) = objects.next() else {
            buffer.extend_from_slice(LIST_TAIL);
            return Ok(Some((Bytes::from(buffer), (None, objects, first))));
        };
        if !std::mem::take(&mut first) {
            buffer.push(b',');
        }
        match view.form {
            Form::Table(_) => view.row(&mut buffer, &object)?,
            Form::Full | Form::Partial(_) => buffer.extend_from_slice(&view.encode(&object)?),
        }
    }
    Ok(Some((Bytes::from(buffer), (Some(Vec::new()), objects, first))))
}
