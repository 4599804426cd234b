//! Reads a body of `multipart/form-data` (RFC 7578). It understands what
//! well-behaved clients write and nothing else.

use bytes::Bytes;
use serde_json::{Value, json};

/// The form of an upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) purpose: String,
    pub(super) filename: String,
    pub(super) content_type: String,
    pub(super) file: Bytes,
}

impl Form {
    /// Reads `body`; `None` if it is incomplete or has another shape.
    pub(super) fn read(content_type: &str, body: &Bytes) -> Option<Self> {
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=")?;
        let (mut purpose, mut file) = (None, None);
        let text = Bytes::from(format!("\r\n--{boundary}"));
        // The first boundary has no line before it.
        if !body.starts_with(&text[2..]) {
            return None;
        }
        let mut rest = body.slice(text.len() - 2..);
        while !rest.starts_with(b"--\r\n") {
            let end = find(&rest, &text)?;
            let part = rest.slice(2..end);
            rest = rest.slice(end + text.len()..);
            let head_end = find(&part, b"\r\n\r\n")?;
            let head = std::str::from_utf8(&part[..head_end]).ok()?;
            let content = part.slice(head_end + 4..);
            if head.contains("name=\"purpose\"") {
                purpose = Some(String::from_utf8(content.to_vec()).ok()?);
            } else if head.contains("name=\"file\"") {
                let filename = head.split("filename=\"").nth(1)?.split('"').next()?;
                let mut lines = head.lines();
                let content_type = lines.find_map(|it| it.strip_prefix("Content-Type: "))?;
                file = Some((filename.to_owned(), content_type.to_owned(), content));
            }
        }
        let (filename, content_type, file) = file?;
        Some(Self {
            purpose: purpose?,
            filename,
            content_type,
            file,
        })
    }

    /// What is recorded of it.
    pub(super) fn recorded(&self) -> Value {
        json!({
            "purpose": self.purpose,
            "filename": self.filename,
            "content_type": self.content_type,
            "bytes": self.file.len(),
        })
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=B";

    #[test]
    fn the_file_is_read_byte_for_byte() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
                    Content-Type: text/plain\r\n\r\n\r\n--b\r\n\r\n\r\n--B--\r\n";
        let form = Form::read(TYPE, &Bytes::from(body)).unwrap();
        assert_eq!(form.purpose, "assistants");
        assert_eq!(form.filename, "a.txt");
        assert_eq!(form.content_type, "text/plain");
        assert_eq!(&*form.file, b"\r\n--b\r\n\r\n");
        for end in 0..body.len() {
            let cut = Bytes::from(&body.as_bytes()[..end]);
            assert_eq!(Form::read(TYPE, &cut), None, "{end}");
        }
    }
}
