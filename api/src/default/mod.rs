//! Normal forms: decode into the Rust type, fill in defaults, encode again.
//!
//! Most defaults of our own kinds are serde's, beside the fields; here is what depends on other fields. Encoding writes every
//! scalar default, so that `get -o yaml` shows what will happen.

mod core;

use schemars::JsonSchema;
use serde_json::{Value, json};

pub(crate) use self::core::{config_map, event, lease, namespace, node, secret, service_account};
use crate::kinds::{container::Container, image::Image, network::Network, volume::Volume};
use crate::meta::Kind;
use crate::registry::find_kind;
use crate::schema;
use crate::validate::{FieldError, FieldErrorReason};

/// Container: all defaults are beside the fields; the host name stays unset, as it follows the object's name.
pub(crate) fn container(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Container>(object, |_| ())
}

/// Image: references stay as written; `imagePullPolicy` stays unset, as its default follows the tag.
pub(crate) fn image(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Image>(object, |_| ())
}

/// Network: subnets and gateways stay unset, as the network controller allocates them in status.
pub(crate) fn network(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Network>(object, |_| ())
}

/// Volume: the owner stays unset, as its default follows the image on first use.
pub(crate) fn volume(object: Value) -> Result<Value, Vec<FieldError>> {
    normalize::<Volume>(object, |_| ())
}

/// Unknown fields are dropped (the caller has reported them by [`schema::check`]); all other errors are returned at once.
fn normalize<T: Kind + JsonSchema>(mut object: Value, default: fn(&mut T)) -> Result<Value, Vec<FieldError>> {
    if let Some(kind) = find_kind(&T::api_version(), T::KIND) {
        let errors: Vec<FieldError> =
            schema::check(kind.schema(), &object).into_iter().filter(|error| error.reason != FieldErrorReason::Unknown).collect();
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    drop_nulls(&mut object);
    drop_empty_metadata(&mut object);
    if let Some(fields) = object.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| T::api_version().into());
        fields.entry("kind").or_insert_with(|| T::KIND.into());
        fields.entry("metadata").or_insert_with(|| json!({}));
        if T::GROUP == crate::meta::GROUP {
            fields.entry("spec").or_insert_with(|| json!({}));
        }
    }
    // The decoder's own message could quote a value, which may be a secret.
    let failed = |what: &str| vec![FieldError::new("", FieldErrorReason::Invalid, format!("object could not be {what} as {}", T::KIND))];
    let mut typed: T = serde_json::from_value(object).map_err(|_| failed("decoded"))?;
    default(&mut typed);
    serde_json::to_value(typed).map_err(|_| failed("encoded"))
}

/// `null` means absent, as in Kubernetes. The object is known not to be deep.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// What Kubernetes leaves out of its ObjectMeta when it is empty (`omitempty` of apimachinery's `meta/v1` types).
fn drop_empty_metadata(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.retain(|name, value| match name.as_str() {
        "labels" | "annotations" => value.as_object().is_none_or(|entries| !entries.is_empty()),
        "finalizers" | "ownerReferences" => value.as_array().is_none_or(|items| !items.is_empty()),
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_metadata_is_left_out() {
        let metadata = json!({"name": "s", "labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": []});
        assert_eq!(config_map(json!({"metadata": metadata})).unwrap()["metadata"], json!({"name": "s"}));
    }

    #[test]
    fn defaults_of_a_container_are_shown() {
        let object = container(json!({"metadata": {"name": "web"}, "spec": {"image": "nginx", "user": null,
            "ports": [{"containerPort": 80, "hostPort": 8080}]}, "unknown": 1}))
        .unwrap();
        let spec = &object["spec"];
        assert_eq!(spec["image"], "nginx", "kept as written");
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["networkMode"], "Networks");
        assert_eq!(spec["stop"]["gracePeriodSeconds"], 10);
        assert_eq!(spec["logs"], json!({"maxSizeBytes": 64 << 20, "maxFiles": 4}));
        assert_eq!(spec["securityContext"]["allowPrivilegeEscalation"], true);
        assert_eq!(spec["ports"][0], json!({"containerPort": 80, "hostPort": 8080}));
        assert!(spec.get("hostname").is_none() && spec.get("user").is_none() && object.get("unknown").is_none());
    }

    #[test]
    fn every_wrong_type_is_reported() {
        let errors = container(json!({"spec": {"image": 1, "ports": [{"hostPort": "x"}]}})).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.image", "spec.ports[0].hostPort", "spec.ports[0].containerPort"]);
    }
}
