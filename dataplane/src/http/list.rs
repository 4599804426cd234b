//! Paging of lists (API-40 to API-44, API-46).

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use minichat_core::ErrorCode;
use minichat_store::{Direction, Page, PageRequest};
use serde::Serialize;

use super::cursor::{self, List};
use crate::problem::Problem;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// The answer of a list route (API-40).
#[derive(Serialize, Debug)]
pub(super) struct PageView<T> {
    items: Vec<T>,
    page_info: PageInfo,
}

#[derive(Serialize, Debug)]
struct PageInfo {
    /// The limit applied.
    limit: u32,
    next_cursor: Option<String>,
    prev_cursor: Option<String>,
}

impl<T> PageView<T> {
    pub(super) fn new<Row>(
        list: List,
        request: PageRequest,
        page: Page<Row>,
        item: impl FnMut(Row) -> T,
    ) -> Self {
        let cursor = |key, direction| cursor::encode(list, key, direction);
        Self {
            page_info: PageInfo {
                limit: request.limit,
                next_cursor: page.next.map(|key| cursor(key, Direction::Next)),
                prev_cursor: page.previous.map(|key| cursor(key, Direction::Previous)),
            },
            items: page.items.into_iter().map(item).collect(),
        }
    }
}

/// The query of a list route, undecoded. Parameters that no list knows are
/// ignored.
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
    /// Which page of `list` is asked for.
    pub(super) fn page_request(&self, list: List) -> Result<PageRequest, Problem> {
        if self.one("$filter")?.is_some() {
            return Err(Problem::new(
                ErrorCode::InvalidFilter,
                "This list cannot be filtered. Leave $filter out.",
            ));
        }
        let limit = self.one("limit")?.map_or(Ok(DEFAULT_LIMIT), limit)?;
        let cursor = match (self.one("cursor")?, self.one("$orderby")?) {
            (Some(_), Some(_)) => Err(Problem::new(
                ErrorCode::InvalidCursor,
                "A cursor brings its order along. Leave $orderby out.",
            )),
            (None, Some(_)) => Err(Problem::new(
                ErrorCode::InvalidOrderby,
                "The order of this list is fixed. Leave $orderby out.",
            )),
            (text, None) => text.map(|text| cursor::decode(text, list)).transpose(),
        }?;
        Ok(PageRequest { limit, cursor })
    }

    /// The value of a parameter that may be given once.
    fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Problem::invalid_field(name, "is given more than once")),
            (value, _) => Ok(value.map(|(_, value)| value.as_str())),
        }
    }
}

/// API-41: any number of digits is a number, and above 100 it is 100.
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
mod tests {
    use minichat_core::Timestamp;
    use minichat_store::Key;
    use uuid::Uuid;

    use super::*;

    fn request(query: &str) -> Result<PageRequest, Problem> {
        let uri = format!("/chats?{query}").parse().unwrap();
        let Query(parameters) = Query::try_from_uri(&uri).unwrap();
        ListQuery(parameters).page_request(List::Chats)
    }

    /// API-41
    #[test]
    fn the_limit_is_defaulted_clamped_or_refused() {
        for (query, limit) in [
            ("", 20),
            ("limit=1", 1),
            ("limit=007", 7),
            ("limit=100", 100),
            ("limit=101", 100),
            ("limit=99999999999999999999999", 100),
            ("unknown=1", 20),
        ] {
            assert_eq!(request(query).unwrap().limit, limit, "{query}");
        }
        for (query, code) in [
            ("limit=0", ErrorCode::InvalidLimit),
            ("limit=x", ErrorCode::InvalidRequest),
            ("limit=-1", ErrorCode::InvalidRequest),
            ("limit=%2B1", ErrorCode::InvalidRequest),
            ("limit=1.0", ErrorCode::InvalidRequest),
            ("limit=", ErrorCode::InvalidRequest),
            ("limit=1&limit=2", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(request(query).unwrap_err().code, code, "{query}");
        }
    }

    /// API-44, API-46
    #[test]
    fn order_and_filter_are_refused_with_their_own_codes() {
        let key = Key {
            at: Timestamp::from_micros(1),
            id: Uuid::nil(),
        };
        let cursor = cursor::encode(List::Chats, key, Direction::Next);
        assert_eq!(
            request(&format!("cursor={cursor}")).unwrap().cursor,
            Some((key, Direction::Next))
        );
        for (query, code) in [
            ("$filter=title eq 'a'".to_owned(), ErrorCode::InvalidFilter),
            ("%24filter=x".to_owned(), ErrorCode::InvalidFilter),
            ("$orderby=id".to_owned(), ErrorCode::InvalidOrderby),
            (
                format!("cursor={cursor}&$orderby=id"),
                ErrorCode::InvalidCursor,
            ),
            ("cursor=garbage".to_owned(), ErrorCode::InvalidCursor),
            ("cursor=".to_owned(), ErrorCode::InvalidCursor),
        ] {
            let query = query.replace(' ', "+");
            assert_eq!(request(&query).unwrap_err().code, code, "{query}");
        }
    }
}
