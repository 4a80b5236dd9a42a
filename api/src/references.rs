//! Which other objects an object names.

use serde_json::Value;

use crate::meta::GROUP;
use crate::registry::KindInfo;

/// The Network that is made on first use.
const DEFAULT_NETWORK: &str = "default";

/// A name in an object that means another one, in the same namespace unless the kind has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where it stands, such as `spec.mounts[0].volume.name`.
    pub path: String,
    /// Group of the kind that is meant; empty for core.
    pub group: &'static str,
    /// The kind that is meant.
    pub kind: &'static str,
    /// The name.
    pub name: String,
}

/// Every name that must mean something for the object to work; optional ones and those that make what they name are left out.
pub fn references(kind: &KindInfo, object: &Value) -> Vec<Reference> {
    let mut found = Found { object, list: Vec::new() };
    match (kind.ours, kind.kind.as_str()) {
        (true, "Container") => container(&mut found),
        (true, "Image") => found.field("spec.source.registry.pullSecretName", "", "Secret"),
        _ => {}
    }
    found.list
}

fn container(found: &mut Found<'_>) {
    found.field("spec.imageName", GROUP, "Image");
    found.field("spec.pullSecretName", "", "Secret");
    found.field("spec.nodeName", "", "Node");
    found.items("spec.env", "valueFrom.secretKeyRef", "", "Secret");
    found.items("spec.env", "valueFrom.configMapKeyRef", "", "ConfigMap");
    found.items("spec.envFrom", "secretRef", "", "Secret");
    found.items("spec.envFrom", "configMapRef", "", "ConfigMap");
    found.items("spec.mounts", "volume", GROUP, "Volume");
    found.items("spec.mounts", "secret", "", "Secret");
    found.items("spec.mounts", "configMap", "", "ConfigMap");
    found.items("spec.networks", "", GROUP, "Network");
    found.list.retain(|reference| reference.kind != "Network" || reference.name != DEFAULT_NETWORK);
}

struct Found<'a> {
    object: &'a Value,
    list: Vec<Reference>,
}

impl Found<'_> {
    fn add(&mut self, path: String, name: Option<&Value>, group: &'static str, kind: &'static str) {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            self.list.push(Reference { path, group, kind, name: name.to_owned() });
        }
    }

    fn field(&mut self, path: &str, group: &'static str, kind: &'static str) {
        self.add(path.to_owned(), at(self.object, path), group, kind);
    }

    /// The names in the items of a list, in the object below each that `path` leads to.
    fn items(&mut self, list: &str, path: &str, group: &'static str, kind: &'static str) {
        for (index, item) in at(self.object, list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            let Some(selector) = at(item, path).filter(|selector| selector.get("optional") != Some(&Value::Bool(true))) else { continue };
            let dot = if path.is_empty() { "" } else { "." };
            self.add(format!("{list}[{index}]{dot}{path}.name"), selector.get("name"), group, kind);
        }
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(value, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::find_word;

    #[test]
    fn every_name_that_must_mean_something_is_found() {
        let object = json!({"spec": {
            "imageName": "web", "pullSecretName": "pull", "nodeName": "n",
            "env": [{"name": "A", "value": "x"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}], "networks": [{"name": "default"}, {"name": "back"}],
            "mounts": [{"mountPath": "/a", "volume": {"name": "v"}}, {"mountPath": "/b", "secret": {"name": "s"}}, {"mountPath": "/c", "tmpfs": {}}],
        }});
        let found = references(find_word("container").unwrap(), &object);
        let found: Vec<String> = found.iter().map(|r| format!("{}: {} {}", r.path, r.kind, r.name)).collect();
        let expected = [
            "spec.imageName: Image web",
            "spec.pullSecretName: Secret pull",
            "spec.nodeName: Node n",
            "spec.env[1].valueFrom.secretKeyRef.name: Secret s",
            "spec.envFrom[0].configMapRef.name: ConfigMap c",
            "spec.mounts[0].volume.name: Volume v",
            "spec.mounts[1].secret.name: Secret s",
            "spec.networks[1].name: Network back",
        ];
        assert_eq!(found, expected);
        let image = json!({"spec": {"source": {"registry": {"reference": "x", "pullSecretName": "p"}}}});
        assert_eq!(references(find_word("image").unwrap(), &image)[0].name, "p");
        assert!(references(find_word("secret").unwrap(), &image).is_empty());
    }
}
