//! Failures that are not events of a stream (TURN-23, D28, PLAT-119).

use std::time::Duration;

use minichat_config::AllowPrivate;
use minichat_config::outbound::Outbound;
use minichat_core::turn::TurnErrorCode;
use minichat_provider::{ClientSettings, FailureKind, ProviderClient, Terminal, TimeoutStage};
use serde_json::json;

use crate::support::{Setup, provider, read};
use minichat_scripted_provider::{Ending, Scenario};

const SHORT: Duration = Duration::from_millis(60);

/// TURN-23, PLAT-116
#[tokio::test]
async fn http_statuses_become_our_codes() {
    let setup = Setup::responses().await;
    let rows = [
        (429, TurnErrorCode::RateLimited),
        (408, TurnErrorCode::ProviderTimeout),
        (504, TurnErrorCode::ProviderTimeout),
        (400, TurnErrorCode::ProviderError),
        (401, TurnErrorCode::ProviderError),
        (500, TurnErrorCode::ProviderError),
        (200, TurnErrorCode::ProviderError),
    ];
    for (status, code) in rows {
        let body = json!({"error": {"code": 7, "message": "no: req_123"}});
        setup.server.push_scenario(Scenario::status(status, body));
        let failure = setup.send("Hi").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Status(status));
        assert_eq!(failure.error_code(), code, "{status}");
        assert_eq!(setup.started.get(), status < 400, "D54: {status}");
        assert_eq!(&*failure.message, "no: [provider_id]");
        assert_eq!(*failure.detail, *format!("HTTP {status}, 7: no: req_123"));
    }
    assert_eq!(
        setup.server.stats().answers_started,
        7,
        "none was tried again"
    );
}

/// An answer that is too long is cut off, and the connection is closed, because
/// the provider might never stop.
#[tokio::test]
async fn a_provider_that_says_too_much_is_hung_up_on() {
    let mut setup = Setup::responses().await;
    setup.client = ProviderClient::new(&ClientSettings {
        max_answer_bytes: 10,
        outbound: Outbound {
            allow_private: AllowPrivate::everything(),
            ..Outbound::default()
        },
        ..ClientSettings::default()
    });
    for (deltas, text) in [
        (&["12345", "67890"][..], "1234567890"),
        (&["12345", "678901"], "12345"),
    ] {
        setup
            .server
            .push_scenario(Scenario::deltas(deltas, Ending::Completed));
        let answer = setup.send("Hi").await.unwrap();
        assert_eq!(answer.text, text);
        let fits = text.len() == deltas.concat().len();
        assert_eq!(matches!(answer.terminal, Terminal::Completed(_)), fits);
    }
    setup
        .server
        .push_scenario(Scenario::deltas(&["12345", "678901"], Ending::Hang));
    let mut stream = setup.open("Hi").await.unwrap();
    let failure = read(&mut stream).await.failure();
    assert_eq!(failure.error_code(), TurnErrorCode::ProviderError);
    assert!(!failure.is_refusal());
    assert_eq!(&*failure.message, "The provider's answer is too long.");
    assert!(failure.detail.contains("provider_http.max_answer_bytes"));
    // It is closed while the stream still exists.
    let gone = setup
        .server
        .wait_until(|stats| stats.answers_aborted == 1 && stats.connections_open == 0);
    tokio::time::timeout(Duration::from_secs(1), gone)
        .await
        .unwrap();
    assert!(stream.next().await.is_none());
}

/// TURN-23, D48
#[tokio::test]
async fn an_unparseable_body_is_for_diagnosis_alone() {
    let setup = Setup::responses().await;
    setup
        .server
        .push_scenario(Scenario::status(500, json!("é".repeat(500))));
    let failure = setup.send("Hi").await.unwrap_err();
    assert_eq!(
        &*failure.message,
        "The provider has an internal fault (HTTP 500)."
    );
    let kept = failure.detail.chars().filter(|c| *c == 'é').count();
    assert_eq!(kept, 199, "200 characters, one of them a quote");
}

/// PLAT-119
#[tokio::test]
async fn a_429_is_tried_again_once_and_only_with_a_short_retry_after() {
    let refusal = || Scenario::status(429, json!({"message": "slow down"}));
    for (header, attempts, succeeds) in [
        (Some("0"), 2, true),
        (Some("11"), 1, false),
        (Some("soon"), 1, false),
        (None, 1, false),
    ] {
        let setup = Setup::responses().await;
        let scenario = match header {
            Some(value) => refusal().with_header("retry-after", value),
            None => refusal(),
        };
        setup.server.push_scenario(scenario);
        assert_eq!(setup.send("Hi").await.is_ok(), succeeds, "{header:?}");
        assert_eq!(setup.server.stats().answers_started, attempts, "{header:?}");
    }
    let setup = Setup::responses().await;
    for _ in 0..3 {
        setup
            .server
            .push_scenario(refusal().with_header("retry-after", "0"));
    }
    let failure = setup.send("Hi").await.unwrap_err();
    assert_eq!(failure.error_code(), TurnErrorCode::RateLimited);
    assert_eq!(setup.server.stats().answers_started, 2);
}

