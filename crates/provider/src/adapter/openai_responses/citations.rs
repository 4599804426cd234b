//! The sources that a whole answer cites (CONT-108).

use minichat_core::stream::{CitationSource, Span};

use crate::adapter::json::{elements, members_of, text};
use crate::adapter::output::Output;
use crate::adapter::text::whole;
use crate::event::{Citation, first_chars};

use super::text_of_part;

/// The most sources of one answer; further ones are left out.
const MAX_CITATIONS: usize = 256;

/// The most characters of a title, and of a snippet.
const MAX_CHARS: usize = 1024;

/// The most bytes of a part whose characters are counted.
const MAX_COUNTED_BYTES: usize = 256 * 1024;

/// The most bytes of an address. A longer one cannot be cut, so it is left out.
const MAX_URL_BYTES: usize = 4096;

/// The sources of the items of an answer, in their order.
pub(super) fn of_items(items: &[&str], output: &Output) -> Vec<Citation> {
    let mut found = Vec::new();
    // Characters of the answer before the part.
    let mut before = 0;
    for part in items.iter().copied().flat_map(parts) {
        let spoken = text_of_part(part);
        let [annotations] = members_of(Some(part), ["annotations"]);
        let annotations = annotations.map(elements).unwrap_or_default();
        let room = MAX_CITATIONS - found.len();
        let cited = annotations.into_iter();
        let cited = cited.filter_map(|annotation| citation(annotation, &spoken, before, output));
        found.extend(cited.take(room));
        before += spoken.chars().count();
    }
    found
}

/// The parts of an item that is a message.
fn parts(item: &str) -> Vec<&str> {
    let [kind, content] = members_of(Some(item), ["type", "content"]);
    if kind.is_some_and(|kind| kind != "\"message\"") {
        return Vec::new();
    }
    content.map(elements).unwrap_or_default()
}

/// One source. `spoken` is the text of the part that cites it, and `before` the number
/// of characters of the answer before that part.
fn citation(annotation: &str, spoken: &str, before: usize, output: &Output) -> Option<Citation> {
    let names = [
        "type",
        "title",
        "url",
        "file_id",
        "text",
        "start_index",
        "end_index",
    ];
    let [kind, title, url, file_id, cited, start, end] = members_of(Some(annotation), names);
    let (source, url, file_id) = match kind? {
        "\"file_citation\"" => (CitationSource::File, None, file_id.and_then(text)),
        "\"url_citation\"" => (CitationSource::Web, url.and_then(text), None),
        _ => return None,
    };
    let range = range(spoken, index(start), index(end));
    let snippet = match cited.and_then(text).map(whole) {
        Some(cited) if !cited.is_empty() => cited,
        _ => range.map_or_else(String::new, |(_, inside)| {
            first_chars(inside, MAX_CHARS).to_owned()
        }),
    };
    let shown = |text: &str| output.masked(text, MAX_CHARS).0;
    Some(Citation {
        source,
        title: shown(&title.and_then(text).map(whole).unwrap_or_default()),
        url: url
            .map(whole)
            .filter(|url| url.len() <= MAX_URL_BYTES)
            .map(|url| output.masked(&url, MAX_URL_BYTES).0),
        file_id: file_id.map(whole),
        snippet: shown(&snippet),
        span: range.map(|(span, _)| Span {
            start: span.start + before,
            end: span.end + before,
        }),
    })
}

fn index(json: Option<&str>) -> Option<usize> {
    json?.parse().ok()
}

/// The characters from `start` to `end` of `spoken`; `None` if it has no such range.
fn range(spoken: &str, start: Option<usize>, end: Option<usize>) -> Option<(Span, &str)> {
    let (start, end) = (start?, end?);
    let length = end.checked_sub(start)?;
    if spoken.len() > MAX_COUNTED_BYTES {
        return None;
    }
    // Also the place after the last character.
    let places = || {
        spoken
            .char_indices()
            .map(|(at, _)| at)
            .chain([spoken.len()])
    };
    let from = places().nth(start)?;
    let to = spoken[from..]
        .char_indices()
        .map(|(at, _)| from + at)
        .chain([spoken.len()])
        .nth(length)?;
    Some((Span { start, end }, &spoken[from..to]))
}
