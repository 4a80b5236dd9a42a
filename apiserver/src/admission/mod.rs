//! What the server adds to or demands of objects beyond what their kinds say, one function per step.

mod namespace;

use gantry_api::registry::KindInfo;
use serde_json::Value;

pub(crate) use namespace::check_namespace;

/// Steps that complete a new object before its validation.
pub(crate) fn on_create(kind: &KindInfo, object: &mut Value) {
    namespace::complete(kind, object);
}
