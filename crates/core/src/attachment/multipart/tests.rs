//! Forms of real clients, and forms that no client should send.

use proptest::prelude::*;

use super::*;

/// What was read of a form: its parts with their data.
type Parts = Vec<(PartHead, Vec<u8>)>;

/// Reads `input` in pieces of `size` bytes, and the most bytes that were kept.
fn read(boundary: &str, input: &[u8], size: usize) -> (Result<Parts, Fault>, usize) {
    let mut reader = Multipart::new(boundary);
    let mut pieces = input.chunks(size);
    let mut parts = Parts::new();
    let mut largest = 0;
    let mut is_open = false;
    loop {
        match reader.read() {
            Ok(Event::More) => {
                let kept = reader.buffer.len() - reader.start;
                largest = largest.max(kept);
                match pieces.next() {
                    Some(piece) => reader.feed(piece),
                    None => reader.complete(),
                }
            }
            Ok(Event::Part(head)) => {
                assert!(!is_open, "a part begins within another");
                is_open = true;
                parts.push((head, Vec::new()));
            }
            Ok(Event::Data(data)) => {
                assert!(is_open && !data.is_empty());
                parts.last_mut().unwrap().1.extend_from_slice(data);
            }
            Ok(Event::PartEnd) => {
                assert!(is_open);
                is_open = false;
            }
            Ok(Event::End) => return (Ok(parts), largest),
            Err(fault) => return (Err(fault), largest),
        }
    }
}

fn parts(input: &[u8]) -> Result<Parts, Fault> {
    let whole = read("b", input, usize::MAX).0;
    for size in [1, 2, 3, 7] {
        assert_eq!(read("b", input, size).0, whole, "in pieces of {size}");
    }
    whole
}

fn file(filename: &str, content_type: &str) -> PartHead {
    PartHead {
        name: Some("file".to_owned()),
        filename: Some(filename.to_owned()),
        content_type: Some(content_type.to_owned()),
    }
}

/// API-101
#[test]
fn a_form_is_read_whatever_is_around_its_parts() {
    let form = b"preamble --b\r\n--b \t\r\nContent-Disposition: form-data; name=\"file\"; \
        filename=\"a.txt\"\r\nContent-Type: text/plain\r\nX-Other: 1\r\n\r\nline\r\n--not\r\n\r\n--b\r\n\
        content-disposition:form-data;name=other\r\n\r\n\r\n--b\r\n\r\nbare\r\n--b--\r\nepilogue";
    let other = PartHead {
        name: Some("other".to_owned()),
        ..PartHead::default()
    };
    let expected = vec![
        (file("a.txt", "text/plain"), b"line\r\n--not\r\n".to_vec()),
        (other, Vec::new()),
        (PartHead::default(), b"bare".to_vec()),
    ];
    assert_eq!(parts(form).unwrap(), expected);
}

