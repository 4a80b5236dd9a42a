//! Objects as the server's tables.

use anyhow::Result;
use futures_util::{StreamExt as _, stream::select_all};
use serde_json::Value;

use super::Get;
use super::follow::{Form, follow};
use crate::output;
use crate::output::Format;
use crate::output::table::{ServerTable, View};
use crate::resources::{Target, qualified_name};

/// The table of one target and where its watch goes on.
struct Printed<'a> {
    target: &'a Target,
    table: ServerTable,
    version: String,
    /// Whether the headings are still to be printed.
    headings: bool,
}

impl Get {
    /// Prints a table for each kind. Whether something that was named is absent.
    pub(super) async fn tables(&self, targets: &[Target]) -> Result<bool> {
        let mut printed: Vec<Printed<'_>> = Vec::new();
        let (mut shown, mut absent) = (0, false);
        for target in targets {
            // Objects of one kind from several namespaces stand in one table.
            let again = printed.last_mut().filter(|last| last.target.kind == target.kind);
            let headings = again.is_none() && !self.args.no_headers;
            let mut table = match again {
                Some(last) => std::mem::take(&mut last.table),
                None => ServerTable::new(self.view(target), self.prefix(targets, target)),
            };
            let filled = self.fill(target, &mut table).await?;
            absent |= filled.absent;
            if filled.rows > 0 && !self.args.watch_only {
                let gap = if shown > 0 && headings { "\n" } else { "" };
                output::print(&format!("{gap}{}", table.flush(headings)))?;
                shown += 1;
            }
            let headings = headings && (filled.rows == 0 || self.args.watch_only);
            printed.push(Printed { target, table, version: filled.version, headings });
        }
        if self.is_watch() && !absent {
            self.follow_tables(printed).await?;
        } else if shown == 0 && !absent && !self.args.ignore_not_found {
            self.tell_nothing(targets);
        }
        Ok(absent)
    }

    fn view(&self, target: &Target) -> View {
        View {
            wide: matches!(self.args.output, Format::Wide),
            events: self.args.output_watch_events && self.is_watch(),
            namespaces: self.args.selection.all_namespaces && target.kind.namespaced,
            label_columns: self.args.label_columns.clone(),
            labels: self.args.show_labels,
        }
    }

    fn prefix(&self, targets: &[Target], target: &Target) -> String {
        let several = targets.iter().any(|other| other.kind != target.kind) || self.args.selection.what.iter().any(|word| word == "all");
        if self.args.show_kind || several { qualified_name(&target.kind, "") } else { String::new() }
    }

    fn tell_nothing(&self, targets: &[Target]) {
        let place = match self.args.selection.namespace(&self.session) {
            Some(namespace) if targets.iter().any(|target| target.kind.namespaced) => format!(" in namespace {namespace}"),
            _ => String::new(),
        };
        output::tell(&format!("No objects found{place}."));
    }

    /// Takes in all rows.
    async fn fill(&self, target: &Target, table: &mut ServerTable) -> Result<Filled> {
        let api = self.api(target);
        let mut filled = Filled::default();
        let mut rows = Vec::new();
        for name in &target.names {
            match api.get_table(name).await {
                Ok(piece) => filled.take(table, piece, &mut rows),
                Err(error) => filled.absent |= self.is_error(error)?,
            }
        }
        let mut params = self.page();
        while target.names.is_empty() {
            let piece = match self.args.sort_by {
                Some(_) => api.list_table_of_objects(&params).await?,
                None => api.list_table(&params).await?,
            };
            params.continue_token = piece["metadata"]["continue"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
            filled.take(table, piece, &mut rows);
            if params.continue_token.is_none() {
                break;
            }
        }
        if let Some(order) = &self.args.sort_by {
            order.sort(&mut rows, |row| &row["object"])?;
        }
        if !self.args.watch_only {
            rows.iter().for_each(|row| table.row(row, "ADDED"));
        }
        filled.rows = rows.len();
        Ok(filled)
    }

    async fn follow_tables(&self, mut printed: Vec<Printed<'_>>) -> Result<()> {
        let mut streams = Vec::new();
        for (index, piece) in printed.iter().enumerate() {
            let params = self.watch_params(piece.target, Some(piece.version.clone()))?;
            streams.push(follow(self.api(piece.target), params, Form::Table).map(move |event| (index, event)));
        }
        let mut events = select_all(streams);
        while let Some((index, event)) = events.next().await {
            let (what, piece) = event?;
            let Printed { table, headings, .. } = &mut printed[index];
            table.add(&piece, what);
            output::print(&table.flush(std::mem::take(headings)))?;
        }
        Ok(())
    }
}

/// What came of a target.
#[derive(Default)]
struct Filled {
    rows: usize,
    absent: bool,
    /// The version to watch from.
    version: String,
}

impl Filled {
    fn take(&mut self, table: &mut ServerTable, mut piece: Value, rows: &mut Vec<Value>) {
        table.define(&piece);
        self.version = piece["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if let Some(found) = piece["rows"].as_array_mut() {
            rows.append(found);
        }
    }
}
