//! `gantry api-resources`: the kinds that the server has.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;

use crate::kinds::Kind;
use crate::output::{self, table::Table};
use crate::session::{Global, Session};

/// How a kind is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// What can be done with it, and its categories too
    Wide,
    /// Only its name
    Name,
}

/// What kinds are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Name,
    Kind,
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// wide or name
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Only of this group; the empty one is Kubernetes' core
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only kinds whose objects live in a namespace, or only others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only kinds with which all of this can be done
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only kinds of all these categories
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    categories: Vec<String>,
    /// Order by name or kind instead of group and name
    #[arg(long, value_enum)]
    sort_by: Option<By>,
    /// No line of headings
    #[arg(long)]
    no_headers: bool,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    output::print(&render(session.kinds.all().await?, args))?;
    Ok(ExitCode::SUCCESS)
}

fn render(kinds: &[Arc<Kind>], args: &Args) -> String {
    let mut kinds: Vec<&Kind> = kinds.iter().map(AsRef::as_ref).filter(|kind| is_wanted(kind, args)).collect();
    kinds.sort_by(|a, b| match args.sort_by {
        None => (&a.group, &a.plural).cmp(&(&b.group, &b.plural)),
        Some(By::Name) => a.plural.cmp(&b.plural),
        Some(By::Kind) => a.kind.cmp(&b.kind),
    });
    if args.output == Some(Form::Name) {
        return kinds.into_iter().map(|kind| kind.qualified() + "\n").collect();
    }
    let wide = args.output == Some(Form::Wide);
    let headings = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
    let mut table = Table::new(&headings[..if wide { 7 } else { 5 }]);
    for kind in kinds {
        let mut cells =
            vec![kind.plural.clone(), kind.short_names.join(","), kind.api_version(), kind.namespaced.to_string(), kind.kind.clone()];
        if wide {
            cells.extend([kind.verbs.join(","), kind.categories.join(",")]);
        }
        table.row(cells);
    }
    table.flush(!args.no_headers)
}

fn is_wanted(kind: &Kind, args: &Args) -> bool {
    let has = |have: &[String], wanted: &[String]| wanted.iter().all(|word| have.contains(word));
    !kind.verbs.is_empty()
        && args.api_group.as_ref().is_none_or(|group| kind.group == *group)
        && args.namespaced.is_none_or(|namespaced| kind.namespaced == namespaced)
        && has(&kind.verbs, &args.verbs)
        && has(&kind.categories, &args.categories)
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

    #[test]
    fn kinds_are_chosen_and_shown() {
        let kind = |group: &str, plural: &str, verb: &str| {
            Arc::new(Kind {
                group: group.into(),
                version: "v1".into(),
                plural: plural.into(),
                kind: plural.to_uppercase(),
                verbs: vec![verb.into()],
                ..Kind::default()
            })
        };
        let kinds = [kind("b.io", "as", "list"), kind("", "zs", "create"), kind("b.io", "subs", "get")];
        for (line, expected) in [
            ("-o name", "zs\nas.b.io\nsubs.b.io\n"),
            ("-o name --sort-by=name", "as.b.io\nsubs.b.io\nzs\n"),
            ("-o name --verbs list", "as.b.io\n"),
            ("-o name --api-group=", "zs\n"),
            ("-o name --namespaced", ""),
            (
                "--verbs list -o wide",
                "NAME   SHORTNAMES   APIVERSION   NAMESPACED   KIND   VERBS   CATEGORIES\nas                  b.io/v1      false        AS     list\n",
            ),
            ("--verbs list --no-headers", "as          b.io/v1   false   AS\n"),
        ] {
            let args = Line::try_parse_from(format!("x {line}").split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).args;
            assert_eq!(render(&kinds, &args), expected, "{line}");
        }
    }
}
