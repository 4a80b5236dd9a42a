//! What is known of each kind, and the one list of the built-in ones. Discovery, OpenAPI, tables, the command line and the docs come
//! from it.

mod table;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::custom::{self, FieldPath};
use crate::meta::{GROUP, VERSION};
use crate::schema;
use crate::validate::FieldError;

pub use crate::columns::{field_value, humanize_age};
pub use table::kinds;

/// All that the server, the command line and the docs know of a kind.
pub struct KindInfo {
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// CamelCase name.
    pub kind: String,
    /// CamelCase name of lists.
    pub list_kind: String,
    /// Lower-case plural, as in URLs.
    pub plural: String,
    /// Lower-case singular.
    pub singular: String,
    /// Short names for the command line.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Further subresources, such as `binding`.
    pub subresources: Vec<Subresource>,
    /// A kind of ours: strict by default, no strategic merge patch.
    pub ours: bool,
    /// Whether object names must be RFC 1123 labels (host names) and not only subdomains.
    pub label_names: bool,
    /// Whether tables end with the column Age.
    pub has_age: bool,
    /// Columns of tables, after Name (and Namespace) and before Age.
    pub columns: Cow<'static, [Column]>,
    /// Fields that field selectors may use, besides `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<Cow<'static, str>>,
    /// What its objects must be.
    pub rules: Box<dyn Rules>,
    /// Set for a kind that is not stored: its objects are made of another kind's.
    pub view: Option<&'static View>,
    /// Set for a kind that was added at run time.
    pub custom: Option<CustomKind>,
}

/// What only kinds that were added at run time have.
#[derive(Debug)]
pub struct CustomKind {
    /// Name of the definition that it came from.
    pub definition: String,
    /// The `apiVersion` in which objects are stored; other versions differ from it in that field only.
    pub storage_version: String,
    /// Whether there are, or were, further versions.
    pub has_versions: bool,
    /// What a client is warned of that uses a deprecated version.
    pub warning: Option<String>,
    /// Selectable fields of all versions.
    pub indexed: Vec<Cow<'static, str>>,
    /// Where the subresource `scale` finds its fields.
    pub scale: Option<Scale>,
}

/// Fields of the subresource `scale`.
#[derive(Debug)]
pub struct Scale {
    /// The wish.
    pub replicas: FieldPath,
    /// The fact.
    pub current: FieldPath,
    /// A label selector as a text.
    pub selector: Option<FieldPath>,
}

/// What the objects of a kind must be, and how they are completed.
pub trait Rules: Send + Sync {
    /// The structural OpenAPI v3 schema of the whole object.
    fn schema(&self) -> &Value;
    /// Applies the defaults and brings an object into the form in which it is stored. Metadata and status are kept.
    ///
    /// # Errors
    /// Every wrong type at once.
    fn normalize(&self, object: Value) -> Result<Value, Vec<FieldError>>;
    /// Every error of a normalized object at once; `old` is the stored one on an update.
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError>;
    /// What is wrong with an object as it was sent: unknown fields above all.
    fn check(&self, object: &Value) -> Vec<FieldError> {
        schema::check(self.schema(), object)
    }
    /// Drops the fields that the kind does not have.
    fn prune(&self, object: &mut Value) {
        schema::prune(self.schema(), object);
    }
}

/// A kind by reference: a built-in one, or one that was added at run time and lasts as long as somebody holds it. Cheap to clone.
#[derive(Clone)]
pub enum KindRef {
    /// Of the table that the program carries.
    BuiltIn(&'static KindInfo),
    /// Added at run time.
    Custom(Arc<KindInfo>),
}

impl Deref for KindRef {
    type Target = KindInfo;
    fn deref(&self) -> &KindInfo {
        match self {
            Self::BuiltIn(kind) => kind,
            Self::Custom(kind) => kind,
        }
    }
}

impl fmt::Debug for KindRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified())
    }
}

impl From<&'static KindInfo> for KindRef {
    fn from(kind: &'static KindInfo) -> Self {
        Self::BuiltIn(kind)
    }
}

/// A read-only kind, each of whose objects shows one of a stored kind of ours, with its name, labels and revision.
#[derive(Debug)]
pub struct View {
    /// Plural of the stored kind.
    pub of: &'static str,
    /// Field of the stored object's index without which there is no object of the view.
    pub exists: &'static str,
    /// Selectable fields of the view, and the fields of the stored object's index that hold their values.
    pub fields: &'static [(&'static str, &'static str)],
    /// Fields for the stored object's index.
    pub index: fn(stored: &Value) -> Vec<(&'static str, String)>,
    /// The object of the view.
    pub render: fn(stored: &Value) -> Value,
    /// What a write is answered.
    pub read_only: &'static str,
}

/// A subresource besides `status`.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// Last segment of the URL.
    pub name: &'static str,
    /// Verbs for discovery.
    pub verbs: &'static [&'static str],
    /// Group, version and kind of what is sent to it, when it is not the object's own.
    pub kind: Option<(&'static str, &'static str, &'static str)>,
}

/// A column of a table.
#[derive(Clone)]
pub struct Column {
    /// Heading.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: Cow<'static, str>,
    /// One sentence.
    pub description: Cow<'static, str>,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
    /// What it shows.
    pub(crate) cell: Cell,
}

/// How a cell is made of an object, as of a time.
#[derive(Clone)]
pub(crate) enum Cell {
    BuiltIn(fn(object: &Value, now: Timestamp) -> Value),
    Computed(Arc<CellOf>),
}

