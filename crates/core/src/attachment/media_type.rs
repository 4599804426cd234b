//! The types of files that can be uploaded (CONT-53, CONT-54).

use super::AttachmentKind;

/// A type of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileType {
    /// Without parameters, in lower case.
    pub mime: &'static str,
    /// Without the dot.
    pub extension: &'static str,
    pub kind: AttachmentKind,
    content: Content,
}

/// How files of a type begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    Text,
    Pdf,
    Png,
    Jpeg,
    Gif,
    Webp,
    /// OOXML is a ZIP archive.
    Zip,
}

/// How many bytes of a file [`FileType::contradicts`] wants to see.
pub const HEAD_BYTES: usize = 512;

const OCTET_STREAM: &str = "application/octet-stream";
const CSV: &str = "text/csv";
const PLAIN: &str = "text/plain";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

/// All types.
pub const FILE_TYPES: [FileType; 21] = [
    document("application/pdf", "pdf", Content::Pdf),
    document(PLAIN, "txt", Content::Text),
    document("text/markdown", "md", Content::Text),
    document("text/html", "html", Content::Text),
    document(DOCX, "docx", Content::Zip),
    document(PPTX, "pptx", Content::Zip),
    document(XLSX, "xlsx", Content::Zip),
    document("application/json", "json", Content::Text),
    document("text/x-python", "py", Content::Text),
    document("text/x-java", "java", Content::Text),
    document("text/javascript", "js", Content::Text),
    document("text/typescript", "ts", Content::Text),
    document("text/x-rust", "rs", Content::Text),
    document("text/x-go", "go", Content::Text),
    document("text/x-csharp", "cs", Content::Text),
    document("text/x-ruby", "rb", Content::Text),
    document("text/x-sql", "sql", Content::Text),
    image("image/png", "png", Content::Png),
    image("image/jpeg", "jpg", Content::Jpeg),
    image("image/webp", "webp", Content::Webp),
    image("image/gif", "gif", Content::Gif),
];

/// Other extensions of these types.
const OTHER_EXTENSIONS: [(&str, &str); 6] = [
    ("markdown", "text/markdown"),
    ("htm", "text/html"),
    ("mjs", "text/javascript"),
    ("mts", "text/typescript"),
    ("jpeg", "image/jpeg"),
    ("csv", CSV),
];

const fn document(mime: &'static str, extension: &'static str, content: Content) -> FileType {
    FileType {
        mime,
        extension,
        kind: AttachmentKind::Document,
        content,
    }
}

const fn image(mime: &'static str, extension: &'static str, content: Content) -> FileType {
    FileType {
        mime,
        extension,
        kind: AttachmentKind::Image,
        content,
    }
}

/// The type of a file that is sent as `content_type`. `Err` is a type that cannot be
/// uploaded, without parameters and in lower case.
pub fn resolve(
    content_type: &str,
    filename: &str,
    allow_csv: bool,
) -> Result<&'static FileType, String> {
    let sent = content_type.split(';').next().unwrap_or_default();
    let mut mime = sent.trim().to_ascii_lowercase();
    if mime == OCTET_STREAM
        && let Some(known) = by_extension(filename)
    {
        known.clone_into(&mut mime);
    }
    if mime == CSV && allow_csv {
        PLAIN.clone_into(&mut mime);
    }
    FILE_TYPES.iter().find(|it| it.mime == mime).ok_or(mime)
}

fn by_extension(filename: &str) -> Option<&'static str> {
    let (_, extension) = filename.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    let usual = FILE_TYPES.iter().map(|it| (it.extension, it.mime));
    let mut known = usual.chain(OTHER_EXTENSIONS);
    known.find(|(it, _)| *it == extension).map(|(_, mime)| mime)
}

impl FileType {
    /// Whether files of the type are for the code interpreter.
    pub fn for_code_interpreter(&self) -> bool {
        self.mime == XLSX
    }

    /// Whether files of the type are indexed for search.
    pub fn for_file_search(&self) -> bool {
        self.kind == AttachmentKind::Document && !self.for_code_interpreter()
    }

    /// Whether a file that begins with `head` cannot be of this type. `head` is the whole
    /// file or at least [`HEAD_BYTES`] of it.
    pub fn contradicts(&self, head: &[u8]) -> bool {
        let found = signature(head);
        match self.content {
            Content::Text => found.is_some() || is_binary(head),
            binary => found != Some(binary),
        }
    }
}

