//! An incremental parser of `text/event-stream` as the HTML standard defines it
//! (D27). Lines end in LF, CRLF or CR. One leading byte order mark is skipped.
//! Comments are dropped. `data` lines are joined with LF. An event ends at an
//! empty line. The bytes may be cut anywhere.
//! The parser owns one buffer, which every event reuses and borrows from. Only
//! the data of an event with several `data` lines is copied.

mod line;

#[cfg(test)]
mod tests;

use std::ops::Range;

use line::Field;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Capacity that an emptied buffer may keep, so that one huge event does not
/// occupy memory for the rest of a long stream.
const KEPT_CAPACITY: usize = 64 * 1024;

/// One dispatched event, as bytes. The reader of the payload checks whether
/// they are UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// The `event` field; empty when absent.
    pub name: &'a [u8],
    /// The `data` fields, joined with LF.
    pub data: &'a [u8],
}

/// An event exceeds the parser's limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge;

/// The parser. After each [`push`](Self::push), call
/// [`next_event`](Self::next_event) until it returns `None`.
#[derive(Debug)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Start of the current event.
    event_start: usize,
    /// Start of the first line that was not read yet.
    line_start: usize,
    /// There is no line end between `line_start` and here.
    scanned: usize,
    fields: Fields,
    /// Whether the last byte so far was a CR that ended a line. A following LF
    /// belongs to it.
    after_cr: bool,
    /// Whether a byte order mark may still come.
    at_start: bool,
    max_event_bytes: usize,
}

/// Fields of the current event, as ranges of the buffer.
#[derive(Debug, Default)]
struct Fields {
    name: Range<usize>,
    data: Option<Range<usize>>,
    /// The joined data. Replaces the range from the second line on.
    joined: Option<Vec<u8>>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::with_limit(usize::MAX)
    }
}

impl Parser {
    /// A parser that refuses events of more than `max_event_bytes`, including
    /// field names and line ends.
    pub fn with_limit(max_event_bytes: usize) -> Self {
        Self {
            buffer: Vec::new(),
            event_start: 0,
            line_start: 0,
            scanned: 0,
            fields: Fields::default(),
            after_cr: false,
            at_start: true,
            max_event_bytes,
        }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.forget_read();
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event. As the standard demands, an event that the end
    /// of the stream cuts off is never dispatched.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, TooLarge> {
        if self.advance()? {
            Ok(Some(self.fields.event(&self.buffer)))
        } else {
            Ok(None)
        }
    }

    /// Reads lines until an event is complete; `false` if more bytes are
    /// needed.
    fn advance(&mut self) -> Result<bool, TooLarge> {
        if self.event_start == self.line_start {
            self.fields.clear();
        }
        if !self.skip_bom() {
            return Ok(false);
        }
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                self.check_size(self.line_start)?;
                self.event_start = self.line_start;
                if self.fields.has_data() {
                    return Ok(true);
                }
                self.fields.clear();
            } else {
                self.read_field(line);
            }
        }
        self.check_size(self.buffer.len())?;
        Ok(false)
    }

    fn check_size(&self, event_end: usize) -> Result<(), TooLarge> {
        if event_end - self.event_start > self.max_event_bytes {
            return Err(TooLarge);
        }
        Ok(())
    }

    /// Skips a byte order mark. `false` if more bytes are needed to recognise
    /// it.
    fn skip_bom(&mut self) -> bool {
        if self.at_start {
            if self.buffer.len() < BOM.len() && BOM.starts_with(&self.buffer) {
                return false;
            }
            self.at_start = false;
            if self.buffer.starts_with(BOM) {
                self.begin_event_at(BOM.len());
                self.scanned = BOM.len();
            }
        }
        true
    }

    /// Takes the next line, without its end.
    fn next_line(&mut self) -> Option<Range<usize>> {
        if self.after_cr && self.line_start < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.line_start] == b'\n' {
                if self.event_start == self.line_start {
                    self.event_start += 1;
                }
                self.line_start += 1;
                self.scanned = self.line_start;
            }
        }
        let Some(found) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = self.scanned + found;
        let line = self.line_start..end;
        self.after_cr = self.buffer[end] == b'\r';
        self.line_start = end + 1;
        self.scanned = self.line_start;
        Some(line)
    }

    fn read_field(&mut self, line: Range<usize>) {
        match line::field(&self.buffer, line) {
            Some(Field::Name(value)) => self.fields.name = value,
            Some(Field::Data(value)) => self.fields.add_data(value, &self.buffer),
            Some(Field::Error(name, value)) => {
                self.fields.name = name;
                self.fields.add_data(value, &self.buffer);
            }
            None if self.fields.is_empty() => self.event_start = self.line_start,
            None => {}
        }
    }

    fn begin_event_at(&mut self, offset: usize) {
        self.event_start = offset;
        self.line_start = offset;
    }

    /// Drops the bytes of events that were returned.
    fn forget_read(&mut self) {
        let read = self.event_start;
        if read == 0 {
            return;
        }
        if read == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEPT_CAPACITY);
        } else {
            self.buffer.drain(..read);
        }
        if self.line_start == read {
            self.fields.clear();
        } else {
            self.fields.shift_left(read);
        }
        self.event_start = 0;
        self.line_start -= read;
        self.scanned -= read;
    }
}

impl Fields {
    fn is_empty(&self) -> bool {
        self.name.is_empty() && !self.has_data()
    }

    fn has_data(&self) -> bool {
        self.data.is_some()
    }

    fn clear(&mut self) {
        self.name = 0..0;
        self.data = None;
        self.joined = None;
    }

    fn add_data(&mut self, value: Range<usize>, buffer: &[u8]) {
        let Some(first) = &self.data else {
            self.data = Some(value);
            return;
        };
        let joined = self
            .joined
            .get_or_insert_with(|| buffer[first.clone()].to_vec());
        joined.push(b'\n');
        joined.extend_from_slice(&buffer[value]);
    }

    fn shift_left(&mut self, by: usize) {
        for range in std::iter::once(&mut self.name).chain(&mut self.data) {
            range.start = range.start.saturating_sub(by);
            range.end = range.end.saturating_sub(by);
        }
    }

    fn event<'a>(&'a self, buffer: &'a [u8]) -> Event<'a> {
        let data = match (&self.joined, &self.data) {
            (Some(joined), _) => joined,
            (None, Some(range)) => &buffer[range.clone()],
            (None, None) => &[],
        };
        Event {
            name: &buffer[self.name.clone()],
            data,
        }
    }
}
