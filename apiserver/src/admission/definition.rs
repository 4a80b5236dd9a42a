//! CustomResourceDefinitions: held until no object of their kind is left.

use gantry_api::custom::CLEANUP_FINALIZER;
use gantry_api::registry::KindInfo;
use serde_json::Value;

use crate::strategy::object::{finalizers, set_finalizers};

/// A new definition has the finalizer that its objects are deleted under.
pub(super) fn complete(kind: &KindInfo, object: &mut Value) {
    if !kind.is_definition() {
        return;
    }
    let mut list = finalizers(object);
    if !list.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
        list.push(CLEANUP_FINALIZER.to_owned());
        set_finalizers(object, &list);
    }
}
