//! One line of an event stream: `name`, or `name:value`, or a comment.

use std::ops::Range;

/// A field that is used. `id` and `retry` concern clients that reconnect; a
/// generation call never does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name(Range<usize>),
    Data(Range<usize>),
    /// The field's own name and its value. The standard has no such field; some
    /// providers send their error in it.
    Error(Range<usize>, Range<usize>),
}

/// The field on `line`; its value is a range of `buffer`. `None` for comments
/// and for fields that are not used.
pub(super) fn field(buffer: &[u8], line: Range<usize>) -> Option<Field> {
    let text = &buffer[line.clone()];
    if let Some(rest) = text.strip_prefix(b"data") {
        value(rest, line.end).map(Field::Data)
    } else if let Some(rest) = text.strip_prefix(b"event") {
        value(rest, line.end).map(Field::Name)
    } else if let Some(rest) = text.strip_prefix(b"error") {
        let name = line.start..line.end - rest.len();
        value(rest, line.end).map(|value| Field::Error(name, value))
    } else {
        None
    }
}

/// The value after a field's name: nothing, or a colon, at most one space, and
/// the value. `None` if the name is longer.
fn value(rest: &[u8], end: usize) -> Option<Range<usize>> {
    match rest {
        [] => Some(end..end),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(end - value.len()..end),
        _ => None,
    }
}
