//! Which definitions are established, and the table of kinds that follows.

use gantry_api::custom::{is_established, is_settled, settle as settle_names};
use gantry_api::registry::KindInfo;
use jiff::Timestamp;
use serde_json::Value;

use super::{Kinds, definition_kind, stored};
use crate::cache::Cache;
use crate::http::ApiServer;
use crate::http::error::ApiError;
use crate::http::write::{MAX_ATTEMPTS, encode};
use crate::store::{CommitError, Expect, Op, Revision};
use crate::strategy::object::{index, key, meta_text, set_field, time_text};

/// The most definitions; each costs the memory of its schemas.
const MAX_DEFINITIONS: usize = 1_000;

/// Refuses one more definition than there may be.
///
/// # Errors
/// 403.
pub(crate) fn room(cache: &Cache, kind: &KindInfo, name: &str) -> Result<(), ApiError> {
    if !kind.is_definition()
        || cache.list(&crate::strategy::object::resource(kind), &crate::cache::Selection::default()).0.len() < MAX_DEFINITIONS
    {
        return Ok(());
    }
    let why =
        format!("there are {MAX_DEFINITIONS} CustomResourceDefinitions, which is the most that are served; delete one that is not used");
    Err(ApiError::forbidden(kind, name, &why))
}

/// Brings the table of kinds and the status of all definitions up to what is stored. The table comes first: what is called established is
/// served.
pub(crate) async fn settle(server: &ApiServer) {
    let _one = server.kinds.settling.lock().await;
    for _ in 0..MAX_ATTEMPTS {
        let Settled { ops, established } = plan(stored(&server.cache), server.now());
        server.kinds.replace(&established);
        if ops.is_empty() {
            return;
        }
        match server.cache.commit(ops).await {
            // What was written is what the table is made of from now on.
            Ok(_) | Err(CommitError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "the status of CustomResourceDefinitions was not written; the next change of one tries again");
                return;
            }
        }
    }
}

impl Kinds {
    /// The table as it follows from what is stored, without a write: at the start.
    pub(crate) fn load(cache: &Cache, now: Timestamp) -> Self {
        let kinds = Self::default();
        kinds.replace(&plan(stored(cache), now).established);
        kinds
    }
}

struct Settled {
    ops: Vec<Op>,
    /// Name, revision and state.
    established: Vec<(String, Revision, Value)>,
}

/// What the status of each definition should be. The oldest have their names first.
fn plan(mut definitions: Vec<(Revision, Value)>, now: Timestamp) -> Settled {
    let age = |definition: &Value| (meta_text(definition, "creationTimestamp").to_owned(), meta_text(definition, "name").to_owned());
    definitions.sort_by_cached_key(|(_, definition)| (!is_established(definition), age(definition)));
    let mut ops = Vec::new();
    // Names that one gives up may be those that an earlier one waits for.
    let mut changed = vec![false; definitions.len()];
    for _ in 0..2 {
        for at in 0..definitions.len() {
            if is_settled(&definitions[at].1) {
                continue;
            }
            let status = {
                let others: Vec<&Value> = definitions.iter().map(|(_, definition)| definition).collect();
                settle_names(&definitions[at].1, &others, &time_text(now))
            };
            if definitions[at].1.get("status") != Some(&status) {
                set_field(&mut definitions[at].1, "status", Some(status));
                changed[at] = true;
            }
        }
    }
    let Some(kind) = definition_kind() else { return Settled { ops, established: Vec::new() } };
    for ((revision, definition), _) in definitions.iter().zip(&changed).filter(|(_, changed)| **changed) {
        if let Ok(value) = encode(definition) {
            let key = key(kind, "", meta_text(definition, "name"));
            ops.push(Op::Put { key, expect: Expect::At(*revision), value, index: index(kind, definition) });
        }
    }
    let served = definitions.into_iter().filter(|(_, definition)| is_established(definition));
    Settled {
        ops,
        established: served.map(|(revision, definition)| (meta_text(&definition, "name").to_owned(), revision, definition)).collect(),
    }
}
