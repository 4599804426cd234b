use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;
use minichat_core::Timestamp;
use minichat_crds::status::Condition;
use minichat_lease::Leadership;
use minichat_metrics::JobMetrics;
use serde_json::{Value, json};

use super::mark::Marker;
use super::outcome::{Outcome, PodResult, job_of};
use super::record::{LATE, REPORTED, Record, Stage};
use super::{AGAIN, End};
use crate::settings::Watchdog;
use crate::status::{JobsHealth, LastRun, conditions};
use crate::writer::Writer;

fn report() -> String {
    JobMetrics::default().report("watchdog").to_json()
}

fn owner(kind: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": kind, "name": "j", "uid": "u", "controller": true})
}

fn pod_with(phase: &str, owner: &Value, states: &[Value]) -> Pod {
    let container = |state: &Value| {
        json!({
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        })
    };
    let containers: Vec<_> = states.iter().map(container).collect();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "ownerReferences": [owner]},
        "status": {"phase": phase, "containerStatuses": containers},
    }))
    .unwrap()
}

fn ended(code: i32, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}})
}

fn ended_pod(code: i32, message: &str) -> Pod {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    pod_with(phase, &owner("Job"), &[ended(code, message)])
}

fn running_pod() -> Pod {
    pod_with("Running", &owner("Job"), &[json!({"running": {}})])
}

fn job(conditions: &Value) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "j", "uid": "u"}, "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn running() -> Job {
    // So it is called once it must end, until its pod has.
    job(&json!([{"type": "FailureTarget", "status": "True"}]))
}

