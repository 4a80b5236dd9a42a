//! What an edit does to a running container: the table behind `plan` and the agent.

use serde_json::Value;

/// What a changed field does to the running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it matters at the next start, or never.
    None,
    /// Applied to the running container.
    Live,
    /// The process is restarted; the writable layer, addresses and ports stay.
    Restart,
    /// The container is made anew; its writable layer is discarded.
    Replace,
}

/// One field that differs between the spec that a container was started from and the spec that is wished.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Path such as `spec.resources.limits.cpu`.
    pub path: String,
    /// What it does.
    pub effect: Effect,
    /// The value it was started with; `Null` when absent.
    pub old: Value,
    /// The value that is wished; `Null` when absent.
    pub new: Value,
}

/// Every field path of a container's spec that this program knows, as `spec.a.b`; list items are not descended into.
pub fn known_paths() -> &'static [&'static str] {
    &[]
}

/// The changes between two Container specs (both as JSON, defaults applied).
///
/// `starter_knew` are the [`known_paths`] of the program that started the container: a field that it did not know counts as
/// unchanged, so that an engine with one more default replaces nothing.
pub fn changes(_started: &Value, _wished: &Value, _starter_knew: &[String]) -> Vec<Change> {
    Vec::new()
}
