//! Lists at a revision of the past, and the tokens that ask for their next page.
//!
//! The history holds for each change the object before it. Undoing the changes after a revision, newest first, therefore gives
//! the objects as they stood there; nothing is kept per list.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Entry;
use super::selector::Selection;
use super::state::State;
use crate::store::{Key, Revision};

/// Where a list goes on: the contents of a `continue` token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continue {
    /// The revision of the first page; `None`: as things stand now, which may miss or repeat what changed in between.
    pub revision: Option<Revision>,
    /// Namespace of the last object told.
    pub namespace: String,
    /// Name of the last object told.
    pub name: String,
}

/// A `continue` token that this server did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("continue key is not valid")]
pub struct BadToken;

/// One page.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// In the order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// The revision of the whole list: that of its first page.
    pub revision: Revision,
    /// The token of the next page; `None` on the last.
    pub next: Option<Continue>,
    /// How many objects follow, when the selection is by namespace only.
    pub remaining: Option<u64>,
}

/// A list that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The history does not reach back so far.
    #[error("The provided continue parameter is too old to display a consistent list result")]
    Expired {
        /// Goes on regardless of what changed in between; `None` when a revision was asked for, not a page.
        inconsistent: Option<Continue>,
    },
    /// The revision lies ahead of the current one.
    #[error("Too large resource version: {asked}, current: {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest there is.
        current: Revision,
    },
}

/// The form of upstream's tokens (`storage/continue.go`), with the key as `namespace/name`.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    /// The opaque token for clients.
    pub fn encode(&self) -> String {
        let rv = self.revision.map_or(-1, |r| i64::try_from(r.0).unwrap_or(i64::MAX));
        let token = Token { v: TOKEN_VERSION.to_owned(), rv, start: format!("{}/{}", self.namespace, self.name) };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn decode(token: &str) -> Result<Self, BadToken> {
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| BadToken)?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| BadToken)?;
        let (namespace, name) = token.start.split_once('/').ok_or(BadToken)?;
        let revision = match token.rv {
            -1 => None,
            rv => Some(Revision(u64::try_from(rv).ok().filter(|rv| *rv > 0).ok_or(BadToken)?)),
        };
        let known = token.v == TOKEN_VERSION && !name.is_empty() && !token.start.contains('\0');
        known.then(|| Self { revision, namespace: namespace.to_owned(), name: name.to_owned() }).ok_or(BadToken)
    }
}

/// See [`super::Cache::page`].
pub(super) fn page(
    state: &State,
    resource: &str,
    selection: &Selection,
    limit: usize,
    from: Option<&Continue>,
) -> Result<ListPage, PageError> {
    let after = from.map(|c| Key::new(resource, c.namespace.as_str(), c.name.as_str()));
    let revision = from.and_then(|c| c.revision).unwrap_or(state.revision());
    let past = Past::at(state, resource, revision).map_err(|error| match (error, from) {
        (PageError::Expired { .. }, Some(from)) => PageError::Expired { inconsistent: Some(Continue { revision: None, ..from.clone() }) },
        (error, _) => error,
    })?;
    let limit = limit.max(1);
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let mut following = 0_u64;
    for entry in past.select(state, resource, selection, after.as_ref()) {
        if entries.len() < limit {
            entries.push(entry);
        } else {
            following += 1;
            if !selection.is_by_namespace_only() {
                break;
            }
        }
    }
    let next = entries.last().filter(|_| following > 0).map(|last| Continue {
        revision: Some(revision),
        namespace: last.key.namespace.to_string(),
        name: last.key.name.to_string(),
    });
    let remaining = (following > 0 && selection.is_by_namespace_only()).then_some(following);
    Ok(ListPage { entries, revision, next, remaining })
}

/// See [`super::Cache::list_at`].
pub(super) fn list_at(state: &State, resource: &str, selection: &Selection, revision: Revision) -> Result<Vec<Arc<Entry>>, PageError> {
    Ok(Past::at(state, resource, revision)?.select(state, resource, selection, None).collect())
}

/// What differs between a revision of the past and now: the former states of the objects changed since; `None`: not there yet.
struct Past(BTreeMap<Key, Option<Arc<Entry>>>);

impl Past {
    fn at(state: &State, resource: &str, revision: Revision) -> Result<Self, PageError> {
        if revision > state.revision() {
            return Err(PageError::Future { asked: revision, current: state.revision() });
        }
        if revision < state.oldest_list() {
            return Err(PageError::Expired { inconsistent: None });
        }
        let changes = state.changes_after(revision).rev().filter(|h| &*h.entry.key.resource == resource);
        Ok(Self(changes.map(|h| (h.entry.key.clone(), h.previous.clone())).collect()))
    }

    /// Merges the objects of now with those of then, both ordered by key.
    fn select<'a>(
        self,
        state: &'a State,
        resource: &str,
        selection: &'a Selection,
        after: Option<&Key>,
    ) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
        let after = after.cloned();
        let changed: std::collections::BTreeSet<Key> = self.0.keys().cloned().collect();
        let mut now = state.candidates(resource, selection, after.as_ref()).filter(move |e| !changed.contains(&e.key)).cloned().peekable();
        let mut then = self.0.into_values().flatten().filter(move |e| after.as_ref().is_none_or(|a| e.key > *a)).peekable();
        std::iter::from_fn(move || match (now.peek(), then.peek()) {
            (Some(n), Some(t)) if n.key < t.key => now.next(),
            (_, Some(_)) => then.next(),
            (_, None) => now.next(),
        })
        .filter(|e| selection.selects(&e.key, &e.index))
    }
}
