//! Reads event streams. The benchmark needs only the timestamps in deltas and the kind of the terminal event.

use memchr::{memchr, memmem};

/// The text in a delta before the nanoseconds at which the scripted provider wrote it.
const STAMP_MARK: &[u8] = b"@";

/// How a stream ended, by its last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Terminal {
    /// No terminal event was seen.
    #[default]
    Missing,
    /// `done` of the data plane, `response.completed` of a provider.
    Completed,
    /// `error` of the data plane, `response.failed` or `error` of a provider.
    Failed,
}

/// Reads one event stream in pieces of any size.
///
/// Timestamps are counted, not events: a relay may merge several deltas into one event, but it may not lose a chunk.
#[derive(Debug, Default)]
pub struct EventReader {
    carry: Vec<u8>,
    terminal: Terminal,
    last_stamp: u64,
    stamps: u32,
    out_of_order: bool,
}

impl EventReader {
    /// Takes the next bytes of the body and hands the stamp of each chunk in them to `stamp`, in nanoseconds of
    /// the monotonic clock.
    pub fn feed(&mut self, mut bytes: &[u8], mut stamp: impl FnMut(u64)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            if self.carry.is_empty() {
                self.line(line, &mut stamp);
            } else {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(line);
                self.line(&whole, &mut stamp);
                whole.clear();
                self.carry = whole;
            }
            bytes = &rest[1..];
        }
        self.carry.extend_from_slice(bytes);
    }

    /// The kind of the last terminal event.
    pub fn terminal(&self) -> Terminal {
        self.terminal
    }

    /// Stamps seen so far.
    pub fn stamps(&self) -> u32 {
        self.stamps
    }

    /// Whether every stamp was at least as late as the one before it.
    pub fn in_order(&self) -> bool {
        !self.out_of_order
    }

    fn line(&mut self, line: &[u8], stamp: &mut impl FnMut(u64)) {
        if let Some(kind) = line.strip_prefix(b"event:") {
            match kind.trim_ascii() {
                b"done" | b"response.completed" => self.terminal = Terminal::Completed,
                b"error" | b"response.failed" | b"response.incomplete" => {
                    self.terminal = Terminal::Failed;
                }
                _ => {}
            }
        } else if self.terminal == Terminal::Missing && line.starts_with(b"data:") {
            // A provider repeats the whole text in its terminal event. This text does not count as chunks.
            for position in memmem::find_iter(line, STAMP_MARK) {
                let nanos = leading_number(&line[position + STAMP_MARK.len()..]);
                self.out_of_order |= nanos < self.last_stamp;
                self.last_stamp = nanos;
                self.stamps += 1;
                stamp(nanos);
            }
        }
    }
}

fn leading_number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number: u64, digit| {
            number
                .wrapping_mul(10)
                .wrapping_add(u64::from(digit - b'0'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"event: stream_started\ndata: {\"request_id\":\"x\"}\n\n\
        event: delta\ndata: {\"type\":\"text\",\"content\":\"@100 \"}\n\n\
        event: delta\ndata: {\"type\":\"text\",\"content\":\"@200 @300 \"}\n\n\
        event: done\ndata: {\"text\":\"@100 @200 @300 \"}\n\n";

    #[test]
    fn stamps_are_found_however_the_stream_is_cut() {
        for piece in 1..=STREAM.len() {
            let mut reader = EventReader::default();
            let mut stamps = Vec::new();
            for bytes in STREAM.chunks(piece) {
                reader.feed(bytes, |nanos| stamps.push(nanos));
            }
            assert_eq!(stamps, [100, 200, 300], "pieces of {piece}");
            assert_eq!(reader.terminal(), Terminal::Completed);
            assert!(reader.in_order());
        }
    }

    #[test]
    fn a_stream_without_a_terminal_event_says_so() {
        let mut reader = EventReader::default();
        reader.feed(b"event: delta\ndata: @5\n\n", |_| {});
        assert_eq!((reader.stamps(), reader.terminal()), (1, Terminal::Missing));
    }

    #[test]
    fn swapped_chunks_are_noticed() {
        let mut reader = EventReader::default();
        reader.feed(b"data: @9\n\ndata: @8\n\nevent: error\n", |_| {});
        assert!(!reader.in_order());
        assert_eq!(reader.terminal(), Terminal::Failed);
    }
}
