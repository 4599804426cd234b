use minichat_core::Timestamp;
use minichat_store::{Key, Order, Sort};
use uuid::Uuid;

use super::*;

fn request(query: &str) -> Result<ListRequest, Problem> {
    let uri = format!("/chats?{}", query.replace(' ', "+"))
        .parse()
        .unwrap();
    let Query(parameters) = Query::try_from_uri(&uri).unwrap();
    ListQuery(parameters).read(List::Chats)
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
        assert_eq!(request(query).unwrap().page.limit, limit, "{query}");
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
        assert_eq!(request(query).err().unwrap().code, code, "{query}");
    }
}

/// API-44, API-46
#[test]
fn a_cursor_brings_its_order_and_wants_its_filter() {
    let cursor = |filter| Cursor {
        list: List::Chats,
        order: Order::Id(Sort::Descending),
        filter: FilterDigest::of(filter),
        key: Key {
            at: Timestamp::from_micros(1),
            id: Uuid::nil(),
        },
        direction: Direction::Next,
    };
    let bare = cursor(None).encode();
    let page = request(&format!("cursor={bare}")).unwrap().page;
    assert_eq!(page.order, Order::Id(Sort::Descending));
    assert_eq!(page.cursor, Some((cursor(None).key, Direction::Next)));
    let filter = "$filter=title eq null";
    let filtered = cursor(Some("title eq null")).encode();
    assert!(request(&format!("cursor={filtered}&{filter}")).is_ok());
    for (query, code) in [
        (format!("cursor={filtered}"), ErrorCode::InvalidFilter),
        (format!("cursor={bare}&{filter}"), ErrorCode::InvalidFilter),
        (
            format!("cursor={filtered}&$filter=title ne null"),
            ErrorCode::InvalidFilter,
        ),
        (
            format!("cursor={bare}&$orderby=id"),
            ErrorCode::InvalidCursor,
        ),
        ("cursor=garbage".to_owned(), ErrorCode::InvalidCursor),
        ("cursor=".to_owned(), ErrorCode::InvalidCursor),
        ("%24filter=x".to_owned(), ErrorCode::InvalidFilter),
        ("$orderby=x".to_owned(), ErrorCode::InvalidOrderby),
    ] {
        assert_eq!(request(&query).err().unwrap().code, code, "{query}");
    }
}
