//! How commands print: data on stdout in the form that `-o` asks for.

pub(crate) mod columns;
mod format;
pub(crate) mod jsonpath;
mod printer;
pub(crate) mod table;

use std::io::{IsTerminal as _, Write as _};

use anyhow::Result;
use serde::Serialize as _;
use serde_json::Value;

pub(crate) use format::Format;
pub(crate) use printer::Printer;

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
    Printer::new(format, true).text(object)
}

/// JSON as kubectl prints it.
pub(crate) fn json(object: &Value) -> Result<String> {
    let mut bytes = Vec::new();
    object.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, serde_json::ser::PrettyFormatter::with_indent(b"    ")))?;
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes)?)
}

/// Several objects as one.
pub(crate) fn list(items: Vec<Value>) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": Value::Array(items)})
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
    let (api_version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]));
    let group = api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    table::clean(&format!("{kind}{group}/{name}"))
}

/// YAML as it is read back unchanged by parsers of YAML 1.1 and 1.2. Long lines stay lines, as folded ones read badly in a diff.
pub(crate) fn yaml(object: &Value) -> Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut text = serde_saphyr::to_string_with_options(object, options)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Whole numbers as people and other programs write them: `60` for what JSON decoded as `60.0`.
pub(crate) fn whole_numbers(value: &mut Value) {
    /// Up to here each whole number is a number of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT);
            if let Some(whole) = whole {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_numbers_have_no_point() {
        let mut object = json!({"a": [60.0, 0.5, -3.0, 1e300], "b": 7});
        whole_numbers(&mut object);
        assert_eq!(object.to_string(), r#"{"a":[60,0.5,-3,1e+300],"b":7}"#);
    }

    #[test]
    fn yaml_comes_back_unchanged() {
        let object = json!({"long": "word ".repeat(40) + "end", "a": "yes", "b": "0644", "c": "1.10", "d": ["x: y", "", "multi\nline\n", "- dash", "null", "~"], "e": {"f": null, "g": true, "h": {}}, "i": []});
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
