//! Conditions on the rows of a list (API-45), and their SQL.
//! Every condition is either true or false, never null. An absent title equals
//! nothing, contains nothing, and differs from every text. So `not` means the
//! same on both databases and what a reader expects.

use std::fmt::Write as _;

use minichat_core::Timestamp;
use uuid::Uuid;

use crate::messages::Role;
use crate::tx::Dialect;
use crate::value::Param;

/// A condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    /// The chat's title equals one of these texts.
    TitleIn(Vec<String>),
    TitleIsNull,
    /// The chat's title has the text at that place, ignoring case.
    TitleHas(Place, String),
    IdIn(Vec<Uuid>),
    /// The message has one of these roles.
    RoleIn(Vec<Role>),
    /// Compares the list's instant with this one.
    At(Comparison, Timestamp),
    AtIn(Vec<Timestamp>),
}

/// Where the text must be in the title.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Anywhere,
    AtStart,
    AtEnd,
}

/// How two instants compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    const fn sql(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

/// Writes conditions as SQL. Numbers parameters after those that are already
/// bound.
pub(crate) struct Writer<'w> {
    pub(crate) dialect: Dialect,
    /// The list's columns of instant and id.
    pub(crate) at: &'static str,
    pub(crate) id: &'static str,
    pub(crate) sql: &'w mut String,
    pub(crate) params: &'w mut Vec<Param<'static>>,
}

impl Writer<'_> {
    pub(crate) fn filter(&mut self, filter: &Filter) {
        match filter {
            Filter::And(a, b) => self.pair(a, "AND", b),
            Filter::Or(a, b) => self.pair(a, "OR", b),
            Filter::Not(inner) => {
                self.sql.push_str("NOT ");
                self.filter(inner);
            }
            Filter::TitleIn(texts) => {
                self.sql.push_str("COALESCE(");
                self.one_of("c.title", texts.iter().map(|t| Param::from(t.as_str())));
                self.sql.push_str(", FALSE)");
            }
            Filter::TitleIsNull => self.sql.push_str("(c.title IS NULL)"),
            Filter::TitleHas(place, text) => self.title_has(*place, text),
            Filter::IdIn(ids) => self.one_of(self.id, ids.iter().copied().map(Param::from)),
            Filter::RoleIn(roles) => {
                let roles = roles.iter().map(|role| Param::from(role.as_str()));
                self.one_of("m.role", roles);
            }
            Filter::At(comparison, at) => {
                let _ = write!(self.sql, "({} {} ", self.at, comparison.sql());
                self.param(Param::from(*at));
                self.sql.push(')');
            }
            Filter::AtIn(instants) => {
                self.one_of(self.at, instants.iter().copied().map(Param::from));
            }
        }
    }

    /// Binds a value and writes its placeholder.
    pub(crate) fn param(&mut self, value: Param<'_>) {
        self.params.push(value.into_owned());
        let _ = write!(self.sql, "${}", self.params.len());
    }

    fn pair(&mut self, a: &Filter, operator: &str, b: &Filter) {
        self.sql.push('(');
        self.filter(a);
        let _ = write!(self.sql, " {operator} ");
        self.filter(b);
        self.sql.push(')');
    }

    fn one_of<'p>(&mut self, column: &str, values: impl Iterator<Item = Param<'p>>) {
        let _ = write!(self.sql, "({column} IN (");
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.sql.push(',');
            }
            self.param(value);
        }
        self.sql.push_str("))");
    }

    /// Compares lower-case forms as plain text, so that no character is a
    /// wildcard.
    fn title_has(&mut self, place: Place, text: &str) {
        let title = self.lower("c.title");
        self.params.push(Param::from(text).into_owned());
        let text = self.lower(&format!("CAST(${} AS TEXT)", self.params.len()));
        let _ = match place {
            Place::Anywhere => write!(self.sql, "COALESCE(strpos({title}, {text}) > 0, FALSE)"),
            Place::AtStart => write!(
                self.sql,
                "COALESCE(substr({title}, 1, length({text})) = {text}, FALSE)"
            ),
            Place::AtEnd => write!(
                self.sql,
                "COALESCE(length({title}) >= length({text}) AND \
                 substr({title}, length({title}) - length({text}) + 1) = {text}, FALSE)"
            ),
        };
    }

    /// Lower case by the rules of Unicode, independent of the database's
    /// locale.
    fn lower(&self, text: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => format!("unicode_lower({text})"),
            Dialect::Postgres => format!("lower({text} COLLATE \"und-x-icu\")"),
        }
    }
}
