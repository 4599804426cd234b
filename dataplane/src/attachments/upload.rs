//! An upload, step by step (CONT-52). The first step that fails answers.

use std::sync::Arc;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use minichat_config::tenant::{Model, Provider};
use minichat_core::attachment::filename;
use minichat_core::attachment::media_type::{self, FileType, HEAD_BYTES};
use minichat_core::attachment::multipart::{self, PartHead};
use minichat_core::{AttachmentKind, ChatId, ErrorCode};
use minichat_metrics::UploadResult;
use minichat_store::Attachment;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Instrument;

use super::form::{FilePart, Form, FormFault};
use super::incoming::{BodyFault, Incoming};
use super::limits::{FORM_BYTES, Limits};
use super::outcome::{Refusal, Sample};
use super::transfer::{self, NewFile};
use crate::app::App;
use crate::caller::Caller;
use crate::problem::{FieldError, Problem};
use crate::upload_permits::UploadPermit;

/// A file to upload.
pub(crate) struct UploadRequest {
    pub(crate) caller: Caller,
    pub(crate) chat_id: ChatId,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// Uploads a file, in a task of its own: a client that leaves changes how the upload
/// ends, never whether it ends.
pub(crate) async fn upload(app: Arc<App>, request: UploadRequest) -> Result<Attachment, Problem> {
    let (_stays, left) = oneshot::channel();
    let task = tokio::spawn(run(app, request, left).in_current_span());
    task.await.unwrap_or_else(|_| {
        tracing::error!("the task of an upload ended before it answered");
        Err(Problem::internal())
    })
}

/// Fires when the client has left: its sender is dropped with the request.
pub(super) type Left = oneshot::Receiver<()>;

async fn run(app: Arc<App>, request: UploadRequest, left: Left) -> Result<Attachment, Problem> {
    let (chat, headers) = (request.chat_id, request.headers);
    let incoming = Incoming::new(request.body, app.config.server.request_deadline);
    let chat_model = chat_model(&app, &request.caller, chat).await?;
    let mut sample = Sample::new(Arc::clone(&app.metrics));
    let upload = Upload::of(app, request.caller, chat, &chat_model);
    match upload.receive(&headers, incoming, &mut sample, left).await {
        Ok(attachment) => {
            sample.succeed(attachment.size_bytes);
            Ok(attachment)
        }
        Err(refusal) => {
            sample.fail(refusal.result);
            Err(*refusal.problem)
        }
    }
}

/// The model of the caller's chat.
async fn chat_model(app: &App, caller: &Caller, chat: ChatId) -> Result<String, Problem> {
    let (tenant, user) = (caller.tenant_id, caller.user_id);
    let chat = app
        .store
        .read(move |tx| Box::pin(async move { tx.chat_get(tenant, user, chat).await }))
        .await?;
    chat.map(|chat| chat.model)
        .ok_or_else(Problem::chat_not_found)
}

/// What is known of an upload before its file.
pub(super) struct Upload {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) chat_id: ChatId,
    /// The place of the chat's model in the catalog, if it is still there.
    model: Option<usize>,
    pub(super) limits: Limits,
}

/// A file that may be uploaded, up to its first bytes.
struct Accepted {
    filename: String,
    file_type: &'static FileType,
    permit: UploadPermit,
    part: FilePart,
}

impl Upload {
    fn of(app: Arc<App>, caller: Caller, chat_id: ChatId, chat_model: &str) -> Self {
        let config = &caller.tenant.config;
        let model = config.models.iter().position(|it| it.id == chat_model);
        let own = model.and_then(|at| config.models.get(at));
        let limits = Limits::of(&app.config.uploads, &config.uploads, own);
        Self {
            app,
            caller,
            chat_id,
            model,
            limits,
        }
    }

    /// The chat's model; `None` if it is not in the catalog any more.
    fn model(&self) -> Option<&Model> {
        self.caller.tenant.config.models.get(self.model?)
    }

    /// The provider that keeps the chat's files: that of its model, or of the default
    /// model if its own one is gone.
    pub(super) fn provider(&self) -> Option<&Provider> {
        let config = &self.caller.tenant.config;
        let model = self.model().or_else(|| config.default_model())?;
        config.provider_of(model)
    }

    async fn receive(
        &self,
        headers: &HeaderMap,
        incoming: Incoming,
        sample: &mut Sample,
        left: Left,
    ) -> Result<Attachment, Refusal> {
        let backend = self.storage_backend()?;
        let length = content_length(headers);
        let incoming = incoming.limited(self.limits.body());
        let form = Form::new(incoming, &boundary(headers)?);
        let accepted = self.accept(form, length, sample).await?;
        let new = NewFile {
            filename: accepted.filename,
            file_type: accepted.file_type,
            announced_bytes: length.unwrap_or_default(),
            backend,
        };
        let uploaded = transfer::transfer(self, new, accepted.part, left).await;
        drop(accepted.permit);
        uploaded
    }

    /// The label of the storage that will keep the file (CONT-38).
    fn storage_backend(&self) -> Result<String, Refusal> {
        let Some(provider) = self.provider() else {
            let detail = "The chat's model has no provider at the moment.";
            return Err(Problem::unavailable(detail).into());
        };
        let Some(storage) = &provider.storage else {
            let detail = "The provider of the chat's model keeps no files.";
            let problem = Problem::new(ErrorCode::ProviderError, detail);
            return Err(Refusal::new(problem, UploadResult::ProviderError));
        };
        Ok(storage.backend.clone())
    }

