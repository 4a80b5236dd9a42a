//! `gantry plan`: what `apply` would change, field by field, and what that would do to running containers.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::apply::request::{self, ApplyArgs, Outcome};
use crate::failure::FAILED;
use crate::manifest::{self, FileArgs};
use crate::output::{self, table::clean};
use crate::session::{Global, Session};

/// The longest value that is shown of a field, in characters.
const VALUE_LIMIT: usize = 200;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    how: ApplyArgs,
}

/// Runs the command. Exit code 0 whether or not something would change; 1 when the server would refuse it.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let manifests = manifest::read_for(&session, &args.files).await?;
    let sent = request::send(&session.client, &session.namespace, &manifests, &args.how, true).await?;
    output::print(&render(&sent.outcomes))?;
    if sent.refused {
        output::tell(&sent.refusal());
    }
    Ok(ExitCode::from(if sent.refused { FAILED } else { 0 }))
}

fn render(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_unchanged()) {
        let sign = match outcome.action.as_str() {
            "Created" => "+",
            "Deleted" => "-",
            "Updated" => "~",
            _ => "!",
        };
        text.push_str(&format!("{sign} {}", outcome.shown()));
        if !outcome.effect_message.is_empty() {
            text.push_str(&format!("  {}", clean(&outcome.effect_message)));
        }
        text.push('\n');
        if !outcome.message.is_empty() {
            text.push_str(&format!("    {}\n", clean(&outcome.message)));
        }
        for warning in &outcome.warnings {
            text.push_str(&format!("    warning: {}\n", clean(warning)));
        }
        if outcome.action == "Updated" && outcome.changes.is_empty() {
            text.push_str("    no field differs; only who owns them does\n");
        }
        for change in outcome.changes.iter().filter(|_| outcome.action != "Created") {
            text.push_str(&format!("    {}: {} -> {}\n", change.path, short(&change.old), short(&change.new)));
        }
    }
    let count = |action: &str| outcomes.iter().filter(|outcome| outcome.action == action).count();
    let (created, updated, deleted, unchanged) = (count("Created"), count("Updated"), count("Deleted"), count("Unchanged"));
    text.push_str(&format!("Plan: {created} to create, {updated} to change, {deleted} to delete, {unchanged} unchanged.\n"));
    text
}

fn short(value: &Value) -> String {
    if value.is_null() {
        return "(none)".to_owned();
    }
    let text = clean(&value.to_string());
    if text.chars().count() <= VALUE_LIMIT { text } else { text.chars().take(VALUE_LIMIT).collect::<String>() + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_effects_are_shown() {
        let outcomes: Vec<Outcome> = serde_json::from_value(json!([
            {"apiVersion": "gantry.dev/v1", "kind": "Volume", "name": "data", "action": "Created"},
            {"apiVersion": "gantry.dev/v1", "kind": "Container", "name": "web", "action": "Updated", "effect": "Replace", "effectMessage": "replaces web",
             "changes": [{"path": "spec.image", "old": "nginx:1", "new": "nginx:2"}, {"path": "spec.tty", "old": null, "new": true}]},
            {"apiVersion": "gantry.dev/v1", "kind": "Image", "name": "i", "action": "Updated"},
            {"apiVersion": "gantry.dev/v1", "kind": "Network", "name": "n", "action": "Unchanged"}]))
        .unwrap();
        let expected = "+ volume.gantry.dev/data\n~ container.gantry.dev/web  replaces web\n    spec.image: \"nginx:1\" -> \"nginx:2\"\n    spec.tty: (none) -> true\n~ image.gantry.dev/i\n    no field differs; only who owns them does\nPlan: 1 to create, 2 to change, 0 to delete, 1 unchanged.\n";
        assert_eq!(render(&outcomes), expected);
    }
}
