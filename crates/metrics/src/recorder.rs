//! The trait that adapters of the port implement. It has four methods, one per kind of
//! recording. The mapping from the port's facts to families and labels is here.

use std::time::Duration;

use crate::catalogue::{Family, STALE_PROGRESS};
use crate::job_report::JobReport;
use crate::label::{
    AbortTrigger, AuditResult, BacklogState, CleanupResource, CleanupRetryReason, Decision,
    ErrorLabel, IncompleteReasonLabel, MutationOp, MutationResult, OutboxHandled, OutboxKindLabel,
    OutboxResult, Period, Stage, SummaryExecution, SummaryTrigger, TierLabel, Trigger, UploadKind,
    UploadResult,
};
use crate::port::Metrics;

/// A label value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label<'a> {
    /// From the key's closed set.
    Closed(&'static str),
    /// An id from the configuration. The adapter limits the number of distinct ids.
    Open(&'a str),
}

impl<'a> Label<'a> {
    #[expect(clippy::match_same_arms, reason = "the arms bind different lifetimes")]
    pub const fn as_str(self) -> &'a str {
        match self {
            Self::Closed(value) => value,
            Self::Open(value) => value,
        }
    }
}

/// Stores recordings. `labels` are in the order of the family's row.
pub trait Recorder: Send + Sync {
    /// Adds to a counter.
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64);
    /// Moves an up-down gauge by `step`.
    fn shift(&self, family: Family, step: i64);
    /// Sets a gauge.
    fn set(&self, family: Family, labels: &[Label<'_>], value: u64);
    /// Adds an observation to a histogram, in the family's unit.
    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64);
}

use Label::{Closed, Open};

fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}

/// Exact up to 2^53, which no token or byte count exceeds.
#[expect(
    clippy::cast_precision_loss,
    reason = "histograms hold floating point numbers"
)]
fn number(count: u64) -> f64 {
    count as f64
}

impl<R: Recorder> Metrics for R {
    fn stream_started(&self, provider: &str, model: &str) {
        self.add(Family::StreamStarted, &[Open(provider), Open(model)], 1);
    }

    fn stream_completed(&self, provider: &str, model: &str) {
        self.add(Family::StreamCompleted, &[Open(provider), Open(model)], 1);
    }

    fn stream_failed(&self, provider: &str, model: &str, error_code: ErrorLabel) {
        let labels = [Open(provider), Open(model), Closed(error_code.as_str())];
        self.add(Family::StreamFailed, &labels, 1);
    }

    fn stream_disconnected(&self, stage: Stage) {
        self.add(Family::StreamDisconnected, &[Closed(stage.as_str())], 1);
    }

    fn active_streams_inc(&self) {
        self.shift(Family::ActiveStreams, 1);
    }

    fn active_streams_dec(&self) {
        self.shift(Family::ActiveStreams, -1);
    }

    fn ttft_provider_ms(&self, provider: &str, model: &str, elapsed: Duration) {
        let labels = [Open(provider), Open(model)];
        self.observe(Family::TtftProviderMs, &labels, milliseconds(elapsed));
    }

    fn ttft_overhead_ms(&self, provider: &str, model: &str, elapsed: Duration) {
        let labels = [Open(provider), Open(model)];
        self.observe(Family::TtftOverheadMs, &labels, milliseconds(elapsed));
    }

    fn stream_total_latency_ms(&self, provider: &str, model: &str, elapsed: Duration) {
        let labels = [Open(provider), Open(model)];
        self.observe(Family::StreamTotalLatencyMs, &labels, milliseconds(elapsed));
    }

    fn turn_mutation(&self, op: MutationOp, result: MutationResult) {
        let labels = [Closed(op.as_str()), Closed(result.as_str())];
        self.add(Family::TurnMutation, &labels, 1);
    }

    fn turn_mutation_latency_ms(&self, op: MutationOp, elapsed: Duration) {
        let labels = [Closed(op.as_str())];
        self.observe(
            Family::TurnMutationLatencyMs,
            &labels,
            milliseconds(elapsed),
        );
    }

    fn audit_emit(&self, result: AuditResult) {
        self.add(Family::AuditEmit, &[Closed(result.as_str())], 1);
    }

    fn finalization_latency_ms(&self, elapsed: Duration) {
        self.observe(Family::FinalizationLatencyMs, &[], milliseconds(elapsed));
    }

    fn quota_preflight(&self, decision: Decision, model: &str, tier: TierLabel) {
        let labels = [
            Closed(decision.as_str()),
            Open(model),
            Closed(tier.as_str()),
        ];
        self.add(Family::QuotaPreflight, &labels, 1);
    }

    fn quota_reserve(&self, period: Period) {
        self.add(Family::QuotaReserve, &[Closed(period.as_str())], 1);
    }

    fn quota_commit(&self, period: Period) {
        self.add(Family::QuotaCommit, &[Closed(period.as_str())], 1);
    }

    fn quota_overshoot(&self, period: Period) {
        self.add(Family::QuotaOvershoot, &[Closed(period.as_str())], 1);
    }

    fn quota_estimated_tokens(&self, tokens: u64) {
        self.observe(Family::QuotaEstimatedTokens, &[], number(tokens));
    }

    fn quota_actual_tokens(&self, tokens: u64) {
        self.observe(Family::QuotaActualTokens, &[], number(tokens));
    }

    fn stream_incomplete(&self, provider: &str, model: &str, reason: IncompleteReasonLabel) {
        let labels = [Open(provider), Open(model), Closed(reason.as_str())];
        self.add(Family::StreamIncomplete, &labels, 1);
    }

