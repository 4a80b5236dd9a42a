//! Prints objects one after another, in one form.

use anyhow::Result;
use serde_json::Value;

use super::table::Table;
use super::{Format, items, json, name_of, yaml};

/// Prints objects in a form other than the server's tables.
pub(crate) struct Printer<'a> {
    format: &'a Format,
    /// Headings of custom columns, until they are printed.
    headings: bool,
    managed_fields: bool,
    /// Custom columns, so that later rows line up.
    table: Option<Table>,
    printed: bool,
}

impl<'a> Printer<'a> {
    /// With `headings` over custom columns.
    pub(crate) fn new(format: &'a Format, headings: bool) -> Self {
        Self { format, headings, managed_fields: true, table: None, printed: false }
    }

    /// Leaves out who owns which field, of which nobody reads pages.
    pub(crate) fn without_managed_fields(mut self) -> Self {
        self.managed_fields = false;
        self
    }

    /// The text of an object, or of a list of them.
    pub(crate) fn text(&mut self, object: &Value) -> Result<String> {
        let again = std::mem::replace(&mut self.printed, true);
        let object = &self.shown(object);
        Ok(match self.format {
            Format::Json if is_event(object) => format!("{{\"type\":{},\"object\":{}}}\n", object["type"], object["object"]),
            Format::Json => json(object)?,
            Format::Yaml => format!("{}{}", if again { "---\n" } else { "" }, yaml(object)?),
            Format::JsonPath(template) => template.render(object)?,
            Format::JsonPathAsJson(template) => json(&Value::Array(template.values(object).into_iter().cloned().collect()))?,
            Format::Columns(columns) => {
                let table = self.table.get_or_insert_with(|| columns.table());
                items(object).into_iter().for_each(|item| table.row(columns.row(item)));
                table.flush(std::mem::take(&mut self.headings))
            }
            Format::Name | Format::Table | Format::Wide if is_event(object) => name_of(&object["object"]) + "\n",
            Format::Name | Format::Table | Format::Wide => items(object).into_iter().map(|item| name_of(item) + "\n").collect(),
        })
    }

    fn shown(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if !self.managed_fields {
            strip(&mut object);
        }
        super::whole_numbers(&mut object);
        object
    }
}

/// Whether it is what happened to an object, which as JSON takes one line.
fn is_event(value: &Value) -> bool {
    value.get("type").is_some_and(Value::is_string) && value.get("object").is_some_and(Value::is_object)
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip);
    }
    if let Some(inner) = object.get_mut("object").filter(|inner| inner.is_object()) {
        strip(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn an_event_is_a_line_of_json() {
        let event =
            value!({"type": "ADDED", "object": {"kind": "X", "apiVersion": "v1", "metadata": {"name": "a", "managedFields": [{}]}}});
        let text = |format: &str| Printer::new(&format.parse().unwrap(), true).without_managed_fields().text(&event).unwrap();
        assert_eq!(text("json"), "{\"type\":\"ADDED\",\"object\":{\"apiVersion\":\"v1\",\"kind\":\"X\",\"metadata\":{\"name\":\"a\"}}}\n");
        assert_eq!(text("name"), "x/a\n");
    }

    #[test]
    fn what_comes_later_fits_what_came_before() {
        let object = |name: &str| value!({"kind": "X", "apiVersion": "v1", "metadata": {"name": name, "managedFields": [{}]}});
        for (format, first, second) in [
            ("yaml", "apiVersion: v1\nkind: X\nmetadata:\n  name: a\n", "---\napiVersion: v1\nkind: X\nmetadata:\n  name: b\n"),
            ("custom-columns=N:.metadata.name", "N\na\n", "b\n"),
            ("name", "x/a\n", "x/b\n"),
            ("jsonpath={.metadata.name}", "a", "b"),
            ("jsonpath-as-json={.metadata.name}", "[\n    \"a\"\n]\n", "[\n    \"b\"\n]\n"),
        ] {
            let format: Format = format.parse().unwrap();
            let mut printer = Printer::new(&format, true).without_managed_fields();
            assert_eq!((printer.text(&object("a")).unwrap(), printer.text(&object("b")).unwrap()), (first.into(), second.into()));
        }
    }
}
