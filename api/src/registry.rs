//! The one list of kinds. Discovery, OpenAPI, tables, the command line and the docs come from it.

use std::sync::OnceLock;

use jiff::Timestamp;
use serde_json::Value;

use crate::columns;
use crate::default;
use crate::kinds::{container, core, image, network, volume};
use crate::meta::{GROUP, VERSION};
use crate::pod;
use crate::schema;
use crate::validate::{self, FieldError};

pub use crate::columns::{field_value, humanize_age};

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
    /// Set for a kind that is not stored: its objects are made of another kind's.
    pub view: Option<&'static View>,
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
    /// The kind of which objects are stored: itself, unless it is a view.
    pub fn stored(&self) -> &KindInfo {
        self.view.and_then(|view| find_resource(GROUP, VERSION, view.of)).unwrap_or(self)
    }
    /// The views of this kind.
    pub fn views(&self) -> impl Iterator<Item = &'static View> + use<> {
        let plural = self.ours.then_some(self.plural);
        kinds().iter().filter_map(|kind| kind.view).filter(move |view| Some(view.of) == plural)
    }
    /// The kind of lists.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
}

/// All kinds, core first.
pub fn kinds() -> &'static [KindInfo] {
    &KINDS
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

/// A kind's row: names and functions; the schema is made once.
macro_rules! kind {
    ($type:ty, $api:expr, $names:expr, namespaced: $namespaced:expr, $($field:ident: $value:expr),* $(,)?) => {{
        const NAMES: Names = $names;
        fn schema() -> &'static Value {
            static SCHEMA: OnceLock<Value> = OnceLock::new();
            SCHEMA.get_or_init(|| schema::of::<$type>(NAMES.0))
        }
        KindInfo {
            group: $api.0,
            version: $api.1,
            kind: NAMES.0,
            plural: NAMES.1,
            singular: NAMES.2,
            short_names: NAMES.3,
            namespaced: $namespaced,
            schema,
            view: None,
            $($field: $value,)*
        }
    }};
}

/// Kind, plural, singular, short names.
type Names = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CORE: (&str, &str) = ("", "v1");
const OURS: (&str, &str) = (GROUP, VERSION);
const BINDING: Subresource = Subresource { name: "binding", verbs: &["create"], kind: None };
const LOG: Subresource = Subresource { name: "log", verbs: &["get"], kind: None };
const EXEC: Subresource = Subresource { name: "exec", verbs: &["create", "get"], kind: None };
const EVICTION: Subresource = Subresource { name: "eviction", verbs: &["create"], kind: Some(("policy", "v1", "Eviction")) };
const FINALIZE: Subresource = Subresource { name: "finalize", verbs: &["update"], kind: None };

/// Pods have Kubernetes' schema, far too large to be carried for a view; what is shown of them is said by the Container's.
fn pod_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let part = |description: &str| serde_json::json!({"type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": true});
        serde_json::json!({"type": "object", "description": "Pod is a read-only view of the Container of the same name, for tools that know only Pods.",
            "properties": {
                "apiVersion": {"type": "string", "description": "v1."}, "kind": {"type": "string", "description": "Pod."},
                "metadata": part("Standard object's metadata."),
                "spec": part("What the Container wishes, in a Pod's words; its one container is called main. See container.spec."),
                "status": part("What the Container is, in a Pod's words. See container.status."),
            }})
    })
}

