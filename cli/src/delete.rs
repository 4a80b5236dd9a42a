//! `gantry delete`: asks for deletion and waits until the objects are gone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use gantry_client::{ClientError, DeleteParams, DynamicApi, Propagation};
use serde_json::Value;

use crate::duration;
use crate::failure::{self, usage};
use crate::manifest::{self, FileArgs};
use crate::output;
use crate::resources::{self, Target, qualified_name};
use crate::session::{Global, Session};
use crate::wait::why;

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cascade {
    /// They are deleted afterwards
    Background,
    /// They are deleted first
    Foreground,
    /// They stay
    Orphan,
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// KIND NAME…, KIND/NAME…, or KIND with a selector or --all
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    /// The objects in a file or folder, or `-`; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,
    /// Descend into folders
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// What becomes of dependents
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Seconds that processes get to end
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// No error when an object is absent
    #[arg(long)]
    ignore_not_found: bool,
    /// Whether to wait until the objects are gone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait at most; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse)]
    timeout: Duration,
    /// Check only
    #[arg(long, value_name = "server", value_parser = ["server"])]
    dry_run: Option<String>,
}

/// An object that deletion was asked for.
struct Going {
    api: DynamicApi,
    shown: String,
    name: String,
    uid: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let doomed = find(&args, &session).await?;
    let mut going = Vec::new();
    let mut failed = false;
    for (api, shown, name) in doomed {
        match ask(&args, &api, &shown, &name).await {
            Ok(Some(uid)) => going.push(Going { api, shown, name, uid: Some(uid).filter(|uid| !uid.is_empty()) }),
            Ok(None) => {}
            Err(error) => {
                failure::report(&error);
                failed = true;
            }
        }
    }
    if args.wait && args.dry_run.is_none() {
        for object in going {
            if let Err(error) = gone(&object, args.timeout).await {
                failure::report(&error);
                failed = true;
            }
        }
    }
    Ok(ExitCode::from(if failed { failure::FAILED } else { 0 }))
}

async fn find(args: &Args, session: &Session) -> Result<Vec<(DynamicApi, String, String)>> {
    let mut doomed = Vec::new();
    if !args.files.is_empty() {
        if !args.what.is_empty() {
            return Err(usage("name objects or files, not both"));
        }
        let files = FileArgs { files: args.files.clone(), recursive: args.recursive };
        // What depends on others was declared after them: it goes first.
        for manifest in manifest::read(&files, &session.namespace)?.iter().rev() {
            let word = manifest.object["kind"].as_str().unwrap_or_default();
            let kind = manifest.kind.ok_or_else(|| usage(format!("there is no kind {word:?} in that apiVersion")))?;
            let target = Target { kind, names: Vec::new() };
            let api = target.api(&session.client, manifest.namespace().or(Some(&session.namespace)));
            doomed.push((api, qualified_name(kind, manifest.name()), manifest.name().to_owned()));
        }
        return Ok(doomed);
    }
    for target in resources::parse(&args.what)? {
        let api = target.api(&session.client, Some(&session.namespace));
        let mut names = target.names.clone();
        if names.is_empty() {
            if args.selector.is_none() && !args.all {
                return Err(usage(format!("name the {} to delete, or give --selector or --all", target.kind.plural)));
            }
            let params = gantry_client::ListParams { labels: args.selector.clone(), ..Default::default() };
            let list = api.list(&params).await?;
            names = list.items.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect();
        }
        doomed.extend(names.into_iter().map(|name| (api.clone(), qualified_name(target.kind, &name), name)));
    }
    if doomed.is_empty() {
        output::tell("No objects found.");
    }
    Ok(doomed)
}

/// Asks for deletion; the uid of what is going, `None` when nothing was there.
async fn ask(args: &Args, api: &DynamicApi, shown: &str, name: &str) -> Result<Option<String>> {
    let propagation = match args.cascade {
        Cascade::Background => Propagation::Background,
        Cascade::Foreground => Propagation::Foreground,
        Cascade::Orphan => Propagation::Orphan,
    };
    let params = DeleteParams {
        propagation: Some(propagation),
        grace_period_seconds: args.grace_period,
        dry_run: args.dry_run.is_some(),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(answer) => {
            output::print(&format!("{shown} deleted{}\n", if params.dry_run { " (dry run)" } else { "" }))?;
            let uid = [&answer["details"]["uid"], &answer["metadata"]["uid"]].into_iter().find_map(Value::as_str);
            Ok(Some(uid.unwrap_or_default().to_owned()))
        }
        Err(error) if error.is_not_found() && args.ignore_not_found => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the object, or at least this incarnation of it, is gone.
async fn gone(object: &Going, timeout: Duration) -> Result<()> {
    let mut last = String::new();
    let wait = object.api.wait_for(&object.name, |now| {
        last = why(now);
        let Some(now) = now else { return true };
        object.uid.as_deref().is_some_and(|uid| now["metadata"]["uid"] != uid)
    });
    let done: Result<_, ClientError> = match timeout {
        Duration::ZERO => wait.await,
        timeout => match tokio::time::timeout(timeout, wait).await {
            Ok(done) => done,
            Err(_) => anyhow::bail!("{} is still there after {} s; {last}", object.shown, timeout.as_secs()),
        },
    };
    done?;
    Ok(())
}
