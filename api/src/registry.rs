//! The one list of kinds. Discovery, OpenAPI, tables, the command line and the docs come from it.

use jiff::Timestamp;
use serde_json::Value;

use crate::validate::FieldError;

/// All that the server, the command line and the docs know of a kind.
#[derive(Clone, Copy)]
pub struct KindInfo {
    /// API group; empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// CamelCase name.
    pub kind: &'static str,
    /// Lower-case plural, as in URLs.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Short names for the command line.
    pub short_names: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Further subresources, such as `binding`.
    pub subresources: &'static [Subresource],
    /// A kind of ours: strict by default, no strategic merge patch.
    pub ours: bool,
    /// Whether object names must be RFC 1123 labels (host names) and not only subdomains.
    pub label_names: bool,
    /// Columns of tables, after Name (and Namespace) and before Age, both of which every kind has.
    pub columns: &'static [Column],
    /// Fields that field selectors may use, besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Decodes into the Rust type, applies the defaults, and encodes again. Metadata and status are kept as the type has them.
    pub normalize: fn(Value) -> Result<Value, Vec<FieldError>>,
    /// Every error of a normalized object at once; `old` is the stored one on an update.
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// The structural OpenAPI v3 schema of the whole object.
    pub schema: fn() -> &'static Value,
}

/// A subresource besides `status`.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// Last segment of the URL.
    pub name: &'static str,
    /// Verbs for discovery.
    pub verbs: &'static [&'static str],
}

/// A column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
    /// The cell of an object, as of a time; `Null` when there is no value.
    pub cell: fn(object: &Value, now: Timestamp) -> Value,
}

impl KindInfo {
    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `plural.group`, or `plural` for core: as in `containers.gantry.dev "web" not found`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// The kind of lists.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
}

/// All kinds, core first.
pub fn kinds() -> &'static [KindInfo] {
    &[]
}

/// The kind at a URL.
pub fn find_resource(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of an object.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|k| k.kind == kind && k.api_version() == api_version)
}

/// The kind that a person means by `word`: plural, singular, short name, kind, or `plural.group`, without regard to case.
pub fn find_word(word: &str) -> Option<&'static KindInfo> {
    let word = word.to_ascii_lowercase();
    kinds().iter().find(|k| {
        k.plural == word
            || k.singular == word
            || k.short_names.contains(&word.as_str())
            || k.qualified() == word
            || format!("{}.{}.{}", k.plural, k.version, k.group) == word
    })
}
