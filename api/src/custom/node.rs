//! A schema of a custom kind, made ready for walking objects.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// The most bytes that one compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 2 << 20;

/// One place in a schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// `object`, `array`, `string`, `integer`, `number` or `boolean`; empty where the schema names none.
    pub(crate) type_: String,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    /// Fields that are not named are kept.
    pub(crate) open: bool,
    /// A whole object, with `apiVersion`, `kind` and `metadata`.
    pub(crate) embedded: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Node>,
    /// Schema of the values of a map.
    pub(crate) values: Option<Box<Node>>,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) list: List,
    pub(crate) limits: Limits,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
}

/// What tells the items of a list apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum List {
    /// Nothing.
    #[default]
    Atomic,
    /// Themselves.
    Set,
    /// These members.
    Map(Vec<String>),
}

/// Bounds of a value.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) values: Vec<Value>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) format: String,
    pub(crate) required: Vec<String>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) above_minimum: bool,
    pub(crate) below_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) length: (Option<u64>, Option<u64>),
    pub(crate) items: (Option<u64>, Option<u64>),
    pub(crate) members: (Option<u64>, Option<u64>),
}

/// A pattern, compiled when it is first needed.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    /// Whether `text` has a part that fits. Patterns were compiled once when the kind was accepted.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| compile(&self.text).ok()).as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// Compiles a pattern as Kubernetes means it.
///
/// # Errors
/// What is wrong with it, as one sentence.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&plain_classes(pattern)).size_limit(MAX_PATTERN_BYTES).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is a pattern that takes too much memory; bound its repetitions".to_owned(),
        _ => "must be a regular expression in the syntax of RE2".to_owned(),
    })
}

/// RE2's classes are of ASCII, and a bracket in a class is itself.
///
/// Source: `github.com/google/re2/wiki/Syntax`.
fn plain_classes(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    // Inside a class: how many characters of it have been seen.
    let mut class: Option<usize> = None;
    while let Some(char) = chars.next() {
        match (char, class) {
            ('\\', _) => {
                escape(chars.next(), class.is_some(), &mut plain);
                class = class.map(|seen| seen + 1);
            }
            ('[', None) => {
                plain.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    plain.push('^');
                }
                class = Some(0);
            }
            ('[', Some(seen)) if chars.peek() == Some(&':') => {
                plain.push('[');
                for char in chars.by_ref() {
                    plain.push(char);
                    if char == ']' {
                        break;
                    }
                }
                class = Some(seen + 1);
            }
            (']', Some(1..)) => {
                plain.push(']');
                class = None;
            }
            ('[' | ']' | '&' | '~', Some(seen)) => {
                plain.extend(['\\', char]);
                class = Some(seen + 1);
            }
            (_, seen) => {
                plain.push(char);
                class = seen.map(|seen| seen + 1);
            }
        }
    }
    plain
}

fn escape(escaped: Option<char>, in_class: bool, plain: &mut String) {
    let (set, negated) = match escaped {
        Some('d') => ("0-9", false),
        Some('w') => ("0-9A-Za-z_", false),
        Some('s') => (r"\t\n\f\r ", false),
        Some('D') => ("0-9", true),
        Some('W') => ("0-9A-Za-z_", true),
        Some('S') => (r"\t\n\f\r ", true),
        Some('b') if !in_class => return plain.push_str(r"(?-u:\b)"),
        other => {
            plain.push('\\');
            return plain.extend(other);
        }
    };
    match (in_class, negated) {
        (true, false) => plain.push_str(set),
        (_, true) => plain.push_str(&format!("[^{set}]")),
        (false, false) => plain.push_str(&format!("[{set}]")),
    }
}

impl Node {
    /// Reads a schema that has been found good; what it does not understand it leaves out.
    pub(crate) fn of(schema: &Value) -> Self {
        let empty = Map::new();
        let schema = schema.as_object().unwrap_or(&empty);
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let nodes = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten().map(Self::of).collect();
        let node = |key: &str| schema.get(key).filter(|value| value.is_object()).map(|value| Box::new(Self::of(value)));
        let values = schema.get("additionalProperties");
        Self {
            type_: text("type"),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            open: flag("x-kubernetes-preserve-unknown-fields") || values == Some(&Value::Bool(true)),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: schema.get("default").cloned(),
            properties: schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), Self::of(value)))
                .collect(),
            values: node("additionalProperties"),
            items: node("items"),
            list: List::of(schema),
            limits: Limits::of(schema),
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: node("not"),
        }
    }

    /// The schema of a member of an object here: of one that is named, or of any.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.values.as_deref())
    }
}

impl List {
    fn of(schema: &Map<String, Value>) -> Self {
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Self::Set,
            Some("map") => Self::Map(texts(schema.get("x-kubernetes-list-map-keys"))),
            _ => Self::Atomic,
        }
    }
}

impl Limits {
    fn of(schema: &Map<String, Value>) -> Self {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let range = |least: &str, most: &str| (schema.get(least).and_then(Value::as_u64), schema.get(most).and_then(Value::as_u64));
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        Self {
            values: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: schema.get("pattern").and_then(Value::as_str).filter(|text| !text.is_empty()).map(Pattern::new),
            format: schema.get("format").and_then(Value::as_str).unwrap_or_default().to_owned(),
            required: texts(schema.get("required")),
            minimum: number("minimum"),
            maximum: number("maximum"),
            above_minimum: flag("exclusiveMinimum"),
            below_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            length: range("minLength", "maxLength"),
            items: range("minItems", "maxItems"),
            members: range("minProperties", "maxProperties"),
        }
    }
}

/// The strings of a list.
pub(crate) fn texts(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, fits, not) in [
            (r"^\d+$", "12", "\u{664}"),
            (r"^[\w.]+$", "a_1.b", "a-b"),
            (r"^[^\d]+$", "ab", "a1"),
            (r"^[\D]+$", "ab", "a1"),
            (r"^[[]x[]]$", "[x]", "x"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[[:alpha:]-]+$", "a-b", "1"),
            (r"^[a&&b~~]+$", "a&b~", "c"),
            (r"\bfoo\b", "a foo b", "afoo"),
            (r"^(?P<word>\S+)$", "x", "x y"),
            ("", "", "\u{0}"),
        ] {
            let regex = compile(pattern).unwrap();
            assert!(regex.is_match(fits), "{pattern} {fits:?}");
            assert!(pattern.is_empty() || !regex.is_match(not), "{pattern} {not:?}");
        }
        for wrong in ["(", "a{2,1}", r"(a)\1", "(?=a)", ".{1000}{1000}"] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }
}
