//! A tenant's own limits of uploads.

use serde::{Deserialize, Serialize};

use crate::fault::Faults;

/// A tenant's own limits of uploads (CONT-55). They hold besides those of the process;
/// `None` = only the process's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UploadLimits {
    /// Size of a document in KiB, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file_size_kb: Option<u32>,
    /// Size of an image in KiB, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_size_kb: Option<u32>,
    /// Documents of a chat, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_documents_per_chat: Option<u32>,
    /// Size of all files of a chat in MiB, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_upload_mb_per_chat: Option<u32>,
    /// Uploads of the tenant at a time in one process, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_uploads: Option<u32>,
    /// Uploads of one user at a time in one process, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_uploads_per_user: Option<u32>,
}

impl UploadLimits {
    /// Whether the tenant sets no limit of its own.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(self, faults: &mut Faults) {
        let Self {
            max_file_size_kb,
            max_image_size_kb,
            max_documents_per_chat,
            max_total_upload_mb_per_chat,
            max_concurrent_uploads,
            max_concurrent_uploads_per_user,
        } = self;
        for (key, value) in [
            ("max_file_size_kb", max_file_size_kb),
            ("max_image_size_kb", max_image_size_kb),
            ("max_documents_per_chat", max_documents_per_chat),
            ("max_total_upload_mb_per_chat", max_total_upload_mb_per_chat),
            ("max_concurrent_uploads", max_concurrent_uploads),
            (
                "max_concurrent_uploads_per_user",
                max_concurrent_uploads_per_user,
            ),
        ] {
            faults.require(
                value != Some(0),
                format!("uploads.{key}"),
                "must be at least 1",
            );
        }
    }
}
