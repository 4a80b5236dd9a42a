//! Kinds that a file itself defines: its objects may be of them, and all comes about at once.

use std::sync::Arc;

use gantry_api::custom::{is_established, kinds, settle};
use gantry_api::registry::{KindInfo, KindRef};
use serde_json::Value;

use super::super::AppState;
use crate::definitions::{definition_kind, stored};
use crate::strategy::object::{meta_text, set_field, time_text};

/// The kinds of the definitions in a file, as they will be.
#[derive(Default)]
pub(super) struct Defined {
    kinds: Vec<Arc<KindInfo>>,
    /// Names of definitions that are not stored yet.
    new: Vec<String>,
    /// Groups of definitions that will not be served, and why not.
    problems: Vec<(String, String)>,
}

impl Defined {
    /// What becomes of the definitions of a file beside those that are stored. One that is refused is told of where it stands.
    pub(super) fn by(server: &AppState, objects: &[Value]) -> Self {
        let mut found = Self::default();
        let Some(kind) = definition_kind() else { return found };
        let definitions = objects.iter().filter(|object| object["kind"] == kind.kind && object["apiVersion"] == kind.api_version());
        let mut beside: Option<Vec<Value>> = None;
        for object in definitions {
            let Ok(mut definition) = kind.rules.normalize(object.clone()) else { continue };
            let known = beside.get_or_insert_with(|| stored(&server.cache).into_iter().map(|(_, definition)| definition).collect());
            let name = meta_text(&definition, "name").to_owned();
            let old = known.iter().position(|other| meta_text(other, "name") == name);
            match old {
                Some(at) => set_field(&mut definition, "status", known[at].get("status").cloned()),
                None => found.new.push(name.clone()),
            }
            if !kind.rules.validate(&definition, None).is_empty() {
                continue;
            }
            let status = settle(&definition, &known.iter().collect::<Vec<_>>(), &time_text(server.now()));
            set_field(&mut definition, "status", Some(status));
            if is_established(&definition) {
                found.kinds.extend(kinds(&definition).into_iter().map(Arc::new));
            } else {
                let group = definition["spec"]["group"].as_str().unwrap_or_default().to_owned();
                found.problems.push((group, format!("not all names of the CustomResourceDefinition {name:?} are free")));
            }
            match old {
                Some(at) => known[at] = definition,
                None => known.push(definition),
            }
        }
        found
    }

    /// The kind of an object.
    pub(super) fn find_kind(&self, api_version: &str, kind: &str) -> Option<KindRef> {
        self.kinds.iter().find(|k| k.kind == kind && k.api_version() == api_version).cloned().map(KindRef::Custom)
    }

    /// Why a kind is not there that the file defines.
    pub(super) fn problem(&self, api_version: &str) -> Option<&str> {
        let group = api_version.split('/').next().unwrap_or_default();
        self.problems.iter().find(|(of, _)| of == group).map(|(_, problem)| problem.as_str())
    }

    /// Whether a kind comes with the file, so that there is no stored definition to hold it to.
    pub(super) fn is_new(&self, kind: &KindInfo) -> bool {
        kind.custom.as_ref().is_some_and(|custom| self.new.contains(&custom.definition))
    }
}
