//! The four ways to change part of an object, and the record of who owns which field.
//!
//! All are pure functions over JSON. What they get is bounded by the caller's limit on bodies; what they make is bounded here.

mod apply;
mod json_patch;
mod merge;
mod shape;
mod strategic;

pub use apply::{Conflict, Writer, apply, track_update};
pub use json_patch::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge;

use serde_json::Value;

use crate::schema::{MAX_DEPTH, deeper_than};

/// Most operations of one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that all copies of one JSON patch may add up to.
pub const MAX_COPIED_BYTES: usize = 3 << 20;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of the form that its media type demands: 400.
    #[error("reading the patch: {0}")]
    Malformed(String),
    /// More than [`MAX_OPERATIONS`]: 413.
    #[error("the patch has {0} operations, more than 10000")]
    TooManyOperations(usize),
    /// The result is nested too deeply: 422.
    #[error("the patch or its result is nested deeper than 128 levels")]
    TooDeep,
    /// The copies add up to more than [`MAX_COPIED_BYTES`]: 422.
    #[error("operation {0} copies more than 3 MiB together with those before it")]
    TooLarge(usize),
    /// A `test` operation does not hold: 422.
    #[error("operation {index}: the value at \"{path}\" is not the one tested for")]
    TestFailed {
        /// Position in the patch.
        index: usize,
        /// JSON pointer.
        path: String,
    },
    /// A path does not lead anywhere: 422.
    #[error("operation {index}: there is nothing at \"{path}\"")]
    MissingPath {
        /// Position in the patch.
        index: usize,
        /// JSON pointer.
        path: String,
    },
    /// A list that merges by keys has an item without them, or two items with the same: 422.
    #[error("{path}: {message}")]
    Invalid {
        /// Path such as `spec.ports`.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Other managers own fields that the apply would change: 409.
    #[error("{}", apply::conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

/// Refuses what recursion could not walk.
fn bounded(value: &Value) -> Result<(), PatchError> {
    if deeper_than(value, MAX_DEPTH) { Err(PatchError::TooDeep) } else { Ok(()) }
}
