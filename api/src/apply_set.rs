//! Sets of objects that are applied together, and pruned together: Kubernetes' ApplySets (KEP-3659), so that `kubectl` sees ours and
//! we see its.
//!
//! A parent object carries the id of the set and says what it holds; each member carries the id as a label.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Label of the parent: the set's id.
pub const ID_LABEL: &str = "applyset.kubernetes.io/id";
/// Label of members: the id of the one set that they are in.
pub const PART_OF_LABEL: &str = "applyset.kubernetes.io/part-of";
/// Annotation of the parent: which program keeps the set, as `name/version`.
pub const TOOLING_ANNOTATION: &str = "applyset.kubernetes.io/tooling";
/// Annotation of the parent: which kinds members may be of, as `Kind.group`, sorted.
pub const KINDS_ANNOTATION: &str = "applyset.kubernetes.io/contains-group-kinds";
/// Annotation of the parent: where members may be besides its own namespace, sorted.
pub const NAMESPACES_ANNOTATION: &str = "applyset.kubernetes.io/additional-namespaces";

/// The id of the set that an object is the parent of.
pub fn id(name: &str, namespace: &str, kind: &str, group: &str) -> String {
    let digest = Sha256::digest(format!("{name}.{namespace}.{kind}.{group}"));
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(digest))
}

/// The items of an annotation of the parent.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_specification() {
        // `printf web.default.Secret. | sha256sum | xxd -r -p | basenc --base64url`
        let id = id("web", "default", "Secret", "");
        assert_eq!(id, "applyset-zN5gMMt3uHLO5pHDCETR-9uiGqcPRNY0X24Hk0Rzcgo-v1");
        assert!(id.len() <= 63, "it must fit into a label");
        assert_eq!(items(" Container.gantry.dev,,Secret").collect::<Vec<_>>(), ["Container.gantry.dev", "Secret"]);
    }
}
