//! The ApplyRequest: many objects, one transaction.

use anyhow::{Context as _, Result};
use gantry_client::{Client, PathBuilder};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manifest::Manifest;
use crate::output::table::clean;

/// What became, or would become, of one object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Outcome {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Created, Updated, Unchanged, Deleted, Conflict or Invalid.
    pub(crate) action: String,
    pub(crate) changes: Vec<Change>,
    /// None, Live, Replace, Restart, Start, Stop or Remove.
    pub(crate) effect: String,
    pub(crate) effect_message: String,
    /// Why it was refused.
    pub(crate) message: String,
}

/// A field that changes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Change {
    pub(crate) path: String,
    pub(crate) old: Value,
    pub(crate) new: Value,
}

impl Outcome {
    /// Whether the server would not have it.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.action.as_str(), "Conflict" | "Invalid")
    }
    /// Whether nothing changes.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.action == "Unchanged"
    }
    /// `container.gantry.dev/web`.
    pub(crate) fn shown(&self) -> String {
        crate::output::name_of(&json!({"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": self.name}}))
    }
}

/// Sends all objects as one request.
pub(crate) async fn send(client: &Client, manifests: &[Manifest], manager: &str, force: bool, dry_run: bool) -> Result<Vec<Outcome>> {
    let objects: Vec<&Value> = manifests.iter().map(|manifest| &manifest.object).collect();
    let body = json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": {},
        "spec": {"objects": objects, "fieldManager": manager, "force": force}});
    let path = PathBuilder::new("/apis/gantry.dev/v1/applyrequests").maybe("dryRun", dry_run.then_some("All")).finish();
    let answer = client.request_json(Method::POST, &path, Some(&body)).await?;
    serde_json::from_value(answer["status"]["results"].clone()).context("read the server's answer to the ApplyRequest")
}

/// `container.gantry.dev/web configured (replaces web)`.
pub(crate) fn summary(outcome: &Outcome, dry_run: bool) -> String {
    let done = match outcome.action.as_str() {
        "Created" => "created",
        "Updated" => "configured",
        "Unchanged" => "unchanged",
        "Deleted" => "deleted",
        "Conflict" => "conflicts",
        "Invalid" => "is invalid",
        other => other,
    };
    let mut line = format!("{} {done}", outcome.shown());
    for remark in [&outcome.effect_message, &outcome.message].into_iter().filter(|text| !text.is_empty()) {
        line.push_str(&format!(" ({})", clean(remark)));
    }
    if dry_run {
        line.push_str(" (dry run)");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_one_line() {
        let outcome: Outcome = serde_json::from_value(json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "name": "web",
            "action": "Updated", "effect": "Replace", "effectMessage": "replaces web"}))
        .unwrap();
        assert_eq!(summary(&outcome, false), "container.gantry.dev/web configured (replaces web)");
        assert_eq!(
            summary(&Outcome { action: "Unchanged".into(), effect_message: String::new(), ..outcome }, true),
            "container.gantry.dev/web unchanged (dry run)"
        );
    }
}
