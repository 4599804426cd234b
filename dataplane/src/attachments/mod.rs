//! Attachments: files that are uploaded to a chat and kept by the provider
//! (chapter 4 of the specification, section 3).

mod deletion;
mod form;
mod incoming;
mod limits;
mod outcome;
mod transfer;
mod upload;
mod usable;
mod vector_store;

pub(crate) use deletion::delete;
pub(crate) use upload::{UploadRequest, upload};
