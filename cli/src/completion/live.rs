//! Names that only the server knows.

use anyhow::Result;
use gantry_client::ListParams;

use super::candidates::{Found, Word};
use super::line::{Asked, Place};
use crate::context;
use crate::session::{Global, Session};

/// Names that are asked for at most.
const NAMES: u32 = 500;

/// What may stand in the place that is asked about; nothing when it cannot be found out.
pub(super) async fn look_up(asked: &Asked<'_>) -> Found {
    let global = global(&asked.flags);
    match &asked.place {
        Place::Known(Found::Words(words)) => Found::Words(words.clone()),
        Place::Known(Found::Files) => Found::Files,
        Place::Known(Found::Nothing) => Found::Nothing,
        Place::Contexts { before } => prefixed(context::names(), before),
        Place::Kinds { before } => kinds(&global, before, "").await,
        Place::Pairs => kinds(&global, "", "/").await,
        Place::Namespaces { before } => names(&global, "namespaces").await.map_or(Found::Nothing, |names| prefixed(names, before)),
        Place::Names { kind, given, before } => names(&global, kind).await.map_or(Found::Nothing, |mut names| {
            names.retain(|name| !given.contains(name));
            prefixed(names, before)
        }),
    }
}

/// The flags of the line that say which engine and namespace it is about.
fn global(flags: &[(String, String)]) -> Global {
    let value = |id: &str| flags.iter().rev().find(|(name, _)| name == id).map(|(_, value)| value.clone());
    Global {
        namespace: value("namespace"),
        host: value("host"),
        kubeconfig: value("kubeconfig").map(Into::into),
        context: value("context"),
        ..Global::default()
    }
}

fn prefixed(names: Vec<String>, before: &str) -> Found {
    Found::Words(names.into_iter().map(|name| Word::new(format!("{before}{name}"))).collect())
}

/// Kinds by their plurals; those built in when there is no server to ask.
async fn kinds(global: &Global, before: &str, after: &str) -> Found {
    let Ok(session) = Session::open(global) else { return Found::Nothing };
    let known = match session.kinds.all().await {
        Ok(all) => all.iter().filter(|kind| kind.verbs.iter().any(|verb| verb == "list")).cloned().collect(),
        Err(_) => session.kinds.built_in().to_vec(),
    };
    let mut words: Vec<Word> =
        known.iter().map(|kind| Word::meaning(format!("{before}{}{after}", kind.plural), kind.short_names.join(","))).collect();
    if after.is_empty() {
        words.push(Word::new(format!("{before}all")));
    }
    words.sort_by(|a, b| a.text.cmp(&b.text));
    Found::Words(words)
}

async fn names(global: &Global, kind: &str) -> Result<Vec<String>> {
    let session = Session::open(global)?;
    let kind = session.kinds.named(kind).await?;
    let api = gantry_client::DynamicApi::new(&session.client, kind.resource(), Some(&session.namespace));
    let table = api.list_table(&ListParams { limit: Some(NAMES), ..ListParams::default() }).await?;
    let rows = table["rows"].as_array().into_iter().flatten();
    Ok(rows.filter_map(|row| row["object"]["metadata"]["name"].as_str()).map(str::to_owned).collect())
}
