//! Failures that begin, last and end.

use minichat_crds::cases;
use minichat_crds::status::ConditionStatus;
use serde_json::json;

use super::*;

const BEGUN: &str = "2026-01-01T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(usage: &str, audit: &str) -> ChatTenantSpec {
    let sink = |kind: &str| json!({"type": kind});
    let object = cases::with(cases::tenant(), "/spec/usageSink", sink(usage));
    let object = cases::with(object, "/spec/auditSink", sink(audit));
    let tenant = minichat_crds::validation::chat_tenant(&object, None);
    tenant.unwrap().spec
}

fn fails(since: &str, error: &str) -> SinkReport {
    SinkReport::Fails {
        since: at(since),
        error: error.to_owned(),
    }
}

fn usage(report: Option<SinkReport>) -> SinkReports {
    SinkReports {
        usage: report,
        audit: None,
    }
}

const DELIVERS: Option<SinkReport> = Some(SinkReport::Delivers);

/// K8S-7
#[test]
fn a_tenant_without_sinks_has_no_condition() {
    let reports = usage(Some(fails(BEGUN, "503")));
    let found = sinks_verdict(&spec("None", "None"), &reports, None, at(BEGUN));
    assert_eq!(found, SinksVerdict::default());
}

/// K8S-7
#[test]
fn the_reason_names_the_sink_that_fails() {
    use ConditionStatus::{False, True, Unknown};
    let both = spec("Log", "Log");
    let case = |usage, audit| {
        let reports = SinkReports { usage, audit };
        let verdict = sinks_verdict(&both, &reports, None, at(BEGUN)).verdict;
        let verdict = verdict.unwrap();
        (verdict.status, verdict.reason, verdict.message)
    };
    let failing = || Some(fails(BEGUN, "503"));
    assert_eq!(
        case(DELIVERS, DELIVERS),
        (True, Reason::Delivering, String::new())
    );
    let words = |field: &str| {
        format!("{field}: events have not been delivered since 2026-01-01T00:00:00Z: 503")
    };
    assert_eq!(
        case(failing(), DELIVERS),
        (False, Reason::UsageSinkFailing, words("usageSink"))
    );
    assert_eq!(
        case(None, failing()),
        (False, Reason::AuditSinkFailing, words("auditSink"))
    );
    let message = format!("{}; {}", words("usageSink"), words("auditSink"));
    assert_eq!(
        case(failing(), failing()),
        (False, Reason::SinksFailing, message)
    );
    for (usage, audit) in [(None, None), (DELIVERS, None)] {
        let (status, reason, _) = case(usage, audit);
        assert_eq!((status, reason), (Unknown, Reason::NotReported));
    }
    // Of a sink that is off nothing is expected.
    let found = sinks_verdict(&spec("Log", "None"), &usage(DELIVERS), None, at(BEGUN));
    assert!(found.verdict.unwrap().holds());
}

/// K8S-9: one event in each failure that lasts, and one when it ends; what was published is in
/// the status, which another process reads.
#[test]
fn a_failure_of_an_hour_is_published_once_and_its_end_too() {
    let spec = spec("Log", "None");
    let mut status = None;
    let mut look = |report: Option<SinkReport>, now: &str| {
        let found = sinks_verdict(&spec, &usage(report), status.as_ref(), at(now));
        status.clone_from(&found.failures);
        (found.events, found.again)
    };
    let minutes = |minutes| Some(Duration::from_mins(minutes));
    let failing = |error: &str| Some(fails(BEGUN, error));
    assert_eq!(look(failing("a"), BEGUN), (vec![], minutes(60)));
    assert_eq!(
        look(failing("b"), "2026-01-01T00:59:00Z"),
        (vec![], minutes(1))
    );
    let note = "usageSink: events have not been delivered since 2026-01-01T00:00:00Z: c";
    let event = EventNote::warning("SinkFailing", note.to_owned());
    assert_eq!(
        look(failing("c"), "2026-01-01T01:00:00Z"),
        (vec![event], None)
    );
    assert_eq!(look(failing("d"), "2026-01-01T02:00:00Z"), (vec![], None));
    // Pods that restart say nothing for a while, or remember an earlier begin.
    assert_eq!(look(None, "2026-01-01T02:01:00Z"), (vec![], None));
    let earlier = Some(fails("2025-12-31T23:59:59Z", "e"));
    assert_eq!(look(earlier, "2026-01-01T02:02:00Z"), (vec![], None));
    let (events, _) = look(DELIVERS, "2026-01-01T03:00:00Z");
    let note =
        "usageSink: events are delivered again, which they were not since 2025-12-31T23:59:59Z";
    assert_eq!(
        events,
        [EventNote::normal("SinkRecovered", note.to_owned())]
    );
    assert_eq!(look(DELIVERS, "2026-01-01T03:01:00Z"), (vec![], None));
    // The next failure is another one, and a short one has no event.
    let next = Some(fails("2026-01-01T04:00:00Z", "f"));
    assert_eq!(
        look(next.clone(), "2026-01-01T04:30:00Z"),
        (vec![], minutes(30))
    );
    assert_eq!(look(DELIVERS, "2026-01-01T04:31:00Z"), (vec![], None));
    assert_eq!(look(next, "2026-01-01T05:00:00Z").0.len(), 1);
    let later = Some(fails("2026-01-01T05:30:00Z", "g"));
    assert_eq!(
        look(later, "2026-01-01T05:40:00Z"),
        (vec![], minutes(50)),
        "it delivered in between"
    );
}

