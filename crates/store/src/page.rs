//! Keyset paging (API-40..43): a page is found by the key of its boundary row,
//! never by an offset.

use minichat_core::Timestamp;
use uuid::Uuid;

/// The key of a row in both lists: `updated_at` for chats, `created_at` for
/// messages, then the id. It is total because ids are unique.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub at: Timestamp,
    pub id: Uuid,
}

/// Which way from the boundary row, in the order of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Next,
    Previous,
}

/// One page of a list: the first one when `cursor` is absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Rows wanted, at least 1.
    pub limit: u32,
    /// The boundary row, excluded from the page.
    pub cursor: Option<(Key, Direction)>,
}

/// Rows in the order of the list, whichever way the page was reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Key for the cursor of the following page; `None` on the last one.
    pub next: Option<Key>,
    /// Key for the cursor of the preceding page; `None` on the first one.
    pub previous: Option<Key>,
}

impl PageRequest {
    /// The first page.
    pub const fn first(limit: u32) -> Self {
        Self {
            limit,
            cursor: None,
        }
    }

    /// One row more than the page tells whether another page follows.
    pub(crate) const fn fetch_limit(self) -> i64 {
        self.limit as i64 + 1
    }

    /// Makes the page out of the rows found, nearest to the boundary first.
    pub(crate) fn page<T>(self, mut rows: Vec<T>, key: impl Fn(&T) -> Key) -> Page<T> {
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
