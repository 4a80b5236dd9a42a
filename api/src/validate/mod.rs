//! Validation: every error at once, each with its field path.
//!
//! Only rules that one object can be judged by alone (and by its stored state, on an update): what other objects say is told in
//! conditions, as objects may come in any order.

mod container;
mod core;
mod image;
mod meta;
pub mod name;
mod network;
mod volume;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kinds::{container::Container, image::Image, network::Network, volume::Volume};

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path such as `spec.ports[0].hostPort`.
    pub path: String,
    /// What sort of error, for programs.
    pub reason: FieldErrorReason,
    /// The bad value as JSON, when it helps and is no secret.
    pub value: Option<String>,
    /// What is wrong and what would be right, one sentence without a full stop.
    pub message: String,
}

/// Kubernetes' field error causes (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorReason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// A field that the kind does not have: 400 under strict decoding, a warning otherwise.
    Unknown,
}

impl FieldError {
    /// An error without its value.
    pub fn new(path: impl Into<String>, reason: FieldErrorReason, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason, value: None, message: message.into() }
    }
}

impl FieldErrorReason {
    /// The cause as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Unknown => "FieldValueUnknown",
        }
    }
}

/// Collects errors.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &str, reason: FieldErrorReason, message: &str) {
        // What is wrong in a thousand places is wrong in the first two hundred.
        if self.0.len() < 200 {
            self.0.push(FieldError::new(path, reason, message));
        }
    }
    fn required(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Required, message);
    }
    fn forbidden(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Forbidden, message);
    }
    /// Wrong, and the value is not shown.
    fn invalid(&mut self, path: &str, message: &str) {
        self.push(path, FieldErrorReason::Invalid, message);
    }
    /// Wrong, and the value helps.
    fn bad(&mut self, path: &str, value: &str, message: &str) {
        self.with_value(path, FieldErrorReason::Invalid, value, message);
    }
    fn duplicate(&mut self, path: &str, value: &str) {
        self.with_value(path, FieldErrorReason::Duplicate, value, "is there twice");
    }
    fn with_value(&mut self, path: &str, reason: FieldErrorReason, value: &str, message: &str) {
        let short: String = value.chars().take(128).collect();
        let count = self.0.len();
        self.push(path, reason, message);
        if let Some(added) = self.0.get_mut(count) {
            added.value = Some(Value::String(short).to_string());
        }
    }
    fn rule(&mut self, path: &str, value: &str, outcome: Result<(), String>) {
        if let Err(message) = outcome {
            self.bad(path, value, &message);
        }
    }
    fn exactly_one(&mut self, path: &str, members: &[(&str, bool)]) {
        let set: Vec<&str> = members.iter().filter(|member| member.1).map(|member| member.0).collect();
        let all = || members.iter().map(|member| member.0).collect::<Vec<_>>().join(", ");
        match set.as_slice() {
            [] => self.required(path, &format!("exactly one of {} is required", all())),
            [_] => {}
            [_, more @ ..] => {
                for name in more {
                    self.forbidden(&format!("{path}.{name}"), &format!("exactly one of {} can be set", all()));
                }
            }
        }
    }
    fn absolute(&mut self, path: &str, value: &str) {
        if !value.starts_with('/') || value.split('/').any(|part| part == "..") || value.contains('\0') || value.len() > 4095 {
            self.bad(path, value, "must be an absolute path without '..'");
        }
    }
    /// `Some(None)` is a quantity that does not parse.
    fn positive(&mut self, path: &str, amount: Option<Option<i64>>) {
        match amount {
            Some(None) => self.invalid(path, "must be a quantity such as 500m, 2 or 256Mi"),
            Some(Some(amount)) if amount <= 0 => self.invalid(path, "must be more than 0"),
            _ => {}
        }
    }
    fn mode(&mut self, path: &str, mode: Option<&str>) {
        if let Some(mode) = mode
            && !((3..=5).contains(&mode.len()) && u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= 0o7777))
        {
            self.bad(path, mode, "must be octal permission bits such as \"0755\"");
        }
    }
    fn immutable<T: PartialEq>(&mut self, path: &str, old: &T, new: &T) {
        if old != new {
            self.invalid(path, "field is immutable");
        }
    }
}