/// D54
#[tokio::test]
async fn a_call_whose_last_answer_is_a_refusal_has_not_started() {
    let refused = |seconds: &str| {
        Scenario::status(429, json!({"message": "slow down"})).with_header("retry-after", seconds)
    };
    let unavailable = || Scenario::status(503, json!({"message": "down"}));
    let dropped = || Scenario {
        drop_connection: true,
        ..Scenario::default()
    };
    for (first, second, is_started) in [
        (refused("0"), refused("0"), false),
        (refused("0"), unavailable(), false),
        (refused("0"), dropped(), true),
        (dropped(), unavailable(), false),
        (dropped(), dropped(), true),
    ] {
        let case = format!("{first:?}, then {second:?}");
        let setup = Setup::responses().await;
        setup.server.push_scenario(first);
        setup.server.push_scenario(second);
        setup.send("Hi").await.unwrap_err();
        assert_eq!(setup.server.stats().answers_started, 2, "{case}");
        assert_eq!(setup.started.get(), is_started, "{case}");
    }
    // The time is over before the second attempt.
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.total = Duration::from_secs(2);
    setup.server.push_scenario(refused("10"));
    let failure = setup.send("Hi").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut(TimeoutStage::Total));
    assert_eq!(setup.server.stats().answers_started, 1);
    assert!(!setup.started.get(), "the only attempt was refused");
}

/// PLAT-119
#[tokio::test]
async fn a_connection_that_fails_before_the_head_is_tried_again_once() {
    let dropped = || Scenario {
        drop_connection: true,
        ..Scenario::default()
    };
    let setup = Setup::responses().await;
    setup.server.push_scenario(dropped());
    assert_eq!(setup.send("PING").await.unwrap().text, "PONG");
    setup.server.push_scenario(Scenario {
        times: 2,
        ..dropped()
    });
    let failure = setup.send("PING").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Broken);
    assert_eq!(setup.server.requests().len(), 4);
}

/// QUOTA-61
#[tokio::test]
async fn a_refused_connection_is_not_a_started_call() {
    let mut setup = Setup::responses().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    setup.provider = provider(setup.provider.kind, free.local_addr().unwrap().port());
    drop(free);
    let failure = setup.send("Hi").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connect);
    assert_eq!(failure.error_code(), TurnErrorCode::ProviderError);
    assert!(!setup.started.get());
}

/// TURN-50
#[tokio::test]
async fn a_late_head_is_a_first_byte_timeout() {
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.first_byte = SHORT;
    setup.server.push_scenario(Scenario {
        hold_before_head: true,
        ..Scenario::default()
    });
    let failure = setup.send("Hi").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut(TimeoutStage::FirstByte));
    assert_eq!(failure.error_code(), TurnErrorCode::ProviderTimeout);
    assert!(setup.started.get());
    setup
        .server
        .wait_until(|stats| stats.answers_aborted == 1)
        .await;
}

/// D28
#[tokio::test]
async fn silence_between_events_is_an_idle_timeout_and_comments_are_silence() {
    for ending in [Ending::Hang, Ending::Comments { every_ms: 5 }] {
        let mut setup = Setup::responses().await;
        setup.provider.timeouts.idle = SHORT;
        setup
            .server
            .push_scenario(Scenario::deltas(&["Partial"], ending));
        let answer = setup.send("Hi").await.unwrap();
        assert_eq!(answer.text, "Partial");
        assert_eq!(
            answer.failure().kind,
            FailureKind::TimedOut(TimeoutStage::Idle)
        );
        setup
            .server
            .wait_until(|stats| stats.connections_open == 0)
            .await;
    }
}

/// D28
#[tokio::test]
async fn events_reset_the_idle_limit_but_not_the_total_one() {
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.idle = Duration::from_millis(400);
    let deltas = ["a"; 30];
    let slowly = || Scenario {
        interval_ms: 30,
        ..Scenario::deltas(&deltas, Ending::Completed)
    };
    setup.server.push_scenario(slowly());
    assert_eq!(
        setup.send("Hi").await.unwrap().deltas,
        30,
        "900 ms in pieces"
    );
    setup.provider.timeouts.total = Duration::from_millis(200);
    setup.server.push_scenario(slowly());
    let answer = setup.send("Hi").await.unwrap();
    assert_eq!(
        answer.failure().kind,
        FailureKind::TimedOut(TimeoutStage::Total)
    );
}
