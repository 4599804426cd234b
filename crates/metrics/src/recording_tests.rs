use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::label::{
    AbortTrigger, AuditResult, BacklogState, CleanupResource, CleanupRetryReason, Decision,
    ErrorLabel, IncompleteReasonLabel, MutationOp, MutationResult, OutboxHandled, OutboxKindLabel,
    OutboxResult, Period, Stage, SummaryExecution, SummaryTrigger, TierLabel, Trigger, UploadKind,
    UploadResult,
};
use crate::{ActiveStreamGuard, Metrics, PendingAttachmentGuard};

const TIME: Duration = Duration::from_millis(1500);

/// Reports every fact once, in the order of the catalogue.
fn report_everything(m: &dyn Metrics) {
    m.stream_started("p", "m");
    m.stream_completed("p", "m");
    m.stream_failed("p", "m", ErrorLabel::RateLimited);
    m.stream_disconnected(Stage::MidStream);
    m.active_streams_inc();
    m.ttft_provider_ms("p", "m", TIME);
    m.ttft_overhead_ms("p", "m", TIME);
    m.stream_total_latency_ms("p", "m", TIME);
    m.turn_mutation(MutationOp::Edit, MutationResult::NotLatest);
    m.turn_mutation_latency_ms(MutationOp::Edit, TIME);
    m.audit_emit(AuditResult::Retry);
    m.finalization_latency_ms(TIME);
    m.quota_preflight(Decision::Downgrade, "m", TierLabel::Premium);
    m.quota_reserve(Period::Daily);
    m.quota_commit(Period::Monthly);
    m.quota_overshoot(Period::Daily);
    m.quota_estimated_tokens(1710);
    m.quota_actual_tokens(1650);
    m.stream_incomplete("p", "m", IncompleteReasonLabel::ContentFilter);
    m.cancel_requested(Trigger::UserStop);
    m.cancel_effective(Trigger::Disconnect);
    m.time_to_abort_ms(Trigger::Timeout, TIME);
    m.streams_aborted(AbortTrigger::PodCrash);
    m.attachment_upload(UploadKind::Image, UploadResult::UnsupportedType);
    m.attachment_upload_bytes(UploadKind::Document, 1024);
    m.attachments_pending_inc();
    m.image_inputs_per_turn(3);
    m.cleanup_completed(CleanupResource::VectorStore);
    m.cleanup_failed();
    m.cleanup_retry(CleanupResource::File, CleanupRetryReason::Transport);
    m.cleanup_backlog(BacklogState::Failed, 7);
    m.cleanup_vs_with_failed_attachments();
    m.orphan_detected();
    m.orphan_finalized();
    m.orphan_scan_duration_seconds(TIME);
    m.thread_summary_trigger(SummaryTrigger::NotNeeded);
    m.thread_summary_execution(SummaryExecution::EmptySummary);
    m.thread_summary_cas_conflict();
    m.summary_fallback();
    m.code_interpreter_calls("m", 4);
    m.outbox_enqueue(OutboxKindLabel::Usage, OutboxResult::Ok);
    m.outbox_handler(OutboxKindLabel::Audit, OutboxHandled::Retry);
    m.outbox_dead_letter_backlog(OutboxKindLabel::Usage, 2);
    m.outbox_dead_letter_oldest_age_seconds(OutboxKindLabel::Usage, TIME);
    m.outbox_oldest_pending_age_seconds(OutboxKindLabel::ChatCleanup, TIME);
    m.outbox_pending_age_seconds(OutboxKindLabel::Audit, TIME);
}

/// PLAT-58: each fact has its own family; the double itself refuses labels
/// outside the sets and verbs that do not fit the kind.
#[test]
fn every_fact_is_recorded_in_its_own_family() {
    let metrics = RecordingMetrics::default();
    report_everything(&metrics);
    let mut families: Vec<_> = CATALOGUE.iter().map(|row| row.name).collect();
    families.sort_unstable();
    assert_eq!(metrics.recorded_families(), families);
}

#[test]
fn labels_stand_in_the_order_of_the_catalogue() {
    let metrics = RecordingMetrics::default();
    report_everything(&metrics);
    let counted = |name, labels: &[&str]| assert_eq!(metrics.counter(name, labels), 1, "{name}");
    counted("stream_failed", &["p", "m", "rate_limited"]);
    counted("stream_incomplete", &["p", "m", "content_filter"]);
    counted("turn_mutation", &["edit", "not_latest"]);
    counted("quota_preflight", &["downgrade", "m", "premium"]);
    counted("attachment_upload", &["image", "unsupported_type"]);
    counted("cleanup_failed", &["file"]);
    counted("cleanup_retry", &["file", "transport"]);
    counted("orphan_detected", &["stale_progress"]);
    assert_eq!(metrics.counter("code_interpreter_calls", &["m"]), 4);
    assert_eq!(metrics.gauge("cleanup_backlog", &["failed", "file"]), 7);
}

#[test]
fn durations_are_observed_in_the_unit_of_the_name() {
    let metrics = RecordingMetrics::default();
    report_everything(&metrics);
    assert_eq!(
        metrics.observations("ttft_overhead_ms", &["p", "m"]),
        [1500.]
    );
    assert_eq!(
        metrics.observations("orphan_scan_duration_seconds", &[]),
        [1.5]
    );
    assert_eq!(metrics.observations("quota_actual_tokens", &[]), [1650.]);
}

/// PLAT-58, row 5: the gauge falls on every exit path.
#[test]
fn guards_move_gauges_up_and_down_also_through_a_panic() {
    let metrics = Arc::new(RecordingMetrics::default());
    let stream = ActiveStreamGuard::new(metrics.clone());
    let attachment = PendingAttachmentGuard::new(metrics.clone());
    assert_eq!(metrics.gauge("active_streams", &[]), 1);
    assert_eq!(metrics.gauge("attachments_pending", &[]), 1);
    let task = std::thread::spawn(move || {
        let _attachment = attachment;
        let _stream = stream;
        panic!("a bug");
    });
    assert!(task.join().is_err());
    assert_eq!(metrics.gauge("active_streams", &[]), 0);
    assert_eq!(metrics.gauge("attachments_pending", &[]), 0);
}

#[test]
#[should_panic(expected = "no family `stream_begun`")]
fn a_question_about_an_unknown_family_is_refused() {
    RecordingMetrics::default().counter_sum("stream_begun");
}

#[test]
#[should_panic(expected = "error_code")]
fn a_label_outside_its_set_is_refused() {
    let labels = [Label::Open("p"), Label::Open("m"), Label::Closed("oops")];
    RecordingMetrics::default().add(Family::StreamFailed, &labels, 1);
}
