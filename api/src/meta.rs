//! Object metadata, keys, conditions and the [`Kind`] trait that every served type implements.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

/// The API group of Gantry's own kinds.
pub const GROUP: &str = "gantry.dev";
/// The one version of Gantry's own kinds.
pub const VERSION: &str = "v1";
/// `apiVersion` of Gantry's own kinds.
pub const API_VERSION: &str = "gantry.dev/v1";

/// Where an object lives within its kind. Displays as `namespace/name`, or `name` when cluster-scoped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `name` in `namespace` (empty: cluster-scoped).
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A type that the server stores and serves.
///
/// Implemented for Gantry's kinds and for those of Kubernetes' own kinds that are served.
pub trait Kind: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static {
    /// API group; empty for core.
    const GROUP: &'static str;
    /// API version within the group.
    const VERSION: &'static str;
    /// CamelCase name.
    const KIND: &'static str;
    /// Lower-case plural, as in URLs.
    const PLURAL: &'static str;
    /// Whether objects live in a namespace.
    const NAMESPACED: bool;

    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// `group/version`, or `version` for core.
    fn api_version() -> String {
        if Self::GROUP.is_empty() { Self::VERSION.to_owned() } else { format!("{}/{}", Self::GROUP, Self::VERSION) }
    }
    /// The object's namespace and name; absent parts are empty.
    fn key(&self) -> ObjectKey {
        ObjectKey::new(self.meta().namespace.clone().unwrap_or_default(), self.name())
    }
    /// The object's name, or "" when it has none yet.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// The object's uid, or "" when the server has not given one yet.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    /// The object's generation, 0 when unset.
    fn generation(&self) -> i64 {
        self.meta().generation.unwrap_or_default()
    }
    /// Whether deletion has been asked for and waits on finalizers.
    fn is_terminating(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
    /// Whether `finalizer` is present.
    fn has_finalizer(&self, finalizer: &str) -> bool {
        self.meta().finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == finalizer))
    }
    /// An owner reference to this object; `controller` marks the managing owner.
    fn owner_reference(&self, controller: bool) -> OwnerReference {
        OwnerReference {
            api_version: Self::api_version(),
            kind: Self::KIND.to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            controller: controller.then_some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet, or no longer.
    Unknown,
}

/// One aspect of an object's state (Kubernetes' `metav1.Condition`, plus `causedBy`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// CamelCase name of the aspect; `Ready` is the summary that every kind has.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The `metadata.generation` that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// CamelCase word from the documented list, for programs.
    pub reason: String,
    /// One sentence for people that says what to do next.
    pub message: String,
    /// The other object's condition that is the cause, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<ConditionCause>,
}

/// The condition of another object that explains this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionCause {
    /// Kind of the other object.
    pub kind: String,
    /// Name of the other object, in the same namespace or cluster-scoped.
    pub name: String,
    /// The other object's condition type.
    pub condition: String,
}

impl Condition {
    /// A condition as of `now`.
    pub fn new(type_: &str, status: ConditionStatus, reason: &str, message: impl Into<String>, generation: i64, now: Time) -> Self {
        Self {
            type_: type_.to_owned(),
            status,
            observed_generation: Some(generation),
            last_transition_time: now,
            reason: reason.to_owned(),
            message: message.into(),
            caused_by: None,
        }
    }

    /// Whether it is `True`.
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// The condition named `type_`, if present.
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Puts `new` in the list; `lastTransitionTime` is kept when the status did not change.
///
/// Returns whether anything but the time changed, that is, whether a write is worth it.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            let changed = *old != new;
            *old = new;
            changed
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Implements [`Kind`] for a type that has a field `metadata: ObjectMeta`.
macro_rules! impl_kind {
    ($type:ty, $group:expr, $version:expr, $kind:expr, $plural:expr, $namespaced:expr) => {
        impl $crate::meta::Kind for $type {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &$crate::meta::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut $crate::meta::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use impl_kind;

/// Declares one of Gantry's own kinds: the object with its spec and status, a constructor and [`Kind`].
macro_rules! define_kind {
    ($(#[$doc:meta])* $name:ident, $plural:expr, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// `gantry.dev/v1`.
            pub api_version: String,
            /// The kind's CamelCase name.
            pub kind: String,
            /// Kubernetes' object metadata.
            pub metadata: $crate::meta::ObjectMeta,
            /// What is wished. Only users and their tools write it.
            pub spec: $spec,
            /// What is. Only controllers and agents write it, through the `status` subresource.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub status: Option<$status>,
        }

        impl $name {
            /// A new object, not yet known to a server.
            pub fn new(namespace: &str, name: &str, spec: $spec) -> Self {
                Self {
                    api_version: $crate::meta::API_VERSION.to_owned(),
                    kind: stringify!($name).to_owned(),
                    metadata: $crate::meta::ObjectMeta {
                        name: Some(name.to_owned()),
                        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                        ..Default::default()
                    },
                    spec,
                    status: None,
                }
            }
        }

        $crate::meta::impl_kind!($name, $crate::meta::GROUP, $crate::meta::VERSION, stringify!($name), $plural, true);
    };
}
pub(crate) use define_kind;
