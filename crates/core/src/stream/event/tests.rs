use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::quota::Period;
use crate::quota::status::StatusTier;

fn frame(event: &StreamEvent<'_>) -> String {
    let mut out = Vec::new();
    event.encode(&mut out);
    String::from_utf8(out).unwrap()
}

fn data(event: &StreamEvent<'_>) -> Value {
    let frame = frame(event);
    let (head, rest) = frame.split_once('\n').unwrap();
    assert_eq!(head, format!("event: {}", event.kind().as_str()));
    let data = rest
        .strip_prefix("data: ")
        .unwrap()
        .strip_suffix("\n\n")
        .unwrap();
    assert!(!data.contains(['\n', '\r']), "one line: {data:?}");
    serde_json::from_str(data).unwrap()
}

fn done(quota_decision: QuotaDecision) -> Done {
    Done {
        usage: Some(DoneUsage {
            input_tokens: 812,
            output_tokens: 64,
        }),
        effective_model: "std-1".to_owned(),
        selected_model: "prem-1".to_owned(),
        quota_decision,
        quota_warnings: None,
    }
}

/// API-131, API-145: the example of the rule, byte for byte.
#[test]
fn done_is_written_as_the_example_shows() {
    let mut done = done(QuotaDecision::Downgrade {
        downgrade_from: "prem-1".to_owned(),
        downgrade_reason: Some(DowngradeReason::PremiumQuotaExhausted),
    });
    done.quota_warnings = Some(vec![QuotaWarning {
        tier: StatusTier::Premium,
        period: Period::Daily,
        remaining_percentage: 0,
        warning: true,
        exhausted: true,
        next_reset: Some("2031-02-04T00:00:00Z".parse().unwrap()),
    }]);
    assert_eq!(
        frame(&StreamEvent::Done(Box::new(done))),
        concat!(
            "event: done\n",
            r#"data: {"usage":{"input_tokens":812,"output_tokens":64},"effective_model":"std-1","#,
            r#""selected_model":"prem-1","quota_decision":"downgrade","downgrade_from":"prem-1","#,
            r#""downgrade_reason":"premium_quota_exhausted","quota_warnings":[{"tier":"premium","#,
            r#""period":"daily","remaining_percentage":0,"warning":true,"exhausted":true,"#,
            r#""next_reset":"2031-02-04T00:00:00Z"}]}"#,
            "\n\n"
        )
    );
}

/// D26, QUOTA-66
#[test]
fn done_leaves_out_what_is_unknown() {
    let mut allowed = done(QuotaDecision::Allow);
    allowed.usage = None;
    assert_eq!(
        data(&StreamEvent::Done(Box::new(allowed))),
        json!({"usage": null, "effective_model": "std-1", "selected_model": "prem-1",
               "quota_decision": "allow"})
    );
    let replayed = done(QuotaDecision::Downgrade {
        downgrade_from: "prem-1".to_owned(),
        downgrade_reason: None,
    });
    let replayed = data(&StreamEvent::Done(Box::new(replayed)));
    assert_eq!(replayed["downgrade_from"], "prem-1");
    assert!(replayed.get("downgrade_reason").is_none());
}

/// API-140
#[test]
fn stream_started_names_request_and_message() {
    let started = StreamStarted {
        request_id: RequestId::random(),
        message_id: MessageId::random(),
        is_new_turn: true,
        thread_summary_applied: None,
    };
    assert_eq!(
        data(&StreamEvent::StreamStarted(started)),
        json!({"request_id": started.request_id.to_string(),
               "message_id": started.message_id.to_string(), "is_new_turn": true})
    );
}

/// API-141
#[test]
fn ping_is_an_empty_object() {
    assert_eq!(data(&StreamEvent::Ping), json!({}));
}

/// API-146, TURN-39, D22
#[test]
fn error_codes_are_the_rows_and_two_of_the_wire() {
    let codes: Vec<StreamErrorCode> = TurnErrorCode::ALL
        .into_iter()
        .map(StreamErrorCode::Turn)
        .chain([
            StreamErrorCode::Cancelled,
            StreamErrorCode::StreamInterrupted,
        ])
        .collect();
    let mut tokens: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), codes.len());
    for code in codes {
        let event = StreamEvent::Error {
            code,
            message: "it \"failed\"\n".into(),
        };
        assert_eq!(
            data(&event),
            json!({"code": code.as_str(), "message": "it \"failed\"\n"})
        );
    }
}

proptest! {
    /// API-131, API-142
    #[test]
    fn a_delta_is_one_frame_whatever_its_text(text in any::<String>(), reasoning: bool) {
        let kind = if reasoning { DeltaKind::Reasoning } else { DeltaKind::Text };
        let event = StreamEvent::Delta { kind, text: text.as_str().into() };
        prop_assert_eq!(data(&event), json!({"type": kind.as_str(), "content": text}));
        let mut direct = Vec::new();
        encode_delta(&mut direct, kind, &text);
        prop_assert_eq!(String::from_utf8(direct).unwrap(), frame(&event));
    }
}
