//! Keys that occur twice in one JSON object, of which parsers silently keep the last.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Most duplicates that are reported of one document.
const MAX_REPORTED: usize = 100;

/// Why a text is no JSON that is accepted: bad syntax, or nested deeper than 128 levels.
#[derive(Debug, thiserror::Error)]
#[error("reading JSON")]
pub struct JsonError(#[from] serde_json::Error);

/// Paths of the keys that occur more than once in their object, such as `spec.image`.
///
/// # Errors
/// When the text is no JSON, or is nested deeper than 128 levels.
pub fn duplicate_keys(bytes: &[u8]) -> Result<Vec<String>, JsonError> {
    let mut finder = Finder { path: Vec::new(), found: Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Node(&mut finder).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(finder.found)
}

struct Finder {
    path: Vec<String>,
    found: Vec<String>,
}

impl Finder {
    fn report(&mut self, key: &str) {
        if self.found.len() >= MAX_REPORTED {
            return;
        }
        let mut path = String::new();
        for part in self.path.iter().map(String::as_str).chain([key]) {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        if !self.found.contains(&path) {
            self.found.push(path);
        }
    }
}

struct Node<'a>(&'a mut Finder);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        loop {
            self.0.path.push(format!("[{index}]"));
            let more = items.next_element_seed(Node(self.0))?.is_some();
            self.0.path.pop();
            if !more {
                return Ok(());
            }
            index = index.checked_add(1).ok_or_else(|| A::Error::custom("list too long"))?;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = fields.next_key::<String>()? {
            if seen.contains(&key) {
                self.0.report(&key);
            }
            self.0.path.push(key.clone());
            fields.next_value_seed(Node(self.0))?;
            self.0.path.pop();
            seen.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_duplicates_at_every_depth() {
        let found = duplicate_keys(br#"{"a":1,"spec":{"image":"x","env":[{"n":1},{"n":1,"n":2}],"image":"y"},"a":2,"a":3}"#).unwrap();
        assert_eq!(found, ["spec.env[1].n", "spec.image", "a"]);
        assert!(duplicate_keys(br#"{"a":{"b":1},"c":{"b":1}}"#).unwrap().is_empty());
    }

    #[test]
    fn hostile_text_is_an_error() {
        for text in ["", "{", "{\"a\":1}}", "nul", "{\"a\" 1}", "\u{1}"] {
            assert!(duplicate_keys(text.as_bytes()).is_err(), "{text}");
        }
        assert!(duplicate_keys("[".repeat(100_000).as_bytes()).is_err());
        assert!(duplicate_keys(b"{\"\xff\":1}").is_err());
    }
}
