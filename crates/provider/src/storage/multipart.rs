//! The body of an upload as `multipart/form-data` (RFC 7578): the field
//! `purpose`, then the file.

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;
use uuid::Uuid;

use super::FileUpload;
use crate::client::{ArrivingBody, BodyError};

/// The content type and the body; `None` if the file's type is no header value.
pub(super) fn form<S>(file: &FileUpload<'_>, source: S) -> Option<(HeaderValue, ArrivingBody)>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
{
    // Nobody who chooses the file can guess it.
    let boundary = Uuid::new_v4().simple().to_string();
    let content_type = HeaderValue::from_str(file.content_type).ok()?;
    let content_type = content_type.to_str().ok()?;
    let before = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
         Content-Type: {content_type}\r\n\r\n",
        escaped(file.filename),
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let header = format!("multipart/form-data; boundary={boundary}");
    Some((
        HeaderValue::from_str(&header).ok()?,
        ArrivingBody::new(before.into(), source, after.into()),
    ))
}

/// A file name as browsers write it: what would end the name is escaped.
fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => escaped.push_str("%22"),
            '\r' => escaped.push_str("%0D"),
            '\n' => escaped.push_str("%0A"),
            c if c.is_control() => escaped.push('_'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_the_header() {
        assert_eq!(escaped("a\"; x=\"b\r\nc\0.txt"), "a%22; x=%22b%0D%0Ac_.txt");
    }

    #[test]
    fn no_type_ends_the_header() {
        let file = FileUpload {
            filename: "a.txt",
            content_type: "text/plain\r\nX: y",
        };
        assert!(form(&file, futures_util::stream::empty()).is_none());
    }
}
