//! Tables: the server's, printed; and of our own.

use serde_json::Value;

/// Spaces between columns.
const GAP: usize = 3;
/// The narrowest column with its gap, as kubectl has it.
const NARROWEST: usize = 6;

/// Rows under headings, padded as wide as the widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    widths: Vec<usize>,
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { headings: headings.iter().map(|h| (*h).to_owned()).collect(), ..Self::default() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The rows so far as text, with headings when `headings`; they are gone from the table, their widths stay, so that rows that
    /// are added later line up.
    pub(crate) fn flush(&mut self, headings: bool) -> String {
        let mut lines = Vec::new();
        if headings {
            lines.push(self.headings.clone());
        }
        lines.append(&mut self.rows);
        self.widths.resize(self.headings.len().max(self.widths.len()), 0);
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        lines.iter().map(|line| self.line(line)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < cells.len() {
                let width = self.widths.get(index).copied().unwrap_or_default();
                line.extend(std::iter::repeat_n(' ', (width + GAP).max(NARROWEST).saturating_sub(cell.chars().count())));
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// What of a server's table is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// All columns.
    pub(crate) wide: bool,
    /// What happened, first.
    pub(crate) events: bool,
    /// The namespace.
    pub(crate) namespaces: bool,
    /// Labels with columns of their own, after the server's.
    pub(crate) label_columns: Vec<String>,
    /// All labels, last.
    pub(crate) labels: bool,
}

/// A server's table in the printing: the columns come with the first piece only, when it is watched.
#[derive(Debug, Default)]
pub(crate) struct ServerTable {
    view: View,
    /// Put before each name, as `container.gantry.dev/`.
    prefix: String,
    /// Indexes of the cells that are shown.
    shown: Vec<usize>,
    name_cell: Option<usize>,
    table: Table,
}

impl ServerTable {
    /// A table that shows `view`, with `prefix` before the names.
    pub(crate) fn new(view: View, prefix: String) -> Self {
        Self { view, prefix, ..Self::default() }
    }

    /// Takes the columns of a `Table` object, if it has some.
    pub(crate) fn define(&mut self, piece: &Value) {
        let columns = piece["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
        if columns.is_empty() {
            return;
        }
        let is_shown = |column: &Value| self.view.wide || column["priority"].as_i64().unwrap_or_default() == 0;
        self.shown = columns.iter().enumerate().filter(|(_, column)| is_shown(column)).map(|(index, _)| index).collect();
        self.name_cell = columns.iter().position(|column| column["format"] == "name");
        let mut headings = Vec::new();
        headings.extend(self.view.events.then(|| event_cell("EVENT")));
        headings.extend(self.view.namespaces.then(|| "NAMESPACE".to_owned()));
        headings.extend(self.shown.iter().map(|index| columns[*index]["name"].as_str().unwrap_or_default().to_uppercase()));
        headings.extend(self.view.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or(label).to_uppercase()));
        headings.extend(self.view.labels.then(|| "LABELS".to_owned()));
        self.table.headings = headings;
    }

    /// Takes the columns, if it has some, and the rows of a `Table` object, which are there because of `event`.
    pub(crate) fn add(&mut self, piece: &Value, event: &str) {
        self.define(piece);
        for row in piece["rows"].as_array().into_iter().flatten() {
            self.row(row, event);
        }
    }

    /// Takes one row.
    pub(crate) fn row(&mut self, row: &Value, event: &str) {
        let cells = self.cells(row, event);
        self.table.row(cells);
    }

    /// The rows since the last time.
    pub(crate) fn flush(&mut self, headings: bool) -> String {
        self.table.flush(headings)
    }

    fn cells(&self, row: &Value, event: &str) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells: Vec<String> = Vec::new();
        cells.extend(self.view.events.then(|| event_cell(event)));
        cells.extend(self.view.namespaces.then(|| cell_text(&metadata["namespace"])));
        for index in &self.shown {
            let text = cell_text(&row["cells"][*index]);
            cells.push(if self.name_cell == Some(*index) { format!("{}{text}", self.prefix) } else { text });
        }
        let label = |name: &String| metadata["labels"].get(name).map_or(String::new(), cell_text);
        cells.extend(self.view.label_columns.iter().map(label));
        if self.view.labels {
            let labels = metadata["labels"].as_object().into_iter().flatten();
            let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
            cells.push(if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") });
        }
        cells
    }
}

/// As wide as the longest, so that what comes later lines up.
fn event_cell(event: &str) -> String {
    format!("{event:<8}")
}

/// The text of a cell: of several lines the first. Control characters of hostile content never reach a terminal.
pub(crate) fn cell_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.split_once(['\n', '\r', '\u{c}']) {
            Some((first, _)) => clean(first) + "...",
            None => clean(text),
        },
        Value::Array(items) => items.iter().map(cell_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// One line, without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn piece() -> Value {
        json!({"kind": "Table", "columnDefinitions": [
                {"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Phase", "type": "string", "priority": 0},
                {"name": "Digest", "type": "string", "priority": 1}],
            "rows": [{"cells": ["web", "Running", "sha256:1"], "object": {"metadata": {"namespace": "a", "labels": {"x": "1"}}}},
                {"cells": ["database", null, "sha256:2"], "object": {"metadata": {"namespace": "b"}}}]})
    }

    #[test]
    fn columns_line_up_and_later_rows_too() {
        let mut table = ServerTable::new(View::default(), String::new());
        table.add(&piece(), "ADDED");
        assert_eq!(table.flush(true), "NAME       PHASE\nweb        Running\ndatabase\n");
        table.add(&json!({"rows": [{"cells": ["w\u{1b}b", "Exited\nand more", "x"]}]}), "MODIFIED");
        assert_eq!(table.flush(false), "w b        Exited...\n");
    }

    #[test]
    fn a_view_shows_events_namespaces_labels_and_kinds() {
        let view = View { wide: true, events: true, namespaces: true, label_columns: vec!["e.x/x".into(), "x".into()], labels: true };
        let mut table = ServerTable::new(view, "ctr/".into());
        table.add(&piece(), "ADDED");
        let expected = "EVENT      NAMESPACE   NAME           PHASE     DIGEST     X     X     LABELS
ADDED      a           ctr/web        Running   sha256:1         1     x=1
ADDED      b           ctr/database             sha256:2               <none>
";
        assert_eq!(table.flush(true), expected);
    }

    #[test]
    fn narrow_columns_are_as_wide_as_kubectls() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec!["1".into(), "2".into()]);
        assert_eq!(table.flush(true), "A     B\n1     2\n");
    }
}