/// Makes a cell of an object, as of a time.
pub(crate) type CellOf = dyn Fn(&Value, Timestamp) -> Value + Send + Sync;

impl Column {
    /// The cell of an object, as of a time; `Null` when there is no value.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match &self.cell {
            Cell::BuiltIn(cell) => cell(object, now),
            Cell::Computed(cell) => cell(object, now),
        }
    }
}

impl KindInfo {
    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `plural.group`, or `plural` for core: as in `containers.gantry.dev "web" not found`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// The kind's name, for rules that are about built-in kinds; empty for a kind that was added at run time, whatever it is called.
    pub fn built_in(&self) -> &str {
        if self.custom.is_some() { "" } else { &self.kind }
    }
    /// Whether it is the kind by which kinds are added.
    pub fn is_definition(&self) -> bool {
        self.group == custom::GROUP && self.kind == custom::KIND
    }
    /// Whether `metadata.generation` counts the changes of what is wished.
    pub fn has_generation(&self) -> bool {
        self.ours || self.custom.is_some() || self.is_definition()
    }
    /// Whether strategic merge patches are for it: they are for Kubernetes' own kinds only.
    pub fn merges_strategically(&self) -> bool {
        !self.ours && self.custom.is_none()
    }
    /// The `apiVersion` of its objects in the store.
    pub fn storage_version(&self) -> String {
        self.custom.as_ref().map_or_else(|| self.api_version(), |custom| custom.storage_version.clone())
    }
    /// Whether its objects may be stored under another `apiVersion` than they are shown.
    pub fn is_converted(&self) -> bool {
        self.custom.as_ref().is_some_and(|custom| custom.has_versions)
    }
    /// The fields that an object's index holds.
    pub fn indexed(&self) -> &[Cow<'static, str>] {
        self.custom.as_ref().map_or(&self.selectable, |custom| &custom.indexed)
    }
    /// The kind of which objects are stored: itself, unless it is a view.
    pub fn stored(&self) -> &KindInfo {
        self.view.and_then(|view| find_resource(GROUP, VERSION, view.of)).unwrap_or(self)
    }
    /// The views of this kind.
    pub fn views(&self) -> impl Iterator<Item = &'static View> {
        kinds().iter().filter_map(|kind| kind.view).filter(|view| self.ours && view.of == self.plural)
    }
    /// Whether a person means this kind by `word`, in lower case: plural, singular, short name, kind, or `plural.group`.
    pub fn is_called(&self, word: &str) -> bool {
        self.plural == word
            || self.singular == word
            || self.short_names.iter().any(|name| name == word)
            || self.qualified() == word
            || format!("{}.{}.{}", self.plural, self.version, self.group) == word
    }
    /// The structural OpenAPI v3 schema of the whole object.
    pub fn schema(&self) -> &Value {
        self.rules.schema()
    }
}

/// The built-in kind at a URL.
pub fn find_resource(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The built-in kind of an object.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|k| k.kind == kind && k.api_version() == api_version)
}

/// The built-in kind that a person means by `word`: plural, singular, short name, kind, or `plural.group`, without regard to case.
pub fn find_word(word: &str) -> Option<&'static KindInfo> {
    let word = word.to_ascii_lowercase();
    kinds().iter().find(|kind| kind.is_called(&word))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn no_word_means_two_kinds() {
        let mut seen = HashSet::new();
        for kind in kinds() {
            for word in [&kind.plural, &kind.singular].into_iter().chain(&kind.short_names) {
                assert!(seen.insert(word), "{word} stands for two kinds");
            }
        }
        for (word, kind) in [("CTR", "Container"), ("containers.gantry.dev", "Container"), ("ns", "Namespace"), ("Lease", "Lease")] {
            assert_eq!(find_word(word).map(|found| found.kind.as_str()), Some(kind), "{word}");
        }
    }

    #[test]
    fn every_kind_normalizes_an_almost_empty_object_to_a_fixed_point() {
        for kind in kinds().iter().filter(|kind| kind.view.is_none()) {
            let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a", "namespace": "b"}});
            if kind.kind == "Event" {
                object["involvedObject"] = json!({});
            }
            if kind.is_definition() {
                object["spec"] = json!({"group": "g", "names": {"plural": "a", "kind": "A"}, "scope": "Cluster", "versions": []});
            }
            let once = kind.rules.normalize(object).unwrap();
            assert_eq!(kind.rules.normalize(once.clone()).as_ref(), Ok(&once), "{}", kind.kind);
            assert_eq!(schema::check(kind.schema(), &once), [], "{}", kind.kind);
            for column in &*kind.columns {
                column.cell(&once, Timestamp::UNIX_EPOCH);
            }
        }
    }

    #[test]
    fn views_are_of_stored_kinds_and_know_their_selectable_fields() {
        for (kind, view) in kinds().iter().filter_map(|kind| Some((kind, kind.view?))) {
            assert_eq!((kind.stored().plural.as_str(), kind.stored().view.is_none()), (view.of, true));
            assert_eq!(view.fields.iter().map(|(path, _)| *path).collect::<Vec<_>>(), kind.selectable);
            assert!(kind.stored().views().any(|found| std::ptr::eq(found, view)));
        }
    }

    #[test]
    fn selectable_fields_are_fields() {
        for kind in kinds().iter().filter(|kind| kind.view.is_none()) {
            for path in kind.selectable.iter().filter(|path| **path != "source") {
                let pointer: String = path.split('.').map(|name| format!("/properties/{name}")).collect();
                assert!(kind.schema().pointer(&pointer).is_some(), "{} has no {path}", kind.kind);
            }
        }
    }
}
