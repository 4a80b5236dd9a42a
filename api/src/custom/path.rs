//! Paths into objects: the plain ones of subresources and selectable fields, and the JSONPath of printer columns.
//!
//! Source: `k8s.io/client-go/util/jsonpath`; of its language, what columns use: members, indexes, slices of all, filters.

use serde_json::Value;

/// The most steps of a path.
const MAX_STEPS: usize = 64;

/// A path of members only, such as `.spec.replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What it must be, as one sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let error = "must be a path of members such as .spec.replicas";
        let steps: Vec<String> = text.strip_prefix('.').ok_or(error)?.split('.').map(str::to_owned).collect();
        let good = |step: &String| !step.is_empty() && !step.contains(['[', ']', '*', '?', '@', '\'', '"', ' ']);
        if steps.len() <= MAX_STEPS && steps.iter().all(good) { Ok(Self(steps)) } else { Err(error) }
    }

    /// The value there.
    pub fn get<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |at, name| at.get(name))
    }

    /// Puts a value there, and the objects on the way.
    ///
    /// # Errors
    /// When something on the way is no object.
    pub fn set(&self, object: &mut Value, value: Value) -> Result<(), &'static str> {
        let mut at = object;
        for name in &self.0 {
            if at.is_null() {
                *at = Value::Object(serde_json::Map::new());
            }
            at = at.as_object_mut().ok_or("is below something that is no object")?.entry(name.clone()).or_insert(Value::Null);
        }
        *at = value;
        Ok(())
    }

    /// The names of the members, outermost first.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

/// A JSONPath.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Member(String),
    /// Counted from the end when negative.
    Index(i64),
    All,
    /// Members at any depth.
    Deep(String),
    /// Items of which this holds.
    Filter {
        path: JsonPath,
        test: Option<(Comparison, Value)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// What is wrong, as one sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let steps = Parser { text, at: 0 }.steps()?;
        if steps.is_empty() || steps.len() > MAX_STEPS {
            return Err("must be a JSONPath such as .status.phase".to_owned());
        }
        Ok(Self(steps))
    }

    /// All values there, in the order of the object.
    pub(crate) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![object], |found, step| found.into_iter().flat_map(|value| step.find(value)).collect())
    }
}

impl Step {
    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let from_end = || items.len().checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX));
                let index = if *index < 0 { from_end() } else { usize::try_from(*index).ok() };
                index.and_then(|index| items.get(index)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            },
            Self::Deep(name) => deep(value, name),
            Self::Filter { path, test } => value
                .as_array()
                .into_iter()
                .flatten()
                .filter(|item| path.find(item).into_iter().any(|found| holds(found, test.as_ref())))
                .collect(),
        }
    }
}

fn deep<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = value.get(name).into_iter().collect();
    let below: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    found.extend(below.into_iter().flat_map(|value| deep(value, name)));
    found
}

