//! Attachments: files that are uploaded to a chat and kept by the provider
//! (chapter 4 of the specification, section 3).

mod deletion;

pub(crate) use deletion::delete;
