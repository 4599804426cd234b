//! Lists: paging, filter, order and selection (API-40 to API-47).

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use minichat_core::ErrorCode;
use minichat_store::{Direction, Page, PageRequest};
use schemars::JsonSchema;
use serde::Serialize;

use super::cursor::{Cursor, FilterDigest, List};
use super::select::{Item, Selection};
use super::{filter, order, select};
use crate::problem::Problem;

pub(super) const DEFAULT_LIMIT: u32 = 20;
pub(super) const MAX_LIMIT: u32 = 100;

/// One page of a list (API-40).
#[derive(Serialize, JsonSchema, Debug)]
#[schemars(rename = "{T}Page")]
pub(super) struct PageView<'a, T> {
    items: Vec<Item<'a, T>>,
    page_info: PageInfo,
}

/// The position of a page in its list.
#[derive(Serialize, JsonSchema, Debug)]
struct PageInfo {
    /// The limit that was applied.
    limit: u32,
    /// `cursor` of the next page; `null` on the last page.
    next_cursor: Option<String>,
    /// `cursor` of the previous page; `null` if the request had no cursor.
    prev_cursor: Option<String>,
}

/// A parsed request for a list.
pub(super) struct ListRequest {
    list: List,
    filter: FilterDigest,
    selection: Option<Selection>,
    pub(super) page: PageRequest,
}

impl ListRequest {
    /// The response for `page`, converted item by item.
    pub(super) fn view<Row, T>(
        &self,
        page: Page<Row>,
        mut view: impl FnMut(Row) -> T,
    ) -> PageView<'_, T> {
        let item = |row| Item {
            whole: view(row),
            selection: self.selection.as_ref(),
        };
        let cursor = |key, direction| {
            let (list, filter, order) = (self.list, self.filter, self.page.order);
            let cursor = Cursor {
                list,
                order,
                filter,
                key,
                direction,
            };
            cursor.encode()
        };
        PageView {
            page_info: PageInfo {
                limit: self.page.limit,
                next_cursor: page.next.map(|key| cursor(key, Direction::Next)),
                prev_cursor: page.previous.map(|key| cursor(key, Direction::Previous)),
            },
            items: page.items.into_iter().map(item).collect(),
        }
    }
}

/// The query of a list route, not decoded yet. Unknown parameters are ignored.
pub(super) struct ListQuery(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for ListQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(parameters)| Self(parameters))
            .map_err(|_| Problem::invalid_field("query", "is not a valid query string"))
    }
}

impl ListQuery {
    /// Parses the request for `list`.
    pub(super) fn read(&self, list: List) -> Result<ListRequest, Problem> {
        let selection = self.one("$select")?;
        let selection = selection
            .map(|text| select::parse(text, list))
            .transpose()?;
        let text = self.one("$filter")?;
        let filter = text.map(|text| filter::parse(text, list)).transpose()?;
        let digest = FilterDigest::of(text);
        let limit = self.one("limit")?.map_or(Ok(DEFAULT_LIMIT), limit)?;
        let (order, cursor) = match (self.one("cursor")?, self.one("$orderby")?) {
            (Some(_), Some(_)) => Err(Problem::new(
                ErrorCode::InvalidCursor,
                "A cursor brings its order along. Leave $orderby out.",
            )),
            (None, None) => Ok((order::default(list), None)),
            (None, Some(text)) => Ok((order::parse(text, list)?, None)),
            (Some(text), None) => {
                let cursor = Cursor::decode(text, list)?;
                Ok((cursor.order, Some(cursor)))
            }
        }?;
        if cursor.is_some_and(|cursor| cursor.filter != digest) {
            return Err(Problem::new(
                ErrorCode::InvalidFilter,
                "$filter must be the same on every page: repeat the one of the first page.",
            ));
        }
        Ok(ListRequest {
            list,
            filter: digest,
            selection,
            page: PageRequest {
                limit,
                order,
                cursor: cursor.map(|cursor| (cursor.key, cursor.direction)),
                filter,
            },
        })
    }

    /// The value of a parameter that may occur once.
    fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Problem::invalid_field(name, "is given more than once")),
            (value, _) => Ok(value.map(|(_, value)| value.as_str())),
        }
    }
}

/// API-41: a number of any length is accepted; above 100 it counts as 100.
fn limit(text: &str) -> Result<u32, Problem> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::invalid_field(
            "limit",
            "must be a whole number from 1 to 100",
        ));
    }
    match text.parse().unwrap_or(MAX_LIMIT).min(MAX_LIMIT) {
        0 => Err(Problem::new(
            ErrorCode::InvalidLimit,
            "limit must be at least 1.",
        )),
        limit => Ok(limit),
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