fn ours<T: DeserializeOwned>(new: &Value, old: Option<&Value>, labels: bool, check: fn(&T, Option<&T>, &mut Errors)) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(new, old, labels, &mut errors);
    match T::deserialize(new) {
        Ok(typed) => check(&typed, old.and_then(|old| T::deserialize(old).ok()).as_ref(), &mut errors),
        Err(_) => errors.invalid("", "is not in its normal form"),
    }
    errors.0
}

pub(crate) fn container(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    ours::<Container>(new, old, true, |new, _, errors| container::check(new, errors))
}
pub(crate) fn image(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    ours::<Image>(new, old, false, |new, _, errors| image::check(new, errors))
}
pub(crate) fn network(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    ours::<Network>(new, old, true, network::check)
}
pub(crate) fn volume(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    ours::<Volume>(new, old, false, volume::check)
}
pub(crate) fn namespace(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    plain(new, old, true)
}
pub(crate) fn node(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    plain(new, old, false)
}
pub(crate) fn service_account(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    plain(new, old, false)
}
pub(crate) fn event(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    plain(new, old, false)
}
pub(crate) fn lease(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    plain(new, old, false)
}
pub(crate) fn secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(new, old, false, &mut errors);
    core::secret(new, old, &mut errors);
    errors.0
}
pub(crate) fn config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(new, old, false, &mut errors);
    core::config_map(new, old, &mut errors);
    errors.0
}

