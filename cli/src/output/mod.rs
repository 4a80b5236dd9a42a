//! How commands print: data on stdout in the form that `-o` asks for.

pub(crate) mod columns;
pub(crate) mod jsonpath;
pub(crate) mod table;

use std::io::{IsTerminal as _, Write as _};
use std::str::FromStr;

use anyhow::Result;
use gantry_api::registry::find_kind;
use serde_json::{Value, json};

use crate::resources::qualified_name;
use columns::Columns;
use jsonpath::Template;

/// What `-o` takes.
#[derive(Debug, Clone, Default)]
pub(crate) enum Format {
    /// The server's table.
    #[default]
    Table,
    /// The server's table with all columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `container.gantry.dev/web`.
    Name,
    /// A template of paths.
    JsonPath(Template),
    /// Columns of one's own.
    Columns(Columns),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, argument) = text.split_once('=').map_or((text, None), |(word, argument)| (word, Some(argument)));
        match (word, argument) {
            ("table", None) => Ok(Self::Table),
            ("wide", None) => Ok(Self::Wide),
            ("json", None) => Ok(Self::Json),
            ("yaml", None) => Ok(Self::Yaml),
            ("name", None) => Ok(Self::Name),
            ("jsonpath", Some(template)) => Template::parse(template).map(Self::JsonPath),
            ("custom-columns", Some(columns)) => Columns::parse(columns).map(Self::Columns),
            _ => Err(format!("{text:?} is none of table, wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=HEADING:PATH,…")),
        }
    }
}

impl Format {
    /// Whether the server renders it.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Writes to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// Writes a line to stderr: for what is told beside the data.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether stderr may be redrawn and coloured.
pub(crate) fn is_live() -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !plain && std::env::var_os("TERM").is_none_or(|term| term != "dumb") && std::io::stderr().is_terminal()
}

/// An object's data in a format other than the server's tables.
pub(crate) fn render(format: &Format, object: &Value) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(object)? + "\n",
        Format::Yaml => yaml(object)?,
        Format::JsonPath(template) => template.render(object)?,
        Format::Columns(columns) => columns.render(&items(object)),
        Format::Name | Format::Table | Format::Wide => items(object).into_iter().map(|item| name_of(item) + "\n").collect(),
    })
}

/// Several objects as one.
pub(crate) fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": Value::Array(items)})
}

/// The objects of a list, or the object itself.
fn items(object: &Value) -> Vec<&Value> {
    match object.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().collect(),
        None => vec![object],
    }
}

/// `container.gantry.dev/web`.
pub(crate) fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    match find_kind(&api_version, &kind) {
        Some(kind) => qualified_name(kind, &name),
        None => format!("{}/{name}", kind.to_ascii_lowercase()),
    }
}

/// YAML as it is read back unchanged by parsers of YAML 1.1 and 1.2.
pub(crate) fn yaml(object: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(object)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_understood() {
        assert!(matches!("wide".parse(), Ok(Format::Wide)));
        assert!(matches!("jsonpath={.a}".parse(), Ok(Format::JsonPath(_))));
        for wrong in ["xml", "jsonpath", "jsonpath={.a", "json=1", "custom-columns=A"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn yaml_comes_back_unchanged() {
        let object = json!({"a": "yes", "b": "0644", "c": "1.10", "d": ["x: y", "", "multi\nline\n", "- dash", "null", "~"], "e": {"f": null, "g": true, "h": {}}, "i": []});
        let text = yaml(&object).unwrap();
        let back: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, crate::manifest::yaml_options()).unwrap();
        assert_eq!(back, [object], "{text}");
    }

    #[test]
    fn names_are_qualified() {
        let object = json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web"}});
        assert_eq!(render(&Format::Name, &list(vec![object])).unwrap(), "container.gantry.dev/web\n");
    }
}
