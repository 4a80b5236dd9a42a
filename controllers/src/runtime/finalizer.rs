//! Adding and removing finalizers.
//!
//! An object with a finalizer stays, with `deletionTimestamp` set, until the finalizer's owner has done its part and removes it.
//! The list is a set with many writers, so each change is tied to the version that was read.

use gantry_api::Kind;
use gantry_client::{Client, Informer, Patch, WriteParams};
use serde_json::json;

use super::reconcile::{ClientResultExt, ReconcileError};
use super::status::{api, precondition};

/// Makes the object have exactly those of `managed` for which the flag is set; finalizers of others are left alone.
///
/// None is added to an object that is being deleted: the server would refuse it.
///
/// Returns whether something was written: the caller's copy is then out of date.
pub(crate) async fn ensure<K: Kind>(
    client: &Client,
    informer: &Informer<K>,
    object: &K,
    managed: &[(&str, bool)],
) -> Result<bool, ReconcileError> {
    let old = object.meta().finalizers.clone().unwrap_or_default();
    let new = wanted(&old, managed, object.is_terminating());
    if new == old {
        return Ok(false);
    }
    let mut metadata = precondition(object);
    metadata.insert("finalizers".to_owned(), json!(new));
    let key = object.key();
    let written = api::<K>(client, &key.namespace)
        .patch(&key.name, &Patch::Merge(json!({ "metadata": metadata })), &WriteParams::default())
        .await
        .doing(|| format!("write the finalizers of {} {key}", K::KIND))?;
    // The last finalizer of an object that is being deleted takes the object with it: the watch tells, not this answer.
    if !(written.is_terminating() && new.is_empty()) {
        informer.observe_write(written);
    }
    Ok(true)
}

fn wanted(old: &[String], managed: &[(&str, bool)], terminating: bool) -> Vec<String> {
    let dropped = |name: &String| managed.iter().any(|(finalizer, wanted)| finalizer == name && !wanted);
    let mut new: Vec<String> = old.iter().filter(|name| !dropped(name)).cloned().collect();
    for (finalizer, _) in managed.iter().filter(|(_, wanted)| *wanted && !terminating) {
        if !new.iter().any(|name| name == finalizer) {
            new.push((*finalizer).to_owned());
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_managed_ones_change_and_none_is_added_late() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let old = names(&["other", "a"]);
        assert_eq!(wanted(&old, &[("a", false), ("b", true)], false), names(&["other", "b"]));
        assert_eq!(wanted(&old, &[("a", true), ("b", true)], true), names(&["other", "a"]));
        assert_eq!(wanted(&old, &[("a", true)], false), old);
        assert_eq!(wanted(&old, &[("a", false)], true), names(&["other"]));
    }
}
