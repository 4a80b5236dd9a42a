//! Which objects a list or watch is about: label and field selectors with Kubernetes' syntax and meaning
//! (apimachinery `labels/selector.go`, `fields/selector.go`).

mod lexer;

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_api::registry::View;

use crate::store::{Index, Key};
use lexer::{Lexer, Token};

/// A selector that cannot be understood; its text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {why}")]
pub struct SelectorError {
    /// What was found where something else should be.
    pub why: String,
}

impl SelectorError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

/// The objects that a list or watch is about. The default selects all of the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this namespace; `None` for all, and for cluster-scoped resources.
    pub namespace: Option<Arc<str>>,
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// All objects of one namespace.
    pub fn namespace(namespace: impl Into<Arc<str>>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Whether it holds an object.
    pub fn selects(&self, key: &Key, index: &Index) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace)
            && self.labels.matches(index)
            && self.fields.matches(key, index)
    }

    /// Whether neither labels nor fields matter.
    pub fn is_by_namespace_only(&self) -> bool {
        self.labels.requirements.is_empty() && self.fields.terms.is_empty()
    }
}

/// A parsed label selector: all requirements must hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

/// `=`, `==` and `in` are one test; so are `!=` and `notin`, which hold for objects without the label too.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses `a=b,c in (d,e),!f`; empty selects everything.
    ///
    /// # Errors
    /// On bad syntax, and on keys and values that no label can have.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut lexer = Lexer::new(text);
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            requirements.push(Requirement::parse(&mut lexer)?);
            match lexer.next() {
                Token::End => return Ok(Self { requirements }),
                Token::Comma if matches!(lexer.peek(), Token::Word(_) | Token::Not) => {}
                Token::Comma => return Err(expected(lexer.peek(), "identifier after ','")),
                other => return Err(expected(other, "',' or 'end of string'")),
            }
        }
    }

    /// Whether all requirements hold of an object's labels.
    pub fn matches(&self, index: &Index) -> bool {
        self.requirements.iter().all(|r| r.test.holds(index.labels.get(&r.key).map(String::as_str)))
    }
}

impl Requirement {
    fn parse(lexer: &mut Lexer<'_>) -> Result<Self, SelectorError> {
        let absent = lexer.peek() == Token::Not;
        if absent {
            lexer.next();
        }
        let key = match lexer.next() {
            Token::Word(word) => word,
            other => return Err(expected(other, if absent { "identifier" } else { "!, identifier, or 'end of string'" })),
        };
        if !is_label_key(key) {
            return Err(SelectorError::new(format!("invalid label key {key:?}")));
        }
        let key = key.to_owned();
        if absent {
            return Ok(Self { key, test: Test::DoesNotExist });
        }
        if matches!(lexer.peek(), Token::End | Token::Comma) {
            return Ok(Self { key, test: Test::Exists });
        }
        let test = match lexer.next() {
            Token::Word("in") => Test::In(parse_set(lexer)?),
            Token::Word("notin") => Test::NotIn(parse_set(lexer)?),
            Token::Equals | Token::DoubleEquals => Test::In([parse_value(lexer)?.to_owned()].into()),
            Token::NotEquals => Test::NotIn([parse_value(lexer)?.to_owned()].into()),
            Token::Greater => Test::GreaterThan(parse_integer(lexer)?),
            Token::Less => Test::LessThan(parse_integer(lexer)?),
            other => return Err(expected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            check_values(values)?;
        }
        Ok(Self { key, test })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::GreaterThan(bound) => value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v > *bound),
            Self::LessThan(bound) => value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v < *bound),
        }
    }
}

/// The value after `=`; nothing stands for the empty value.
fn parse_value<'a>(lexer: &mut Lexer<'a>) -> Result<&'a str, SelectorError> {
    if matches!(lexer.peek(), Token::End | Token::Comma) {
        return Ok("");
    }
    match lexer.next() {
        Token::Word(word) => Ok(word),
        other => Err(expected(other, "identifier")),
    }
}

fn parse_integer(lexer: &mut Lexer<'_>) -> Result<i64, SelectorError> {
    let value = parse_value(lexer)?;
    value.parse().map_err(|_| SelectorError::new(format!("{value:?}: for 'Gt', 'Lt' operators, the value must be an integer")))
}

