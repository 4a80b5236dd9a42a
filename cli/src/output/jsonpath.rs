//! kubectl's JSONPath templates: text with `{.path}`, `{"text"}` and `{range .path}…{end}`.
//!
//! Paths know names, `['names']`, indexes and slices, `*`, `..name`, and filters that compare: `[?(@.type=="Ready")]`.

use anyhow::{Result, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

/// Steps from an object to values inside it.
#[derive(Debug, Clone, PartialEq, Default)]
struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    All,
    Below,
    Slice { start: Option<i64>, end: Option<i64> },
    Index(i64),
    Filter { path: Path, test: Option<(Comparison, Value)> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Reads a template; one without braces is a path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let owned;
        let text = if text.contains('{') {
            text
        } else {
            owned = format!("{{{}{text}}}", if text.starts_with(['.', '[', '$', '@']) { "" } else { "." });
            &owned
        };
        let mut rest = text;
        let parts = parse_parts(&mut rest, 0)?;
        Ok(Self(parts))
    }

    /// The template with the values of `object` in it.
    pub(crate) fn render(&self, object: &Value) -> Result<String> {
        let mut text = String::new();
        render(&self.0, object, &mut text)?;
        Ok(text)
    }

    /// The values that the template's paths lead to.
    pub(crate) fn values<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let paths = self.0.iter().filter_map(|part| if let Part::Path(path) = part { Some(path) } else { None });
        paths.flat_map(|path| path.find(object)).collect()
    }
}

fn render(parts: &[Part], object: &Value, text: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Path(path) => {
                let values: Vec<String> = path.find(object).into_iter().map(scalar).collect();
                text.push_str(&values.join(" "));
            }
            Part::Range(path, body) => {
                for value in path.find(object) {
                    render(body, value, text)?;
                    if text.len() > 64 << 20 {
                        bail!("the output of the template is longer than 64 MiB");
                    }
                }
            }
        }
    }
    Ok(())
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Parses up to the end, or up to the `{end}` of the range that is open.
fn parse_parts(rest: &mut &str, depth: usize) -> Result<Vec<Part>, String> {
    if depth > 16 {
        return Err("ranges are nested more than 16 deep".to_owned());
    }
    let mut parts = Vec::new();
    loop {
        let Some(open) = rest.find('{') else {
            if depth > 0 {
                return Err("a {range} has no {end}".to_owned());
            }
            if !rest.is_empty() {
                parts.push(Part::Text((*rest).to_owned()));
            }
            return Ok(parts);
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let close = closing_brace(&rest[open..]).ok_or_else(|| format!("{:?} has no closing brace", &rest[open..]))? + open;
        let inside = rest[open + 1..close].trim();
        *rest = &rest[close + 1..];
        if inside == "end" {
            return if depth > 0 { Ok(parts) } else { Err("an {end} without a {range}".to_owned()) };
        }
        if let Some(path) = inside.strip_prefix("range ") {
            let path = parse_path(path.trim())?;
            parts.push(Part::Range(path, parse_parts(rest, depth + 1)?));
        } else if inside.starts_with(['"', '\'']) {
            parts.push(Part::Text(quoted(inside)?));
        } else {
            parts.push(Part::Path(parse_path(inside)?));
        }
    }
}

/// Where the brace at the start of `text` is closed, quotes apart.
fn closing_brace(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Result<String, String> {
    let quote = text.chars().next().unwrap_or('"');
    let inner = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).ok_or_else(|| format!("{text} is not closed"))?;
    let mut words = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c == '\\').then(|| chars.next()).flatten() {
            None => words.push(c),
            Some('n') => words.push('\n'),
            Some('t') => words.push('\t'),
            Some('r') => words.push('\r'),
            Some(other) => words.push(other),
        }
    }
    Ok(words)
}