fn holds(found: &Value, test: Option<&(Comparison, Value)>) -> bool {
    let Some((comparison, wanted)) = test else { return true };
    let order = match (found, wanted) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => found.as_f64().zip(wanted.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    match comparison {
        Comparison::Equal => found == wanted || order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Unequal => found != wanted && !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, prefix: &str) -> bool {
        let taken = self.rest().starts_with(prefix);
        if taken {
            self.at += prefix.len();
        }
        taken
    }

    fn fail<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("must be a JSONPath such as .status.phase: {what} at character {}", self.text[..self.at].chars().count() + 1))
    }

    /// Steps until the text ends, or something that is none.
    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = self.some_steps()?;
        if self.rest().is_empty() {
            steps.shrink_to_fit();
            return Ok(steps);
        }
        self.fail("a `.` or `[` is missing")
    }

    fn some_steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Deep(self.name()?));
            } else if self.take(".") {
                match self.rest().chars().next() {
                    Some('[') | None => {}
                    Some('*') => {
                        self.at += 1;
                        steps.push(Step::All);
                    }
                    Some(_) => steps.push(Step::Member(self.name()?)),
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    /// A name; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut used = self.rest().len();
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => name.extend(chars.next().map(|(_, char)| char)),
                '.' | '[' | ']' | ' ' | '=' | '!' | '<' | '>' | ')' | '(' => {
                    used = at;
                    break;
                }
                char => name.push(char),
            }
        }
        if name.is_empty() {
            return self.fail("a name is missing");
        }
        self.at += used;
        Ok(name)
    }

    /// What follows a `[`, with its `]`.
    fn bracket(&mut self) -> Result<Step, String> {
        if self.take("?(") {
            return self.filter();
        }
        if self.take("*]") {
            return Ok(Step::All);
        }
        if let Some(quote) = self.rest().chars().next().filter(|char| matches!(char, '\'' | '"')) {
            let Value::String(name) = self.quoted(quote)? else { return self.fail("a name is missing") };
            return if self.take("]") { Ok(Step::Member(name)) } else { self.fail("a `]` is missing") };
        }
        let Some(end) = self.rest().find(']') else { return self.fail("a `]` is missing") };
        let Ok(index) = self.rest()[..end].trim().parse() else { return self.fail("an index is no number") };
        self.at += end + 1;
        Ok(Step::Index(index))
    }

    fn filter(&mut self) -> Result<Step, String> {
        self.spaces();
        if !self.take("@") {
            return self.fail("`@` is missing in a filter");
        }
        let path = JsonPath(self.some_steps()?);
        self.spaces();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = comparisons.into_iter().find(|(text, _)| self.take(text)).map(|(_, comparison)| comparison);
        let test = match comparison {
            Some(comparison) => {
                self.spaces();
                Some((comparison, self.literal()?))
            }
            None => None,
        };
        self.spaces();
        if self.take(")]") { Ok(Step::Filter { path, test }) } else { self.fail("`)]` is missing after a filter") }
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn literal(&mut self) -> Result<Value, String> {
        if let Some(quote) = self.rest().chars().next().filter(|char| matches!(char, '\'' | '"')) {
            return self.quoted(quote);
        }
        let end = self.rest().find([' ', ')']).unwrap_or(self.rest().len());
        match serde_json::from_str(&self.rest()[..end]) {
            Ok(value @ (Value::Bool(_) | Value::Number(_))) => {
                self.at += end;
                Ok(value)
            }
            _ => self.fail("a filter compares with a quoted text, a number, true or false"),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Value, String> {
        let inner = &self.rest()[1..];
        let Some(end) = inner.find(quote) else { return self.fail("a quote is not closed") };
        let text = inner[..end].to_owned();
        self.at += end + 2;
        Ok(Value::String(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({"spec": {"replicas": 3, "a.b": {"c": true}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        for (path, found) in [
            (".spec.replicas", json!([3])),
            (r".spec.a\.b.c", json!([true])),
            (".spec['a.b'].c", json!([true])),
            (".spec.list[0].n", json!(["x"])),
            (".spec.list[-1].n", json!(["y"])),
            (".spec.list[*].v", json!([1, 2])),
            (".spec.list[5].n", json!([])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type == 'Ready')].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].type", json!(["Other"])),
            (".spec.list[?(@.v > 1)].n", json!(["y"])),
            (".spec.list[?(@.w)].n", json!([])),
            ("..v", json!([1, 2])),
            (".absent.deeper", json!([])),
        ] {
            let read = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(json!(read.find(&object)), found, "{path}");
        }
        for wrong in ["", "spec", ".spec[", ".spec[x]", ".spec[?(@.a=b)]", ".spec['a]", ".a b", ".[?(.x)]"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plain_paths_read_and_write() {
        let path = FieldPath::parse(".spec.deep.replicas").unwrap();
        let mut object = json!({"spec": {}});
        assert_eq!(path.get(&object), None);
        path.set(&mut object, json!(2)).unwrap();
        assert_eq!(object, json!({"spec": {"deep": {"replicas": 2}}}));
        assert!(path.set(&mut json!({"spec": {"deep": 1}}), json!(2)).is_err());
        for wrong in ["", "spec", ".", ".spec..a", ".spec[0]"] {
            assert!(FieldPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