pub(crate) fn plain(new: &Value, old: Option<&Value>, labels: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(new, old, labels, &mut errors);
    errors.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::find_word;

    fn paths(kind: &str, object: Value, old: Option<Value>) -> Vec<String> {
        let kind = find_word(kind).unwrap();
        let object = kind.rules.normalize(object).unwrap();
        let old = old.map(|old| kind.rules.normalize(old).unwrap());
        kind.rules.validate(&object, old.as_ref()).into_iter().map(|error| error.path).collect()
    }
    fn spec(kind: &str, spec: impl Into<Value>) -> Vec<String> {
        let spec: Value = spec.into();
        paths(kind, json!({"metadata": {"name": "a"}, "spec": spec}), None)
    }

    #[test]
    fn good_objects_are_good() {
        let good = json!({"image": "nginx", "user": "1000:1000", "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
            "env": [{"name": "A", "value": "b"}], "mounts": [{"mountPath": "/data", "volume": {"name": "v"}}], "stop": {"signal": "SIGRTMIN+3"},
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "pids": 10}}, "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}});
        assert_eq!(spec("container", good), [""; 0]);
        assert_eq!(spec("network", json!({"subnets": ["10.88.0.0/20"], "gateways": ["10.88.0.1"]})), [""; 0]);
        assert_eq!(spec("volume", json!({"capacity": "1Gi", "owner": {"uid": 1, "gid": 1, "mode": "0750"}})), [""; 0]);
        assert_eq!(spec("image", json!({"source": {"registry": {"reference": "nginx"}}, "platform": "linux/arm64/v8"})), [""; 0]);
    }

    #[test]
    fn each_rule_of_containers_names_its_field() {
        for (bad, path) in [
            (json!({}), "spec.image"),
            (json!({"image": "a", "imageName": "b"}), "spec.imageName"),
            (json!({"image": "A b"}), "spec.image"),
            (json!({"image": "a", "networkMode": "Host", "networks": [{"name": "n"}]}), "spec.networks"),
            (json!({"image": "a", "networkMode": "None", "ports": [{"containerPort": 1, "hostPort": 1}]}), "spec.ports"),
            (json!({"image": "a", "ports": [{"containerPort": 0}]}), "spec.ports[0].containerPort"),
            (json!({"image": "a", "ports": [{"containerPort": 9, "endPort": 8}]}), "spec.ports[0].endPort"),
            (
                json!({"image": "a", "ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}),
                "spec.ports[1].hostPort",
            ),
            (
                json!({"image": "a", "mounts": [{"mountPath": "/a", "tmpfs": {}}, {"mountPath": "/a/", "tmpfs": {}}]}),
                "spec.mounts[1].mountPath",
            ),
            (json!({"image": "a", "mounts": [{"mountPath": "/a/../b", "tmpfs": {}}]}), "spec.mounts[0].mountPath"),
            (json!({"image": "a", "mounts": [{"mountPath": "/", "tmpfs": {}}]}), "spec.mounts[0].mountPath"),
            (json!({"image": "a", "mounts": [{"mountPath": "/a"}]}), "spec.mounts[0]"),
            (json!({"image": "a", "mounts": [{"mountPath": "/a", "subPath": "../x", "volume": {"name": "v"}}]}), "spec.mounts[0].subPath"),
            (json!({"image": "a", "env": [{"name": "A=B"}]}), "spec.env[0].name"),
            (json!({"image": "a", "resources": {"limits": {"cpu": "0"}}}), "spec.resources.limits.cpu"),
            (json!({"image": "a", "resources": {"limits": {"memory": "lots"}}}), "spec.resources.limits.memory"),
            (json!({"image": "a", "user": "70000"}), "spec.user"),
            (json!({"image": "a", "user": "a:b:c"}), "spec.user"),
            (json!({"image": "a", "stop": {"signal": "SIGNOPE"}}), "spec.stop.signal"),
            (json!({"image": "a", "securityContext": {"capabilities": {"add": ["CAP_X"]}}}), "spec.securityContext.capabilities.add[0]"),
            (json!({"image": "a", "securityContext": {"userNamespace": {"size": 1000}}}), "spec.securityContext.userNamespace.size"),
        ] {
            assert_eq!(spec("container", bad.clone()), [path], "{bad}");
        }
    }

    #[test]
    fn each_rule_of_the_others_names_its_field() {
        for (kind, bad, path) in [
            ("network", json!({"subnets": ["10.0.0.1/20"]}), "spec.subnets[0]"),
            ("network", json!({"subnets": ["10.0.0.0/31"]}), "spec.subnets[0]"),
            ("network", json!({"subnets": ["10.0.0.0/20", "10.1.0.0/20"]}), "spec.subnets[1]"),
            ("network", json!({"subnets": ["10.0.0.0/20"], "gateways": ["10.9.0.1"]}), "spec.gateways[0]"),
            ("network", json!({"mtu": 1}), "spec.mtu"),
            ("volume", json!({"capacity": "-1"}), "spec.capacity"),
            ("volume", json!({"owner": {"mode": "rwx"}}), "spec.owner.mode"),
            ("image", json!({}), "spec.source"),
            ("image", json!({"source": {"archive": {"digest": "sha256:1"}}}), "spec.source.archive.digest"),
            ("image", json!({"source": {"registry": {"reference": "a"}}, "tags": ["B"]}), "spec.tags[0]"),
        ] {
            assert_eq!(spec(kind, bad.clone()), [path], "{bad}");
        }
    }

    #[test]
    fn metadata_is_judged_everywhere() {
        let bad = json!({"metadata": {"name": "A_b", "labels": {"-": "x"}, "finalizers": ["/"]}});
        assert_eq!(paths("cm", bad, None), ["metadata.name", "metadata.labels", "metadata.finalizers[0]"]);
        assert_eq!(paths("container", json!({"metadata": {"name": "a.b"}, "spec": {"image": "x"}}), None), ["metadata.name"]);
        let moved = paths("cm", json!({"metadata": {"name": "a"}}), Some(json!({"metadata": {"name": "b"}})));
        assert_eq!(moved, ["metadata.name"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        let net = |subnet: &str| json!({"metadata": {"name": "n"}, "spec": {"subnets": [subnet]}});
        assert_eq!(paths("net", net("10.1.0.0/20"), Some(net("10.0.0.0/20"))), ["spec.subnets"]);
        let secret = |value: &str| json!({"metadata": {"name": "n"}, "immutable": true, "stringData": {"k": value}});
        let kind = find_word("secret").unwrap();
        let (new, old) = (kind.rules.normalize(secret("hunter2")).unwrap(), kind.rules.normalize(secret("x")).unwrap());
        let errors = kind.rules.validate(&new, Some(&old));
        assert_eq!(errors.len(), 1);
        assert!(!format!("{errors:?}").contains("aHVudGVyMg"), "values of secrets are not shown");
    }
}
