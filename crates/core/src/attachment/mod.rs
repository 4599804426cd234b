//! What is known of an uploaded file before it is kept: its name, its type, and
//! the form in which it is sent (chapter 4 of the specification, section 3).

pub mod filename;
pub mod media_type;
pub mod multipart;

pub use media_type::FileType;

/// What a file is for the model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttachmentKind {
    Document,
    Image,
}

impl AttachmentKind {
    pub const ALL: [Self; 2] = [Self::Document, Self::Image];

    /// The value in answers and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Image => "image",
        }
    }
}
