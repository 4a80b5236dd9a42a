//! `gantry explain`: what a kind's fields are, from the schemas that the server publishes.

mod schema;
mod text;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use http::Method;

use crate::failure::usage;
use crate::kinds::Kind;
use crate::output;
use crate::session::{Global, Session};
use schema::Document;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// KIND, or KIND and the path of a field, as in container.spec.ports
    #[arg(value_name = "KIND[.FIELD…]")]
    what: String,
    /// All fields at any depth, without their descriptions
    #[arg(long)]
    recursive: bool,
    /// GROUP/VERSION of the kind, where several have its name
    #[arg(long, value_name = "VERSION")]
    api_version: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let (kind, path) = find(&session, args).await?;
    let document = fetch(&session, &kind).await?;
    let Some(root) = document.kind(&kind.group, &kind.version, &kind.kind) else {
        bail!("the server publishes no schema of {}", kind.qualified());
    };
    let explained = text::explain(&document, &kind, root, &path, args.recursive)?;
    output::print(&explained)?;
    Ok(ExitCode::SUCCESS)
}

/// The kind and the path below it. A group's dots are told from a path's by trying: `containers.gantry.dev.spec`.
async fn find(session: &Session, args: &Args) -> Result<(Arc<Kind>, Vec<String>)> {
    let words: Vec<&str> = args.what.trim_end_matches('.').split('.').collect();
    if words.iter().any(|word| word.is_empty()) {
        return Err(usage(format!("{:?} is not of the form KIND.FIELD.FIELD", args.what)));
    }
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    if let Some(wanted) = &args.api_version {
        let of = session.kinds.all().await?.iter().filter(|kind| kind.api_version() == *wanted);
        return match of.into_iter().find(|kind| kind.answers_to(&words[0].to_ascii_lowercase())) {
            Some(kind) => Ok((kind.clone(), owned(&words[1..]))),
            None => Err(usage(format!("there is no kind {:?} in {wanted}", words[0]))),
        };
    }
    let first = session.kinds.named(words[0]).await?;
    let is_group = |count: &usize| first.answers_to(&words[..*count].join(".").to_ascii_lowercase());
    let count = (1..=words.len()).rev().find(is_group).unwrap_or(1);
    Ok((first, owned(&words[count..])))
}

async fn fetch(session: &Session, kind: &Kind) -> Result<Document> {
    let index = session.client.request_json(Method::GET, "/openapi/v3", None).await?;
    let base = if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) };
    let Some(path) = index["paths"][&base]["serverRelativeURL"].as_str() else {
        bail!("the server publishes no schemas of {}", kind.api_version());
    };
    Ok(Document::new(session.client.request_json(Method::GET, path, None).await?))
}
