//! The tokens of a filter.

use std::fmt;

/// One word or symbol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    Open,
    Close,
    Comma,
    /// A quoted text, without its quotes.
    Text(String),
    /// A name, a keyword or an unquoted value, as written.
    Word(Word),
}

/// An unquoted word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word(pub(super) String);

impl Word {
    pub(super) fn lower(self) -> Self {
        Self(self.0.to_ascii_lowercase())
    }
}

impl Token {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Word(word) if word.0 == "null")
    }
}

/// Maximum number of characters of a filter that an answer repeats.
const QUOTED_CHARACTERS: usize = 40;

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start: String = self.0.chars().take(QUOTED_CHARACTERS).collect();
        write!(f, "`{start}`")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Comma => f.write_str("`,`"),
            Self::Text(_) => f.write_str("a quoted text"),
            Self::Word(word) => word.fmt(f),
        }
    }
}

/// The tokens of `text`, or why it cannot be split.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '(' => (Token::Open, &rest[1..]),
            ')' => (Token::Close, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            '\'' => quoted(&rest[1..])?,
            _ => word(rest, first)?,
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

/// A text up to its closing quote; `''` stands for one quote.
fn quoted(mut rest: &str) -> Result<(Token, &str), String> {
    let mut text = String::new();
    loop {
        let Some((part, after)) = rest.split_once('\'') else {
            return Err("has a quoted text without an end.".to_owned());
        };
        text.push_str(part);
        let Some(after_two) = after.strip_prefix('\'') else {
            if text.contains('\0') {
                return Err("must not contain U+0000.".to_owned());
            }
            return Ok((Token::Text(text), after));
        };
        text.push('\'');
        rest = after_two;
    }
}

fn word(rest: &str, first: char) -> Result<(Token, &str), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.:+".contains(c);
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    if end == 0 {
        return Err(format!("has the character {first:?}, which means nothing."));
    }
    let (word, after) = rest.split_at(end);
    Ok((Token::Word(Word(word.to_owned())), after))
}