fn parse_path(text: &str) -> Result<Path, String> {
    let mut rest = text.trim_start_matches(['$', '@']);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Below);
            rest = after;
            if !rest.starts_with('[') {
                rest = name_step(rest, &mut steps)?;
            }
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = if after.is_empty() { after } else { name_step(after, &mut steps)? };
        } else if rest.starts_with('[') {
            let close = closing_bracket(rest).ok_or_else(|| format!("{rest:?} has no closing bracket"))?;
            steps.push(bracket_step(rest[1..close].trim())?);
            rest = &rest[close + 1..];
        } else if steps.is_empty() {
            rest = name_step(rest, &mut steps)?;
        } else {
            return Err(format!("{rest:?} in the path {text:?} begins with neither a dot nor a bracket"));
        }
    }
    Ok(Path(steps))
}

/// Takes a name, in which a backslash lets a dot be part of it.
fn name_step<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" if text.starts_with('[') => {}
        "" => return Err(format!("a name is missing before {text:?}")),
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Name(name)),
    }
    Ok(&text[end..])
}

fn closing_bracket(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 1 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket_step(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::All);
    }
    if text.starts_with(['"', '\'']) {
        return quoted(text).map(Step::Name);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter_step(filter);
    }
    let number = |part: &str| match part {
        "" => Ok(None),
        part => part.parse().map(Some).map_err(|_| format!("{text:?} is neither an index, a slice, a name in quotes, * nor a filter")),
    };
    match text.split_once(':') {
        Some((start, end)) => Ok(Step::Slice { start: number(start)?, end: number(end)? }),
        None => number(text)?.map(Step::Index).ok_or_else(|| "[] is empty".to_owned()),
    }
}

fn filter_step(text: &str) -> Result<Step, String> {
    const OPERATORS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = OPERATORS
        .iter()
        .filter_map(|(sign, comparison)| text.find(sign).map(|at| (at, *sign, *comparison)))
        .min_by_key(|(at, sign, _)| (*at, 2 - sign.len()));
    let Some((at, sign, comparison)) = found else { return Ok(Step::Filter { path: parse_path(text.trim())?, test: None }) };
    let right = text[at + sign.len()..].trim();
    let right = if right.starts_with(['"', '\'']) {
        Value::String(quoted(right)?)
    } else {
        serde_json::from_str(right).map_err(|_| format!("{right:?} in a filter is neither a number, true, false nor text in quotes"))?
    };
    Ok(Step::Filter { path: parse_path(text[..at].trim())?, test: Some((comparison, right)) })
}

impl Path {
    fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            let mut next = Vec::new();
            found.into_iter().for_each(|value| step.take(value, &mut next));
            found = next;
        }
        found
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value, found: &mut Vec<&'a Value>) {
        match self {
            Self::Name(name) => found.extend(value.get(name.as_str())),
            Self::All => found.extend(children(value)),
            Self::Below => below(value, found),
            Self::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = if *index < 0 { items.len() as i64 + index } else { *index };
                found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
            Self::Slice { start, end } => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let length = items.len() as i64;
                let place = |at: i64| (if at < 0 { length + at } else { at }).clamp(0, length) as usize;
                let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
                found.extend(items.get(start..end).unwrap_or_default());
            }
            Self::Filter { path, test } => {
                let passes = |item: &&Value| {
                    let left = path.find(item);
                    match test {
                        None => !left.is_empty(),
                        Some((comparison, right)) => left.iter().any(|left| comparison.holds(left, right)),
                    }
                };
                found.extend(children(value).into_iter().filter(passes));
            }
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
        };
        match self {
            Self::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Self::Unequal => !order.is_some_and(std::cmp::Ordering::is_eq),
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn below<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(value);
    children(value).into_iter().for_each(|child| below(child, found));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_rendered() {
        let object = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "n": 1, "c": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
            {"metadata": {"name": "b"}, "n": 7}]});
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            ("items[0].n", "1"),
            (".items[-1].metadata.name", "b"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=7\n"),
            ("{.items[0].c[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[?(@.n>=7)].metadata.name}", "b"),
            ("{.items[?(@.c)].metadata.name}", "a"),
            ("{$.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{..name}", "a b"),
            ("{.items[0:1].n} end", "1 end"),
            ("{.absent.x}", ""),
            ("{.items[0].c[0]}", "{\"status\":\"True\",\"type\":\"Ready\"}"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&object).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for wrong in ["{.a", "{range .a}", "{end}", "{.a[}", "{.a[x]}", "{.a[?(@.b==c)]}", "{'x}", "{.a[]}", "{.a..}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
