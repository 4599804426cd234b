use proptest::prelude::*;

use super::{Parser, TooLarge};

type Owned = (Vec<u8>, Vec<u8>);

/// Every event of `chunks`, fed one by one.
fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
    let mut parser = Parser::default();
    let mut seen = Vec::new();
    for chunk in chunks {
        parser.push(chunk);
        while let Some(event) = parser.next_event().unwrap() {
            seen.push((event.name.to_vec(), event.data.to_vec()));
        }
    }
    seen
}

fn whole(stream: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    events([stream])
        .into_iter()
        .map(|(name, data)| (text(name), text(data)))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, data)| ((*name).to_owned(), (*data).to_owned()))
        .collect()
}

/// D27
#[test]
fn all_three_line_ends_separate_lines() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = "event: a\ndata: 1\n\ndata: 2\n\n".replace('\n', end);
        assert_eq!(
            whole(stream.as_bytes()),
            pairs(&[("a", "1"), ("", "2")]),
            "{end:?}"
        );
    }
}

/// D27
#[test]
fn a_leading_byte_order_mark_is_skipped_once() {
    assert_eq!(whole(b"\xEF\xBB\xBFdata: 1\n\n"), pairs(&[("", "1")]));
    assert_eq!(whole(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: 1\n\n"), pairs(&[]));
    assert_eq!(
        whole(b"data: 1\n\n\xEF\xBB\xBFdata: 2\n\n"),
        pairs(&[("", "1")])
    );
}

#[test]
fn fields_are_read_as_the_standard_says() {
    let rows: &[(&str, &[(&str, &str)])] = &[
        ("data:1\n\n", &[("", "1")]),
        ("data:  1\n\n", &[("", " 1")]),
        ("data\n\n", &[("", "")]),
        ("data\ndata\n\n", &[("", "\n")]),
        ("data: a\ndata: b\ndata:\n\n", &[("", "a\nb\n")]),
        ("data: a\nevent: n\ndata: b\n\n", &[("n", "a\nb")]),
        ("event: a\n\ndata: 1\n\n", &[("", "1")]),
        ("event: a\nevent: b\ndata: 1\n\n", &[("b", "1")]),
        (": ping\n\n: pong\ndata: 1\n\n", &[("", "1")]),
        (
            "id: 7\nretry: 1\ndatax: no\n data: no\ndata: 1\n\n",
            &[("", "1")],
        ),
        ("data: a:b\n\n", &[("", "a:b")]),
        ("error: {}\n\n", &[("error", "{}")]),
        ("errors: {}\n\n", &[]),
        ("data: unfinished\n", &[]),
        ("\n\n\n", &[]),
    ];
    for (stream, expected) in rows {
        assert_eq!(whole(stream.as_bytes()), pairs(expected), "{stream:?}");
    }
}

#[test]
fn an_event_is_dispatched_without_waiting_for_the_lf_of_a_crlf() {
    let mut parser = Parser::default();
    parser.push(b"data: 1\r\n\r");
    assert_eq!(parser.next_event().unwrap().unwrap().data, b"1");
    parser.push(b"\ndata: 2\r\n\r\n");
    assert_eq!(parser.next_event().unwrap().unwrap().data, b"2");
    assert_eq!(parser.next_event(), Ok(None));
}

#[test]
fn an_oversized_event_is_refused() {
    let mut parser = Parser::with_limit(64);
    parser.push(&[b'x'; 60]);
    assert_eq!(parser.next_event(), Ok(None));
    parser.push(&[b'x'; 60]);
    assert_eq!(parser.next_event(), Err(TooLarge));
}

#[test]
fn endless_comments_and_events_are_not_kept() {
    let mut parser = Parser::with_limit(64);
    for _ in 0..10_000 {
        parser.push(b": still here\n");
        assert_eq!(parser.next_event(), Ok(None));
        parser.push(b"data: 1\n\n");
        assert!(parser.next_event().unwrap().is_some());
    }
    assert!(parser.buffer.capacity() < 1024);
}

/// Streams with many line ends, field names and cut characters.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"data: ".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event: ".to_vec()),
        Just(b": ".to_vec()),
        Just("é漢🦀".as_bytes().to_vec()),
        Just(b"\xEF\xBB\xBF".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_events_of_the_whole(
        stream in stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let chunks = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        let expected = events([stream.as_slice()]);
        prop_assert_eq!(events(chunks), expected.clone());
        prop_assert_eq!(events(stream.chunks(1)), expected);
    }
}
