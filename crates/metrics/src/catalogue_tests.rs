use super::*;

/// The series of PLAT-58, in its order.
const SERIES: [&str; 40] = [
    "mini_chat_stream_started_total",
    "mini_chat_stream_completed_total",
    "mini_chat_stream_failed_total",
    "mini_chat_stream_disconnected_total",
    "mini_chat_active_streams",
    "mini_chat_ttft_provider_ms",
    "mini_chat_ttft_overhead_ms",
    "mini_chat_stream_total_latency_ms",
    "mini_chat_turn_mutation_total",
    "mini_chat_turn_mutation_latency_ms",
    "mini_chat_audit_emit_total",
    "mini_chat_finalization_latency_ms",
    "mini_chat_quota_preflight_total",
    "mini_chat_quota_reserve_total",
    "mini_chat_quota_commit_total",
    "mini_chat_quota_overshoot_total",
    "mini_chat_quota_estimated_tokens",
    "mini_chat_quota_actual_tokens",
    "mini_chat_stream_incomplete_total",
    "mini_chat_cancel_requested_total",
    "mini_chat_cancel_effective_total",
    "mini_chat_time_to_abort_ms",
    "mini_chat_streams_aborted_total",
    "mini_chat_attachment_upload_total",
    "mini_chat_attachment_upload_bytes",
    "mini_chat_attachments_pending",
    "mini_chat_image_inputs_per_turn",
    "mini_chat_cleanup_completed_total",
    "mini_chat_cleanup_failed_total",
    "mini_chat_cleanup_retry_total",
    "mini_chat_cleanup_backlog",
    "mini_chat_cleanup_vector_store_with_failed_attachments_total",
    "mini_chat_orphan_detected_total",
    "mini_chat_orphan_finalized_total",
    "mini_chat_orphan_scan_duration_seconds",
    "mini_chat_thread_summary_trigger_total",
    "mini_chat_thread_summary_execution_total",
    "mini_chat_thread_summary_cas_conflicts_total",
    "mini_chat_summary_fallback_total",
    "mini_chat_code_interpreter_calls_total",
];

/// PLAT-58
#[test]
fn the_catalogue_has_exactly_the_series_of_the_specification() {
    let series: Vec<_> = CATALOGUE
        .iter()
        .map(|row| row.series(DEFAULT_PREFIX))
        .collect();
    assert_eq!(series, SERIES);
}

#[test]
fn every_family_finds_its_own_row() {
    for row in CATALOGUE.iter().chain(&OPERATOR) {
        assert_eq!(row.family.row(), row);
    }
}

/// PLAT-52
#[test]
fn names_leave_the_suffix_to_the_exporter() {
    for row in &CATALOGUE {
        assert!(!row.name.ends_with("_total"), "{}", row.name);
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(row.name.chars().all(plain), "{}", row.name);
    }
}

#[test]
fn every_family_has_one_sentence_of_help() {
    for row in &CATALOGUE {
        let help = row.help();
        assert!(
            help.ends_with('.') && !help.contains('\n'),
            "{}: {help}",
            row.name
        );
        assert_eq!(help, help.trim());
    }
}

/// The alerts on these objectives read the bucket that ends at the threshold.
#[test]
fn thresholds_of_objectives_are_bucket_bounds() {
    for (family, threshold) in [(Family::TtftOverheadMs, 50.), (Family::TimeToAbortMs, 200.)] {
        let Kind::Histogram(buckets) = family.row().kind else {
            panic!("{family:?} is a histogram");
        };
        assert!(buckets.bounds.contains(&threshold));
    }
}

#[test]
fn bucket_bounds_ascend() {
    for row in &CATALOGUE {
        if let Kind::Histogram(buckets) = row.kind {
            assert!(
                buckets.bounds.is_sorted_by(|a, b| a < b),
                "{}",
                buckets.name
            );
        }
    }
}

/// D30, QUOTA-104: 64 times the powers of two up to 2^14.
#[test]
fn token_bounds_are_powers_of_two() {
    let Kind::Histogram(tokens) = TOKENS else {
        panic!("tokens are a histogram");
    };
    let powers: Vec<f64> = (0..15).map(|k| 64. * 2_f64.powi(k)).collect();
    assert_eq!(tokens.bounds, powers);
}

#[test]
fn label_sets_are_all_combinations_and_only_of_closed_labels() {
    let mutation = Family::TurnMutation.row().label_sets().unwrap();
    assert_eq!(mutation.len(), 3 * 6);
    assert_eq!(mutation[0], ["retry", "ok"]);
    assert_eq!(mutation[17], ["delete", "error"]);
    assert_eq!(
        Family::SummaryFallback.row().label_sets(),
        Some(vec![vec![]])
    );
    assert_eq!(Family::StreamFailed.row().label_sets(), None);
    assert_eq!(Family::QuotaPreflight.row().label_sets(), None);
}

/// D2
#[test]
fn error_codes_are_those_of_turns_and_two_more() {
    assert_eq!(ErrorLabel::VALUES.len(), 11 + 2);
    assert_eq!(
        ErrorLabel::of_code("orphan_timeout"),
        ErrorLabel::OrphanTimeout
    );
    assert_eq!(ErrorLabel::of_code("stream_interrupted"), ErrorLabel::Other);
}
