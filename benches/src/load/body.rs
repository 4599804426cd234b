//! Framing of HTTP/1.1 response bodies: chunked, sized, or up to the end of the connection.

/// How the end of a response body is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// `Transfer-Encoding: chunked`.
    Chunked(ChunkState),
    /// `Content-Length`, with the bytes that are still to come.
    Sized(usize),
    /// The server closes the connection.
    UntilClose,
}

/// Where a chunked body stands between two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkState {
    /// Inside the size line; the value so far, and whether an extension is being skipped.
    Size { value: usize, skipping: bool },
    /// Inside the data of a chunk, with the bytes that are still to come.
    Data(usize),
    /// Inside the CRLF that follows the data of a chunk.
    DataEnd,
    /// After the last chunk, inside a line of the trailer; whether that line is empty so far.
    Trailer { empty: bool },
    /// After the empty line that ends the body.
    Done,
}

/// A chunk size that is no hexadecimal number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed chunk size")]
pub(super) struct MalformedChunk;

impl Framing {
    /// A chunked body of which nothing has been read yet.
    pub(super) const CHUNKED: Self = Self::Chunked(ChunkState::START);

    /// Whether the body is complete; never true for [`Framing::UntilClose`], which only the connection ends.
    pub(super) fn is_complete(self) -> bool {
        matches!(self, Self::Chunked(ChunkState::Done) | Self::Sized(0))
    }

    /// Takes the next bytes of the connection and hands the payload in them to `payload`.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        payload: &mut impl FnMut(&[u8]),
    ) -> Result<(), MalformedChunk> {
        match self {
            Self::Chunked(state) => feed_chunked(state, bytes, payload)?,
            Self::Sized(left) => {
                let taken = bytes.len().min(*left);
                payload(&bytes[..taken]);
                *left -= taken;
            }
            Self::UntilClose => payload(bytes),
        }
        Ok(())
    }
}

impl ChunkState {
    const START: Self = Self::Size {
        value: 0,
        skipping: false,
    };
}

fn feed_chunked(
    state: &mut ChunkState,
    mut bytes: &[u8],
    payload: &mut impl FnMut(&[u8]),
) -> Result<(), MalformedChunk> {
    while let Some((&first, rest)) = bytes.split_first() {
        if let ChunkState::Data(left) = *state {
            let (data, after) = bytes.split_at(bytes.len().min(left));
            payload(data);
            bytes = after;
            *state = if data.len() == left {
                ChunkState::DataEnd
            } else {
                ChunkState::Data(left - data.len())
            };
        } else {
            *state = state.after_control_byte(first)?;
            bytes = rest;
        }
    }
    Ok(())
}

impl ChunkState {
    fn after_control_byte(self, byte: u8) -> Result<Self, MalformedChunk> {
        Ok(match (self, byte) {
            (Self::Size { value: 0, .. }, b'\n') => Self::Trailer { empty: true },
            (Self::Size { value, .. }, b'\n') => Self::Data(value),
            (Self::Size { value, .. }, b';') => Self::Size {
                value,
                skipping: true,
            },
            (
                Self::Size {
                    value,
                    skipping: false,
                },
                digit,
            ) if digit != b'\r' => {
                let value = push_digit(value, digit).ok_or(MalformedChunk)?;
                Self::Size {
                    value,
                    skipping: false,
                }
            }
            (Self::DataEnd, b'\n') => Self::START,
            (Self::Trailer { empty: true }, b'\n') => Self::Done,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
            (Self::Trailer { .. }, byte) if byte != b'\r' => Self::Trailer { empty: false },
            (state, _) => state,
        })
    }
}

fn push_digit(value: usize, digit: u8) -> Option<usize> {
    let digit = char::from(digit).to_digit(16)? as usize;
    value.checked_mul(16)?.checked_add(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(body: &[u8], piece: usize) -> (Vec<u8>, Framing) {
        let mut framing = Framing::CHUNKED;
        let mut payload = Vec::new();
        for bytes in body.chunks(piece) {
            framing
                .feed(bytes, &mut |data| payload.extend_from_slice(data))
                .unwrap();
        }
        (payload, framing)
    }

    #[test]
    fn a_chunked_body_reads_alike_however_it_is_cut() {
        let body =
            b"5;ext=\"1\"\r\nhello\r\n1A\r\n, abcdefghijklmnopqrstuvwx\r\n0\r\nTrailer: x\r\n\r\n";
        for piece in 1..=body.len() {
            let (payload, framing) = read_in_pieces(body, piece);
            assert_eq!(
                payload, b"hello, abcdefghijklmnopqrstuvwx",
                "pieces of {piece}"
            );
            assert!(framing.is_complete(), "pieces of {piece}");
        }
    }

    #[test]
    fn a_cut_body_is_not_complete() {
        let (payload, framing) = read_in_pieces(b"5\r\nhello\r\n0\r\n", 3);
        assert_eq!(payload, b"hello");
        assert!(!framing.is_complete());
    }

    #[test]
    fn a_size_that_is_no_number_is_refused() {
        let mut framing = Framing::CHUNKED;
        assert_eq!(framing.feed(b"xyz\r\n", &mut |_| {}), Err(MalformedChunk));
    }

    #[test]
    fn a_sized_body_ends_at_its_length() {
        let mut framing = Framing::Sized(4);
        let mut payload = Vec::new();
        framing
            .feed(b"abcdef", &mut |data| payload.extend_from_slice(data))
            .unwrap();
        assert_eq!(payload, b"abcd");
        assert!(framing.is_complete());
    }
}
