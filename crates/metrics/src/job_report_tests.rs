use std::time::Duration;

use super::*;
use crate::{AbortTrigger, BacklogState, ErrorLabel, Metrics, RecordingMetrics};

fn replayed(report: &JobReport) -> RecordingMetrics {
    let metrics = RecordingMetrics::default();
    let parsed = JobReport::parse(&report.to_json()).unwrap();
    assert_eq!(&parsed, report);
    metrics.replay(&parsed);
    metrics
}

#[test]
fn a_replay_counts_what_the_job_counted() {
    let job = JobMetrics::default();
    for _ in 0..3 {
        job.orphan_detected();
        job.stream_failed("openai", "gpt", ErrorLabel::OrphanTimeout);
        job.streams_aborted(AbortTrigger::OrphanTimeout);
    }
    job.cleanup_backlog(BacklogState::Pending, 7);
    job.cleanup_backlog(BacklogState::Pending, 5);
    for millis in [1, 2, 3, 7_000] {
        job.finalization_latency_ms(Duration::from_millis(millis));
    }
    let report = job.report("watchdog");
    assert_eq!(report.job, "watchdog");
    assert_eq!(report.count("orphan_detected"), 3);
    assert_eq!(report.count("orphan_finalized"), 0);
    let metrics = replayed(&report);
    assert_eq!(metrics.counter("orphan_detected", &["stale_progress"]), 3);
    let failed = ["openai", "gpt", "orphan_timeout"];
    assert_eq!(metrics.counter("stream_failed", &failed), 3);
    assert_eq!(metrics.counter("streams_aborted", &["orphan_timeout"]), 3);
    assert_eq!(metrics.gauge("cleanup_backlog", &["pending", "file"]), 5);
    let observed = metrics.observations("finalization_latency_ms", &[]);
    assert_eq!(observed, [1.0, 2.0, 3.0, 7000.0]);
}

/// A value on a bound belongs below it, and so does the mean of many.
#[test]
fn observations_stay_in_their_buckets() {
    let job = JobMetrics::default();
    let nanos = [100_000_000, 100_000_000, 100_000_000, 100_000_001, 30];
    for nanos in nanos {
        job.orphan_scan_duration_seconds(Duration::from_nanos(nanos));
    }
    let again = JobMetrics::default();
    again.replay(&job.report("watchdog"));
    let buckets = |metrics: &JobMetrics| -> Vec<Vec<(usize, u64)>> {
        let histograms = metrics.report("").histograms;
        let places = histograms.into_iter().map(|(_, _, buckets)| {
            buckets
                .into_iter()
                .map(|(place, count, _)| (place, count))
                .collect()
        });
        places.collect()
    };
    assert_eq!(buckets(&again), buckets(&job));
}

#[test]
fn a_report_of_too_many_models_keeps_the_counts_and_the_limit() {
    let job = JobMetrics::default();
    for model in 0..500_u64 {
        let times = if model == 77 { 50 } else { 1 + model % 7 };
        for _ in 0..times {
            let name = format!("a-rather-long-name-of-a-model-{model}");
            job.stream_failed("provider", &name, ErrorLabel::OrphanTimeout);
            job.orphan_finalized();
        }
    }
    let report = job.report("watchdog");
    assert!(
        report.to_json().len() <= MAX_BYTES,
        "{}",
        report.to_json().len()
    );
    assert!(
        report.to_json().len() > MAX_BYTES * 9 / 10,
        "much was left out"
    );
    assert_eq!(
        report.count("stream_failed"),
        report.count("orphan_finalized")
    );
    let metrics = replayed(&report);
    let frequent = [
        "provider",
        "a-rather-long-name-of-a-model-77",
        "orphan_timeout",
    ];
    assert_eq!(metrics.counter("stream_failed", &frequent), 50);
    assert!(metrics.counter("stream_failed", &["other", "other", "orphan_timeout"]) > 0);
}

/// K8S-44
#[test]
fn totals_are_the_sums_of_counters_alone() {
    let job = JobMetrics::default();
    job.orphan_finalized();
    job.stream_failed("openai", "gpt", ErrorLabel::OrphanTimeout);
    job.finalization_latency_ms(Duration::from_millis(3));
    job.cleanup_backlog(BacklogState::Pending, 7);
    let report = job.report("watchdog");
    let none = JobReport::default();
    assert!(report.has_counts() && !none.has_counts());
    let totals = none.plus(&report).plus(&report);
    assert_eq!(totals.job, "watchdog");
    let metrics = replayed(&totals);
    let failed = ["openai", "gpt", "orphan_timeout"];
    assert_eq!(metrics.counter("stream_failed", &failed), 2);
    assert_eq!(
        metrics.recorded_families(),
        ["orphan_finalized", "stream_failed"]
    );
}

/// K8S-44
#[test]
fn totals_of_too_many_models_keep_the_counts_and_the_limit() {
    let mut totals = JobReport::default();
    for first in (0..2000_u64).step_by(40) {
        let job = JobMetrics::default();
        for model in first..first + 40 {
            let name = format!("a-rather-long-name-of-a-model-{model}");
            job.stream_failed("provider", &name, ErrorLabel::OrphanTimeout);
        }
        totals = totals.plus(&job.report("watchdog"));
    }
    assert!(totals.to_json().len() <= MAX_TOTALS_BYTES);
    assert_eq!(totals.count("stream_failed"), 2000);
}

#[test]
fn what_another_release_reports_is_left_out() {
    let text = r#" {"job":"watchdog","later":1,"counters":[["unheard_of",[],3],
        ["stream_failed",["a","b","unheard_of"],2],["orphan_detected",["unheard_of"],1],
        ["orphan_detected",[],1],["active_streams",[],1]],
        "histograms":[["orphan_detected",["stale_progress"],[[0,1,1.0]]]]}
    "#;
    let metrics = RecordingMetrics::default();
    metrics.replay(&JobReport::parse(text).unwrap());
    assert_eq!(metrics.recorded_families(), ["stream_failed"]);
    assert_eq!(metrics.counter("stream_failed", &["a", "b", "other"]), 2);
}

#[test]
fn a_text_that_is_no_report_is_refused() {
    for text in ["", "{}", "[]", r#"{"job":"x","counters":[["a",[],-1]]}"#] {
        assert!(JobReport::parse(text).is_err(), "{text}");
    }
    let endless = r#"{"job":"x","histograms":[["finalization_latency_ms",[],[[0,1000001,1.0]]]]}"#;
    assert!(JobReport::parse(endless).is_err());
}