    /// Steps 3 to 9, which write nothing.
    async fn accept(
        &self,
        mut form: Form,
        length: Option<u64>,
        sample: &mut Sample,
    ) -> Result<Accepted, Refusal> {
        let head = self.within_patience(form.find_file()).await?;
        let head = head.ok_or_else(|| Problem::invalid_field("file", "is required"))?;
        let filename = filename::kept(head.filename.as_deref())
            .map_err(|error| Problem::invalid_field("filename", error.to_string()))?;
        let file_type = self.file_type(&head, &filename, sample)?;
        self.check_switches(file_type)?;
        let limit = self.limits.file(file_type.kind);
        if length.is_some_and(|length| length.saturating_sub(FORM_BYTES) > limit) {
            return Err(too_large(limit));
        }
        let permit = self.permit()?;
        self.check_code_interpreter(file_type)?;
        let mut part = form.into_file();
        let head = self.within_patience(part.peek(HEAD_BYTES)).await?;
        if head.is_empty() {
            return Err(Problem::invalid_field("file", "is empty").into());
        }
        if self.app.config.uploads.check_content && file_type.contradicts(&head) {
            let detail = format!("The file's content is not {}.", file_type.mime);
            return Err(unsupported(detail));
        }
        Ok(Accepted {
            filename,
            file_type,
            permit,
            part,
        })
    }

    /// What a client sends before its file is stored must come in time.
    async fn within_patience<T>(
        &self,
        reading: impl Future<Output = Result<T, FormFault>>,
    ) -> Result<T, Refusal> {
        let read = timeout(self.app.config.server.request_deadline, reading).await;
        let read = read.unwrap_or(Err(FormFault::Body(BodyFault::Stalled)));
        read.map_err(|fault| refused_form(fault, self.limits.body()))
    }

    fn file_type(
        &self,
        head: &PartHead,
        filename: &str,
        sample: &mut Sample,
    ) -> Result<&'static FileType, Refusal> {
        let Some(content_type) = head.content_type.as_deref().filter(|it| !it.is_empty()) else {
            return Err(Problem::invalid_field("file", "must have a Content-Type").into());
        };
        let allow_csv = self.app.config.uploads.allow_csv;
        match media_type::resolve(content_type, filename, allow_csv) {
            Ok(file_type) => {
                sample.of_kind(file_type.kind);
                Ok(file_type)
            }
            Err(mime) => {
                sample.of_unsupported(&mime);
                Err(unsupported("Files of this type cannot be uploaded."))
            }
        }
    }

    fn check_switches(&self, file_type: &FileType) -> Result<(), Problem> {
        let switches = self.caller.tenant.config.kill_switches;
        if file_type.kind == AttachmentKind::Image && switches.disable_images {
            let detail = "Images are switched off.";
            let mut problem = Problem::new(ErrorCode::ImagesDisabled, detail);
            problem.errors.push(FieldError {
                field: "file".to_owned(),
                message: detail.to_owned(),
            });
            return Err(problem);
        }
        Ok(())
    }

    /// CONT-57
    fn permit(&self) -> Result<UploadPermit, Refusal> {
        let Caller {
            tenant_id, user_id, ..
        } = self.caller;
        let limits = &self.caller.tenant.config.uploads;
        let permit = self.app.uploads.take(tenant_id, user_id, limits);
        permit.ok_or_else(|| {
            let detail = "Too many files are being uploaded. Try again.";
            let problem = Problem::new(ErrorCode::UploadConcurrencyLimit, detail)
                .with_header(RETRY_AFTER, HeaderValue::from_static("5"));
            Refusal::new(problem, UploadResult::ConcurrencyLimit)
        })
    }

    /// CONT-56: a file that only the code interpreter can use.
    fn check_code_interpreter(&self, file_type: &FileType) -> Result<(), Problem> {
        if !file_type.for_code_interpreter() || file_type.for_file_search() {
            return Ok(());
        }
        let Some(model) = self.model() else {
            let detail = "The chat's model is not available, so its tools are not known.";
            return Err(Problem::unavailable(detail));
        };
        let switches = self.caller.tenant.config.kill_switches;
        if model.tool_support.code_interpreter && !switches.disable_code_interpreter {
            return Ok(());
        }
        let detail = "Only the code interpreter can use this file, and the chat has none.";
        Err(Problem::new(ErrorCode::CodeInterpreterUnavailable, detail))
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn boundary(headers: &HeaderMap) -> Result<String, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.and_then(multipart::boundary).ok_or_else(|| {
        Problem::invalid_field(
            "Content-Type",
            "must be multipart/form-data with a boundary",
        )
    })
}

fn unsupported(detail: impl Into<String>) -> Refusal {
    let problem = Problem::new(ErrorCode::UnsupportedFileType, detail);
    Refusal::new(problem, UploadResult::UnsupportedType)
}

/// 413 of a file, or of the form around it.
pub(super) fn too_large(limit: u64) -> Refusal {
    let detail = format!("The file is larger than {limit} bytes.");
    let problem = Problem::new(ErrorCode::FileTooLarge, detail);
    Refusal::new(problem, UploadResult::FileTooLarge)
}

/// The answer to a form that could not be read; `limit` is what it exceeded if it is too
/// large.
pub(super) fn refused_form(fault: FormFault, limit: u64) -> Refusal {
    match fault {
        FormFault::LargeFile | FormFault::Body(BodyFault::TooLarge) => too_large(limit),
        FormFault::Body(BodyFault::Stalled) => {
            let detail = "The client sent nothing for too long.";
            Problem::new(ErrorCode::RequestTimeout, detail).into()
        }
        FormFault::Body(BodyFault::Broken) => {
            Problem::invalid_field("body", "ended before it was complete").into()
        }
        FormFault::Form(fault) => Problem::invalid_field("body", fault.to_string()).into(),
    }
}