/// `(a,b)`; between and beside commas nothing stands for the empty value.
fn parse_set(lexer: &mut Lexer<'_>) -> Result<BTreeSet<String>, SelectorError> {
    match lexer.next() {
        Token::Open => {}
        other => return Err(expected(other, "'('")),
    }
    let mut values = BTreeSet::new();
    if lexer.peek() == Token::Close {
        return Err(SelectorError::new("for 'in', 'notin' operators, values set can't be empty"));
    }
    let mut value = "";
    loop {
        match lexer.next() {
            Token::Word(word) if value.is_empty() => value = word,
            Token::Comma => {
                values.insert(std::mem::take(&mut value).to_owned());
            }
            Token::Close => {
                values.insert(value.to_owned());
                return Ok(values);
            }
            other => return Err(expected(other, "',' or ')'")),
        }
    }
}

fn expected(found: Token<'_>, wanted: &str) -> SelectorError {
    SelectorError::new(format!("found '{found}', expected: {wanted}"))
}

fn check_values(values: &BTreeSet<String>) -> Result<(), SelectorError> {
    match values.iter().find(|value| !value.is_empty() && !is_name_part(value)) {
        Some(value) => Err(SelectorError::new(format!("invalid label value {value:?}"))),
        None => Ok(()),
    }
}

/// At most 63 of `[A-Za-z0-9._-]`, beginning and ending with a letter or digit.
fn is_name_part(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A name with an optional DNS subdomain before a slash.
fn is_label_key(text: &str) -> bool {
    let Some((prefix, name)) = text.split_once('/') else { return is_name_part(text) };
    let is_dns_label =
        |label: &str| is_name_part(label) && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    prefix.len() <= 253 && prefix.split('.').all(is_dns_label) && is_name_part(name)
}

/// A parsed field selector: all terms must hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// Such as `status.nodeName`.
    pub path: String,
    /// What the field is compared with.
    pub value: String,
    /// Whether it must be equal, or must not be.
    pub equal: bool,
}

impl FieldSelector {
    /// Parses `a=b,c==d,e!=f`, with `\\`, `\,` and `\=` in values; empty selects everything.
    ///
    /// # Errors
    /// On bad syntax. Whether a kind has these fields is not checked here.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split_terms(text).into_iter().filter(|term| !term.is_empty()).map(|term| FieldTerm::parse(text, term));
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// The terms: for checking their paths against those of the kind.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The same selection among the stored objects that a view is made of: those without an object of the view are left out.
    pub(crate) fn of_stored(self, view: &View) -> Self {
        let stored = |path: &str| view.fields.iter().find(|(known, _)| *known == path).map_or(path, |(_, stored)| stored).to_owned();
        let mut terms: Vec<FieldTerm> = self.terms.into_iter().map(|term| FieldTerm { path: stored(&term.path), ..term }).collect();
        terms.push(FieldTerm { path: view.exists.to_owned(), value: String::new(), equal: false });
        Self { terms }
    }

    /// Whether all terms hold of an object.
    pub fn matches(&self, key: &Key, index: &Index) -> bool {
        self.terms.iter().all(|term| (term.value == field(key, index, &term.path)) == term.equal)
    }
}

/// The value of a field; absent is empty.
fn field<'a>(key: &'a Key, index: &'a Index, path: &str) -> &'a str {
    match path {
        "metadata.name" => &key.name,
        "metadata.namespace" => &key.namespace,
        _ => index.fields.iter().find(|(known, _)| known == path).map_or("", |(_, value)| value),
    }
}

impl FieldTerm {
    fn parse(whole: &str, term: &str) -> Result<Self, SelectorError> {
        let operators = [("!=", false), ("==", true), ("=", true)];
        let found = (0..term.len()).filter(|at| term.is_char_boundary(*at)).find_map(|at| {
            let (path, rest) = term.split_at(at);
            operators.iter().find_map(|(operator, equal)| Some((path, *equal, rest.strip_prefix(operator)?)))
        });
        let Some((path, equal, value)) = found else {
            return Err(SelectorError::new(format!("invalid selector: '{whole}'; can't understand '{term}'")));
        };
        Ok(Self { path: path.to_owned(), value: unescape(value)?, equal })
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence = other.map_or_else(String::new, String::from);
                    return Err(SelectorError::new(format!("invalid field selector: invalid escape sequence: \\{sequence}")));
                }
            },
            ',' | '=' => return Err(SelectorError::new(format!("invalid field selector: unescaped character in value: {c}"))),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
