//! Path prefixes (API-1).

/// `prefix` with repeated slashes collapsed, trailing slashes dropped and a
/// leading one added; empty stays empty.
pub(super) fn normalise(prefix: &str) -> Result<String, &'static str> {
    let mut path = String::with_capacity(prefix.len() + 1);
    for segment in prefix.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "." || segment == ".." {
            return Err("must not have a segment `.` or `..`");
        }
        if !segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        {
            return Err("may only have letters, digits, `_`, `.`, `-` and `/`");
        }
        path.push('/');
        path.push_str(segment);
    }
    Ok(path)
}
