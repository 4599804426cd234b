//! The metrics port (PLAT-50): the trait through which domain code reports
//! metrics.

use std::time::Duration;

use crate::job_report::JobReport;
use crate::label::{
    AbortTrigger, AuditResult, BacklogState, CleanupResource, CleanupRetryReason, Decision,
    ErrorLabel, IncompleteReasonLabel, MutationOp, MutationResult, OutboxHandled, OutboxKindLabel,
    OutboxResult, Period, Stage, SummaryExecution, SummaryTrigger, TierLabel, Trigger, UploadKind,
    UploadResult,
};

/// One method per fact. The last column of PLAT-58 says when each is called. Calls
/// never fail and never block.
///
/// `provider` is the id of a configured provider, `model` the id of a model
/// of the catalog (never the provider's own model name). Adapters cap how
/// many distinct values they keep; the rest counts as `other` (PLAT-54).
///
/// Adapters implement [`Recorder`](crate::Recorder) and get this trait.
pub trait Metrics: Send + Sync {
    /// The provider call of a turn starts; not called for replays.
    fn stream_started(&self, provider: &str, model: &str);
    /// The turn was finalized as completed, or as ended early by the provider. Only the
    /// caller whose finalization took effect records it (D1).
    fn stream_completed(&self, provider: &str, model: &str);
    /// The turn was finalized in any other way. Only the caller whose finalization took
    /// effect records it (D1).
    fn stream_failed(&self, provider: &str, model: &str, error_code: ErrorLabel);
    /// The client connection of a live stream was lost.
    fn stream_disconnected(&self, stage: Stage);
    /// Use [`ActiveStreamGuard`](crate::ActiveStreamGuard).
    fn active_streams_inc(&self);
    /// Use [`ActiveStreamGuard`](crate::ActiveStreamGuard).
    fn active_streams_dec(&self);
    /// From the provider request to its first delta, once per stream.
    fn ttft_provider_ms(&self, provider: &str, model: &str, elapsed: Duration);
    /// From that delta to writing it to the client's response body.
    fn ttft_overhead_ms(&self, provider: &str, model: &str, elapsed: Duration);
    /// From the start of a stream to its end, including finalization.
    fn stream_total_latency_ms(&self, provider: &str, model: &str, elapsed: Duration);

    /// An authorized retry, edit or delete was answered.
    fn turn_mutation(&self, op: MutationOp, result: MutationResult);
    /// Called in addition to `turn_mutation`. The time excludes the stream that follows.
    fn turn_mutation_latency_ms(&self, op: MutationOp, elapsed: Duration);

    /// One delivery attempt to a configured audit sink.
    fn audit_emit(&self, result: AuditResult);
    /// From the start of a finalization to its commit; only if it took effect.
    fn finalization_latency_ms(&self, elapsed: Duration);

    /// A preflight decided. `model` is the effective one, on reject the
    /// selected one.
    fn quota_preflight(&self, decision: Decision, model: &str, tier: TierLabel);
    /// A reserve was committed, once for each period.
    fn quota_reserve(&self, period: Period);
    /// A settlement from actual usage was committed, once for each period.
    fn quota_commit(&self, period: Period);
    /// Usage exceeded the reserve; called in addition to `quota_commit`.
    fn quota_overshoot(&self, period: Period);
    /// Tokens that an allowed preflight reserves (D35).
    fn quota_estimated_tokens(&self, tokens: u64);
    /// Input and output tokens of a settlement from actual usage.
    fn quota_actual_tokens(&self, tokens: u64);

    /// The provider stopped early; called in addition to `stream_completed`.
    fn stream_incomplete(&self, provider: &str, model: &str, reason: IncompleteReasonLabel);
    /// A cancellation signal was raised.
    fn cancel_requested(&self, trigger: Trigger);
    /// The provider connection of a cancelled stream is closed.
    fn cancel_effective(&self, trigger: Trigger);
    /// From the signal to the closed provider connection.
    fn time_to_abort_ms(&self, trigger: Trigger, elapsed: Duration);
    /// A finalization whose billing outcome is aborted was committed.
    fn streams_aborted(&self, trigger: AbortTrigger);

    /// An upload to an existing chat ended, exactly once per upload.
    fn attachment_upload(&self, kind: UploadKind, result: UploadResult);
    /// Size of a successful upload.
    fn attachment_upload_bytes(&self, kind: UploadKind, bytes: u64);
    /// Use [`PendingAttachmentGuard`](crate::PendingAttachmentGuard).
    fn attachments_pending_inc(&self);
    /// Use [`PendingAttachmentGuard`](crate::PendingAttachmentGuard).
    fn attachments_pending_dec(&self);
    /// Images of a turn that has at least one.
    fn image_inputs_per_turn(&self, images: u64);

    /// A provider object was deleted, or was already deleted, and the result is stored.
    fn cleanup_completed(&self, resource_type: CleanupResource);
    /// The cleanup of a file failed permanently.
    fn cleanup_failed(&self);
    /// A cleanup will be tried again.
    fn cleanup_retry(&self, resource_type: CleanupResource, reason: CleanupRetryReason);
    /// Sets the number of attachment rows in a cleanup state.
    fn cleanup_backlog(&self, state: BacklogState, rows: u64);
    /// A vector store was deleted although the cleanup of a file of its chat failed.
    fn cleanup_vs_with_failed_attachments(&self);

    /// A scan of the watchdog found a turn without progress.
    fn orphan_detected(&self);
    /// The watchdog finalized such a turn.
    fn orphan_finalized(&self);
    /// A scan of the watchdog ended, successfully or not.
    fn orphan_scan_duration_seconds(&self, elapsed: Duration);

    /// A completed turn was checked for a summary.
    fn thread_summary_trigger(&self, result: SummaryTrigger);
    /// A summary handler run reached generation or commit.
    fn thread_summary_execution(&self, result: SummaryExecution);
    /// A summary was discarded, because the chat had been summarized further in the
    /// meantime.
    fn thread_summary_cas_conflict(&self);
    /// Generating a summary failed; the previous summary stays.
    fn summary_fallback(&self);

    /// Finished code interpreter calls of a settled turn; more than zero.
    fn code_interpreter_calls(&self, model: &str, calls: u64);

    /// An event was enqueued, or could not be.
    fn outbox_enqueue(&self, kind: OutboxKindLabel, result: OutboxResult);
    /// An attempt to deliver events to a configured sink ended.
    fn outbox_handler(&self, kind: OutboxKindLabel, result: OutboxHandled);
    /// Sets the number of dead letters that wait for a decision.
    fn outbox_dead_letter_backlog(&self, kind: OutboxKindLabel, letters: u64);
    /// Sets the age of the oldest of them.
    fn outbox_dead_letter_oldest_age_seconds(&self, kind: OutboxKindLabel, age: Duration);
    /// Sets the age of the oldest event that is not delivered.
    fn outbox_oldest_pending_age_seconds(&self, kind: OutboxKindLabel, age: Duration);
    /// The age of an event when it was delivered.
    fn outbox_pending_age_seconds(&self, kind: OutboxKindLabel, age: Duration);

    /// Everything that a job recorded, read from its report (K8S-44).
    fn replay(&self, report: &JobReport);
}