    fn cancel_requested(&self, trigger: Trigger) {
        self.add(Family::CancelRequested, &[Closed(trigger.as_str())], 1);
    }

    fn cancel_effective(&self, trigger: Trigger) {
        self.add(Family::CancelEffective, &[Closed(trigger.as_str())], 1);
    }

    fn time_to_abort_ms(&self, trigger: Trigger, elapsed: Duration) {
        let labels = [Closed(trigger.as_str())];
        self.observe(Family::TimeToAbortMs, &labels, milliseconds(elapsed));
    }

    fn streams_aborted(&self, trigger: AbortTrigger) {
        self.add(Family::StreamsAborted, &[Closed(trigger.as_str())], 1);
    }

    fn attachment_upload(&self, kind: UploadKind, result: UploadResult) {
        let labels = [Closed(kind.as_str()), Closed(result.as_str())];
        self.add(Family::AttachmentUpload, &labels, 1);
    }

    fn attachment_upload_bytes(&self, kind: UploadKind, bytes: u64) {
        let labels = [Closed(kind.as_str())];
        self.observe(Family::AttachmentUploadBytes, &labels, number(bytes));
    }

    fn attachments_pending_inc(&self) {
        self.shift(Family::AttachmentsPending, 1);
    }

    fn attachments_pending_dec(&self) {
        self.shift(Family::AttachmentsPending, -1);
    }

    fn image_inputs_per_turn(&self, images: u64) {
        self.observe(Family::ImageInputsPerTurn, &[], number(images));
    }

    fn cleanup_completed(&self, resource_type: CleanupResource) {
        let labels = [Closed(resource_type.as_str())];
        self.add(Family::CleanupCompleted, &labels, 1);
    }

    fn cleanup_failed(&self) {
        let labels = [Closed(CleanupResource::File.as_str())];
        self.add(Family::CleanupFailed, &labels, 1);
    }

    fn cleanup_retry(&self, resource_type: CleanupResource, reason: CleanupRetryReason) {
        let labels = [Closed(resource_type.as_str()), Closed(reason.as_str())];
        self.add(Family::CleanupRetry, &labels, 1);
    }

    fn cleanup_backlog(&self, state: BacklogState, rows: u64) {
        let file = CleanupResource::File.as_str();
        let labels = [Closed(state.as_str()), Closed(file)];
        self.set(Family::CleanupBacklog, &labels, rows);
    }

    fn cleanup_vs_with_failed_attachments(&self) {
        self.add(Family::CleanupVsWithFailedAttachments, &[], 1);
    }

    fn orphan_detected(&self) {
        self.add(Family::OrphanDetected, &[Closed(STALE_PROGRESS)], 1);
    }

    fn orphan_finalized(&self) {
        self.add(Family::OrphanFinalized, &[Closed(STALE_PROGRESS)], 1);
    }

    fn orphan_scan_duration_seconds(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        self.observe(Family::OrphanScanDurationSeconds, &[], seconds);
    }

    fn thread_summary_trigger(&self, result: SummaryTrigger) {
        self.add(Family::ThreadSummaryTrigger, &[Closed(result.as_str())], 1);
    }

    fn thread_summary_execution(&self, result: SummaryExecution) {
        let labels = [Closed(result.as_str())];
        self.add(Family::ThreadSummaryExecution, &labels, 1);
    }

    fn thread_summary_cas_conflict(&self) {
        self.add(Family::ThreadSummaryCasConflict, &[], 1);
    }

    fn summary_fallback(&self) {
        self.add(Family::SummaryFallback, &[], 1);
    }

    fn code_interpreter_calls(&self, model: &str, calls: u64) {
        self.add(Family::CodeInterpreterCalls, &[Open(model)], calls);
    }

    fn outbox_enqueue(&self, kind: OutboxKindLabel, result: OutboxResult) {
        let labels = [Closed(kind.as_str()), Closed(result.as_str())];
        self.add(Family::OutboxEnqueue, &labels, 1);
    }

    fn outbox_handler(&self, kind: OutboxKindLabel, result: OutboxHandled) {
        let labels = [Closed(kind.as_str()), Closed(result.as_str())];
        self.add(Family::OutboxHandler, &labels, 1);
    }

    fn outbox_dead_letter_backlog(&self, kind: OutboxKindLabel, letters: u64) {
        let labels = [Closed(kind.as_str())];
        self.set(Family::OutboxDeadLetterBacklog, &labels, letters);
    }

    fn outbox_dead_letter_oldest_age_seconds(&self, kind: OutboxKindLabel, age: Duration) {
        let labels = [Closed(kind.as_str())];
        self.set(
            Family::OutboxDeadLetterOldestAgeSeconds,
            &labels,
            age.as_secs(),
        );
    }

    fn outbox_oldest_pending_age_seconds(&self, kind: OutboxKindLabel, age: Duration) {
        let labels = [Closed(kind.as_str())];
        self.set(
            Family::OutboxOldestPendingAgeSeconds,
            &labels,
            age.as_secs(),
        );
    }

    fn outbox_pending_age_seconds(&self, kind: OutboxKindLabel, age: Duration) {
        let labels = [Closed(kind.as_str())];
        self.observe(Family::OutboxPendingAgeSeconds, &labels, age.as_secs_f64());
    }

    fn replay(&self, report: &JobReport) {
        report.replay(self);
    }
}