static KINDS: [KindInfo; 11] = [
    kind!(
        core::Namespace, CORE, ("Namespace", "namespaces", "namespace", &["ns"]),
        namespaced: false,
        categories: &[],
        has_status: true,
        subresources: &[FINALIZE],
        ours: false,
        label_names: true,
        columns: columns::NAMESPACE,
        selectable: &["status.phase"],
        normalize: default::namespace,
        validate: validate::namespace,
    ),
    kind!(
        core::Node, CORE, ("Node", "nodes", "node", &["no"]),
        namespaced: false,
        categories: &[],
        has_status: true,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::NODE,
        selectable: &["spec.unschedulable"],
        normalize: default::node,
        validate: validate::node,
    ),
    kind!(
        core::Secret, CORE, ("Secret", "secrets", "secret", &[]),
        namespaced: true,
        categories: &[],
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::SECRET,
        selectable: &["type"],
        normalize: default::secret,
        validate: validate::secret,
    ),
    kind!(
        core::ConfigMap, CORE, ("ConfigMap", "configmaps", "configmap", &["cm"]),
        namespaced: true,
        categories: &[],
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::CONFIG_MAP,
        selectable: &[],
        normalize: default::config_map,
        validate: validate::config_map,
    ),
    kind!(
        core::Event, CORE, ("Event", "events", "event", &["ev"]),
        namespaced: true,
        categories: &[],
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::EVENT,
        selectable: &["involvedObject.apiVersion", "involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "involvedObject.uid", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"],
        normalize: default::event,
        validate: validate::event,
    ),
    kind!(
        core::Lease, ("coordination.k8s.io", "v1"), ("Lease", "leases", "lease", &[]),
        namespaced: true,
        categories: &[],
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::LEASE,
        selectable: &[],
        normalize: default::lease,
        validate: validate::lease,
    ),
    KindInfo {
        group: CORE.0,
        version: CORE.1,
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &[],
        namespaced: true,
        has_status: false,
        subresources: &[EVICTION, LOG, EXEC],
        ours: false,
        label_names: true,
        columns: columns::POD,
        selectable: &["spec.nodeName", "status.phase"],
        normalize: Ok,
        validate: |_, _| Vec::new(),
        schema: pod_schema,
        view: Some(&pod::VIEW),
    },
    kind!(
        image::Image, OURS, ("Image", "images", "image", &["img"]),
        namespaced: true,
        categories: &["all", "gantry"],
        has_status: true,
        subresources: &[],
        ours: true,
        label_names: false,
        columns: columns::IMAGE,
        selectable: &["status.resolverNodeName", "status.digest"],
        normalize: default::image,
        validate: validate::image,
    ),
    kind!(
        container::Container, OURS, ("Container", "containers", "container", &["ctr"]),
        namespaced: true,
        categories: &["all", "gantry"],
        has_status: true,
        subresources: &[BINDING, LOG, EXEC],
        ours: true,
        label_names: true,
        columns: columns::CONTAINER,
        selectable: &["status.nodeName", "status.formerNodeName", "status.phase", "spec.imageName", "status.imageObjectName"],
        normalize: default::container,
        validate: validate::container,
    ),
    kind!(
        network::Network, OURS, ("Network", "networks", "network", &["net"]),
        namespaced: true,
        categories: &["all", "gantry"],
        has_status: true,
        subresources: &[],
        ours: true,
        label_names: true,
        columns: columns::NETWORK,
        selectable: &["spec.driver"],
        normalize: default::network,
        validate: validate::network,
    ),
    kind!(
        volume::Volume, OURS, ("Volume", "volumes", "volume", &["vol"]),
        namespaced: true,
        categories: &["all", "gantry"],
        has_status: true,
        subresources: &[],
        ours: true,
        label_names: false,
        columns: columns::VOLUME,
        selectable: &["status.nodeName", "status.phase"],
        normalize: default::volume,
        validate: validate::volume,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn no_word_means_two_kinds() {
        let mut seen = HashSet::new();
        for kind in kinds() {
            for word in [&[kind.plural, kind.singular], kind.short_names].concat() {
                assert!(seen.insert(word), "{word} stands for two kinds");
            }
        }
        for (word, kind) in [("CTR", "Container"), ("containers.gantry.dev", "Container"), ("ns", "Namespace"), ("Lease", "Lease")] {
            assert_eq!(find_word(word).map(|found| found.kind), Some(kind), "{word}");
        }
    }

    #[test]
    fn every_kind_normalizes_an_almost_empty_object_to_a_fixed_point() {
        for kind in kinds().iter().filter(|kind| kind.view.is_none()) {
            let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a", "namespace": "b"}});
            if kind.kind == "Event" {
                object["involvedObject"] = json!({});
            }
            let once = (kind.normalize)(object).unwrap();
            assert_eq!((kind.normalize)(once.clone()).as_ref(), Ok(&once), "{}", kind.kind);
            assert_eq!(schema::check((kind.schema)(), &once), [], "{}", kind.kind);
            for column in kind.columns {
                (column.cell)(&once, Timestamp::UNIX_EPOCH);
            }
        }
    }

    #[test]
    fn views_are_of_stored_kinds_and_know_their_selectable_fields() {
        for (kind, view) in kinds().iter().filter_map(|kind| Some((kind, kind.view?))) {
            assert_eq!((kind.stored().plural, kind.stored().view.is_none()), (view.of, true));
            assert_eq!(view.fields.iter().map(|(path, _)| *path).collect::<Vec<_>>(), kind.selectable);
            assert!(kind.stored().views().any(|found| std::ptr::eq(found, view)));
        }
    }

    #[test]
    fn selectable_fields_are_fields() {
        for kind in kinds().iter().filter(|kind| kind.view.is_none()) {
            for path in kind.selectable.iter().filter(|path| **path != "source") {
                let pointer: String = path.split('.').map(|name| format!("/properties/{name}")).collect();
                assert!((kind.schema)().pointer(&pointer).is_some(), "{} has no {path}", kind.kind);
            }
        }
    }
}
