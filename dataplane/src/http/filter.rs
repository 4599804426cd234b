//! `$filter` of lists (API-45, API-46): text to a condition, or why not.
//!
//! ```text
//! or    = and *( "or" and )
//! and   = unary *( "and" unary )
//! unary = "not" unary / "(" or ")" / test
//! test  = function "(" field "," text ")"
//!       / field ( "eq" / "ne" / "gt" / "ge" / "lt" / "le" ) literal
//!       / field "in" "(" literal *( "," literal ) ")"
//! ```

mod lexer;

use std::iter::Peekable;

use minichat_core::{ErrorCode, Timestamp};
use minichat_store::{Comparison, Filter, Place, Role};
use uuid::Uuid;

use super::cursor::List;
use crate::problem::Problem;
use lexer::{Token, Word};

const MAX_BYTES: usize = 8192;
/// Maximum number of operators, tests and literals together.
const MAX_NODES: usize = 2000;
/// Maximum nesting: far more than people write, far less than the stack allows.
const MAX_DEPTH: usize = 64;

/// Why a text is not a filter.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// It does not match the grammar or the list; with the reason.
    Wrong(String),
    TooManyNodes,
}

/// A field by which rows can be filtered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Title,
    /// The list's instant.
    At,
    Id,
    Role,
}

impl Field {
    /// The operators that can be applied to the field.
    pub(super) const fn operators(self) -> &'static [&'static str] {
        match self {
            Self::Title => &["eq", "ne", "in", "contains", "startswith", "endswith"],
            Self::At => &["eq", "ne", "gt", "ge", "lt", "le", "in"],
            Self::Id | Self::Role => &["eq", "ne", "in"],
        }
    }
}

/// The fields of `list`, by their names.
pub(super) const fn fields(list: List) -> &'static [(&'static str, Field)] {
    match list {
        List::Chats => &[
            ("title", Field::Title),
            ("updated_at", Field::At),
            ("id", Field::Id),
        ],
        List::Messages => &[
            ("created_at", Field::At),
            ("id", Field::Id),
            ("role", Field::Role),
        ],
    }
}

/// Reads the filter of `list`.
pub(super) fn parse(text: &str, list: List) -> Result<Filter, Problem> {
    if text.len() > MAX_BYTES {
        return Err(over_budget(format!("is longer than {MAX_BYTES} bytes")));
    }
    read(text, list).map_err(|fault| match fault {
        Fault::TooManyNodes => over_budget(format!("has more than {MAX_NODES} parts")),
        Fault::Wrong(reason) => Problem::new(ErrorCode::InvalidFilter, format!("$filter {reason}")),
    })
}

fn over_budget(reason: String) -> Problem {
    Problem::invalid_field("$filter", reason)
}

fn read(text: &str, list: List) -> Result<Filter, Fault> {
    let tokens = lexer::tokens(text).map_err(Fault::Wrong)?;
    let mut parser = Parser {
        tokens: tokens.into_iter().peekable(),
        list,
        nodes: 0,
        depth: 0,
    };
    let filter = parser.or()?;
    match parser.tokens.next() {
        None => Ok(filter),
        Some(token) => Err(unexpected(Some(&token), "`and`, `or` or the end")),
    }
}

fn unexpected(found: Option<&Token>, wanted: &str) -> Fault {
    let found = found.map_or_else(|| "ends".to_owned(), |token| format!("has {token}"));
    Fault::Wrong(format!("{found} where {wanted} should be."))
}

struct Parser {
    tokens: Peekable<std::vec::IntoIter<Token>>,
    list: List,
    nodes: usize,
    depth: usize,
}

