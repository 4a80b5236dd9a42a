//! `gantry delete`: asks for deletion and waits until the objects are gone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use gantry_client::{ClientError, DeleteParams, DynamicApi, Propagation};
use serde_json::Value;

use crate::duration;
use crate::failure::{self, usage};
use crate::kinds::Kind;
use crate::output::{self, table::clean};
use crate::resources::{Target, qualified_name};
use crate::selection::Selection;
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

/// Whether only to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// Delete
    None,
    /// Say what would be asked for
    Client,
    /// Ask the server whether it would
    Server,
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// What becomes of dependents
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Seconds that processes get to end
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..))]
    grace_period: Option<i64>,
    /// One second for processes to end
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Do not wait, and with --grace-period=0 kill processes at once
    #[arg(long)]
    force: bool,
    /// No error when an object is absent
    #[arg(long)]
    ignore_not_found: bool,
    /// Whether to wait until the objects are gone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true,
        action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait at most; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse)]
    timeout: Duration,
    /// Delete nothing
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "server")]
    dry_run: DryRun,
    /// `name` instead of a sentence for each object
    #[arg(short, long, value_name = "name", value_parser = ["name"])]
    output: Option<String>,
}

/// An object that is to be deleted.
struct Doomed {
    api: DynamicApi,
    kind: std::sync::Arc<Kind>,
    name: String,
    /// The incarnation that is going; `None` when the server did not say.
    uid: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    check(&args)?;
    let session = Session::open(global)?;
    let doomed = find(&args, &session).await?;
    let mut going = Vec::new();
    let mut failed = false;
    for object in doomed {
        match ask(&args, object).await {
            Ok(object) => going.extend(object),
            Err(error) => {
                failure::report(&error);
                failed = true;
            }
        }
    }
    if args.wait && !args.force && args.dry_run == DryRun::None {
        for object in going {
            if let Err(error) = gone(&object, args.timeout).await {
                failure::report(&error);
                failed = true;
            }
        }
    }
    Ok(ExitCode::from(if failed { failure::FAILED } else { 0 }))
}

fn check(args: &Args) -> Result<()> {
    let selects = args.selection.selector.is_some() || args.selection.field_selector.is_some();
    if args.all && selects {
        return Err(usage("give --all or a selector, not both"));
    }
    if args.selection.all_namespaces && !args.all && !selects {
        return Err(usage("--all-namespaces needs --all or a selector"));
    }
    if args.grace_period == Some(0) && !args.force {
        return Err(usage("--grace-period=0 kills processes at once: say --force too, or give them a second with --now"));
    }
    Ok(())
}

async fn find(args: &Args, session: &Session) -> Result<Vec<Doomed>> {
    let mut targets = args.selection.targets(session).await?;
    if args.selection.files.are_given() {
        // What depends on others was declared after them: it goes first.
        targets.reverse();
        targets.iter_mut().for_each(|target| target.names.reverse());
    }
    let named = targets.iter().any(|target| !target.names.is_empty());
    if named && args.all {
        return Err(usage("give names or --all, not both"));
    }
    let selects = args.all || args.selection.selector.is_some() || args.selection.field_selector.is_some();
    let mut doomed = Vec::new();
    for target in targets {
        if target.names.is_empty() && !selects {
            return Err(usage(format!("name the {} to delete, or give --selector or --all", target.kind.plural)));
        }
        doomed.extend(objects(args, session, &target).await?);
    }
    if doomed.is_empty() {
        output::tell("No objects found.");
    }
    Ok(doomed)
}

/// The objects of a target, each in its namespace.
async fn objects(args: &Args, session: &Session, target: &Target) -> Result<Vec<Doomed>> {
    let make = |name: String, namespace: Option<&str>| Doomed {
        api: target.api(&session.client, namespace.or(Some(&session.namespace))),
        kind: target.kind.clone(),
        name,
        uid: None,
    };
    if !target.names.is_empty() {
        return Ok(target.names.iter().map(|name| make(name.clone(), None)).collect());
    }
    let list = target.api(&session.client, args.selection.namespace(session)).list(&args.selection.list_params()).await?;
    let found = list.items.iter().map(|object| &object["metadata"]);
    Ok(found.filter_map(|metadata| Some(make(metadata["name"].as_str()?.to_owned(), metadata["namespace"].as_str()))).collect())
}

