//! Parameters of headers, such as `; name="file"`.

/// Maximum length of a boundary (RFC 2046 section 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// The boundary that the `Content-Type` of a request names; `None` if it is not a form
/// or names none that is usable.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut named = parameters(rest)?.into_iter();
    let (_, boundary) = named.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let is_usable = (1..=MAX_BOUNDARY).contains(&boundary.len())
        && boundary.bytes().all(is_usual)
        && !boundary.ends_with(' ');
    is_usable.then_some(boundary)
}

/// Names and values; `None` if a quoted value does not end, or is followed by something
/// else than the next parameter. A backslash escapes only a quotation mark and a
/// backslash: some clients write paths of Windows without escaping them.
pub(super) fn parameters(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ';']);
        if text.is_empty() {
            return Some(found);
        }
        let end = text.find(['=', ';']).unwrap_or(text.len());
        let name = text[..end].trim().to_owned();
        let Some(value) = text[end..].strip_prefix('=') else {
            text = &text[end..];
            continue;
        };
        let value = value.trim_start();
        if let Some(quoted) = value.strip_prefix('"') {
            let (value, rest) = unquoted(quoted)?;
            let rest = rest.trim_start();
            if !rest.is_empty() && !rest.starts_with(';') {
                return None;
            }
            found.push((name, value));
            text = rest;
        } else {
            let end = value.find(';').unwrap_or(value.len());
            found.push((name, value[..end].trim_end().to_owned()));
            text = &value[end..];
        }
    }
}

/// The value up to the closing quotation mark, and what is behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => {
                let escaped = characters.next_if(|(_, next)| matches!(next, '"' | '\\'));
                value.push(escaped.map_or('\\', |(_, it)| it));
            }
            _ => value.push(character),
        }
    }
    None
}

/// The text of `UTF-8''a%20b` (RFC 8187); `None` for other character sets.
pub(super) fn percent_decoded(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let charset = parts.next()?;
    let (_language, text) = (parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(escaped) = escaped.filter(|_| byte == b'%') {
            bytes.push(escaped);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
