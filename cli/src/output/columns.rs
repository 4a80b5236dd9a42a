//! `-o custom-columns=NAME:.metadata.name,PHASE:.status.phase`.

use serde_json::Value;

use super::jsonpath::Template;
use super::table::{Table, clean};

/// Headings and where their cells come from.
#[derive(Debug, Clone)]
pub(crate) struct Columns(Vec<(String, Template)>);

impl Columns {
    /// Reads `HEADING:PATH,…`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let column = |part: &str| {
            let (heading, path) = part
                .split_once(':')
                .filter(|(heading, path)| !heading.is_empty() && !path.is_empty())
                .ok_or_else(|| format!("custom column {part:?} is not of the form HEADING:PATH, as in NAME:.metadata.name"))?;
            let path = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
            if path.starts_with('{') || path.ends_with('}') {
                return Err(format!("the braces of {part:?} are not closed"));
            }
            let dot = if path.starts_with(['.', '[']) { "" } else { "." };
            Ok((heading.to_owned(), Template::parse(&format!("{{{dot}{path}}}"))?))
        };
        split(text).into_iter().map(column).collect::<Result<_, String>>().map(Self)
    }

    /// Reads a file of two lines: headings, and paths below them.
    pub(crate) fn parse_file(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let (Some(headings), Some(paths), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err("a file of custom columns has two lines: headings, and a path for each".to_owned());
        };
        let (headings, paths): (Vec<&str>, Vec<&str>) = (headings.split_whitespace().collect(), paths.split_whitespace().collect());
        if headings.len() != paths.len() {
            return Err(format!("{} headings stand over {} paths", headings.len(), paths.len()));
        }
        Self::parse(&headings.iter().zip(paths).map(|(heading, path)| format!("{heading}:{path}")).collect::<Vec<_>>().join(","))
    }

    /// An empty table.
    pub(crate) fn table(&self) -> Table {
        Table::new(&self.0.iter().map(|(heading, _)| heading.as_str()).collect::<Vec<_>>())
    }

    /// The cells of an object.
    pub(crate) fn row(&self, object: &Value) -> Vec<String> {
        let cell = |template: &Template| {
            let values: Vec<String> = template.values(object).into_iter().map(scalar).collect();
            if values.is_empty() { "<none>".to_owned() } else { clean(&values.join(",")) }
        };
        self.0.iter().map(|(_, template)| cell(template)).collect()
    }
}

/// The columns of a list: a comma in brackets belongs to a path.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_values_are_none_and_several_are_a_list() {
        let columns = Columns::parse("NAME:.metadata.name,X:{.spec.x},P:spec.ports[?(@.n>1)].n").unwrap();
        let object = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"n": 1}, {"n": 2}, {"n": 3}]}});
        let mut table = columns.table();
        table.row(columns.row(&object));
        assert_eq!(table.flush(true), "NAME   X        P\nweb    <none>   2,3\n");
        for wrong in ["NAME", ":x", "A:{.x", ""] {
            assert!(Columns::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_has_headings_and_paths() {
        let columns = Columns::parse_file("NAME  PHASE\n.metadata.name  .status.phase\n").unwrap();
        assert_eq!(columns.row(&json!({"metadata": {"name": "web"}, "status": {"phase": "Running"}})), ["web", "Running"]);
        for wrong in ["NAME", "A B\n.a", "A\n.a\n.b"] {
            assert!(Columns::parse_file(wrong).is_err(), "{wrong}");
        }
    }
}
