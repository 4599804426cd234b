//! Page cursors (API-43): where a page ends, as opaque text. A cursor grants
//! nothing, because every query names the owner anyway.

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minichat_core::{ErrorCode, Timestamp};
use minichat_store::{Direction, Key};
use uuid::Uuid;

use crate::problem::Problem;

/// Changes when the layout or a list's default order changes.
const VERSION: u8 = 1;

/// Version, list, direction, instant, id.
const LENGTH: usize = 3 + 8 + 16;

/// 1970 to 9999: what every database can compare with. A forged cursor beyond
/// it must not surface as a database error.
const INSTANTS: RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// Which list a cursor belongs to; each has one order (API-42).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    /// By `updated_at`, then `id`, newest first.
    Chats,
    /// By `created_at`, then `id`, oldest first.
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

/// Unpadded base64url text for the page that lies in `direction` of the row
/// with `key`.
pub(super) fn encode(list: List, key: Key, direction: Direction) -> String {
    let mut bytes = [0; LENGTH];
    bytes[0] = VERSION;
    bytes[1] = list.byte();
    bytes[2] = match direction {
        Direction::Next => 0,
        Direction::Previous => 1,
    };
    bytes[3..11].copy_from_slice(&key.at.as_micros().to_be_bytes());
    bytes[11..].copy_from_slice(key.id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`encode`] wrote for the same list; anything else is 422
/// `invalid_cursor`.
pub(super) fn decode(text: &str, list: List) -> Result<(Key, Direction), Problem> {
    let bytes = bytes(text).ok_or_else(|| invalid("The cursor is not one this service made."))?;
    if bytes[1] != list.byte() {
        return Err(invalid("The cursor belongs to another list."));
    }
    fields(&bytes).ok_or_else(|| invalid("The cursor is not one this service made."))
}

fn bytes(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == LENGTH && bytes[0] == VERSION).then_some(bytes)
}

fn fields(bytes: &[u8; LENGTH]) -> Option<(Key, Direction)> {
    let direction = match bytes[2] {
        0 => Direction::Next,
        1 => Direction::Previous,
        _ => return None,
    };
    let micros = i64::from_be_bytes(bytes[3..11].try_into().ok()?);
    let key = Key {
        at: Timestamp::from_micros(micros),
        id: Uuid::from_slice(&bytes[11..]).ok()?,
    };
    INSTANTS.contains(&micros).then_some((key, direction))
}

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorCode::InvalidCursor, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// API-43
        #[test]
        fn a_cursor_reads_back_as_written(micros in INSTANTS, id: u128, back: bool, chats: bool) {
            let list = if chats { List::Chats } else { List::Messages };
            let direction = if back { Direction::Previous } else { Direction::Next };
            let key = Key { at: Timestamp::from_micros(micros), id: Uuid::from_u128(id) };
            let text = encode(list, key, direction);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            prop_assert_eq!(decode(&text, list).unwrap(), (key, direction));
        }

        /// API-46: whatever the bytes, never a panic, and never a key that a
        /// database cannot hold.
        #[test]
        fn forged_bytes_are_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut forged = bytes;
            forged.iter_mut().zip([VERSION, b'c']).for_each(|(byte, valid)| *byte = valid);
            match decode(&URL_SAFE_NO_PAD.encode(forged), List::Chats) {
                Ok((key, _)) => prop_assert!(INSTANTS.contains(&key.at.as_micros())),
                Err(problem) => prop_assert_eq!(problem.code, ErrorCode::InvalidCursor),
            }
        }
    }

    /// API-46
    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let key = Key {
            at: Timestamp::from_micros(1),
            id: Uuid::nil(),
        };
        let chats = encode(List::Chats, key, Direction::Next);
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
            let problem = decode(text, list).unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidCursor, "{text}");
        }
    }
}
