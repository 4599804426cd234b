//! What an upload may be at most (CONT-55): the smallest of the limits of process,
//! tenant and model.

use minichat_config::process::Uploads;
use minichat_config::tenant::{Model, UploadLimits};
use minichat_core::AttachmentKind;
use minichat_store::ChatLimits;

/// What a form may have besides its file, in bytes.
pub(super) const FORM_BYTES: u64 = 65_536;

/// The limits of one upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    document: u64,
    image: u64,
    pub(super) chat: ChatLimits,
}

impl Limits {
    pub(super) fn of(process: &Uploads, tenant: &UploadLimits, model: Option<&Model>) -> Self {
        let model = model.and_then(|model| model.max_file_size_mb);
        let model = model.map_or(u64::MAX, |limit| u64::from(limit) << 20);
        let file = |process: u64, tenant: Option<u32>| {
            let tenant = tenant.map_or(u64::MAX, |limit| u64::from(limit) << 10);
            process.min(tenant).min(model)
        };
        let total = tenant.max_total_upload_mb_per_chat;
        let total = total.map_or(u64::MAX, |limit| u64::from(limit) << 20);
        let documents = tenant.max_documents_per_chat.unwrap_or(u32::MAX);
        Self {
            document: file(process.max_document_bytes, tenant.max_file_size_kb),
            image: file(process.max_image_bytes, tenant.max_image_size_kb),
            chat: ChatLimits {
                documents: process.max_documents_per_chat.min(documents),
                bytes: process.max_total_bytes_per_chat.min(total),
            },
        }
    }

    /// Bytes of a file.
    pub(super) const fn file(&self, kind: AttachmentKind) -> u64 {
        match kind {
            AttachmentKind::Document => self.document,
            AttachmentKind::Image => self.image,
        }
    }

    /// Bytes of a request, whatever its file is (API-24).
    pub(super) fn body(&self) -> u64 {
        self.document.max(self.image) + FORM_BYTES
    }
}

#[cfg(test)]
mod tests {
    use minichat_config::process::ProcessConfig;

    use super::*;

    /// API-103, CONT-55
    #[test]
    fn the_smallest_limit_counts() {
        let yaml = "auth: {mode: dev, allow_dev: true}";
        let process = ProcessConfig::from_yaml(yaml, []).unwrap().uploads;
        let limits = Limits::of(&process, &UploadLimits::default(), None);
        assert_eq!(limits.file(AttachmentKind::Document), 25_600 * 1024);
        assert_eq!(limits.file(AttachmentKind::Image), 5_120 * 1024);
        assert_eq!(limits.body(), 25_600 * 1024 + 65_536);
        let chat = ChatLimits {
            documents: 50,
            bytes: 100 * 1_048_576,
        };
        assert_eq!(limits.chat, chat);
        let tenant = UploadLimits {
            max_file_size_kb: Some(7),
            max_image_size_kb: Some(u32::MAX),
            max_documents_per_chat: Some(2),
            max_total_upload_mb_per_chat: Some(1),
            ..UploadLimits::default()
        };
        let limits = Limits::of(&process, &tenant, None);
        assert_eq!(limits.file(AttachmentKind::Document), 7 * 1024);
        assert_eq!(limits.file(AttachmentKind::Image), 5_120 * 1024);
        let chat = ChatLimits {
            documents: 2,
            bytes: 1_048_576,
        };
        assert_eq!(limits.chat, chat);
    }
}
