//! The part of an upload that has a row: sends the file on to the provider and ends the
//! row, however the upload ends (CONT-52 from step 10 on, CONT-63, CONT-64).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use minichat_core::attachment::FileType;
use minichat_core::{AttachmentId, AttachmentKind, ErrorCode, Timestamp};
use minichat_metrics::{PendingAttachmentGuard, UploadResult};
use minichat_provider::{BodyError, FileUpload, ProviderFileId, StorageCall, StorageError};
use minichat_store::{
    Attachment, AttachmentInsert, AttachmentKey, AttachmentStatus, NewAttachment, StoreError,
    Thumbnail,
};
use tokio::time::{Instant, sleep};

use super::form::{FilePart, FormFault, Passed};
use super::incoming::BodyFault;
use super::outcome::Refusal;
use super::upload::{Left, Upload, refused_form};
use crate::problem::Problem;

/// How long the end of an upload is tried to be recorded while nobody else knows its
/// file.
const RECORD_PATIENCE: Duration = Duration::from_mins(5);

/// A file to transfer.
pub(super) struct NewFile {
    pub(super) filename: String,
    pub(super) file_type: &'static FileType,
    /// `Content-Length`, or 0.
    pub(super) announced_bytes: u64,
    pub(super) backend: String,
}

/// An upload whose row is `pending` or `uploaded`.
pub(super) struct Transfer<'a> {
    pub(super) upload: &'a Upload,
    pub(super) new: NewFile,
    pub(super) key: AttachmentKey,
    created_at: Timestamp,
    /// When all calls to the provider must be over.
    pub(super) expires_at: Instant,
    pub(super) passed: Arc<Passed>,
    /// Known as soon as the provider has the file, so that it can be discarded.
    provider_file: OnceLock<ProviderFileId>,
}

/// How the row of a failed upload ends.
pub(super) struct Failure {
    refusal: Refusal,
    /// `None` if the row was deleted meanwhile, and stays as it is.
    error_code: Option<&'static str>,
}

impl Failure {
    pub(super) fn new(refusal: Refusal, error_code: &'static str) -> Self {
        Self {
            refusal,
            error_code: Some(error_code),
        }
    }

    /// The row or its chat was deleted meanwhile.
    pub(super) fn of_deleted(problem: Problem) -> Self {
        Self {
            refusal: problem.into(),
            error_code: None,
        }
    }
}

/// Stores the file, of which the first bytes were read. The row ends as `ready` or
/// `failed`, also when the client leaves.
pub(super) async fn transfer(
    upload: &Upload,
    new: NewFile,
    part: FilePart,
    left: Left,
) -> Result<Attachment, Refusal> {
    let now = upload.app.clock.now();
    let key = AttachmentKey {
        tenant_id: upload.caller.tenant_id,
        chat_id: upload.chat_id,
        id: AttachmentId::at(now),
    };
    insert(upload, &new, key, now).await?;
    let _pending = PendingAttachmentGuard::new(Arc::clone(&upload.app.metrics));
    let total = upload.provider().map(|it| it.timeouts.total);
    // The clean-up must not take it for abandoned meanwhile (CONT-174).
    let stale = upload.app.config.cleanup_worker.stale_timeout;
    let total = total.unwrap_or_default().min(stale.mul_f32(0.9));
    let transfer = Transfer {
        passed: Arc::new(Passed::keeping(
            kept_bytes(upload, &new),
            new.announced_bytes,
        )),
        upload,
        new,
        key,
        created_at: now,
        expires_at: Instant::now() + total,
        provider_file: OnceLock::new(),
    };
    let prepared = tokio::select! {
        biased;
        prepared = transfer.prepare(part) => prepared,
        _ = left => Err(abandoned()),
    };
    let ended = match prepared {
        Ok(thumbnail) => transfer.finish(thumbnail).await,
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(attachment) => Ok(attachment),
        Err(failure) => {
            transfer.record(failure.error_code).await;
            Err(failure.refusal)
        }
    }
}

/// How much of the file is kept, for a thumbnail.
fn kept_bytes(upload: &Upload, new: &NewFile) -> u64 {
    match new.file_type.kind {
        AttachmentKind::Image => upload.app.thumbnails.max_file_bytes(),
        AttachmentKind::Document => 0,
    }
}

