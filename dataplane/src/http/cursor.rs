//! Page cursors (API-43, API-44): opaque text with the position, the order and
//! the filter of a page. A cursor gives no access, because every query checks
//! the owner.

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minichat_core::{ErrorCode, Timestamp};
use minichat_store::{Direction, Key, Order, Sort};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::problem::Problem;

/// Changes when the layout changes.
const VERSION: u8 = 2;

/// Version, list, direction, order, instant, id, filter.
const LENGTH: usize = 4 + 8 + 16 + DIGEST_LENGTH;
const DIGEST_LENGTH: usize = 8;

/// 1970 to 9999: the instants that every database can compare. A forged cursor
/// outside them must not cause a database error.
pub(super) const INSTANTS: RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// Which list a cursor belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    Chats,
    Messages,
}

impl List {
    const fn byte(self) -> u8 {
        match self {
            Self::Chats => b'c',
            Self::Messages => b'm',
        }
    }
}

/// The position from which a page continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    pub(super) list: List,
    pub(super) order: Order,
    pub(super) filter: FilterDigest,
    pub(super) key: Key,
    pub(super) direction: Direction,
}

/// Recognises whether a filter is repeated unchanged. All zeros if there is
/// none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FilterDigest([u8; DIGEST_LENGTH]);

impl FilterDigest {
    pub(super) fn of(filter: Option<&str>) -> Self {
        let mut digest = [0; DIGEST_LENGTH];
        if let Some(text) = filter {
            let whole = Sha256::digest(text);
            digest.copy_from_slice(&whole[..DIGEST_LENGTH]);
        }
        Self(digest)
    }
}

impl Cursor {
    /// Unpadded base64url text.
    pub(super) fn encode(&self) -> String {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1] = self.list.byte();
        bytes[2] = match self.direction {
            Direction::Next => 0,
            Direction::Previous => 1,
        };
        bytes[3] = order_byte(self.order);
        bytes[4..12].copy_from_slice(&self.key.at.as_micros().to_be_bytes());
        bytes[12..28].copy_from_slice(self.key.id.as_bytes());
        bytes[28..].copy_from_slice(&self.filter.0);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the result of [`Self::encode`] for the same list. Anything else is
    /// 422 `invalid_cursor`.
    pub(super) fn decode(text: &str, list: List) -> Result<Self, Problem> {
        let foreign = || invalid("The cursor is not one this service made.");
        let bytes = bytes(text).ok_or_else(foreign)?;
        if bytes[1] != list.byte() {
            return Err(invalid("The cursor belongs to another list."));
        }
        fields(&bytes, list).ok_or_else(foreign)
    }
}

const ORDERS: [Order; 6] = [
    Order::At(Sort::Ascending, Sort::Ascending),
    Order::At(Sort::Ascending, Sort::Descending),
    Order::At(Sort::Descending, Sort::Ascending),
    Order::At(Sort::Descending, Sort::Descending),
    Order::Id(Sort::Ascending),
    Order::Id(Sort::Descending),
];

fn order_byte(order: Order) -> u8 {
    let position = ORDERS.iter().position(|known| *known == order);
    position
        .and_then(|position| u8::try_from(position).ok())
        .unwrap_or(u8::MAX)
}

fn bytes(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == LENGTH && bytes[0] == VERSION).then_some(bytes)
}

fn fields(bytes: &[u8; LENGTH], list: List) -> Option<Cursor> {
    let direction = match bytes[2] {
        0 => Direction::Next,
        1 => Direction::Previous,
        _ => return None,
    };
    let micros = i64::from_be_bytes(bytes[4..12].try_into().ok()?);
    INSTANTS.contains(&micros).then_some(Cursor {
        list,
        order: *ORDERS.get(usize::from(bytes[3]))?,
        filter: FilterDigest(bytes[28..].try_into().ok()?),
        key: Key {
            at: Timestamp::from_micros(micros),
            id: Uuid::from_slice(&bytes[12..28]).ok()?,
        },
        direction,
    })
}

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorCode::InvalidCursor, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(list: List, micros: i64, id: u128) -> Cursor {
        Cursor {
            list,
            order: Order::NEWEST_FIRST,
            filter: FilterDigest::of(None),
            key: Key {
                at: Timestamp::from_micros(micros),
                id: Uuid::from_u128(id),
            },
            direction: Direction::Next,
        }
    }

    proptest! {
        /// API-43
        #[test]
        fn a_cursor_reads_back_as_written(
            (micros, id) in (INSTANTS, any::<u128>()),
            back: bool,
            chats: bool,
            order in 0..ORDERS.len(),
            filter in prop::option::of(".*"),
        ) {
            let list = if chats { List::Chats } else { List::Messages };
            let cursor = Cursor {
                direction: if back { Direction::Previous } else { Direction::Next },
                order: ORDERS[order],
                filter: FilterDigest::of(filter.as_deref()),
                ..cursor(list, micros, id)
            };
            let text = cursor.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            prop_assert_eq!(Cursor::decode(&text, list).unwrap(), cursor);
        }

        /// API-46: no bytes cause a panic or a key that a database cannot
        /// compare.
        #[test]
        fn forged_bytes_are_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut forged = bytes;
            forged.iter_mut().zip([VERSION, b'c']).for_each(|(byte, valid)| *byte = valid);
            match Cursor::decode(&URL_SAFE_NO_PAD.encode(forged), List::Chats) {
                Ok(cursor) => prop_assert!(INSTANTS.contains(&cursor.key.at.as_micros())),
                Err(problem) => prop_assert_eq!(problem.code, ErrorCode::InvalidCursor),
            }
        }
    }

    /// API-46
    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let chats = cursor(List::Chats, 1, 0).encode();
        let longer = format!("{chats}AAAA");
        let padded = format!("{chats}=");
        for (text, list) in [
            (chats.as_str(), List::Messages),
            (&chats[4..], List::Chats),
            (longer.as_str(), List::Chats),
            (padded.as_str(), List::Chats),
            ("", List::Chats),
            ("garbage!", List::Chats),
        ] {
            let problem = Cursor::decode(text, list).unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidCursor, "{text}");
        }
    }
}
