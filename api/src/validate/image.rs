//! Rules of Images.

use super::{Errors, name};
use crate::kinds::image::Image;
use crate::reference::{ImageReference, is_digest};

/// Everything wrong with an Image's spec.
pub(super) fn check(new: &Image, errors: &mut Errors) {
    let source = &new.spec.source;
    errors.exactly_one("spec.source", &[("registry", source.registry.is_some()), ("archive", source.archive.is_some())]);
    if let Some(registry) = &source.registry {
        reference("spec.source.registry.reference", &registry.reference, errors);
        if let Some(secret) = &registry.pull_secret_name {
            errors.rule("spec.source.registry.pullSecretName", secret, name::subdomain(secret));
        }
    }
    if let Some(archive) = source.archive.as_ref().filter(|archive| !is_digest(&archive.digest)) {
        errors.bad("spec.source.archive.digest", &archive.digest, "must be sha256: and 64 hexadecimal digits");
    }
    for (index, tag) in new.spec.tags.iter().enumerate() {
        reference(&format!("spec.tags[{index}]"), tag, errors);
    }
    if let Some(platform) = &new.spec.platform {
        let parts: Vec<&str> = platform.split('/').collect();
        let good =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(good) {
            errors.bad("spec.platform", platform, "must be os/architecture or os/architecture/variant, such as linux/arm64");
        }
    }
}

fn reference(path: &str, text: &str, errors: &mut Errors) {
    if let Err(error) = ImageReference::parse(text) {
        errors.bad(path, text, &error.to_string());
    }
}
