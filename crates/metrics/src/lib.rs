//! The metrics port (PLAT-50 to PLAT-58): the facts that minichat reports, their
//! typed labels and the catalogue of all families. Adapters live elsewhere;
//! this crate does no I/O.

pub mod catalogue;
mod guard;
mod job_report;
mod label;
mod markdown;
mod noop;
mod operator;
mod port;
mod recorder;
mod recording;

pub use guard::{ActiveStreamGuard, PendingAttachmentGuard};
pub use job_report::{JobMetrics, JobReport, MAX_BYTES as MAX_REPORT_BYTES, ReportError};
pub use label::{
    AbortTrigger, AuditResult, BacklogState, CleanupResource, CleanupRetryReason, Decision,
    ErrorLabel, IncompleteReasonLabel, MutationOp, MutationResult, OutboxHandled, OutboxKindLabel,
    OutboxResult, Period, ReconcileErrorLabel, ReconcileKind, ReconcileLoop, Stage,
    SummaryExecution, SummaryTrigger, TierLabel, Trigger, UploadKind, UploadResult,
};
pub use noop::NoopMetrics;
pub use operator::OperatorMetrics;
pub use port::Metrics;
pub use recorder::{Label, Recorder};
pub use recording::RecordingMetrics;
