//! `gantry edit`: an object in the user's editor, and back to the server with what was changed.
//!
//! Only the difference is sent, together with the version that was edited. When somebody else changed the object meanwhile, the
//! difference is put on the new version if both touch different fields; else the editor opens again and says what changed. What the
//! server refuses opens the editor again with its reasons on top. An edit is never lost: if nothing can be done, it stays in a file.

mod buffer;
mod difference;
mod editor;

use std::process::ExitCode;

use anyhow::{Result, bail};
use gantry_client::{ClientError, DynamicApi, Patch, WriteParams};
use serde_json::Value;

use crate::failure;
use crate::output;
use crate::resources::qualified_name;
use crate::selection::Selection;
use crate::session::{Global, Session};
use buffer::{Buffer, Edited};
use difference::{between, both, merged};
use editor::Editor;

/// How often the server's version may move on under an edit before it is given up.
const MOVES: usize = 20;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Show who owns which field
    #[arg(long)]
    show_managed_fields: bool,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let editor = Editor::find(|name| std::env::var(name).ok())?;
    let mut failed = false;
    for target in args.selection.targets(&session).await? {
        if target.names.is_empty() {
            return Err(failure::usage("name the objects to edit, as KIND/NAME"));
        }
        let api = target.api(&session.client, Some(&session.namespace));
        for name in &target.names {
            let shown = qualified_name(&target.kind, name);
            match one(&api, name, &editor, args.show_managed_fields).await {
                Ok(true) => output::print(&format!("{shown} edited\n"))?,
                Ok(false) => output::tell(&format!("{shown}: edit cancelled, nothing was changed")),
                Err(error) => {
                    failure::report(&error.context(shown));
                    failed = true;
                }
            }
        }
    }
    Ok(ExitCode::from(if failed { failure::FAILED } else { 0 }))
}

/// Edits one object; whether something was changed.
async fn one(api: &DynamicApi, name: &str, editor: &Editor, managed_fields: bool) -> Result<bool> {
    let mut original = api.get(name).await?;
    let mut buffer = Buffer::new(&original, managed_fields)?;
    loop {
        let edited = match editor.open(buffer.path()).and_then(|()| buffer.read()) {
            Ok(edited) => edited,
            Err(error) => return Err(buffer.kept(error)),
        };
        let object = match edited {
            Edited::Nothing => return Ok(false),
            Edited::Again(problem) => {
                // The same text would only be refused again.
                return Err(buffer.kept(anyhow::anyhow!("no valid change was saved: {problem}")));
            }
            Edited::Broken(problem) => {
                buffer.explain(&[problem])?;
                continue;
            }
            Edited::Object(object) => object,
        };
        let changes = between(buffer.shown(), &object);
        if changes.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(false);
        }
        if let Some(problem) = identity(&original, &object) {
            buffer.explain(&[problem])?;
            continue;
        }
        match send(api, name, &mut original, &changes).await {
            Ok(Sent::Done) => return Ok(true),
            Ok(Sent::Overtaken(conflicts)) => buffer.rebase(&original, &changes, &conflicts)?,
            Err(error) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Api(status)) if matches!(status.code, 400 | 409 | 422) => buffer.explain(&reasons(status))?,
                _ => return Err(buffer.kept(error)),
            },
        }
    }
}

/// What came of a difference.
enum Sent {
    Done,
    /// Somebody else changed the same fields; `original` is now the server's version.
    Overtaken(Vec<String>),
}

/// Sends the difference on the version that it was made from, and on later ones as long as they differ elsewhere.
async fn send(api: &DynamicApi, name: &str, original: &mut Value, changes: &Value) -> Result<Sent> {
    let params = WriteParams { field_validation: Some("Strict".to_owned()), ..WriteParams::default() };
    for _ in 0..MOVES {
        let mut patch = changes.clone();
        patch["metadata"]["resourceVersion"] = original["metadata"]["resourceVersion"].clone();
        let refusal = match api.patch(name, None, &Patch::Merge(patch), &params).await {
            Ok(_) => return Ok(Sent::Done),
            Err(error) => error,
        };
        if !refusal.is_conflict() {
            return Err(refusal.into());
        }
        let now = api.get(name).await?;
        if now["metadata"]["uid"] != original["metadata"]["uid"] {
            bail!("it was deleted and made anew meanwhile");
        }
        if now["metadata"]["resourceVersion"] == original["metadata"]["resourceVersion"] {
            return Err(refusal.into());
        }
        let theirs = between(original, &now);
        let conflicts = both(changes, &theirs);
        *original = now;
        if !conflicts.is_empty() {
            return Ok(Sent::Overtaken(conflicts));
        }
    }
    bail!("it changes faster than the edit can be sent");
}

/// Whether the edit speaks of another object.
fn identity(original: &Value, edited: &Value) -> Option<String> {
    let is_other = |pointer: &&str| original.pointer(pointer) != edited.pointer(pointer);
    let field = ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"].into_iter().find(is_other)?;
    Some(format!("{} cannot be edited; make another object with `gantry apply`", field[1..].replace('/', ".")))
}

fn reasons(status: &gantry_client::Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let line = |cause: &gantry_client::StatusCause| {
        let field = if cause.field.is_empty() { &cause.reason } else { &cause.field };
        format!("{field}: {}", cause.message)
    };
    std::iter::once(status.message.clone()).chain(causes.map(line)).collect()
}

#[cfg(test)]
mod tests;
