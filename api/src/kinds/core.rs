//! Kubernetes' own kinds that are served with Kubernetes' own schemas.

pub use k8s_openapi::api::coordination::v1::Lease;
pub use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Secret, ServiceAccount};

use crate::meta::impl_kind;

impl_kind!(Namespace, "", "v1", "Namespace", "namespaces", false);
impl_kind!(Node, "", "v1", "Node", "nodes", false);
impl_kind!(Secret, "", "v1", "Secret", "secrets", true);
impl_kind!(ConfigMap, "", "v1", "ConfigMap", "configmaps", true);
impl_kind!(ServiceAccount, "", "v1", "ServiceAccount", "serviceaccounts", true);
impl_kind!(Event, "", "v1", "Event", "events", true);
impl_kind!(Lease, "coordination.k8s.io", "v1", "Lease", "leases", true);
