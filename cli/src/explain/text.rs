//! The explanation of a kind or a field, as kubectl writes it.

use anyhow::{Result, bail};
use serde_json::Value;

use super::schema::Document;
use crate::kinds::Kind;
use crate::output::table::clean;

/// Columns of a description, its indentation apart.
const WIDTH: usize = 76;
/// Choices that are shown beside a field; all are where the field itself is explained.
const CHOICES: usize = 4;
/// How deep fields are shown: a type may hold itself.
const DEPTH: usize = 16;

/// Explains what `path` leads to from `root`.
pub(super) fn explain(document: &Document, kind: &Kind, root: &Value, path: &[String], recursive: bool) -> Result<String> {
    let mut schema = root;
    for (index, name) in path.iter().enumerate() {
        let fields = document.fields(schema);
        let Some(field) = fields.get(name.as_str()) else {
            let owner = std::iter::once(&kind.singular).chain(&path[..index]).cloned().collect::<Vec<_>>().join(".");
            let known = fields.keys().copied().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has: {known}") };
            bail!("{owner} has no field {name:?}; {known}");
        };
        schema = field;
    }
    let mut text = header(kind);
    if let Some(name) = path.last() {
        text.push_str(&format!("FIELD: {name} <{}>\n", document.type_of(schema)));
        let choices = document.choices(schema);
        if choices.is_empty() {
            text.push('\n');
        } else {
            text.push_str("ENUM:\n");
            choices.iter().for_each(|choice| text.push_str(&format!("    {choice}\n")));
        }
        text.push('\n');
    }
    text.push_str("DESCRIPTION:\n");
    let descriptions = document.descriptions(schema);
    if descriptions.is_empty() {
        text.push_str("    <empty>\n");
    }
    descriptions.iter().for_each(|description| wrap(description, 4, &mut text));
    text.push_str("    \n");
    if !document.fields(schema).is_empty() {
        text.push_str("FIELDS:\n");
        fields(document, schema, 1, recursive, &mut text);
    }
    text.push('\n');
    Ok(text)
}

fn header(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { String::new() } else { format!("GROUP:      {}\n", kind.group) };
    format!("{group}KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version)
}

fn fields(document: &Document, schema: &Value, depth: usize, recursive: bool, text: &mut String) {
    let indent = "  ".repeat(depth);
    for (name, field) in document.fields(schema) {
        let required = if document.is_required(schema, name) { " -required-" } else { "" };
        text.push_str(&format!("{indent}{name}\t<{}>{required}\n", document.type_of(field)));
        let choices = document.choices(field);
        if !choices.is_empty() {
            let more = if choices.len() > CHOICES { ", ...." } else { "" };
            text.push_str(&format!("{indent}enum: {}{more}\n", choices[..choices.len().min(CHOICES)].join(", ")));
        }
        if !recursive {
            let descriptions = document.descriptions(field);
            if descriptions.is_empty() {
                text.push_str(&format!("{indent}  <no description>\n"));
            }
            // What its type is stands where the field itself is explained.
            descriptions.iter().take(1).for_each(|description| wrap(description, depth * 2 + 2, text));
            text.push('\n');
        } else if depth < DEPTH {
            fields(document, field, depth + 1, true, text);
        }
    }
}

/// Appends `description`, each of its lines wrapped and indented.
fn wrap(description: &str, indent: usize, text: &mut String) {
    for line in description.lines() {
        let mut width = 0;
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            let word = clean(word);
            let length = word.chars().count();
            if width == 0 {
                text.push_str(&" ".repeat(indent));
            } else if width + 1 + length > WIDTH {
                text.push('\n');
                text.push_str(&" ".repeat(indent));
                width = 0;
            } else {
                text.push(' ');
                width += 1;
            }
            text.push_str(&word);
            width += length;
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::document;
    use super::*;

    fn explained(path: &str, recursive: bool) -> Result<String> {
        let kind = Kind { group: "x.dev".into(), version: "v1".into(), kind: "Thing".into(), singular: "thing".into(), ..Kind::default() };
        let document = document();
        let path: Vec<String> = path.split('.').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        explain(&document, &kind, document.kind("x.dev", "v1", "Thing").unwrap(), &path, recursive)
    }

    #[test]
    fn a_field_is_explained() {
        let expected = "GROUP:      x.dev\nKIND:       Thing\nVERSION:    v1\n\nFIELD: ports <[]Object>\n\n\nDESCRIPTION:\n    Ports.\n    A port.\n    \n\
            FIELDS:\n  number\t<integer> -required-\n    1 to 65535.\n\n  protocol\t<string>\n  enum: TCP, UDP\n    <no description>\n\n\n";
        assert_eq!(explained("spec.ports", false).unwrap(), expected);
        let choices = explained("spec.ports.protocol", false).unwrap();
        assert!(choices.contains("FIELD: protocol <string>\nENUM:\n    TCP\n    UDP\n\nDESCRIPTION:\n    <empty>\n"), "{choices}");
    }

    #[test]
    fn all_fields_are_listed_and_a_type_that_holds_itself_ends() {
        let text = explained("", true).unwrap();
        assert!(text.contains("  spec\t<Object> -required-\n    ports\t<[]Object>\n      number\t<integer> -required-\n"), "{text}");
        assert!(text.lines().count() < 60, "{text}");
    }

    #[test]
    fn a_wrong_path_is_told_what_there_is() {
        assert_eq!(
            explained("spec.port", false).unwrap_err().to_string(),
            "thing.spec has no field \"port\"; it has: ports, selector, size"
        );
        assert_eq!(explained("spec.size.x", false).unwrap_err().to_string(), "thing.spec.size has no field \"x\"; it has none");
    }

    #[test]
    fn long_lines_are_wrapped() {
        let mut text = String::new();
        wrap(&"word ".repeat(20), 4, &mut text);
        assert_eq!(text.lines().map(|line| line.chars().count()).collect::<Vec<_>>(), [78, 28]);
    }
}
