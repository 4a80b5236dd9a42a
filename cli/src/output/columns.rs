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
            let path = path.trim_start_matches('{').trim_end_matches('}');
            let dot = if path.starts_with(['.', '[']) { "" } else { "." };
            Ok((heading.to_owned(), Template::parse(&format!("{{{dot}{path}}}"))?))
        };
        text.split(',').map(column).collect::<Result<_, String>>().map(Self)
    }

    /// A table of `objects`.
    pub(crate) fn render(&self, objects: &[&Value]) -> String {
        let mut table = Table::new(&self.0.iter().map(|(heading, _)| heading.as_str()).collect::<Vec<_>>());
        for object in objects {
            let cell = |template: &Template| {
                let text = template.render(object).unwrap_or_default();
                if text.is_empty() { "<none>".to_owned() } else { clean(&text) }
            };
            table.row(self.0.iter().map(|(_, template)| cell(template)).collect());
        }
        table.flush(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_values_are_none() {
        let columns = Columns::parse("NAME:.metadata.name,X:{.spec.x}").unwrap();
        let text = columns.render(&[&json!({"metadata": {"name": "web"}})]);
        assert_eq!(text, "NAME   X\nweb    <none>\n");
    }
}
