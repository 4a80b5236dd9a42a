//! The ApplyRequest: many objects, one transaction.

use anyhow::{Context as _, Result};
use gantry_client::{Client, ClientError, PathBuilder};
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
    /// What the server thinks of it all the same.
    pub(crate) warnings: Vec<String>,
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

/// How to apply, for `apply` and `plan` alike.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApplyArgs {
    /// Take fields over from other appliers, and a set from another program
    #[arg(long = "force-conflicts", visible_alias = "force")]
    pub(crate) force: bool,
    /// Who owns the fields applied
    #[arg(long, value_name = "NAME", default_value = "gantry")]
    pub(crate) field_manager: String,
    /// Keep the objects together as a set, known by the Secret NAME (or secrets/NAME, configmaps/NAME)
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<String>,
    /// Delete the objects of the set that are not in the files
    #[arg(long, requires = "set")]
    pub(crate) prune: bool,
}

/// What came of a request.
pub(crate) struct Sent {
    /// What became, or would have become, of each object.
    pub(crate) outcomes: Vec<Outcome>,
    /// Nothing was done, as some objects were refused.
    pub(crate) refused: bool,
}

/// Sends all objects as one request; a set's parent is in `namespace`.
pub(crate) async fn send(client: &Client, namespace: &str, manifests: &[Manifest], args: &ApplyArgs, dry_run: bool) -> Result<Sent> {
    let objects: Vec<&Value> = manifests.iter().map(|manifest| &manifest.object).collect();
    let body = json!({"apiVersion": "gantry.dev/v1", "kind": "ApplyRequest", "metadata": {"namespace": namespace},
        "spec": {"objects": objects, "fieldManager": args.field_manager, "force": args.force, "set": args.set, "prune": args.prune}});
    let path = PathBuilder::new("/apis/gantry.dev/v1/applyrequests").maybe("dryRun", dry_run.then_some("All")).finish();
    let (results, refused) = match client.request_json(Method::POST, &path, Some(&body)).await {
        Ok(answer) => (answer["status"]["results"].clone(), false),
        Err(ClientError::Api(status)) if status.details.as_ref().is_some_and(|details| !details.results.is_empty()) => {
            (status.details.map(|details| details.results).unwrap_or_default().into(), true)
        }
        Err(error) => return Err(error.into()),
    };
    let outcomes = serde_json::from_value(results).context("read the server's answer to the ApplyRequest")?;
    Ok(Sent { outcomes, refused })
}

impl Sent {
    /// What was refused and why, in one line.
    pub(crate) fn why(&self) -> String {
        let bad = self.outcomes.iter().filter(|outcome| outcome.is_refused());
        bad.map(|outcome| format!("{}: {}", outcome.shown(), clean(&outcome.message))).collect::<Vec<_>>().join("; ")
    }

    /// The last word on a request that was refused.
    pub(crate) fn refusal(&self) -> String {
        let bad = self.outcomes.iter().filter(|outcome| outcome.is_refused()).count();
        let mut text = format!("error: nothing was applied: {bad} of {} objects are refused", self.outcomes.len());
        if self.outcomes.iter().any(|outcome| outcome.action == "Conflict" && outcome.message.starts_with("Apply failed")) {
            text.push_str("\nLeave the fields that conflict out of the files, or take them over with --force-conflicts.");
        }
        text
    }
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
