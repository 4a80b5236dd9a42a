//! Words and signs of a label selector.

use std::fmt;

/// One word or sign. `in` and `notin` are words: where they are operators is the parser's to say, since they may be keys too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Not => "!",
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::End => "",
        })
    }
}

/// Longest first, so that `==` is not two `=`.
const SIGNS: [(&str, Token<'static>); 9] = [
    ("==", Token::DoubleEquals),
    ("!=", Token::NotEquals),
    ("=", Token::Equals),
    ("!", Token::Not),
    (">", Token::Greater),
    ("<", Token::Less),
    ("(", Token::Open),
    (")", Token::Close),
    (",", Token::Comma),
];

/// Reads tokens one by one. After the end it goes on saying so.
pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn peek(&self) -> Token<'a> {
        self.scan().0
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.scan();
        self.rest = rest;
        token
    }

    fn scan(&self) -> (Token<'a>, &'a str) {
        let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let text = self.rest.trim_start_matches(is_space);
        if text.is_empty() {
            return (Token::End, text);
        }
        if let Some((sign, token)) = SIGNS.iter().find(|(sign, _)| text.starts_with(sign)) {
            return (*token, &text[sign.len()..]);
        }
        let is_sign = |c: char| matches!(c, '=' | '!' | '>' | '<' | '(' | ')' | ',');
        let end = text.find(|c| is_space(c) || is_sign(c)).unwrap_or(text.len());
        (Token::Word(&text[..end]), &text[end..])
    }
}
