//! Secrets and ConfigMaps that an agent may read: those that something on its node refers to.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use gantry_api::registry::{KindInfo, find_resource};
use serde_json::Value;

use crate::auth::{Component, Identity};
use crate::cache::{Cache, Entry, FieldSelector, Selection};
use crate::http::error::ApiError;
use crate::store::Key;
use crate::strategy::object::{decode, key, resource};

/// Refuses to show an agent a Secret or ConfigMap that nothing on its node refers to. A list or watch must be of one name.
///
/// # Errors
/// 403.
pub(crate) fn check_read(
    cache: &Cache,
    identity: &Identity,
    kind: &KindInfo,
    (namespace, name): (&str, Option<&str>),
    fields: &FieldSelector,
) -> Result<(), ApiError> {
    let Component::Node(node) = identity.component() else { return Ok(()) };
    let is_secret = match (kind.group.as_str(), kind.built_in()) {
        ("", "Secret") => true,
        ("", "ConfigMap") => false,
        _ => return Ok(()),
    };
    let named = || fields.terms().iter().find(|term| term.equal && term.path == "metadata.name").map(|term| term.value.as_str());
    let refused = |name: &str, why: &str| {
        let message = format!("{} {name:?} is forbidden: User {:?}: {why}", kind.plural, identity.user);
        ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message)
    };
    let Some(name) = name.or_else(named).filter(|name| !namespace.is_empty() && !name.is_empty()) else {
        return Err(refused("", "an agent reads one by name, in its namespace"));
    };
    if is_referred_to(cache, node, namespace, name, is_secret) {
        return Ok(());
    }
    Err(refused(name, "no container of this node, and no image that it uses or resolves, refers to it"))
}

fn is_referred_to(cache: &Cache, node: &str, namespace: &str, name: &str, is_secret: bool) -> bool {
    let containers = select(cache, "containers", namespace, &format!("status.nodeName={node}"));
    // Most objects need no second look: a name that is referred to stands in the object as it is, names need no escapes.
    let quoted = format!("\"{name}\"");
    let mentions = |entry: &Entry| std::str::from_utf8(&entry.bytes).is_ok_and(|text| text.contains(&quoted));
    if containers
        .iter()
        .filter(|entry| mentions(entry))
        .filter_map(|entry| decode(entry).ok())
        .any(|c| container_refers(&c, name, is_secret))
    {
        return true;
    }
    if !is_secret {
        return false;
    }
    let resolved = select(cache, "images", namespace, &format!("status.resolverNodeName={node}"));
    let Some(images) = find_resource("gantry.dev", "v1", "images") else { return false };
    let used = containers.iter().filter_map(|entry| image_of(entry)).filter_map(|image| cache.get(&image_key(images, namespace, &image)));
    let pulls = |image: Arc<Entry>| {
        mentions(&image) && decode(&image).is_ok_and(|image| text(&image, "/spec/source/registry/pullSecretName") == name)
    };
    resolved.into_iter().any(pulls) || used.into_iter().any(pulls)
}

fn image_key(images: &KindInfo, namespace: &str, name: &str) -> Key {
    key(images, namespace, name)
}

fn select(cache: &Cache, plural: &str, namespace: &str, fields: &str) -> Vec<Arc<Entry>> {
    let (Some(kind), Ok(fields)) = (find_resource("gantry.dev", "v1", plural), FieldSelector::parse(fields)) else { return Vec::new() };
    cache.list(&resource(kind), &Selection { namespace: Some(namespace.into()), fields, ..Selection::default() }).0
}

/// The Image that a container is made from, by the fields that are kept beside the object.
fn image_of(container: &Entry) -> Option<Cow<'_, str>> {
    let field = |path: &str| {
        let fields = container.index.fields.iter();
        fields.filter(|(name, value)| name == path && !value.is_empty()).map(|(_, value)| Cow::Borrowed(value.as_str())).next()
    };
    field("spec.imageName").or_else(|| field("status.imageObjectName"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn container_refers(container: &Value, name: &str, is_secret: bool) -> bool {
    let list = |field: &str| container.pointer(field).and_then(Value::as_array).into_iter().flatten();
    let (env_from, env, mount) = if is_secret {
        ("/secretRef/name", "/valueFrom/secretKeyRef/name", "/secret/name")
    } else {
        ("/configMapRef/name", "/valueFrom/configMapKeyRef/name", "/configMap/name")
    };
    (is_secret && text(container, "/spec/pullSecretName") == name)
        || list("/spec/envFrom").any(|source| text(source, env_from) == name)
        || list("/spec/env").any(|variable| text(variable, env) == name)
        || list("/spec/mounts").any(|mounted| text(mounted, mount) == name)
}
