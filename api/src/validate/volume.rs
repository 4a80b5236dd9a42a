//! Rules of Volumes.

use super::{Errors, name};
use crate::kinds::volume::Volume;
use crate::quantity::Quantity;

/// Everything wrong with a Volume's spec, and with a change of it.
pub(super) fn check(new: &Volume, old: Option<&Volume>, errors: &mut Errors) {
    let spec = &new.spec;
    errors.positive("spec.capacity", spec.capacity.as_ref().map(Quantity::to_value));
    if let Some(node) = &spec.node_name {
        errors.rule("spec.nodeName", node, name::subdomain(node));
    }
    if let Some(owner) = &spec.owner {
        errors.mode("spec.owner.mode", owner.mode.as_deref());
        for (path, id) in [("spec.owner.uid", owner.uid), ("spec.owner.gid", owner.gid)] {
            if id >= 1 << 31 {
                errors.bad(path, &id.to_string(), "must be below 2147483648");
            }
        }
    }
    if !spec.options.is_empty() {
        errors.forbidden("spec.options", "the driver local has no options");
    }
    let Some(old) = old else { return };
    errors.immutable("spec.driver", &old.spec.driver, &spec.driver);
    if old.spec.node_name.is_some() {
        errors.immutable("spec.nodeName", &old.spec.node_name, &spec.node_name);
    }
}
