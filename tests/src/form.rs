//! Forms with a file, as browsers send them.

use bytes::Bytes;
use http::Method;
use png::{BitDepth, ColorType, Compression, Encoder};

use crate::client::{Answer, Api};

/// The boundary of every form.
pub const BOUNDARY: &str = "----minichat-test";

/// A form with one file.
#[derive(Clone, Debug)]
pub struct FormFile {
    /// Name of the part.
    pub part: &'static str,
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub content: Bytes,
}

impl FormFile {
    pub fn new(filename: &str, content_type: &str, content: impl Into<Bytes>) -> Self {
        Self {
            part: "file",
            filename: Some(filename.to_owned()),
            content_type: Some(content_type.to_owned()),
            content: content.into(),
        }
    }

    /// A text called `notes.txt`.
    pub fn text(content: impl Into<Bytes>) -> Self {
        Self::new("notes.txt", "text/plain", content)
    }

    /// A picture of `size` bytes that begins as a PNG does.
    pub fn png(size: usize) -> Self {
        Self::new("a.png", "image/png", beginning(b"\x89PNG\r\n\x1a\n", size))
    }

    /// What precedes the content.
    pub fn head(&self) -> String {
        let filename = self.filename.as_ref();
        let filename = filename.map_or(String::new(), |it| format!("; filename=\"{it}\""));
        let content_type = self.content_type.as_ref();
        let content_type =
            content_type.map_or(String::new(), |it| format!("Content-Type: {it}\r\n"));
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{}\"{filename}\r\n{content_type}\r\n",
            self.part
        )
    }

    /// What follows the content.
    pub fn tail() -> String {
        format!("\r\n--{BOUNDARY}--\r\n")
    }

    /// The whole form.
    pub fn body(&self) -> Bytes {
        let (head, tail) = (self.head(), Self::tail());
        [head.as_bytes(), &self.content, tail.as_bytes()]
            .concat()
            .into()
    }
}

/// `size` bytes that begin with `magic`.
pub fn beginning(magic: &[u8], size: usize) -> Vec<u8> {
    let mut content = vec![b'x'; size];
    content[..magic.len()].copy_from_slice(magic);
    content
}

/// A PNG of this size in black and white. It is complete if its pixels have less
/// than 64 KiB, which are not compressed.
pub fn png(width: u32, height: u32) -> anyhow::Result<Vec<u8>> {
    let bytes = u64::from(width.div_ceil(8)) * u64::from(height);
    let mut png = Vec::new();
    let mut encoder = Encoder::new(&mut png, width, height);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.set_compression(Compression::NoCompression);
    let mut writer = encoder.write_header()?;
    if let Ok(bytes) = u16::try_from(bytes) {
        writer.write_image_data(&vec![0xF0; usize::from(bytes)])?;
    }
    drop(writer);
    Ok(png)
}

impl Api {
    /// Uploads a file to a chat.
    pub async fn upload(&self, chat: &str, file: &FormFile) -> anyhow::Result<Answer> {
        self.upload_body(chat, file.body()).await
    }

    /// Sends `body` as a form with [`BOUNDARY`].
    pub async fn upload_body(&self, chat: &str, body: Bytes) -> anyhow::Result<Answer> {
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("content-type", content_type.as_str())];
        let path = format!("/chats/{chat}/attachments");
        self.exchange(Method::POST, &path, &headers, body).await
    }
}
