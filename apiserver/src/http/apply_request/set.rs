//! Sets: the parent object that says what a set holds, its members, and what has left it.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_api::apply_set::{ID_LABEL, KINDS_ANNOTATION, NAMESPACES_ANNOTATION, PART_OF_LABEL, TOOLING_ANNOTATION, id, items};
use gantry_api::registry::{KindInfo, KindRef, find_resource};
use gantry_api::validate::FieldErrorReason;
use serde_json::{Value, json};

use super::super::ApiServer;
use super::super::error::ApiError;
use super::wrong;
use crate::cache::{Cache, Entry, LabelSelector, Selection};
use crate::store::Key;
use crate::strategy::object::{decode, is_terminating, key, meta_text, resource};

/// How we name ourselves on parents: `gantry/VERSION`.
const TOOL: &str = "gantry";

/// The set that a request is about.
pub(super) struct Set {
    /// Kind of the parent.
    pub(super) kind: KindRef,
    pub(super) namespace: String,
    pub(super) name: String,
    id: String,
}

/// What a set may hold, by its parent: kinds and namespaces.
#[derive(Default)]
pub(super) struct Known {
    kinds: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl Set {
    /// `NAME` (of a Secret, as kubectl has it), `secrets/NAME` or `configmaps/NAME`.
    pub(super) fn parse(text: &str, namespace: &str) -> Result<Self, ApiError> {
        let (plural, name) = text.split_once('/').unwrap_or(("secrets", text));
        let plural = match plural {
            "secrets" | "secret" => "secrets",
            "configmaps" | "configmap" | "cm" => "configmaps",
            _ => return Err(wrong("spec.set", FieldErrorReason::Invalid, "must be NAME, secrets/NAME or configmaps/NAME")),
        };
        let kind = find_resource("", "v1", plural).ok_or_else(ApiError::no_such_resource)?;
        let id = id(name, namespace, &kind.kind, &kind.group);
        Ok(Self { kind: kind.into(), namespace: namespace.to_owned(), name: name.to_owned(), id })
    }

    pub(super) fn to_value(&self) -> Value {
        json!({"name": self.name, "namespace": self.namespace, "parentKind": self.kind.kind, "id": self.id})
    }

    pub(super) fn key(&self) -> Key {
        key(&self.kind, &self.namespace, &self.name)
    }

    pub(super) fn shown(&self) -> String {
        format!("{} {:?} in namespace {:?}", self.kind.kind, self.name, self.namespace)
    }

    /// Puts an object of the file into the set.
    pub(super) fn label(&self, object: &mut Value) -> Result<(), ApiError> {
        let bad = || ApiError::bad_request("metadata.labels is not an object");
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or_else(bad)?;
        let labels = metadata.entry("labels").or_insert(Value::Null);
        if labels.is_null() {
            *labels = json!({});
        }
        let labels = labels.as_object_mut().ok_or_else(bad)?;
        match labels.get(PART_OF_LABEL).and_then(Value::as_str) {
            Some(other) if other != self.id => {
                Err(ApiError::bad_request(format!("the label {PART_OF_LABEL} names another set than {}: {other:?}", self.shown())))
            }
            _ => {
                labels.insert(PART_OF_LABEL.to_owned(), self.id.clone().into());
                Ok(())
            }
        }
    }

    /// Refuses to take an object out of another set.
    pub(super) fn check_free(&self, kind: &KindInfo, old: &Value) -> Result<(), ApiError> {
        match label(old, PART_OF_LABEL) {
            Some(other) if other != self.id => {
                let why = format!(
                    "it is in another set ({other}), and an object is in one set at most; take the label {PART_OF_LABEL} off it first"
                );
                Err(ApiError::conflict(kind, meta_text(old, "name"), &why))
            }
            _ => Ok(()),
        }
    }

    /// What the parent says; nothing when there is none yet. `force`: also when another program keeps the set.
    pub(super) fn known(&self, cache: &Cache, force: bool) -> Result<Known, ApiError> {
        let Some(entry) = cache.get(&self.key()) else { return Ok(Known::default()) };
        let parent = decode(&entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
        let refuse = |why: &str| Err(ApiError::conflict(&self.kind, &self.name, why));
        let annotation = |name: &str| parent.get("metadata").and_then(|m| m.get("annotations")?.get(name)?.as_str()).unwrap_or_default();
        match label(&parent, ID_LABEL) {
            None => return refuse("it exists and is the parent of no set; choose another name for the set"),
            Some(other) if other != self.id => return refuse(&format!("it has the label {ID_LABEL} of another set: {other}")),
            Some(_) => {}
        }
        let tooling = annotation(TOOLING_ANNOTATION);
        if tooling.split('/').next() != Some(TOOL) && !force {
            return refuse(&format!("the set is kept by {tooling:?}; apply with that, or take the set over with force"));
        }
        let mut namespaces: BTreeSet<String> = items(annotation(NAMESPACES_ANNOTATION)).map(str::to_owned).collect();
        namespaces.insert(self.namespace.clone());
        Ok(Known { kinds: items(annotation(KINDS_ANNOTATION)).map(str::to_owned).collect(), namespaces })
    }

    /// The parent's configuration: the kinds and namespaces of `members`, and of what else is known to be there.
    pub(super) fn parent(&self, members: &[(KindRef, String)], known: Option<&Known>) -> Value {
        let mut groups: BTreeSet<String> = members.iter().map(|(kind, _)| group_kind(kind)).collect();
        let mut namespaces: BTreeSet<String> = members.iter().map(|(_, namespace)| namespace.clone()).collect();
        if let Some(known) = known {
            groups.extend(known.kinds.iter().cloned());
            namespaces.extend(known.namespaces.iter().cloned());
        }
        namespaces.retain(|namespace| !namespace.is_empty() && *namespace != self.namespace);
        let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(",");
        json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": {ID_LABEL: self.id},
                "annotations": {
                    TOOLING_ANNOTATION: format!("{TOOL}/v{}", env!("CARGO_PKG_VERSION")),
                    KINDS_ANNOTATION: join(groups), NAMESPACES_ANNOTATION: join(namespaces),
                },
            },
        })
    }

    /// Members that are not among `kept`, in the order in which they leave: containers before what they use, namespaces last.
    pub(super) fn left_over(&self, server: &ApiServer, known: &Known, kept: &BTreeSet<Key>) -> Vec<(KindRef, Arc<Entry>)> {
        let Ok(labels) = LabelSelector::parse(&format!("{PART_OF_LABEL}={}", self.id)) else { return Vec::new() };
        let mut found = Vec::new();
        for kind in server.kinds.all().into_iter().filter(|kind| known.kinds.contains(&group_kind(kind))) {
            let selection = Selection { namespace: None, labels: labels.clone(), ..Selection::default() };
            let (entries, _) = server.cache.list(&resource(&kind), &selection);
            let place = |entry: &Entry| !kind.namespaced || known.namespaces.contains(&*entry.key.namespace);
            let going = |entry: &Entry| decode(entry).is_ok_and(|object| is_terminating(&object));
            found
                .extend(entries.into_iter().filter(|e| !kept.contains(&e.key) && place(e) && !going(e)).map(|entry| (kind.clone(), entry)));
        }
        let rank = |kind: &KindRef| match kind.built_in() {
            "Container" => 0,
            "Namespace" => 2,
            _ => 1,
        };
        found.sort_by(|(a, x), (b, y)| rank(a).cmp(&rank(b)).then_with(|| x.key.cmp(&y.key)));
        found
    }
}

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn group_kind(kind: &KindInfo) -> String {
    if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) }
}