impl Parser {
    fn or(&mut self) -> Result<Filter, Fault> {
        let mut left = self.and()?;
        while self.take_keyword("or") {
            self.count()?;
            left = Filter::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Filter, Fault> {
        let mut left = self.unary()?;
        while self.take_keyword("and") {
            self.count()?;
            left = Filter::And(Box::new(left), Box::new(self.unary()?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Filter, Fault> {
        if self.take_keyword("not") {
            return self.deeper(|parser| Ok(Filter::Not(Box::new(parser.unary()?))));
        }
        if self.tokens.next_if_eq(&Token::Open).is_some() {
            return self.deeper(|parser| {
                let inner = parser.or()?;
                parser.expect(&Token::Close, "`)`")?;
                Ok(inner)
            });
        }
        self.test()
    }

    fn deeper(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Filter, Fault>,
    ) -> Result<Filter, Fault> {
        self.count()?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::Wrong(format!(
                "is nested more than {MAX_DEPTH} levels deep."
            )));
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn test(&mut self) -> Result<Filter, Fault> {
        self.count()?;
        let word = self.word("a field or a function")?;
        if self.tokens.next_if_eq(&Token::Open).is_some() {
            return self.function(&word);
        }
        let field = self.field(&word)?;
        let operator = self.word("an operator")?;
        let unknown = || {
            Fault::Wrong(format!(
                "cannot compare {word} with {operator}: fields are compared with eq, ne and in, \
                 instants also with gt, ge, lt and le."
            ))
        };
        match operator.0.as_str() {
            "in" => self.set(field),
            "eq" => self.equal(field),
            "ne" => Ok(Filter::Not(Box::new(self.equal(field)?))),
            other if field == Field::At => {
                let comparison = match other {
                    "gt" => Comparison::Greater,
                    "ge" => Comparison::GreaterOrEqual,
                    "lt" => Comparison::Less,
                    "le" => Comparison::LessOrEqual,
                    _ => return Err(unknown()),
                };
                Ok(Filter::At(comparison, instant(&self.literal()?)?))
            }
            _ => Err(unknown()),
        }
    }

    fn function(&mut self, name: &Word) -> Result<Filter, Fault> {
        let place = match name.0.as_str() {
            "contains" => Place::Anywhere,
            "startswith" => Place::AtStart,
            "endswith" => Place::AtEnd,
            _ => return Err(Fault::Wrong(format!("calls {name}, which is no function."))),
        };
        let word = self.word("a field")?;
        if self.field(&word)? != Field::Title {
            return Err(Fault::Wrong(format!("cannot search in {word}.")));
        }
        self.expect(&Token::Comma, "`,`")?;
        let text = text(&self.literal()?)?;
        self.expect(&Token::Close, "`)`")?;
        Ok(Filter::TitleHas(place, text))
    }

    fn equal(&mut self, field: Field) -> Result<Filter, Fault> {
        let literal = self.literal()?;
        if field == Field::Title && literal.is_null() {
            return Ok(Filter::TitleIsNull);
        }
        if field == Field::At {
            return Ok(Filter::At(Comparison::Equal, instant(&literal)?));
        }
        one_of(field, &[literal])
    }

    fn set(&mut self, field: Field) -> Result<Filter, Fault> {
        self.expect(&Token::Open, "`(`")?;
        let mut literals = vec![self.literal()?];
        while self.tokens.next_if_eq(&Token::Comma).is_some() {
            literals.push(self.literal()?);
        }
        self.expect(&Token::Close, "`,` or `)`")?;
        one_of(field, &literals)
    }

    fn field(&self, word: &Word) -> Result<Field, Fault> {
        let fields = fields(self.list);
        let known = fields.iter().find(|(name, _)| *name == word.0);
        known.map(|(_, field)| *field).ok_or_else(|| {
            let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            Fault::Wrong(format!(
                "names {word}; the fields of this list are {names}."
            ))
        })
    }

    fn word(&mut self, wanted: &str) -> Result<Word, Fault> {
        match self.tokens.next() {
            Some(Token::Word(word)) => Ok(word.lower()),
            other => Err(unexpected(other.as_ref(), wanted)),
        }
    }

    fn literal(&mut self) -> Result<Token, Fault> {
        self.count()?;
        match self.tokens.next() {
            Some(token @ (Token::Text(_) | Token::Word(_))) => Ok(token),
            other => Err(unexpected(other.as_ref(), "a value")),
        }
    }

    fn expect(&mut self, token: &Token, wanted: &str) -> Result<(), Fault> {
        match self.tokens.next() {
            Some(found) if found == *token => Ok(()),
            other => Err(unexpected(other.as_ref(), wanted)),
        }
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let is_it = |token: &Token| matches!(token, Token::Word(word) if word.0.eq_ignore_ascii_case(keyword));
        self.tokens.next_if(is_it).is_some()
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Fault::TooManyNodes);
        }
        Ok(())
    }
}

fn one_of(field: Field, literals: &[Token]) -> Result<Filter, Fault> {
    Ok(match field {
        Field::Title => Filter::TitleIn(all(literals, text)?),
        Field::At => Filter::AtIn(all(literals, instant)?),
        Field::Id => Filter::IdIn(all(literals, id)?),
        Field::Role => Filter::RoleIn(all(literals, role)?),
    })
}

fn all<T>(literals: &[Token], read: fn(&Token) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    literals.iter().map(read).collect()
}

fn text(literal: &Token) -> Result<String, Fault> {
    match literal {
        Token::Text(text) => Ok(text.clone()),
        other => Err(unexpected(Some(other), "a quoted text")),
    }
}

/// Digits below a microsecond are dropped, as in stored instants.
fn instant(literal: &Token) -> Result<Timestamp, Fault> {
    let instant = match literal {
        Token::Word(word) if word.0.len() >= "2030-01-01T00:00:00Z".len() => {
            word.0.parse::<Timestamp>().ok()
        }
        _ => None,
    };
    instant
        .filter(|at| super::cursor::INSTANTS.contains(&at.as_micros()))
        .ok_or_else(|| {
            unexpected(
                Some(literal),
                "an unquoted instant such as 2030-01-31T12:00:00Z",
            )
        })
}

fn id(literal: &Token) -> Result<Uuid, Fault> {
    let text = match literal {
        Token::Text(text) => text,
        Token::Word(word) => &word.0,
        _ => "",
    };
    text.parse()
        .map_err(|_| unexpected(Some(literal), "a UUID"))
}

fn role(literal: &Token) -> Result<Role, Fault> {
    match literal {
        Token::Text(text) => Role::named(text),
        _ => None,
    }
    .ok_or_else(|| unexpected(Some(literal), "'user', 'assistant' or 'system'"))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
