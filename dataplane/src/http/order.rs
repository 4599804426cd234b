//! `$orderby` of lists (API-42, API-45, API-46).

use minichat_core::ErrorCode;
use minichat_store::{Order, Sort};

use super::cursor::List;
use super::filter::{self, Field};
use crate::problem::Problem;

const MAX_BYTES: usize = 1024;
const MAX_KEYS: usize = 10;

/// The order of `list` if the request names none.
pub(super) const fn default(list: List) -> Order {
    match list {
        List::Chats => Order::NEWEST_FIRST,
        List::Messages => Order::OLDEST_FIRST,
    }
}

/// The names by which `list` can be ordered.
pub(super) fn fields(list: List) -> impl Iterator<Item = (&'static str, Field)> {
    filter::fields(list)
        .iter()
        .copied()
        .filter(|(_, field)| matches!(field, Field::At | Field::Id))
}

/// Parses the order of `list`. If the id is not named, it comes last, in the
/// direction of the last key.
pub(super) fn parse(text: &str, list: List) -> Result<Order, Problem> {
    if text.len() > MAX_BYTES {
        return Err(invalid(&format!("is longer than {MAX_BYTES} bytes.")));
    }
    let mut keys = Vec::new();
    for part in text.split(',') {
        let (field, sort) = key(part, list)?;
        if keys.iter().any(|(known, _)| *known == field) {
            return Err(invalid("names a field twice."));
        }
        keys.push((field, sort));
        if keys.len() > MAX_KEYS {
            return Err(invalid(&format!("has more than {MAX_KEYS} keys.")));
        }
    }
    Ok(match keys.as_slice() {
        [(Field::At, at), (_, id), ..] => Order::At(*at, *id),
        [(Field::At, at)] => Order::At(*at, *at),
        [(_, id), ..] => Order::Id(*id),
        [] => default(list),
    })
}

fn key(part: &str, list: List) -> Result<(Field, Sort), Problem> {
    let mut words = part.split_whitespace().map(str::to_ascii_lowercase);
    let (name, direction, rest) = (words.next(), words.next(), words.next());
    let field = fields(list)
        .find(|(known, _)| name.as_deref() == Some(known))
        .map(|(_, field)| field);
    let sort = match direction.as_deref() {
        None | Some("asc") => Some(Sort::Ascending),
        Some("desc") => Some(Sort::Descending),
        Some(_) => None,
    };
    if let (Some(field), Some(sort), None) = (field, sort, rest) {
        return Ok((field, sort));
    }
    let names: Vec<_> = fields(list).map(|(name, _)| name).collect();
    let names = names.join(" or ");
    Err(invalid(&format!(
        "must be fields with `asc` or `desc`, separated by commas; a field is {names}."
    )))
}

fn invalid(reason: &str) -> Problem {
    Problem::new(ErrorCode::InvalidOrderby, format!("$orderby {reason}"))
}

#[cfg(test)]
mod tests {
    use Sort::{Ascending, Descending};

    use super::*;

    /// API-42, API-45
    #[test]
    fn orders_are_read_and_made_total() {
        for (text, order) in [
            ("updated_at", Order::At(Ascending, Ascending)),
            ("Updated_At DESC", Order::At(Descending, Descending)),
            (" updated_at desc , id ", Order::At(Descending, Ascending)),
            ("id", Order::Id(Ascending)),
            ("id desc,updated_at", Order::Id(Descending)),
        ] {
            assert_eq!(parse(text, List::Chats).unwrap(), order, "{text}");
        }
        let messages = parse("created_at desc", List::Messages).unwrap();
        assert_eq!(messages, Order::At(Descending, Descending));
    }

    /// API-46
    #[test]
    fn what_is_no_order_is_refused() {
        let eleven = ["id"; 11].join(",");
        let long = format!("id{}", " ".repeat(MAX_BYTES));
        for text in [
            "",
            ",",
            "id,",
            "title",
            "created_at",
            "id up",
            "id asc desc",
            "id,id",
            "updated_at,id,updated_at desc",
            &eleven,
            &long,
        ] {
            let problem = parse(text, List::Chats).unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidOrderby, "{text}");
        }
        assert!(parse("role", List::Messages).is_err());
    }
}
