//! What the server adds to or demands of objects beyond what their kinds say, one function per step.

mod changes;
mod component;
mod definition;
mod namespace;
mod reading;

use gantry_api::registry::KindInfo;
use serde_json::Value;

pub(crate) use component::check_write;
pub(crate) use namespace::check_namespace;
pub(crate) use reading::check_read;

/// Steps that complete a new object before its validation.
pub(crate) fn on_create(kind: &KindInfo, object: &mut Value) {
    namespace::complete(kind, object);
    definition::complete(kind, object);
}