/// What a file is that begins with `head`; `None` for text and everything else.
fn signature(head: &[u8]) -> Option<Content> {
    let begins = |with: &[u8]| head.starts_with(with);
    if begins(b"%PDF-") {
        Some(Content::Pdf)
    } else if begins(b"\x89PNG\r\n\x1a\n") {
        Some(Content::Png)
    } else if begins(b"\xff\xd8\xff") {
        Some(Content::Jpeg)
    } else if begins(b"GIF87a") || begins(b"GIF89a") {
        Some(Content::Gif)
    } else if begins(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        Some(Content::Webp)
    } else if begins(b"PK\x03\x04") {
        Some(Content::Zip)
    } else {
        None
    }
}

/// Text has no NUL, unless it is UTF-16 or UTF-32, which a byte order mark tells.
fn is_binary(head: &[u8]) -> bool {
    let has_mark = [&b"\xff\xfe"[..], b"\xfe\xff", b"\0\0\xfe\xff"]
        .iter()
        .any(|mark| head.starts_with(mark));
    !has_mark && memchr::memchr(0, head).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mime(content_type: &str, filename: &str) -> Result<&'static str, String> {
        resolve(content_type, filename, true).map(|it| it.mime)
    }

    /// API-102, CONT-53, CONT-54
    #[test]
    fn a_type_is_what_the_client_says_or_else_its_extension() {
        for known in &FILE_TYPES {
            assert_eq!(mime(known.mime, "a.bin").unwrap(), known.mime);
            let name = format!("A.B.{}", known.extension.to_uppercase());
            assert_eq!(mime(OCTET_STREAM, &name).unwrap(), known.mime);
        }
        for (name, expected) in [
            ("a.markdown", "text/markdown"),
            ("a.htm", "text/html"),
            ("a.mjs", "text/javascript"),
            ("a.mts", "text/typescript"),
            ("a.jpeg", "image/jpeg"),
            ("a.csv", "text/plain"),
        ] {
            assert_eq!(mime("Application/Octet-Stream", name).unwrap(), expected);
        }
        assert_eq!(mime(" Text/Plain ; charset=utf-8", "a.png").unwrap(), PLAIN);
        assert_eq!(mime(OCTET_STREAM, "a.exe").unwrap_err(), OCTET_STREAM);
        assert_eq!(mime(OCTET_STREAM, "png").unwrap_err(), OCTET_STREAM);
        assert_eq!(
            mime("application/zip", "a.txt").unwrap_err(),
            "application/zip"
        );
        assert_eq!(mime("", "a.txt").unwrap_err(), "");
        assert_eq!(resolve("text/csv", "a.csv", false).unwrap_err(), CSV);
    }

    /// CONT-53
    #[test]
    fn a_file_has_the_purposes_of_its_type() {
        let purposes = |known: &FileType| (known.for_file_search(), known.for_code_interpreter());
        for known in &FILE_TYPES {
            let expected = match (known.kind, known.extension) {
                (AttachmentKind::Image, _) => (false, false),
                (_, "xlsx") => (false, true),
                _ => (true, false),
            };
            assert_eq!(purposes(known), expected, "{}", known.mime);
        }
    }

    /// CONT-54
    #[test]
    fn a_file_must_begin_as_its_type_does() {
        let heads: [(&[u8], &[&str]); 11] = [
            (b"%PDF-1.7\n", &["pdf"]),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &["png"]),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", &["jpg"]),
            (b"GIF87a..", &["gif"]),
            (b"GIF89a..", &["gif"]),
            (b"RIFF\x10\0\0\0WEBPVP8 ", &["webp"]),
            (b"PK\x03\x04\x14\0", &["docx", "pptx", "xlsx"]),
            (b"RIFF\x10\0\0\0WAVEfmt ", &[]),
            (b"MZ\x90\0\x03", &[]),
            (b"hello", TEXTS),
            (b"\xff\xfeh\0i\0", TEXTS),
        ];
        for (head, fitting) in heads {
            let fits = FILE_TYPES.iter().filter(|known| !known.contradicts(head));
            let fits: Vec<_> = fits.map(|known| known.extension).collect();
            assert_eq!(fits, fitting, "{}", head.escape_ascii());
        }
    }

    const TEXTS: &[&str] = &[
        "txt", "md", "html", "json", "py", "java", "js", "ts", "rs", "go", "cs", "rb", "sql",
    ];
}