/// Step 10: the row.
async fn insert(
    upload: &Upload,
    new: &NewFile,
    key: AttachmentKey,
    now: Timestamp,
) -> Result<(), Refusal> {
    let (user_id, limits) = (upload.caller.user_id, upload.limits.chat);
    let (filename, backend) = (
        Arc::<str>::from(&*new.filename),
        Arc::<str>::from(&*new.backend),
    );
    let (file_type, size_bytes) = (new.file_type, new.announced_bytes);
    let inserted: Result<_, StoreError> = upload
        .app
        .store
        .write(move |tx| {
            let (filename, backend) = (Arc::clone(&filename), Arc::clone(&backend));
            Box::pin(async move {
                let row = NewAttachment {
                    id: key.id,
                    tenant_id: key.tenant_id,
                    chat_id: key.chat_id,
                    user_id,
                    filename: &filename,
                    content_type: file_type.mime,
                    size_bytes,
                    storage_backend: &backend,
                    kind: file_type.kind,
                    for_file_search: file_type.for_file_search(),
                    for_code_interpreter: file_type.for_code_interpreter(),
                    created_at: now,
                };
                tx.attachment_insert(&row, limits).await
            })
        })
        .await;
    match inserted? {
        AttachmentInsert::Inserted => Ok(()),
        AttachmentInsert::NoChat => Err(Problem::chat_not_found().into()),
        AttachmentInsert::TooManyBytes => Err(too_many_bytes(limits.bytes)),
        AttachmentInsert::TooManyDocuments => {
            let detail = format!(
                "The chat has {} documents, the most it can.",
                limits.documents
            );
            let problem = Problem::new(ErrorCode::DocumentLimitExceeded, detail);
            Err(Refusal::new(problem, UploadResult::DocumentLimitExceeded))
        }
    }
}

