//! How an upload ended, counted exactly once (CONT-75).

use std::sync::Arc;

use minichat_core::AttachmentKind;
use minichat_metrics::{Metrics, UploadKind, UploadResult};
use minichat_store::StoreError;

use crate::problem::Problem;

/// Why an upload was refused or failed: the answer, and what it counts as.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Box<Problem>,
    pub(super) result: UploadResult,
}

impl Refusal {
    pub(super) fn new(problem: Problem, result: UploadResult) -> Self {
        let problem = Box::new(problem);
        Self { problem, result }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::new(problem, UploadResult::Other)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

/// Counts an upload when it is dropped, so that none is counted twice or not at all.
pub(super) struct Sample {
    metrics: Arc<dyn Metrics>,
    kind: UploadKind,
    result: UploadResult,
}

impl Sample {
    pub(super) fn new(metrics: Arc<dyn Metrics>) -> Self {
        Self {
            metrics,
            kind: UploadKind::Document,
            result: UploadResult::Other,
        }
    }

    /// The file is of this kind.
    pub(super) fn of_kind(&mut self, kind: AttachmentKind) {
        self.kind = match kind {
            AttachmentKind::Document => UploadKind::Document,
            AttachmentKind::Image => UploadKind::Image,
        };
    }

    /// The file's type cannot be uploaded.
    pub(super) fn of_unsupported(&mut self, mime: &str) {
        if mime.starts_with("image/") {
            self.kind = UploadKind::Image;
        }
    }

    /// The upload succeeded with this many bytes.
    pub(super) fn succeed(mut self, bytes: u64) {
        self.result = UploadResult::Ok;
        self.metrics.attachment_upload_bytes(self.kind, bytes);
    }

    /// The upload did not succeed.
    pub(super) fn fail(&mut self, result: UploadResult) {
        self.result = result;
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.metrics.attachment_upload(self.kind, self.result);
    }
}
