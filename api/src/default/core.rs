//! Defaults of Kubernetes' own kinds, as its API server fills them in.

use serde_json::Value;

use super::normalize;
use crate::k8s_openapi::api::core::v1::{NamespaceSpec, NamespaceStatus};
use crate::kinds::core::{ConfigMap, Event, Lease, Namespace, Node, Secret, ServiceAccount};
use crate::validate::FieldError;

/// Label by which namespaces are selected by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Namespace: its name as a label, the finalizer `kubernetes`, and the phase.
pub(crate) fn namespace(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Namespace>(object, |namespace| {
        if let Some(name) = namespace.metadata.name.clone() {
            namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        }
        // An empty list is what finalizing leaves behind: only a namespace that is not going gets the finalizer.
        let going = namespace.metadata.deletion_timestamp.is_some();
        let spec = namespace.spec.get_or_insert_with(NamespaceSpec::default);
        if spec.finalizers.is_none() && !going {
            spec.finalizers = Some(vec!["kubernetes".to_owned()]);
        }
        let status = namespace.status.get_or_insert_with(NamespaceStatus::default);
        if status.phase.is_none() {
            status.phase = Some(if going { "Terminating" } else { "Active" }.to_owned());
        }
    })
}

/// Node: nothing.
pub(crate) fn node(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Node>(object, |_| ())
}

/// Secret: type `Opaque`, and `stringData` moved into `data`.
pub(crate) fn secret(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Secret>(object, |secret| {
        if let Some(plain) = secret.string_data.take() {
            let data = secret.data.get_or_insert_default();
            data.extend(plain.into_iter().map(|(key, text)| (key, crate::k8s_openapi::ByteString(text.into_bytes()))));
        }
        if secret.type_.as_deref().unwrap_or_default().is_empty() {
            secret.type_ = Some("Opaque".to_owned());
        }
    })
}

/// ConfigMap: nothing.
pub(crate) fn config_map(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<ConfigMap>(object, |_| ())
}

/// ServiceAccount: nothing.
pub(crate) fn service_account(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<ServiceAccount>(object, |_| ())
}

/// Event: nothing.
pub(crate) fn event(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Event>(object, |_| ())
}

/// Lease: nothing.
pub(crate) fn lease(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Lease>(object, |_| ())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_text_of_a_secret_goes_into_data() {
        let object = secret(json!({"metadata": {"name": "s"}, "data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y"}})).unwrap();
        assert_eq!(object["data"], json!({"a": "eA==", "b": "eQ=="}));
        assert_eq!(object["type"], "Opaque");
        assert!(object.get("stringData").is_none());
    }

    #[test]
    fn a_namespace_is_labelled_and_active() {
        let object = namespace(json!({"metadata": {"name": "team"}})).unwrap();
        assert_eq!(object["metadata"]["labels"][NAME_LABEL], "team");
        assert_eq!(object["status"]["phase"], "Active");
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
    }
}