/// CONT-52
#[test]
fn a_name_is_read_as_clients_write_it() {
    for (written, read) in [
        (r#"filename="a.txt""#, "a.txt"),
        ("filename=a.txt", "a.txt"),
        (r#"filename="a \"b\".txt""#, "a \"b\".txt"),
        (r#"filename="C:\dir\a.txt""#, r"C:\dir\a.txt"),
        (r#"filename="a\\b.txt""#, r"a\b.txt"),
        (r#"filename="a;b.txt"; x=y"#, "a;b.txt"),
        ("FileName=\"\u{1f980}.txt\"", "\u{1f980}.txt"),
        ("filename*=UTF-8''%e2%82%ac%20a.txt", "€ a.txt"),
        (
            r#"filename="plain.txt"; filename*=UTF-8''e.txt"#,
            "plain.txt",
        ),
        (r#"filename="%22.txt""#, "%22.txt"),
    ] {
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"file\"; {written}\r\n\
             Content-Type: text/plain\r\n\r\n\r\n--b--"
        );
        let expected = vec![(file(read, "text/plain"), Vec::new())];
        assert_eq!(parts(form.as_bytes()).unwrap(), expected, "{written}");
    }
}

/// CONT-52
#[test]
fn what_is_no_form_is_refused() {
    let malformed = |form: &str| matches!(parts(form.as_bytes()), Err(Fault::Malformed(_)));
    assert!(malformed("--bad\r\n\r\n\r\n--b--"));
    assert!(malformed("--b\r\nno colon\r\n\r\n\r\n--b--"));
    assert!(malformed("--b\r\n: value\r\n\r\n\r\n--b--"));
    assert!(malformed("--b\r\nA: 1\n folded\r\n\r\n\r\n--b--"));
    assert!(malformed(
        "--b\r\nContent-Disposition: form-data; name=\"file\r\n\r\n\r\n--b--"
    ));
    assert!(malformed(
        "--b\r\nContent-Disposition: form-data; name=\"a\"b\r\n\r\n\r\n--b--"
    ));
    let twice = "Content-Disposition: form-data; name=a\r\n".repeat(2);
    assert!(malformed(&format!("--b\r\n{twice}\r\n\r\n--b--")));
    for truncated in [
        "",
        "text",
        "--b",
        "--b-",
        "--b\r\n",
        "--b\r\nA: 1\r\n",
        "--b\r\nA: 1\r\n\r\ndata",
        "--b\r\nA: 1\r\n\r\ndata\r\n--b",
    ] {
        assert_eq!(
            parts(truncated.as_bytes()),
            Err(Fault::Truncated),
            "{truncated}"
        );
    }
}

/// CONT-52, CONT-57
#[test]
fn no_form_makes_the_reader_keep_much() {
    const PIECE: usize = 1000;
    let head = |size: usize| format!("--b\r\nA: {}\r\n\r\n", "x".repeat(size));
    let megabyte = "x".repeat(1 << 20);
    for (form, expected) in [
        (head(1 << 20), Err(Fault::LargeHead)),
        (head(MAX_HEAD) + "\r\n--b--", Err(Fault::LargeHead)),
        (head(MAX_HEAD - 100) + "\r\n--b--", Ok(1)),
        ("--b\r\n\r\n\r\n".repeat(10_000), Err(Fault::ManyParts)),
        (format!("--b{}", " ".repeat(1 << 20)), Err(Fault::LargeHead)),
        (format!("{megabyte}\r\n--b--"), Ok(0)),
        (format!("--b\r\n\r\n{megabyte}\r\n--b--"), Ok(1)),
        (megabyte, Err(Fault::Truncated)),
    ] {
        let (parts, kept) = read("b", form.as_bytes(), PIECE);
        assert_eq!(parts.map(|parts| parts.len()), expected);
        assert!(kept <= MAX_HEAD + PIECE + 10, "{kept}");
    }
}

/// CONT-52
#[test]
fn a_boundary_is_found_in_the_type_of_a_form_only() {
    for (content_type, expected) in [
        ("multipart/form-data; boundary=abc", Some("abc")),
        (
            "Multipart/Form-Data; charset=utf-8; BOUNDARY=\"a b\"",
            Some("a b"),
        ),
        (
            "multipart/form-data;boundary=----WebKit7MA4YWxk",
            Some("----WebKit7MA4YWxk"),
        ),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=\"", None),
        ("multipart/form-data; boundary=\"a\r\n\"", None),
        ("multipart/form-data; boundary=a\u{e4}", None),
        ("multipart/mixed; boundary=abc", None),
        ("text/plain; boundary=abc", None),
    ] {
        assert_eq!(
            boundary(content_type).as_deref(),
            expected,
            "{content_type}"
        );
    }
    let named = |length: usize| format!("multipart/form-data; boundary={}", "x".repeat(length));
    assert!(boundary(&named(70)).is_some() && boundary(&named(71)).is_none());
}

proptest! {
    /// API-101
    #[test]
    fn data_is_read_as_it_was_written(
        data in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'b'), any::<u8>()], 0..200),
        size in 1_usize..50,
    ) {
        prop_assume!(memchr::memmem::find(&data, b"\r\n--b").is_none() && !data.starts_with(b"\n--b"));
        let mut form = b"--b\r\nA: 1\r\n\r\n".to_vec();
        form.extend_from_slice(&data);
        form.extend_from_slice(b"\r\n--b--");
        let (parts, _) = read("b", &form, size);
        prop_assert_eq!(parts.unwrap(), vec![(PartHead::default(), data)]);
    }

    #[test]
    fn any_input_is_read_in_the_same_way_whatever_its_pieces(
        input in proptest::collection::vec(prop_oneof![
            Just(b"\r\n".to_vec()), Just(b"--b".to_vec()), Just(b"--".to_vec()), Just(b"A: 1".to_vec()),
            Just(b" ".to_vec()), proptest::collection::vec(any::<u8>(), 0..4),
        ], 0..40),
        size in 1_usize..20,
    ) {
        let input = input.concat();
        prop_assert_eq!(read("b", &input, size).0, read("b", &input, usize::MAX).0);
    }
}