fn succeeded() -> Job {
    job(
        &json!([{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]),
    )
}

fn failed(reason: &str) -> Job {
    job(&json!([{
        "type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": reason, "message": "so it is",
    }]))
}

fn words(job: &Job, result: Option<&PodResult>) -> String {
    Outcome::of(job).unwrap().failure.unwrap().words(result)
}

/// K8S-44
#[test]
fn a_pod_leaves_something_once_it_has_ended() {
    let left = PodResult::of(&ended_pod(0, &report())).unwrap();
    assert!(left.has_report());
    let broken = PodResult::of(&ended_pod(0, "killed")).unwrap();
    assert!(matches!(broken.report, Some(Err(_))));
    assert_eq!(PodResult::of(&running_pod()), None);
    assert_eq!(PodResult::of(&Pod::default()), None);
    assert!(!PodResult::of_gone(&running_pod()).has_report());
    assert_eq!(job_of(&ended_pod(0, "")), Some(("j", "u")));
    let of_another = pod_with("Running", &owner("ReplicaSet"), &[json!({})]);
    assert_eq!(job_of(&of_another), None);
}

/// K8S-44
#[test]
fn a_container_that_was_injected_and_ends_first_hides_no_report() {
    let injected = ended(0, "");
    let one_runs = [injected.clone(), json!({"running": {}})];
    assert_eq!(
        PodResult::of(&pod_with("Running", &owner("Job"), &one_runs)),
        None
    );
    let both = [injected.clone(), ended(1, &report())];
    let left = PodResult::of(&pod_with("Failed", &owner("Job"), &both)).unwrap();
    assert!(left.has_report());
    // One that never ends is deleted with its pod.
    let runs_on = [ended(0, &report()), json!({"running": {}})];
    let pod = pod_with("Running", &owner("Job"), &runs_on);
    assert_eq!(PodResult::of(&pod), None);
    assert!(PodResult::of_gone(&pod).has_report());
}

/// K8S-7
#[test]
fn a_failure_is_told_by_the_pod_unless_the_job_has_ended_it() {
    assert_eq!(Outcome::of(&running()), None);
    assert_eq!(Outcome::of(&succeeded()).unwrap().failure, None);
    let left = PodResult::of(&ended_pod(3, &report()));
    let own = failed("BackoffLimitExceeded");
    assert_eq!(
        words(&own, left.as_ref()),
        "container c ended with exit code 3 (Error)"
    );
    assert_eq!(words(&own, None), "BackoffLimitExceeded: so it is");
    let overdue = words(&failed("DeadlineExceeded"), left.as_ref());
    assert_eq!(overdue, "DeadlineExceeded: so it is");
    let mut evicted = ended_pod(137, "");
    evicted.status.as_mut().unwrap().reason = Some("Evicted".to_owned());
    let left = PodResult::of(&evicted);
    assert_eq!(words(&own, left.as_ref()), "its pod has failed: Evicted");
}

/// K8S-44: the two watches are not in step.
#[tokio::test(start_paused = true)]
async fn a_job_is_due_when_it_and_its_pod_have_ended() {
    let mut pod_first = Record::default();
    pod_first.job(Event::Apply(running()));
    pod_first.pod(&Event::Apply(ended_pod(1, &report())));
    assert!(pod_first.due().is_empty() && !pod_first.is_waiting());
    pod_first.job(Event::Apply(failed("BackoffLimitExceeded")));
    assert_eq!(pod_first.due(), ["u"]);

    let mut job_first = Record::default();
    assert!(!job_first.knows_jobs());
    job_first.job(Event::InitDone);
    assert!(job_first.knows_jobs());
    job_first.pod(&Event::InitDone);
    job_first.pod(&Event::Apply(running_pod()));
    job_first.job(Event::Apply(failed("BackoffLimitExceeded")));
    assert!(job_first.due().is_empty() && job_first.is_waiting());
    job_first.pod(&Event::Apply(ended_pod(1, &report())));
    assert_eq!(job_first.due(), ["u"]);
    assert!(job_first.last().is_some_and(|last| last.has_failed));

    let mut never_made = Record::default();
    never_made.pod(&Event::InitDone);
    never_made.job(Event::Apply(failed("DeadlineExceeded")));
    tokio::time::advance(LATE / 2).await;
    never_made.job(Event::Apply(failed("DeadlineExceeded")));
    assert!(never_made.due().is_empty() && never_made.is_waiting());
    tokio::time::advance(LATE / 2).await;
    assert_eq!(never_made.due(), ["u"]);

    let mut succeeds = Record::default();
    succeeds.pod(&Event::InitDone);
    succeeds.job(Event::Apply(succeeded()));
    tokio::time::advance(LATE).await;
    assert!(
        succeeds.due().is_empty(),
        "its pod has a report, which will be seen"
    );
}

/// Takes care of what is due, as whoever sets the marks; what was to be done.
fn settle(record: &mut Record) -> Vec<End> {
    let due = record.due();
    let take = |uid: String| {
        let (run, result) = record.get(&uid).unwrap();
        let end = End::of(run, result);
        run.handled(true, result);
        end
    };
    due.into_iter().map(take).collect()
}

fn done(ends: Vec<End>) -> Vec<(bool, bool)> {
    let is_done = |end: End| (end.failure.is_some(), matches!(end.report, Some(Ok(_))));
    ends.into_iter().map(is_done).collect()
}

/// K8S-9, K8S-44
#[tokio::test(start_paused = true)]
async fn a_failed_job_whose_pod_is_seen_late_is_told_once_and_counted_once() {
    const FAILED: &str = "BackoffLimitExceeded";
    let pod = || ended_pod(1, &report());
    let mut unread = Record::default();
    unread.job(Event::InitApply(failed(FAILED)));
    unread.job(Event::InitDone);
    tokio::time::advance(LATE * 2).await;
    assert_eq!(done(settle(&mut unread)), [], "pods may still be read");
    unread.pod(&Event::InitApply(pod()));
    unread.pod(&Event::InitDone);
    assert_eq!(done(settle(&mut unread)), [(true, true)]);
    assert_eq!(done(settle(&mut unread)), []);

    let mut interrupted = Record::default();
    interrupted.pod(&Event::InitDone);
    interrupted.job(Event::Apply(failed(FAILED)));
    tokio::time::advance(LATE).await;
    assert_eq!(done(settle(&mut interrupted)), [(true, false)]);
    // It is marked.
    interrupted.job(Event::Apply(failed(FAILED)));
    assert!(settle(&mut interrupted).is_empty() && !interrupted.is_waiting());
    interrupted.pod(&Event::Apply(pod()));
    assert!(interrupted.is_waiting());
    assert_eq!(done(settle(&mut interrupted)), [(false, true)]);
    interrupted.pod(&Event::Apply(pod()));
    assert_eq!(done(settle(&mut interrupted)), []);

    // Another process told its failure, and will count what it left.
    let mut of_another = Record::default();
    of_another.pod(&Event::InitDone);
    of_another.job(Event::Apply(failed(FAILED)));
    of_another.get("u").unwrap().0.handled(false, None);
    of_another.pod(&Event::Apply(pod()));
    assert_eq!(done(settle(&mut of_another)), []);
}

/// K8S-44: so its report is counted, though it was marked without it.
#[tokio::test]
async fn a_mark_is_known_again_by_whoever_set_it() {
    let cluster = kube::Config::new(http::Uri::from_static("http://localhost"));
    let client = kube::Client::try_from(cluster).unwrap();
    let (_, follows) = tokio::sync::watch::channel(None);
    let writer = Writer::new(client, Leadership::new(follows), "a", "default");
    let marker = Marker::new(writer);
    for (reader, has_tried, is_ours) in [
        (marker.reader.as_str(), true, true),
        (marker.reader.as_str(), false, false),
        ("another", true, false),
    ] {
        let mut job = failed("BackoffLimitExceeded");
        job.annotations_mut()
            .insert(REPORTED.to_owned(), reader.to_owned());
        let mut record = Record::default();
        record.job(Event::Apply(failed("BackoffLimitExceeded")));
        record.get("u").unwrap().0.has_tried = has_tried;
        record.job(Event::Apply(job));
        let (run, _) = record.get("u").unwrap();
        assert_eq!(marker.take(run).await, Ok(is_ours), "{reader} {has_tried}");
    }
}

/// K8S-44: an event that tells nothing new is no reason to hurry.
#[tokio::test(start_paused = true)]
async fn a_mark_that_failed_is_tried_again_after_a_while() {
    let mut record = Record::default();
    record.pod(&Event::Apply(ended_pod(0, &report())));
    record.job(Event::Apply(succeeded()));
    record.get("u").unwrap().0.try_after(AGAIN);
    record.job(Event::Apply(succeeded()));
    assert!(record.due().is_empty() && record.is_waiting());
    tokio::time::advance(AGAIN).await;
    assert_eq!(record.due(), ["u"]);
}

/// K8S-44
#[test]
fn a_pod_that_is_deleted_has_left_what_it_had() {
    let mut record = Record::default();
    record.job(Event::Apply(running()));
    record.pod(&Event::Delete(ended_pod(0, &report())));
    record.job(Event::Apply(failed("DeadlineExceeded")));
    assert_eq!(record.due(), ["u"]);
    let (_, left) = record.get("u").unwrap();
    assert!(left.unwrap().has_report());
}

/// K8S-44: somebody deletes a Job, or what owns it, before it is counted.
#[test]
fn a_job_that_is_deleted_uncounted_leaves_its_report() {
    let left = |record: &Record| -> Vec<_> {
        let left = record.left().into_iter();
        left.map(|(uid, left)| (uid, left.job)).collect()
    };
    let one = [("u".to_owned(), "j".to_owned())];
    let mut pod_ended_first = Record::default();
    pod_ended_first.job(Event::Apply(running()));
    pod_ended_first.pod(&Event::Apply(ended_pod(0, &report())));
    pod_ended_first.job(Event::Delete(running()));
    assert_eq!(left(&pod_ended_first), one);
    pod_ended_first.pod(&Event::Delete(ended_pod(0, &report())));
    assert_eq!(left(&pod_ended_first), one);
    assert!(pod_ended_first.is_waiting());
    pod_ended_first.counted("u");
    assert!(pod_ended_first.is_empty() && !pod_ended_first.is_waiting());

    let mut job_went_first = Record::default();
    job_went_first.job(Event::Apply(running()));
    job_went_first.job(Event::Delete(running()));
    job_went_first.pod(&Event::Apply(running_pod()));
    assert_eq!(left(&job_went_first), []);
    job_went_first.pod(&Event::Delete(ended_pod(143, &report())));
    assert_eq!(left(&job_went_first), one);

    // Another process has marked it, and counts it.
    let mut marked = running();
    let mark = (REPORTED.to_owned(), "another".to_owned());
    marked.annotations_mut().extend([mark]);
    let mut of_another = Record::default();
    of_another.pod(&Event::Apply(ended_pod(0, &report())));
    of_another.job(Event::Apply(marked.clone()));
    of_another.job(Event::Delete(marked));
    assert_eq!(left(&of_another), []);
    // Nobody knows whether it was counted.
    let mut unseen = Record::default();
    unseen.pod(&Event::Delete(ended_pod(0, &report())));
    assert_eq!(left(&unseen), []);
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let mut record = Record::default();
    record.job(Event::Apply(succeeded()));
    record.pod(&Event::Apply(ended_pod(0, &report())));
    record.get("u").unwrap().0.stage = Stage::Settled;
    // The Job goes, and its pod follows.
    record.job(Event::Delete(succeeded()));
    record.pod(&Event::Apply(ended_pod(0, &report())));
    record.pod(&Event::Delete(ended_pod(0, &report())));
    assert!(record.is_empty(), "{record:?}");
    // Nobody saw it go.
    record.job(Event::Apply(succeeded()));
    record.pod(&Event::Apply(ended_pod(0, &report())));
    record.job(Event::Init);
    record.job(Event::InitDone);
    record.pod(&Event::Init);
    record.pod(&Event::InitDone);
    record.counted("u");
    assert!(record.is_empty(), "{record:?}");
}

fn good(second: i64) -> LastRun {
    LastRun {
        at: at(second),
        job: format!("j-{second}"),
        has_failed: false,
    }
}

fn bad(second: i64) -> LastRun {
    LastRun {
        has_failed: true,
        ..good(second)
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(0).plus_seconds(second)
}

fn health() -> JobsHealth {
    JobsHealth::new(Some(Watchdog::Jobs), Duration::from_secs(100))
}

/// What a tenant was told.
fn standing(health: &JobsHealth) -> Vec<Condition> {
    let verdicts: Vec<_> = health.verdict(&[]).into_iter().collect();
    conditions(&verdicts, &[], Some(1), at(0))
}

/// K8S-7, K8S-12
#[test]
fn only_an_end_of_another_kind_is_news() {
    let health = health();
    let judge = |last: Option<LastRun>| {
        let now = last.as_ref().map_or(at(0), |last| last.at);
        let is_news = health.judge(last.as_ref(), at(0), now);
        let verdict = health.verdict(&[]).unwrap();
        (is_news, verdict.holds(), verdict.message)
    };
    assert_eq!(health.verdict(&[]), None);
    assert_eq!(judge(None), (true, true, "no Job has ended yet".to_owned()));
    assert_eq!(judge(Some(good(1))), (true, true, String::new()));
    assert_eq!(judge(Some(good(2))), (false, true, String::new()));
    let (is_news, holds, message) = judge(Some(bad(3)));
    assert!(is_news && !holds && message.contains("JobFailed"));
    for last in [bad(4), good(5), good(5), bad(6), good(7)] {
        let words = format!("{last:?}");
        assert_eq!(
            judge(Some(last)),
            (false, false, message.clone()),
            "{words}"
        );
    }
    let second = judge(Some(good(8)));
    assert_eq!(second, (true, true, String::new()), "two in a row");
}

/// K8S-7, K8S-12
#[test]
fn what_stands_goes_on_in_another_process_until_it_knows_better() {
    let failed = health();
    failed.judge(Some(&bad(1)), at(0), at(1));
    let missed = health();
    missed.judge(None, at(0), at(100));
    for before in [&failed, &missed] {
        let stands = standing(before);
        let next = health();
        assert_eq!(next.verdict(&stands), before.verdict(&[]));
        next.judge(None, at(100), at(101));
        assert_eq!(next.verdict(&stands), before.verdict(&[]), "none yet");
        next.judge(Some(&good(102)), at(100), at(102));
        assert!(next.verdict(&stands).unwrap().holds());
    }
    // Nobody looked for turns before.
    let suspended = JobsHealth::new(Some(Watchdog::Suspended), Duration::ZERO);
    let next = health();
    next.judge(None, at(0), at(1));
    assert!(next.verdict(&standing(&suspended)).unwrap().holds());
    let untold = JobsHealth::new(None, Duration::ZERO);
    assert_eq!(untold.verdict(&standing(&failed)), None);
}

/// K8S-7
#[test]
fn a_run_is_missed_when_none_has_ended_for_long() {
    let health = health();
    let reason = |last: Option<&LastRun>, now: i64| {
        health.judge(last, at(1000), at(now));
        health.verdict(&[]).unwrap().reason.as_str()
    };
    assert_eq!(reason(None, 1099), "Succeeded");
    assert_eq!(reason(None, 1100), "Missed");
    assert_eq!(reason(Some(&good(1150)), 1151), "Succeeded");
    assert_eq!(reason(Some(&good(1150)), 1250), "Missed");
    assert_eq!(reason(Some(&bad(1260)), 1261), "Failed");
    assert_eq!(reason(Some(&good(900)), 1261), "Missed");
    let left = health.until_missed(Some(&good(1000)), at(0), at(1090));
    assert_eq!(left, Duration::from_secs(10));
}
