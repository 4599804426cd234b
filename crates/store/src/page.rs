//! Keyset paging (API-40 to API-44): the key of the boundary row selects a
//! page, never an offset.

use std::fmt::Write as _;

use minichat_core::Timestamp;
use uuid::Uuid;

use crate::filter::{Filter, Writer};
use crate::tx::Dialect;
use crate::value::Param;

/// The key of a row: `updated_at` for chats and `created_at` for messages, then
/// the id. The order is total because ids are unique.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub at: Timestamp,
    pub id: Uuid,
}

/// Which way to go from the boundary row, in the order of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Next,
    Previous,
}

/// Ascending or descending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    Ascending,
    Descending,
}

/// The order of a list, total because ids are unique (API-42).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// By the list's instant, then by id.
    At(Sort, Sort),
    /// By id. Nothing else is needed.
    Id(Sort),
}

/// One page of a list: the first one if `cursor` is absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Number of rows, at least 1.
    pub limit: u32,
    pub order: Order,
    /// The boundary row, which is not part of the page, and the direction.
    pub cursor: Option<(Key, Direction)>,
    /// The rows that belong to the list.
    pub filter: Option<Filter>,
}

/// Rows in the order of the list, whichever direction was used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Key for the cursor of the next page; `None` on the last page.
    pub next: Option<Key>,
    /// Key for the cursor of the previous page; `None` on the first page.
    pub previous: Option<Key>,
}

/// The columns of a list by which it can be ordered.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) at: &'static str,
    pub(crate) id: &'static str,
}

impl Sort {
    const fn reversed(self) -> Self {
        match self {
            Self::Ascending => Self::Descending,
            Self::Descending => Self::Ascending,
        }
    }

    const fn keyword(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }

    const fn after(self) -> &'static str {
        match self {
            Self::Ascending => ">",
            Self::Descending => "<",
        }
    }
}

impl Order {
    /// Most recently active first: the order of chats.
    pub const NEWEST_FIRST: Self = Self::At(Sort::Descending, Sort::Descending);
    /// The order of messages.
    pub const OLDEST_FIRST: Self = Self::At(Sort::Ascending, Sort::Ascending);

    const fn reversed(self) -> Self {
        match self {
            Self::At(at, id) => Self::At(at.reversed(), id.reversed()),
            Self::Id(id) => Self::Id(id.reversed()),
        }
    }
}

impl PageRequest {
    /// The first page of the whole list.
    pub const fn first(limit: u32, order: Order) -> Self {
        Self {
            limit,
            order,
            cursor: None,
            filter: None,
        }
    }

    /// Appends condition, order and length of the page to a query that ends in
    /// a condition. One more row than needed is read, to find out whether
    /// another page follows.
    pub(crate) fn complete(
        &self,
        select: &str,
        params: &mut Vec<Param<'static>>,
        columns: Columns,
        dialect: Dialect,
    ) -> String {
        let Columns { at, id } = columns;
        let mut sql = select.to_owned();
        let mut writer = Writer {
            dialect,
            at,
            id,
            sql: &mut sql,
            params,
        };
        if let Some(filter) = &self.filter {
            writer.sql.push_str("AND ");
            writer.filter(filter);
        }
        let order = match self.cursor {
            Some((_, Direction::Previous)) => self.order.reversed(),
            _ => self.order,
        };
        if let Some((key, _)) = self.cursor {
            beyond(&mut writer, order, key);
        }
        let _ = match order {
            Order::At(a, b) => write!(
                writer.sql,
                " ORDER BY {at} {}, {id} {} LIMIT ",
                a.keyword(),
                b.keyword()
            ),
            Order::Id(sort) => write!(writer.sql, " ORDER BY {id} {} LIMIT ", sort.keyword()),
        };
        writer.param(Param::Int(i64::from(self.limit) + 1));
        sql
    }

    /// Builds the page from the rows, nearest to the boundary first.
    pub(crate) fn page<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> Key) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let backward = matches!(self.cursor, Some((_, Direction::Previous)));
        if backward {
            rows.reverse();
        }
        let has_next = backward || more;
        let has_previous = if backward {
            more
        } else {
            self.cursor.is_some()
        };
        Page {
            next: rows.last().filter(|_| has_next).map(&key),
            previous: rows.first().filter(|_| has_previous).map(&key),
            items: rows,
        }
    }
}

/// The condition that a row lies beyond `key` in `order`.
fn beyond(writer: &mut Writer<'_>, order: Order, key: Key) {
    let (at, id) = (writer.at, writer.id);
    let mut part = |text: String, value: Param<'_>| {
        writer.sql.push_str(&text);
        writer.param(value);
    };
    match order {
        Order::Id(sort) => part(format!(" AND {id} {} ", sort.after()), key.id.into()),
        // As a row comparison, it is one range of the index.
        Order::At(a, b) if a == b => {
            part(format!(" AND ({at}, {id}) {} (", a.after()), key.at.into());
            part(", ".to_owned(), key.id.into());
            writer.sql.push(')');
        }
        Order::At(a, b) => {
            part(format!(" AND ({at} {} ", a.after()), key.at.into());
            part(format!(" OR ({at} = "), key.at.into());
            part(format!(" AND {id} {} ", b.after()), key.id.into());
            writer.sql.push_str("))");
        }
    }
}
