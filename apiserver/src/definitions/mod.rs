//! Kinds that are added at run time.
//!
//! ```text
//!  CustomResourceDefinition ─► settle: whose names are taken ─► Kinds: the table that requests look into ─► status: Established
//!            └─ deleted ─► keeper: its objects are deleted, then it is
//! ```
//!
//! The table follows from the stored definitions alone: it is made anew after every write of one, before the write is answered, and at
//! the start. Built-in kinds are found without it.

mod keeper;
mod settle;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use gantry_api::custom;
use gantry_api::registry::{self, KindInfo, KindRef};
use serde_json::Value;

use crate::cache::{Cache, Selection};
use crate::http::error::ApiError;
use crate::openapi::Documents;
use crate::store::{Expect, Key, Op, Revision};
use crate::strategy::object::{decode, is_terminating, key};

pub use keeper::keep;
pub(crate) use settle::{room, settle};

/// The kinds that are served: the built-in ones, and those of the established definitions.
#[derive(Default)]
pub(crate) struct Kinds {
    table: RwLock<Arc<Table>>,
    /// Held while definitions are looked at and their status is written.
    settling: tokio::sync::Mutex<()>,
}

/// The custom kinds at one moment.
#[derive(Default)]
pub(crate) struct Table {
    /// By name of the definition, as it stood at a revision.
    definitions: BTreeMap<String, (Revision, Vec<Arc<KindInfo>>)>,
    documents: OnceLock<Documents>,
}

impl Table {
    /// The kinds by group and plural, the preferred version of each first.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &Arc<KindInfo>> {
        self.definitions.values().flat_map(|(_, kinds)| kinds)
    }

    /// Their OpenAPI documents, made when they are first asked for.
    pub(crate) fn documents(&self, make: impl FnOnce(&Self) -> Documents) -> &Documents {
        self.documents.get_or_init(|| make(self))
    }
}

impl Kinds {
    /// The custom kinds now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind at a URL.
    pub(crate) fn find_resource(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        let custom = || {
            let table = self.table();
            // The name of a definition is made of the plural and the group.
            let (_, kinds) = table.definitions.get(&format!("{plural}.{group}"))?;
            kinds.iter().find(|kind| kind.version == version).cloned().map(KindRef::Custom)
        };
        registry::find_resource(group, version, plural).map(KindRef::from).or_else(custom)
    }

    /// The kind of an object.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<KindRef> {
        let custom = || self.table().kinds().find(|k| k.kind == kind && k.api_version() == api_version).cloned().map(KindRef::Custom);
        registry::find_kind(api_version, kind).map(KindRef::from).or_else(custom)
    }

    /// The preferred version of the kind of an established definition.
    fn of_definition(&self, name: &str) -> Option<KindRef> {
        self.table().definitions.get(name).and_then(|(_, kinds)| kinds.first().cloned()).map(KindRef::Custom)
    }

    /// One kind for each resource that objects are stored of or shown as.
    pub(crate) fn all(&self) -> Vec<KindRef> {
        let table = self.table();
        let custom = table.definitions.values().filter_map(|(_, kinds)| kinds.first().cloned()).map(KindRef::Custom);
        registry::kinds().iter().map(KindRef::from).chain(custom).collect()
    }

    /// Takes the place of the table by that of `established`; kinds of definitions that did not change stay what they are.
    fn replace(&self, established: &[(String, Revision, Value)]) {
        let old = self.table();
        let made = |(name, revision, definition): &(String, Revision, Value)| {
            let known = old.definitions.get(name).filter(|(known, _)| known == revision);
            let kinds = known.map_or_else(|| custom::kinds(definition).into_iter().map(Arc::new).collect(), |(_, kinds)| kinds.clone());
            (name.clone(), (*revision, kinds))
        };
        let table = Table { definitions: established.iter().map(made).collect(), documents: OnceLock::new() };
        if table.definitions.iter().map(|(name, (revision, _))| (name, revision)).eq(old.definitions.iter().map(|(name, (r, _))| (name, r)))
        {
            return;
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// The kind CustomResourceDefinition.
pub(crate) fn definition_kind() -> Option<&'static KindInfo> {
    registry::find_resource(custom::GROUP, custom::VERSION, custom::PLURAL)
}

/// All stored definitions with their revisions.
pub(crate) fn stored(cache: &Cache) -> Vec<(Revision, Value)> {
    let Some(kind) = definition_kind() else { return Vec::new() };
    let (entries, _) = cache.list(&crate::strategy::object::resource(kind), &Selection::default());
    entries.iter().filter_map(|entry| Some((entry.revision, decode(entry).ok()?))).collect()
}

/// The check that must hold when an object of a custom kind is made: its definition is there, as it was looked at, and stays.
///
/// # Errors
/// 404 and 405.
pub(crate) fn check_definition(cache: &Cache, kind: &KindInfo) -> Result<Option<Op>, ApiError> {
    let (Some(custom), Some(definitions)) = (&kind.custom, definition_kind()) else { return Ok(None) };
    let key: Key = key(definitions, "", &custom.definition);
    let entry = cache.get(&key).ok_or_else(ApiError::no_such_resource)?;
    if decode(&entry).is_ok_and(|definition| is_terminating(&definition)) {
        let message = format!("create not allowed while the CustomResourceDefinition {:?} is being deleted", custom.definition);
        return Err(ApiError::method_not_allowed(&message));
    }
    Ok(Some(Op::Check { key, expect: Expect::At(entry.revision) }))
}