/// K8S-12: a failure that lasts is no reason to write a status again and again.
#[test]
fn another_error_of_the_same_failure_is_news_after_a_while_only() {
    let health = SinksHealth::default();
    let tenant = TenantId::random();
    let take = |report, now: &str| health.take(tenant, usage(report), true, at(now));
    assert!(take(Some(fails(BEGUN, "503")), "2026-01-01T00:00:10Z"));
    assert!(!take(Some(fails(BEGUN, "503")), "2026-01-01T00:00:20Z"));
    assert!(!take(Some(fails(BEGUN, "504")), "2026-01-01T00:05:09Z"));
    assert_eq!(health.of(tenant).usage, Some(fails(BEGUN, "503")));
    assert!(take(Some(fails(BEGUN, "504")), "2026-01-01T00:05:10Z"));
    assert_eq!(health.of(tenant).usage, Some(fails(BEGUN, "504")));
    assert!(!take(DELIVERS, "2026-01-01T00:05:20Z"));
    assert!(take(DELIVERS, "2026-01-01T00:05:25Z"));
    assert!(take(
        Some(fails("2026-01-01T00:05:30Z", "505")),
        "2026-01-01T00:05:31Z"
    ));
}

#[test]
fn a_failure_ends_when_every_pod_has_said_so_for_a_moment() {
    let health = SinksHealth::default();
    let tenant = TenantId::random();
    let take = |report, is_complete, second: i64| {
        let now = at(BEGUN).plus_seconds(second);
        health.take(tenant, usage(report), is_complete, now)
    };
    let failing = || Some(fails(BEGUN, "503"));
    assert!(take(failing(), false, 0));
    assert!(!take(DELIVERS, false, 10));
    assert!(!take(DELIVERS, false, 20));
    assert_eq!(health.of(tenant).usage, failing());
    // A pod that has just started says so, and takes it back.
    assert!(!take(DELIVERS, true, 30));
    assert!(!take(failing(), true, 34));
    assert!(!take(DELIVERS, true, 40));
    assert!(!take(DELIVERS, true, 44));
    assert_eq!(health.of(tenant).usage, failing());
    assert!(take(DELIVERS, true, 45));
    assert_eq!(health.of(tenant).usage, DELIVERS);
}

#[test]
fn what_pods_said_counts_for_a_minute() {
    let health = SinksHealth::default();
    let tenant = TenantId::random();
    let take = |report, now: &str| health.take(tenant, usage(report), false, at(now));
    assert!(!take(None, BEGUN));
    assert!(take(DELIVERS, BEGUN));
    assert!(!take(None, "2026-01-01T00:00:59Z"));
    assert_eq!(health.of(tenant).usage, DELIVERS);
    assert!(take(None, "2026-01-01T00:01:00Z"));
    assert_eq!(health.of(tenant), SinkReports::default());
    assert!(!take(None, "2026-01-01T00:02:00Z"));
    assert!(take(DELIVERS, "2026-01-01T00:03:00Z"));
    health.retain(|_| false);
    assert_eq!(health.of(tenant), SinkReports::default());
}
