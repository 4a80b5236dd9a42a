//! What `-o` takes.

use std::io::Read as _;
use std::str::FromStr;

use super::columns::Columns;
use super::jsonpath::Template;

/// The longest template in a file, in bytes.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// A form of output.
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
    /// What a template's paths lead to, as a JSON list.
    JsonPathAsJson(Template),
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
            ("jsonpath-as-json", Some(template)) => Template::parse(template).map(Self::JsonPathAsJson),
            ("jsonpath-file", Some(path)) => Template::parse(&file(path)?).map(Self::JsonPath),
            ("custom-columns", Some(columns)) => Columns::parse(columns).map(Self::Columns),
            ("custom-columns-file", Some(path)) => Columns::parse_file(&file(path)?).map(Self::Columns),
            ("go-template" | "go-template-file" | "template" | "templatefile", _) => {
                Err("templates of Go's are not understood; use jsonpath=… or custom-columns=…, or kubectl".to_owned())
            }
            _ => Err(format!(
                "{text:?} is none of table, wide, json, yaml, name, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE, jsonpath-file=FILE, \
                 custom-columns=HEADING:PATH,…, custom-columns-file=FILE"
            )),
        }
    }
}

impl Format {
    /// Whether the server renders it.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

fn file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(TEMPLATE_LIMIT).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| format!("read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_understood() {
        assert!(matches!("wide".parse(), Ok(Format::Wide)));
        assert!(matches!("jsonpath={.a}".parse(), Ok(Format::JsonPath(_))));
        for wrong in ["xml", "jsonpath", "jsonpath={.a", "json=1", "custom-columns=A", "go-template={{.a}}", "jsonpath-file=/absent"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn templates_come_from_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        std::fs::write(&path, "{.a}\n").unwrap();
        let Ok(Format::JsonPath(template)) = format!("jsonpath-file={}", path.display()).parse() else { panic!("no template") };
        assert_eq!(template.render(&serde_json::json!({"a": 1})).unwrap(), "1\n");
    }
}
