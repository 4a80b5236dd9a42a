//! Which Image a Container uses: `Container.status.imageObjectName`.
//!
//! `spec.imageName` is used as it is. For `spec.image` the Image of the namespace is looked for whose source or tags normalise to the same
//! reference, one that a person made before one that was made here; where there is none, one is made.

use std::sync::Arc;

use gantry_api::kinds::container::{Container, ContainerStatus};
use gantry_api::kinds::image::{Image, ImageSource, ImageSpec, RegistrySource};
use gantry_api::reference::{ImageReference, generated_image_name};
use gantry_api::{Kind, ObjectKey};
use gantry_client::WriteParams;
use tracing::info;

use super::{GENERATED_LABEL, is_generated};
use crate::context::Context;
use crate::runtime::status::api;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Sources, status};
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "container-image",
    purpose: "finds the Image of each Container, or makes one for its reference",
    watches: &["Container", "Image"],
    writes: &[("Container", "status.imageObjectName"), ("Image", "(create)")],
};

pub(super) fn start(manager: &mut Manager, context: &Context) {
    let containers = context.informers.containers.clone();
    let sources = Sources::of(&context.informers.containers).watch(&context.informers.images, move |image, now| {
        let references = now.map(|image| references_of(image)).unwrap_or_default();
        let all = containers.list();
        all.iter().filter(|container| concerns(container, image, &references)).map(|container| container.key()).collect()
    });
    manager.add(Assignment { context: context.named(INFO.name) }, sources, 4);
}

/// Whether a change of an Image that now goes by `references` can change what `container` uses.
fn concerns(container: &Container, image: &ObjectKey, references: &[ImageReference]) -> bool {
    if container.key().namespace != image.namespace {
        return false;
    }
    let uses = container.status.as_ref().and_then(|status| status.image_object_name.as_deref()) == Some(image.name.as_str());
    let wanted = container.spec.image.as_deref().and_then(parse);
    uses || wanted.is_some_and(|wanted| references.contains(&wanted))
}

/// Every reference, in normal form, by which an Image is known.
fn references_of(image: &Image) -> Vec<ImageReference> {
    let source = image.spec.source.registry.as_ref().map(|registry| registry.reference.as_str());
    source.into_iter().chain(image.spec.tags.iter().map(String::as_str)).filter_map(parse).collect()
}

fn parse(text: &str) -> Option<ImageReference> {
    ImageReference::parse(text).ok()
}

/// The Image among `images` that stands for `reference`.
fn find_image<'a>(images: &'a [Arc<Image>], namespace: &str, reference: &ImageReference) -> Option<&'a Arc<Image>> {
    let stands_for = |image: &&Arc<Image>| {
        image.key().namespace == namespace && !image.is_terminating() && references_of(image).iter().any(|known| known == reference)
    };
    images.iter().filter(stands_for).min_by_key(|image| (is_generated(image), image.name()))
}

struct Assignment {
    context: Context,
}

impl Reconciler for Assignment {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(container) = self.context.informers.containers.get(key) else { return Ok(Action::Done) };
        if container.is_terminating() {
            return Ok(Action::Done);
        }
        let name = match (&container.spec.image_name, &container.spec.image) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(reference)) => self.ensure_image(&container, reference).await?,
            (None, None) => None,
        };
        let old = container.status.clone().unwrap_or_default();
        let new = ContainerStatus { image_object_name: name, ..old.clone() };
        status::write(&self.context.client, &self.context.informers.containers, &*container, &old, &new).await?;
        Ok(Action::Done)
    }
}

impl Assignment {
    /// The name of the Image for a reference; `None` when the text is no reference, which validation keeps out.
    async fn ensure_image(&self, container: &Container, reference: &str) -> Result<Option<String>, ReconcileError> {
        let Some(parsed) = parse(reference) else { return Ok(None) };
        let namespace = container.key().namespace;
        if let Some(image) = find_image(&self.context.informers.images.list(), &namespace, &parsed) {
            return Ok(Some(image.name().to_owned()));
        }
        let name = generated_image_name(&parsed);
        let registry = RegistrySource { reference: parsed.to_string(), pull_secret_name: container.spec.pull_secret_name.clone() };
        let source = ImageSource { registry: Some(registry), archive: None };
        let mut image = Image::new(&namespace, &name, ImageSpec { source, ..ImageSpec::default() });
        image.metadata.labels = Some([(GENERATED_LABEL.to_owned(), "true".to_owned())].into());
        match api::<Image>(&self.context.client, &namespace).create(&image, &WriteParams::default()).await {
            Ok(created) => {
                info!(controller = INFO.name, namespace, name, image = reference, "image made for a reference");
                self.context.informers.images.observe_write(created);
                Ok(Some(name))
            }
            // Made by an earlier attempt that the informer does not show yet, or on its way out: either brings the key back.
            Err(error) => Err(error).doing(|| format!("create Image {namespace}/{name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(namespace: &str, name: &str, reference: &str, tags: &[&str], generated: bool) -> Arc<Image> {
        let registry = Some(RegistrySource { reference: reference.into(), pull_secret_name: None });
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let mut image =
            Image::new(namespace, name, ImageSpec { source: ImageSource { registry, archive: None }, tags, ..ImageSpec::default() });
        if generated {
            image.metadata.labels = Some([(GENERATED_LABEL.to_owned(), "true".to_owned())].into());
        }
        Arc::new(image)
    }

    #[test]
    fn the_same_reference_in_any_spelling_finds_the_image() {
        let images = [
            image("ns", "a-gen", "docker.io/library/nginx:latest", &[], true),
            image("ns", "own", "nginx", &[], false),
            image("ns", "tagged", "registry:5000/x:1", &["localhost/team/web:1"], false),
            image("other", "elsewhere", "redis:7", &[], false),
        ];
        let find = |reference: &str| find_image(&images, "ns", &parse(reference).unwrap()).map(|image| image.name().to_owned());
        assert_eq!(find("docker.io/library/nginx").as_deref(), Some("own"));
        assert_eq!(find("localhost/team/web:1").as_deref(), Some("tagged"));
        assert_eq!(find("redis:7"), None);
        assert_eq!(find_image(&images[..1], "ns", &parse("nginx").unwrap()).unwrap().name(), "a-gen");
    }

    #[test]
    fn an_image_on_its_way_out_is_not_used() {
        let mut leaving = (*image("ns", "own", "nginx", &[], false)).clone();
        leaving.metadata.deletion_timestamp = Some(gantry_api::meta::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(find_image(&[Arc::new(leaving)], "ns", &parse("nginx").unwrap()).is_none());
    }
}
