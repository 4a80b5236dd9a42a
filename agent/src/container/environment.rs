//! The environment of a container's process: the image's, then `envFrom`, then `env`.

use std::collections::BTreeMap;

use gantry_api::k8s_openapi::api::core::v1::{ConfigMap, Secret};
use gantry_api::kinds::container::{ContainerSpec, KeySelector, ObjectSelector};
use gantry_client::{Api, Client, ClientError};

/// Docker's default search path, given when the image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an environment cannot be made yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// A Secret or ConfigMap is missing.
    #[error("{kind} `{name}` not found; create it, or mark the reference optional")]
    ObjectNotFound { kind: &'static str, name: String },
    /// A key is missing.
    #[error("{kind} `{name}` has no key `{key}`; add it, or mark the reference optional")]
    KeyNotFound { kind: &'static str, name: String, key: String },
    /// A value is no text.
    #[error("key `{key}` of {kind} `{name}` is not UTF-8 text; mount it as a file instead")]
    NotText { kind: &'static str, name: String, key: String },
    /// The API did not answer.
    #[error("read a Secret or ConfigMap")]
    Api(#[from] ClientError),
}

impl EnvironmentError {
    /// The condition's reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::ObjectNotFound { .. } => "ReferenceNotFound",
            Self::KeyNotFound { .. } => "KeyNotFound",
            Self::NotText { .. } => "ValueNotText",
            Self::Api(_) => "ApiUnavailable",
        }
    }
}

/// The keys of a Secret or ConfigMap, each value as bytes.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Reads Secrets and ConfigMaps of one namespace, each at most once.
pub(crate) struct References<'a> {
    client: &'a Client,
    namespace: &'a str,
    read: BTreeMap<(&'static str, String), Option<Data>>,
}

impl<'a> References<'a> {
    pub(crate) fn new(client: &'a Client, namespace: &'a str) -> Self {
        Self { client, namespace, read: BTreeMap::new() }
    }

    /// The data of a Secret; `None` when it is missing and may be.
    pub(crate) async fn secret(&mut self, wanted: &ObjectSelector) -> Result<Option<&Data>, EnvironmentError> {
        let slot = ("Secret", wanted.name.clone());
        if !self.read.contains_key(&slot) {
            let found = Api::<Secret>::namespaced(self.client, self.namespace).find(&wanted.name).await?;
            let data = found.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect());
            self.read.insert(slot.clone(), data);
        }
        self.take(&slot, wanted.optional)
    }

    /// The data of a ConfigMap; `None` when it is missing and may be.
    pub(crate) async fn config_map(&mut self, wanted: &ObjectSelector) -> Result<Option<&Data>, EnvironmentError> {
        let slot = ("ConfigMap", wanted.name.clone());
        if !self.read.contains_key(&slot) {
            let found = Api::<ConfigMap>::namespaced(self.client, self.namespace).find(&wanted.name).await?;
            let data = found.map(|map| {
                let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                text.chain(binary).collect()
            });
            self.read.insert(slot.clone(), data);
        }
        self.take(&slot, wanted.optional)
    }

    fn take(&self, slot: &(&'static str, String), optional: bool) -> Result<Option<&Data>, EnvironmentError> {
        match self.read.get(slot).and_then(Option::as_ref) {
            Some(data) => Ok(Some(data)),
            None if optional => Ok(None),
            None => Err(EnvironmentError::ObjectNotFound { kind: slot.0, name: slot.1.clone() }),
        }
    }
}

/// `NAME=value` lines for the process.
pub(crate) async fn environment(
    image: &[String],
    spec: &ContainerSpec,
    hostname: &str,
    references: &mut References<'_>,
) -> Result<Vec<String>, EnvironmentError> {
    let mut variables = Variables::default();
    variables.set("PATH", DEFAULT_PATH);
    variables.set("HOSTNAME", hostname);
    for line in image {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        variables.set(name, value);
    }
    for source in &spec.env_from {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, selector) = match (&source.secret_ref, &source.config_map_ref) {
            (Some(selector), _) => ("Secret", selector),
            (_, Some(selector)) => ("ConfigMap", selector),
            _ => continue,
        };
        let data = if kind == "Secret" { references.secret(selector).await? } else { references.config_map(selector).await? };
        for (key, value) in data.into_iter().flatten() {
            variables.set(&format!("{prefix}{key}"), &text(kind, &selector.name, key, value)?);
        }
    }
    for variable in &spec.env {
        let Some(source) = &variable.value_from else {
            variables.set(&variable.name, variable.value.as_deref().unwrap_or_default());
            continue;
        };
        let found = match (&source.secret_key_ref, &source.config_map_key_ref) {
            (Some(key), _) => value_of("Secret", key, references.secret(&object_of(key)).await?)?,
            (_, Some(key)) => value_of("ConfigMap", key, references.config_map(&object_of(key)).await?)?,
            _ => None,
        };
        if let Some(value) = found {
            variables.set(&variable.name, &value);
        }
    }
    Ok(variables.lines())
}

fn object_of(key: &KeySelector) -> ObjectSelector {
    ObjectSelector { name: key.name.clone(), optional: key.optional }
}

fn value_of(kind: &'static str, wanted: &KeySelector, data: Option<&Data>) -> Result<Option<String>, EnvironmentError> {
    match data.and_then(|data| data.get(&wanted.key)) {
        Some(value) => text(kind, &wanted.name, &wanted.key, value).map(Some),
        None if wanted.optional => Ok(None),
        None => Err(EnvironmentError::KeyNotFound { kind, name: wanted.name.clone(), key: wanted.key.clone() }),
    }
}

fn text(kind: &'static str, name: &str, key: &str, value: &[u8]) -> Result<String, EnvironmentError> {
    String::from_utf8(value.to_vec()).map_err(|_| EnvironmentError::NotText { kind, name: name.to_owned(), key: key.to_owned() })
}

/// Variables in the order in which they were first set; a later value replaces an earlier one.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn lines(self) -> Vec<String> {
        self.0.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_replaces_an_earlier_one_in_its_place() {
        let mut variables = Variables::default();
        variables.set("A", "1");
        variables.set("B", "2");
        variables.set("A", "3");
        assert_eq!(variables.lines(), ["A=3", "B=2"]);
    }
}
