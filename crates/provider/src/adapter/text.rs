//! Turns a provider's text into UTF-8 that every database can store. Surrogates
//! that were cut over two pieces are joined. A surrogate without its other
//! half, and U+0000, become U+FFFD (D42).

use std::borrow::Cow;

use super::json::Wtf8;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Decodes one text piece by piece.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// A high surrogate whose low surrogate may follow.
    high: Option<u16>,
}

/// One surrogate, as three bytes.
enum Surrogate {
    High(u16),
    Low(u16),
}

impl Decoder {
    /// Decodes the next piece of the text.
    pub(super) fn decode<'t>(&mut self, piece: Wtf8<'t>) -> Cow<'t, str> {
        if self.high.is_some() || memchr::memchr(0, &piece).is_some() {
            return Cow::Owned(self.replace(&piece));
        }
        match piece {
            Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => Cow::Owned(self.replace(bytes)),
            },
            Cow::Owned(bytes) => Cow::Owned(
                String::from_utf8(bytes).unwrap_or_else(|error| self.replace(&error.into_bytes())),
            ),
        }
    }

    /// The rest, when no further piece comes.
    pub(super) fn finish(&mut self) -> &'static str {
        self.high.take().map_or("", |_| "\u{FFFD}")
    }

    fn replace(&mut self, mut rest: &[u8]) -> String {
        let mut text = String::with_capacity(rest.len());
        while !rest.is_empty() {
            if let Some(half) = Surrogate::at_start_of(rest) {
                self.take_half(&half, &mut text);
                rest = &rest[3..];
                continue;
            }
            self.drop_half(&mut text);
            // Surrogates begin with 0xED, and so do some other characters.
            let next = memchr::memchr(0xED, &rest[1..]);
            let (plain, after) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
            push_plain(plain, &mut text);
            rest = after;
        }
        text
    }

    fn take_half(&mut self, half: &Surrogate, text: &mut String) {
        match *half {
            Surrogate::High(high) => {
                self.drop_half(text);
                self.high = Some(high);
            }
            Surrogate::Low(low) => {
                let units = self.high.take().into_iter().chain([low]);
                text.extend(char::decode_utf16(units).map(|it| it.unwrap_or(REPLACEMENT)));
            }
        }
    }

    fn drop_half(&mut self, text: &mut String) {
        text.push_str(self.finish());
    }
}

impl Surrogate {
    fn at_start_of(bytes: &[u8]) -> Option<Self> {
        let &[0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, ..] = bytes else {
            return None;
        };
        let unit = 0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F);
        Some(if second < 0xB0 {
            Self::High(unit)
        } else {
            Self::Low(unit)
        })
    }
}

fn push_plain(bytes: &[u8], text: &mut String) {
    let plain = String::from_utf8_lossy(bytes);
    text.extend(
        plain
            .chars()
            .map(|c| if c == '\0' { REPLACEMENT } else { c }),
    );
}

/// Decodes a text that comes in one piece.
pub(super) fn whole(piece: Wtf8<'_>) -> String {
    let mut decoder = Decoder::default();
    let mut text = decoder.decode(piece).into_owned();
    text.push_str(decoder.finish());
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> String {
        let mut decoder = Decoder::default();
        let mut text = String::new();
        for piece in pieces {
            text.push_str(&decoder.decode(Cow::Borrowed(piece)));
        }
        text + decoder.finish()
    }

    /// D42
    #[test]
    fn halves_are_joined_and_what_no_database_stores_is_replaced() {
        const HIGH: &[u8] = b"\xED\xA0\xBD";
        const LOW: &[u8] = b"\xED\xB8\x80";
        let rows: &[(&[&[u8]], &str)] = &[
            (&[b"a", b"", "é".as_bytes()], "aé"),
            (&[b"a\0b"], "a\u{FFFD}b"),
            (&[HIGH, LOW], "😀"),
            (&[b"a", HIGH, b"", LOW, b"b"], "a😀b"),
            (&[b"\xED\xA0\xBD\xED\xB8\x80"], "😀"),
            (&[HIGH], "\u{FFFD}"),
            (&[LOW, HIGH, b"x"], "\u{FFFD}\u{FFFD}x"),
            (&[HIGH, HIGH, LOW], "\u{FFFD}😀"),
            (
                &["\u{D000}\u{D7FF}\0".as_bytes()],
                "\u{D000}\u{D7FF}\u{FFFD}",
            ),
        ];
        for (pieces, expected) in rows {
            assert_eq!(decode(pieces), *expected, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_text_of_the_whole(
            units in proptest::collection::vec(
                prop_oneof![0_u16..0x80, 0xD000_u16..0xE000, any::<u16>()], 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let encode = |units: &[u16]| {
                let mut bytes = Vec::new();
                for &unit in units {
                    if (0xD800..0xE000).contains(&unit) {
                        let low = |bits: u16| u8::try_from(bits & 0x3F).unwrap() | 0x80;
                        bytes.extend([0xED, low(unit >> 6), low(unit)]);
                    } else {
                        let c = char::from_u32(u32::from(unit)).unwrap();
                        bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
                bytes
            };
            let expected = String::from_utf16_lossy(&units).replace('\0', "\u{FFFD}");
            let (before, after) = units.split_at(cut.index(units.len() + 1));
            prop_assert_eq!(decode(&[&encode(before), &encode(after)]), expected.clone());
            prop_assert_eq!(decode(&[&encode(&units)]), expected);
        }
    }
}
