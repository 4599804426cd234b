//! Reads `multipart/form-data` (RFC 7578) from bytes as they arrive. Whatever the
//! input is, a reader keeps only what it was fed last, and of earlier input at most
//! the head of one part.
//!
//! Crates for this purpose read as much as the connection has before they hand
//! anything over, and keep the head of a part however long it is. An upload must do
//! neither: it is passed on at the speed of its receiver.

mod head;
mod parameters;
#[cfg(test)]
mod tests;

use memchr::memmem::Finder;

pub use head::PartHead;
pub use parameters::boundary;

/// Maximum size of the head of a part in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Maximum number of parts.
const MAX_PARTS: usize = 100;

/// Ends the head of a part.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A reader of one body.
#[derive(Debug)]
pub struct Multipart {
    /// Input; what is before `start` was read.
    buffer: Vec<u8>,
    start: usize,
    /// A line break, two hyphens and the boundary.
    delimiter: Finder<'static>,
    place: Place,
    parts: usize,
    is_complete: bool,
}

/// What comes next in the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Text before the first part, which is ignored.
    Preamble,
    /// Data of a part.
    Data,
    /// The delimiter behind a part was read.
    PartEnd,
    /// The rest of a delimiter's line.
    DelimiterLine,
    /// The head of a part, from the line break before it.
    Head,
    /// What is behind the last part, which is ignored.
    Epilogue,
}

/// What was read.
#[derive(PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// More input is needed.
    More,
    /// A part begins.
    Part(PartHead),
    /// Data of the part, never empty.
    Data(&'a [u8]),
    /// The part is complete.
    PartEnd,
    /// There are no more parts.
    End,
}

/// Why the input is not a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("ended before it was complete")]
    Truncated,
    #[error("has a part whose headers are larger than {MAX_HEAD} bytes")]
    LargeHead,
    #[error("has more than {MAX_PARTS} parts")]
    ManyParts,
    #[error("is malformed: {0}")]
    Malformed(&'static str),
}

impl Multipart {
    /// A reader of a body with this boundary.
    pub fn new(boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}");
        Self {
            // So that the first delimiter is one even if nothing is before it.
            buffer: b"\r\n".to_vec(),
            start: 0,
            delimiter: Finder::new(delimiter.as_bytes()).into_owned(),
            place: Place::Preamble,
            parts: 0,
            is_complete: false,
        }
    }

    /// Adds input. Read everything that is there before adding more.
    pub fn feed(&mut self, input: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(input);
    }

    /// There is no more input.
    pub const fn complete(&mut self) {
        self.is_complete = true;
    }

    /// What comes next.
    pub fn read(&mut self) -> Result<Event<'_>, Fault> {
        loop {
            match self.place {
                Place::Preamble => match self.skip_to_delimiter() {
                    (_, true) => self.place = Place::DelimiterLine,
                    (_, false) => return self.more(),
                },
                Place::Data => {
                    let from = self.start;
                    let (to, is_end) = self.skip_to_delimiter();
                    if is_end {
                        self.place = Place::PartEnd;
                    }
                    if to > from {
                        return Ok(Event::Data(&self.buffer[from..to]));
                    }
                    if !is_end {
                        return self.more();
                    }
                }
                Place::PartEnd => {
                    self.place = Place::DelimiterLine;
                    return Ok(Event::PartEnd);
                }
                Place::DelimiterLine => match self.delimiter_line()? {
                    Some(place) => self.place = place,
                    None => return self.more(),
                },
                Place::Head => match self.head()? {
                    Some(head) => return Ok(Event::Part(head)),
                    None => return self.more(),
                },
                Place::Epilogue => return Ok(Event::End),
            }
        }
    }

    const fn more(&self) -> Result<Event<'_>, Fault> {
        if self.is_complete {
            Err(Fault::Truncated)
        } else {
            Ok(Event::More)
        }
    }

    /// Reads up to the next delimiter and the delimiter itself, or as much as cannot
    /// belong to one. Returns the end of what was before it, and whether it was found.
    fn skip_to_delimiter(&mut self) -> (usize, bool) {
        let length = self.delimiter.needle().len();
        let input = &self.buffer[self.start..];
        if let Some(at) = self.delimiter.find(input) {
            let end = self.start + at;
            self.start = end + length;
            return (end, true);
        }
        self.start += input.len().saturating_sub(length - 1);
        (self.start, false)
    }

    /// What is behind a delimiter; `None` if it is not there yet.
    fn delimiter_line(&mut self) -> Result<Option<Place>, Fault> {
        let line = &self.buffer[self.start..];
        if line.starts_with(b"--") {
            return Ok(Some(Place::Epilogue));
        }
        let padding = line.iter().take_while(|byte| b" \t".contains(byte)).count();
        if padding > MAX_HEAD {
            return Err(Fault::LargeHead);
        }
        match &line[padding..] {
            [b'\r', b'\n', ..] => {
                self.start += padding;
                Ok(Some(Place::Head))
            }
            [] | [b'\r'] => Ok(None),
            [b'-'] if padding == 0 => Ok(None),
            _ => Err(Fault::Malformed("a boundary is followed by something else")),
        }
    }

    /// The head of the part; `None` if it is not complete yet.
    fn head(&mut self) -> Result<Option<PartHead>, Fault> {
        let input = &self.buffer[self.start..];
        let window = &input[..input.len().min(MAX_HEAD + HEAD_END.len())];
        let Some(length) = memchr::memmem::find(window, HEAD_END) else {
            if window.len() < input.len() {
                return Err(Fault::LargeHead);
            }
            return Ok(None);
        };
        let head = PartHead::parse(&input[..length])?;
        self.start += length + HEAD_END.len();
        self.place = Place::Data;
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(Fault::ManyParts);
        }
        Ok(Some(head))
    }
}