/// Asks for deletion; what is going, `None` when nothing was there.
async fn ask(args: &Args, mut object: Doomed) -> Result<Option<Doomed>> {
    let propagation = match args.cascade {
        Cascade::Background => Propagation::Background,
        Cascade::Foreground => Propagation::Foreground,
        Cascade::Orphan => Propagation::Orphan,
    };
    let params = DeleteParams {
        propagation: Some(propagation),
        grace_period_seconds: if args.now { Some(1) } else { args.grace_period },
        dry_run: args.dry_run == DryRun::Server,
        ..DeleteParams::default()
    };
    let answer = match args.dry_run {
        DryRun::Client => object.api.get(&object.name).await,
        _ => object.api.delete(&object.name, &params).await,
    };
    match answer {
        Ok(answer) => {
            output::print(&done(args, &object))?;
            let uid = [&answer["details"]["uid"], &answer["metadata"]["uid"]].into_iter().find_map(Value::as_str);
            object.uid = uid.filter(|uid| !uid.is_empty()).map(str::to_owned);
            Ok(Some(object))
        }
        // What was there at the listing went by itself.
        Err(error) if error.is_not_found() && (args.ignore_not_found || args.all) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is told of an object, in kubectl's words.
fn done(args: &Args, object: &Doomed) -> String {
    if args.output.is_some() {
        return format!("{}\n", qualified_name(&object.kind, &object.name));
    }
    let kind = qualified_name(&object.kind, "");
    let how = if args.force && args.grace_period == Some(0) { "force deleted" } else { "deleted" };
    let dry = match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    format!("{} {:?} {how}{dry}\n", kind.trim_end_matches('/'), clean(&object.name))
}

/// Waits until the object, or at least this incarnation of it, is gone.
async fn gone(object: &Doomed, timeout: Duration) -> Result<()> {
    let mut last = String::new();
    let wait = object.api.wait_for(&object.name, |now| {
        last = still_there(now);
        let Some(now) = now else { return true };
        object.uid.as_deref().is_some_and(|uid| now["metadata"]["uid"] != uid)
    });
    let done: Result<_, ClientError> = match timeout {
        Duration::ZERO => wait.await,
        timeout => match tokio::time::timeout(timeout, wait).await {
            Ok(done) => done,
            Err(_) => {
                let shown = qualified_name(&object.kind, &object.name);
                anyhow::bail!("{shown} is still there after {} s; {last}", timeout.as_secs())
            }
        },
    };
    done?;
    Ok(())
}

/// Why an object that is going is still there: what it waits for, else its state.
fn still_there(object: Option<&Value>) -> String {
    let waits: Vec<&str> =
        object.and_then(|object| object["metadata"]["finalizers"].as_array()).into_iter().flatten().filter_map(Value::as_str).collect();
    if waits.is_empty() { why(object) } else { format!("it waits for {}; {}", clean(&waits.join(", ")), why(object)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::try_parse_from(format!("delete {line}").split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).args
    }

    #[test]
    fn flags_that_contradict_each_other_are_usage_errors() {
        for wrong in ["ctr --all -l a=b", "ctr -A", "ctr web --grace-period=0"] {
            assert!(check(&args(wrong)).is_err_and(|error| error.is::<crate::failure::Usage>()), "{wrong}");
        }
        for right in ["ctr --all -A", "ctr web --grace-period=0 --force", "ctr web --now", "ctr -l a=b --dry-run", "ctr web --wait=false"] {
            check(&args(right)).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        assert!(Line::try_parse_from(["delete", "ctr", "web", "--grace-period=-1"]).is_err());
    }

    #[test]
    fn what_keeps_an_object_is_told() {
        let object = serde_json::json!({"metadata": {"finalizers": ["gantry.dev/in-use"]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Bound", "message": "it is used by web"}]}});
        assert_eq!(still_there(Some(&object)), "it waits for gantry.dev/in-use; Ready is True: Bound: it is used by web");
    }
}
