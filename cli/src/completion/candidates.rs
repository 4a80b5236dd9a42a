//! What may stand in a place, and how it is told to a shell.

use crate::output::table::clean;

/// What may stand in a place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is known.
    #[default]
    Nothing,
    /// The name of a file, which shells know themselves.
    Files,
    /// These words.
    Words(Vec<Word>),
}

/// A word and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) meaning: String,
}

impl Word {
    /// A word that needs no explanation.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), meaning: String::new() }
    }

    /// A word with what it means.
    pub(super) fn meaning(text: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { text: text.into(), meaning: meaning.into() }
    }
}

/// The lines for a shell: those that begin with what is `typed`.
pub(super) fn render(found: &Found, typed: &str) -> String {
    match found {
        Found::Nothing => String::new(),
        Found::Files => ":files\n".to_owned(),
        Found::Words(words) => words.iter().filter(|word| word.text.starts_with(typed)).map(line).collect(),
    }
}

fn line(word: &Word) -> String {
    let tab = if word.meaning.is_empty() { "" } else { "\t" };
    format!("{}{tab}{}\n", clean(&word.text), clean(&word.meaning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_fit_are_lines() {
        let words = Found::Words(vec![Word::meaning("get", "Show\nobjects"), Word::new("gone"), Word::new("apply")]);
        assert_eq!(render(&words, "g"), "get\tShow objects\ngone\n");
        assert_eq!((render(&Found::Files, "x").as_str(), render(&Found::Nothing, "").as_str()), (":files\n", ""));
    }
}
