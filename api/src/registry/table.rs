//! The built-in kinds, one row each.

use std::borrow::Cow;
use std::sync::{LazyLock, OnceLock};

use serde_json::Value;

use super::{Column, KindInfo, Rules, Subresource, View};
use crate::columns;
use crate::custom;
use crate::default;
use crate::kinds::{container, core, image, network, volume};
use crate::meta::{GROUP, VERSION};
use crate::pod;
use crate::schema;
use crate::validate::{self, FieldError};

/// All built-in kinds, core first.
pub fn kinds() -> &'static [KindInfo] {
    static KINDS: LazyLock<Vec<KindInfo>> = LazyLock::new(|| {
        let mut kinds: Vec<KindInfo> = ROWS.iter().map(KindInfo::from).collect();
        // After core and leases: of two kinds with one name, clients take the first.
        kinds.insert(7, custom::kind());
        kinds
    });
    &KINDS
}

/// A kind that has a Rust type.
struct Row {
    api: (&'static str, &'static str),
    names: Names,
    categories: &'static [&'static str],
    namespaced: bool,
    has_status: bool,
    subresources: &'static [Subresource],
    ours: bool,
    label_names: bool,
    columns: &'static [Column],
    selectable: &'static [&'static str],
    /// Decodes into the Rust type, applies the defaults, and encodes again.
    normalize: fn(Value) -> Result<Value, Vec<FieldError>>,
    validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    schema: fn() -> &'static Value,
    view: Option<&'static View>,
}

impl Rules for &'static Row {
    fn schema(&self) -> &Value {
        (self.schema)()
    }
    fn normalize(&self, object: Value) -> Result<Value, Vec<FieldError>> {
        (self.normalize)(object)
    }
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        (self.validate)(new, old)
    }
}

impl From<&'static Row> for KindInfo {
    fn from(row: &'static Row) -> Self {
        let ((group, version), (kind, plural, singular, short_names)) = (row.api, row.names);
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            plural: plural.to_owned(),
            singular: singular.to_owned(),
            short_names: owned(short_names),
            categories: owned(row.categories),
            namespaced: row.namespaced,
            has_status: row.has_status,
            subresources: row.subresources.to_vec(),
            ours: row.ours,
            label_names: row.label_names,
            has_age: true,
            columns: row.columns.into(),
            selectable: row.selectable.iter().map(|path| Cow::Borrowed(*path)).collect(),
            rules: Box::new(row),
            view: row.view,
            custom: None,
        }
    }
}

/// A kind's row: names and functions; the schema is made once.
macro_rules! kind {
    ($type:ty, $api:expr, $names:expr, namespaced: $namespaced:expr, $($field:ident: $value:expr),* $(,)?) => {{
        const NAMES: Names = $names;
        fn schema() -> &'static Value {
            static SCHEMA: OnceLock<Value> = OnceLock::new();
            SCHEMA.get_or_init(|| schema::of::<$type>(NAMES.0))
        }
        Row { api: $api, names: NAMES, namespaced: $namespaced, schema, view: None, $($field: $value,)* }
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

/// There is no load balancer yet, so there are no Services either; tools ask for them all the same.
static SERVICES: View = View {
    of: "containers",
    // No Container has it.
    exists: "view.service",
    fields: &[],
    index: |_| Vec::new(),
    render: Value::clone,
    read_only: "there are no services; publish a container's ports with container.spec.ports",
};

fn service_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let what = "Service is listed for tools that ask for it, and always empty: containers publish their ports themselves.";
        view_schema("Service", what, ["See container.spec.ports."; 2])
    })
}

/// A kind whose objects are only shown: what is in them is described elsewhere.
fn view_schema(kind: &str, description: &str, [spec, status]: [&str; 2]) -> Value {
    let part =
        |description: &str| serde_json::json!({"type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": true});
    let text = |description: String| serde_json::json!({"type": "string", "description": description});
    serde_json::json!({"type": "object", "description": description, "properties": {
        "apiVersion": text("v1.".to_owned()), "kind": text(format!("{kind}.")), "metadata": part("Standard object's metadata."),
        "spec": part(spec), "status": part(status),
    }})
}

/// Pods have Kubernetes' schema, far too large to be carried for a view; what is shown of them is said by the Container's.
fn pod_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let what = "Pod is a read-only view of the Container of the same name, for tools that know only Pods.";
        let spec = "What the Container wishes, in a Pod's words; its one container is called main. See container.spec.";
        view_schema("Pod", what, [spec, "What the Container is, in a Pod's words. See container.status."])
    })
}

static ROWS: [Row; 13] = [
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
        core::ServiceAccount, CORE, ("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"]),
        namespaced: true,
        categories: &[],
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: false,
        columns: columns::SERVICE_ACCOUNT,
        selectable: &[],
        normalize: default::service_account,
        validate: validate::service_account,
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
    Row {
        api: CORE,
        names: ("Pod", "pods", "pod", &["po"]),
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
    Row {
        api: CORE,
        names: ("Service", "services", "service", &["svc"]),
        categories: &[],
        namespaced: true,
        has_status: false,
        subresources: &[],
        ours: false,
        label_names: true,
        columns: columns::SERVICE,
        selectable: &[],
        normalize: Ok,
        validate: |_, _| Vec::new(),
        schema: service_schema,
        view: Some(&SERVICES),
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
