//! The head of a part.

use super::Fault;
use super::parameters::{parameters, percent_decoded};

/// What the headers of a part say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartHead {
    /// Name of the form's field.
    pub name: Option<String>,
    /// Name of the file, as the client wrote it.
    pub filename: Option<String>,
    pub content_type: Option<String>,
}

impl PartHead {
    /// Reads lines of which each but the first, empty one is a header.
    pub(super) fn parse(head: &[u8]) -> Result<Self, Fault> {
        let head = String::from_utf8_lossy(head);
        let mut parsed = Self::default();
        let mut is_described = false;
        for line in head.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = header(line)?;
            if name.eq_ignore_ascii_case("content-disposition") {
                if is_described {
                    return Err(Fault::Malformed(
                        "a part has two Content-Disposition headers",
                    ));
                }
                is_described = true;
                parsed.describe(value)?;
            } else if name.eq_ignore_ascii_case("content-type") {
                parsed.content_type = Some(value.to_owned());
            }
        }
        Ok(parsed)
    }

    fn describe(&mut self, disposition: &str) -> Result<(), Fault> {
        let (kind, rest) = disposition.split_once(';').unwrap_or((disposition, ""));
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Ok(());
        }
        let fault = Fault::Malformed("a Content-Disposition header cannot be read");
        let mut extended = None;
        for (name, value) in parameters(rest).ok_or(fault)? {
            match name.to_ascii_lowercase().as_str() {
                "name" => self.name = Some(value),
                "filename" => self.filename = Some(value),
                "filename*" => extended = percent_decoded(&value),
                _ => {}
            }
        }
        // RFC 7578 forbids the extended form, but some clients send nothing else.
        self.filename = self.filename.take().or(extended);
        Ok(())
    }
}

/// Name and value of a header.
fn header(line: &str) -> Result<(&str, &str), Fault> {
    let (name, value) = line
        .split_once(':')
        .ok_or(Fault::Malformed("a part has a header without a colon"))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Fault::Malformed("a part has a header without a name"));
    }
    let is_break = |c: char| matches!(c, '\r' | '\n');
    if value.contains(is_break) {
        return Err(Fault::Malformed("a part has a header with a broken line"));
    }
    Ok((name, value.trim()))
}