impl Transfer<'_> {
    /// Steps 11 to 14: everything before the file is `ready`. Returns its thumbnail.
    async fn prepare(&self, part: FilePart) -> Result<Option<Thumbnail>, Failure> {
        let file = self.send(part).await?;
        let file = self.provider_file.get_or_init(|| file);
        self.mark_uploaded(file).await?;
        self.check_total().await?;
        self.make_usable(file).await
    }

    /// Step 11: the file, to the provider.
    async fn send(&self, part: FilePart) -> Result<ProviderFileId, Failure> {
        let file_type = self.new.file_type;
        let limit = self.upload.limits.file(file_type.kind);
        let body = part.into_stream(limit, Arc::clone(&self.passed));
        let body = body.map_err(|fault| Box::new(fault) as BodyError);
        let (chat, id) = (self.key.chat_id, self.key.id);
        let file = FileUpload {
            filename: &format!("{chat}_{id}.{}", file_type.extension),
            content_type: file_type.mime,
        };
        let call = self.call().ok_or_else(no_provider)?;
        let client = &self.upload.app.provider;
        let sent = client.upload_file(&call, &file, body).await;
        sent.map_err(|error| match self.passed.fault() {
            Some(fault) => Failure::new(refused_form(fault, limit), code_of_form(fault)),
            None => Failure::new(self.refused_by_provider(&error), "upload_failed"),
        })
    }

    /// A call to the provider's storage.
    pub(super) fn call(&self) -> Option<StorageCall<'_>> {
        let provider = self.upload.provider()?;
        Some(StorageCall {
            tenant: self.key.tenant_id,
            provider,
            credential: self.upload.caller.tenant.credential_of(provider),
            expires_at: self.expires_at,
        })
    }

    /// CONT-60
    pub(super) fn refused_by_provider(&self, error: &StorageError) -> Refusal {
        tracing::warn!(
            attachment_id = %self.key.id,
            reason = error.reason(),
            %error,
            "the provider did not take a file"
        );
        let problem = match error {
            StorageError::Timeout => Problem::new(
                ErrorCode::ProviderTimeout,
                "The provider did not take the file in time.",
            ),
            _ => Problem::new(
                ErrorCode::ProviderError,
                "The provider did not take the file.",
            ),
        };
        Refusal::new(problem, UploadResult::ProviderError)
    }

    /// Step 12
    async fn mark_uploaded(&self, file: &ProviderFileId) -> Result<(), Failure> {
        let (key, now) = (self.key, self.upload.app.clock.now());
        let (file, size) = (file.clone(), self.passed.bytes());
        let store = &self.upload.app.store;
        let is_marked: Result<bool, StoreError> = store
            .write(move |tx| {
                let file = file.clone();
                Box::pin(async move { tx.attachment_uploaded(key, file.as_str(), size, now).await })
            })
            .await;
        of_update(is_marked)
    }

    /// Step 13: what the client announced may have been too little.
    async fn check_total(&self) -> Result<(), Failure> {
        let AttachmentKey {
            tenant_id, chat_id, ..
        } = self.key;
        let store = &self.upload.app.store;
        let total: Result<u64, StoreError> = store
            .read(move |tx| Box::pin(async move { tx.attachment_total(tenant_id, chat_id).await }))
            .await;
        let limit = self.upload.limits.chat.bytes;
        match total {
            Ok(total) if total <= limit => Ok(()),
            Ok(_) => Err(Failure::new(
                too_many_bytes(limit),
                "storage_limit_exceeded",
            )),
            Err(error) => Err(Failure::new(error.into(), "upload_failed")),
        }
    }

    /// Step 15. Nothing interrupts it, so that row, count and answer agree.
    async fn finish(&self, thumbnail: Option<Thumbnail>) -> Result<Attachment, Failure> {
        let (key, now) = (self.key, self.upload.app.clock.now());
        let thumbnail = thumbnail.map(Arc::new);
        let stored = thumbnail.clone();
        let store = &self.upload.app.store;
        let is_ready: Result<bool, StoreError> = store
            .write(move |tx| {
                let stored = stored.clone();
                Box::pin(async move { tx.attachment_ready(key, stored.as_deref(), now).await })
            })
            .await;
        if let Err(error) = &is_ready
            && self.is_ready_anyway(error).await
        {
            return Ok(self.attachment(thumbnail));
        }
        of_update(is_ready)?;
        Ok(self.attachment(thumbnail))
    }

    /// A commit counts even if its acknowledgement was lost. The update waits for one
    /// in progress, or prevents it.
    async fn is_ready_anyway(&self, error: &StoreError) -> bool {
        tracing::warn!(attachment_id = %self.key.id, %error, "it is not known whether a file is ready");
        let (key, user) = (self.key, self.upload.caller.user_id);
        let (store, now) = (&self.upload.app.store, self.upload.app.clock.now());
        let found: Result<_, StoreError> = store
            .write_closing(move |tx| {
                Box::pin(async move {
                    tx.attachment_failed(key, "upload_failed", now)?;
                    tx.attachment_get(user, key).await
                })
            })
            .await;
        let status = found.ok().flatten().map(|it| it.status);
        status == Some(AttachmentStatus::Ready)
    }

    fn attachment(&self, thumbnail: Option<Arc<Thumbnail>>) -> Attachment {
        Attachment {
            id: self.key.id,
            uploaded_by_user_id: self.upload.caller.user_id,
            filename: self.new.filename.clone(),
            content_type: self.new.file_type.mime.to_owned(),
            size_bytes: self.passed.bytes(),
            status: AttachmentStatus::Ready,
            kind: self.new.file_type.kind,
            error_code: None,
            doc_summary: None,
            summary_updated_at: None,
            thumbnail: thumbnail.map(Arc::unwrap_or_clone),
            created_at: self.created_at,
            deleted_at: None,
        }
    }

    /// Ends the row of a failed upload, and leaves its file to the clean-up. As long as
    /// only this process knows the file, it goes on trying; otherwise the clean-up finds
    /// the row later (CONT-64, CONT-174).
    async fn record(&self, error_code: Option<&'static str>) {
        let until = Instant::now() + RECORD_PATIENCE;
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.try_record(error_code).await {
            let again = self.provider_file.get().is_some() && error.is_unavailable();
            if !again || Instant::now() + pause > until {
                tracing::warn!(attachment_id = %self.key.id, %error, "a failed upload could not be recorded");
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn try_record(&self, error_code: Option<&'static str>) -> Result<(), StoreError> {
        let (key, now) = (self.key, self.upload.app.clock.now());
        let file = self.provider_file.get().cloned();
        let store = &self.upload.app.store;
        store
            .write_closing(move |tx| {
                let file = file.clone();
                Box::pin(async move {
                    if let Some(error_code) = error_code {
                        tx.attachment_failed(key, error_code, now)?;
                    }
                    if let Some(file) = file {
                        tx.attachment_discard(key, file.as_str(), now)?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// A conditional update that must have changed the row.
fn of_update(changed: Result<bool, StoreError>) -> Result<(), Failure> {
    match changed {
        Ok(true) => Ok(()),
        Ok(false) => {
            let detail = "The attachment was deleted while it was uploaded.";
            let problem = Problem::new(ErrorCode::AttachmentNotFound, detail);
            Err(Failure::of_deleted(problem))
        }
        Err(error) => Err(Failure::new(error.into(), "upload_failed")),
    }
}

pub(super) fn no_provider() -> Failure {
    let problem = Problem::unavailable("The chat's model has no provider at the moment.");
    Failure::new(problem.into(), "upload_failed")
}

/// The client left; nobody reads the answer.
fn abandoned() -> Failure {
    let fault = FormFault::Body(BodyFault::Broken);
    Failure::new(refused_form(fault, 0), code_of_form(fault))
}

/// The `error_code` of an upload whose form could not be read.
const fn code_of_form(fault: FormFault) -> &'static str {
    match fault {
        FormFault::LargeFile | FormFault::Body(BodyFault::TooLarge) => "file_too_large",
        FormFault::Body(BodyFault::Broken | BodyFault::Stalled) => "upload_abandoned",
        FormFault::Form(_) => "upload_failed",
    }
}

fn too_many_bytes(limit: u64) -> Refusal {
    let detail = format!("The files of the chat would have more than {limit} bytes.");
    let problem = Problem::new(ErrorCode::StorageLimitExceeded, detail);
    Refusal::new(problem, UploadResult::StorageLimitExceeded)
}
