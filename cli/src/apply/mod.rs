//! `gantry apply`: all objects of the files in one transaction, and, if asked, the wait until they are ready.

mod progress;
pub(crate) mod request;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use gantry_api::registry::find_kind;
use gantry_client::DynamicApi;
use serde_json::Value;

use crate::duration;
use crate::manifest::{self, FileArgs, Manifest};
use crate::output::table::clean;
use crate::output::{self, Format};
use crate::session::{Global, Session};
use request::{ApplyArgs, Outcome, summary};

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// `server`: compute everything and store nothing; `client`: check the files without a server
    #[arg(long, value_name = "WHERE", value_parser = ["server", "client"], num_args = 0..=1, default_missing_value = "server")]
    dry_run: Option<String>,
    /// Wait until a condition of all objects holds
    #[arg(long, value_name = "CONDITION", num_args = 0..=1, require_equals = true, default_missing_value = "Ready")]
    wait: Option<String>,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    how: ApplyArgs,
    /// json, yaml or name instead of a line an object
    #[arg(short, long, value_name = "FORM")]
    output: Option<Format>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    if args.dry_run.as_deref() == Some("client") {
        let namespace = global.namespace.as_deref().unwrap_or("default");
        return offline(&args, &manifest::read(&args.files, namespace).await?);
    }
    let session = Session::open(global)?;
    let manifests = manifest::read_for(&session, &args.files).await?;
    let dry_run = args.dry_run.is_some();
    let sent = request::send(&session.client, &session.namespace, &manifests, &args.how, dry_run).await?;
    if sent.refused {
        for outcome in sent.outcomes.iter().filter(|outcome| outcome.is_refused()) {
            output::tell(&summary(outcome, dry_run));
        }
        output::tell(&sent.refusal());
        return Ok(ExitCode::from(crate::failure::FAILED));
    }
    let outcomes = sent.outcomes;
    print(&args, &manifests, &outcomes, dry_run)?;
    match &args.wait {
        Some(condition) if !dry_run => progress::wait(&session.client, &waited_for(&session, &outcomes), condition, args.timeout).await,
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print(args: &Args, manifests: &[Manifest], outcomes: &[Outcome], dry_run: bool) -> Result<()> {
    match &args.output {
        None | Some(Format::Table | Format::Wide) => {
            for outcome in outcomes {
                output::print(&format!("{}\n", summary(outcome, dry_run)))?;
                for warning in &outcome.warnings {
                    output::tell(&format!("warning: {}: {}", outcome.shown(), clean(warning)));
                }
            }
            Ok(())
        }
        Some(format) => {
            let objects = manifests.iter().map(|manifest| manifest.object.clone()).collect();
            output::print(&output::render(format, &output::list(objects))?)
        }
    }
}

/// The objects that have conditions to wait for: those of our own kinds.
fn waited_for(session: &Session, outcomes: &[Outcome]) -> Vec<progress::Wanted> {
    let wanted = |outcome: &Outcome| {
        let kind = find_kind(&outcome.api_version, &outcome.kind).filter(|kind| kind.ours && kind.has_status)?;
        let namespace = Some(outcome.namespace.clone()).filter(|n| !n.is_empty()).unwrap_or_else(|| session.namespace.clone());
        let api = DynamicApi::new(&session.client, kind.into(), Some(&namespace));
        Some(progress::Wanted { api, shown: outcome.shown(), name: outcome.name.clone(), namespace })
    };
    outcomes.iter().filter(|outcome| outcome.action != "Deleted").filter_map(wanted).collect()
}

/// Checks the files with what this program knows, every error at once.
fn offline(args: &Args, manifests: &[Manifest]) -> Result<ExitCode> {
    let mut wrong = Vec::new();
    for manifest in manifests {
        wrong.extend(errors_of(manifest));
    }
    if !wrong.is_empty() {
        bail!("{} of the files' fields are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    if let Some(format) = args.output.as_ref().filter(|format| !format.is_table()) {
        let objects: Vec<Value> = manifests.iter().map(|manifest| manifest.object.clone()).collect();
        output::print(&output::render(format, &output::list(objects))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for manifest in manifests {
        output::print(&format!("{} checked (dry run)\n", output::name_of(&manifest.object)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn errors_of(manifest: &Manifest) -> Vec<String> {
    let shown = output::name_of(&manifest.object);
    let Some(kind) = manifest.kind else {
        let text = |field: &str| manifest.object[field].as_str().unwrap_or_default().to_owned();
        return vec![format!(
            "{shown}: no kind {} in {} is built in; if the server has one, check it with --dry-run=server",
            text("kind"),
            text("apiVersion")
        )];
    };
    let errors = match kind.rules.normalize(manifest.object.clone()) {
        Ok(object) => kind.rules.validate(&object, None),
        Err(errors) => errors,
    };
    errors.iter().map(|error| format!("{shown}: {}: {}", error.path, error.message)).collect()
}
