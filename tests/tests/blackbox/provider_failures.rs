//! Providers that fail: one truthful terminal event, and rows and metrics agree
//! with it.

use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider, Tokens};
use serde_json::{Value, json};

/// Charge of a failed turn of M on `std` with unknown usage.
const ESTIMATED: i64 = 1360;

/// Charge and settlement of a failed turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cost {
    Actual(i64),
    Estimated,
    Released,
}

impl Cost {
    fn parts(self) -> (i64, &'static str) {
        match self {
            Self::Actual(charge) => (charge, "actual"),
            Self::Estimated => (ESTIMATED, "estimated"),
            Self::Released => (0, "released"),
        }
    }
}

/// Sends M to a new chat. The turn must fail with `code` and `cost` in the
/// stream, the turn, the messages, the quota, the usage event and the metrics.
/// Returns the error event.
async fn check_failure(scene: &Scene, user: &Api, code: &str, cost: Cost) -> anyhow::Result<Value> {
    let database = scene.database();
    let spent = "SELECT CAST(coalesce(sum(spent_credits_micro), 0) AS BIGINT) FROM quota_usage \
        WHERE period_type = 'daily' AND bucket = 'total'";
    let spent_before = database.number(spent).await?;
    let before = scene.stack.scrape().await?;
    let chat = user.create_chat(Some("std")).await?;
    let events = user.say(&chat, &"x".repeat(4000)).await?;
    let error = events.only("error")?.clone();
    assert_eq!(error["code"], code, "{error}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );

    let request = events.only("stream_started")?["request_id"].clone();
    let turn = user
        .turn(&chat, request.as_str().unwrap_or_default())
        .await?;
    assert_eq!(
        (&turn["state"], &turn["error_code"]),
        (&json!("error"), &json!(code))
    );
    assert!(turn.get("assistant_message_id").is_none(), "{turn}");
    assert_eq!(user.messages(&chat).await?.len(), 1);

    let (charge, method) = cost.parts();
    assert_eq!(
        database.number(spent).await? - spent_before,
        charge,
        "{code} {cost:?}"
    );
    let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
    assert_eq!(database.number(reserved).await?, 0);
    let last = "SELECT payload FROM outbox_messages \
        WHERE queue = 'mini-chat.usage_snapshot' ORDER BY id DESC LIMIT 1";
    let events = "SELECT count(*) FROM outbox_messages \
        WHERE queue = 'mini-chat.usage_snapshot' AND payload LIKE '%";
    let request_id = request.as_str().unwrap_or_default();
    let events = format!("{events}{request_id}%'");
    assert_eq!(database.number(&events).await?, 1, "one event for a turn");
    let rows = database.query(last).await?;
    let event: Value = serde_json::from_str(rows[0][0].as_deref().unwrap_or_default())?;
    assert_eq!(event["request_id"], request);
    assert_eq!(event["error_code"], code);
    assert_eq!(event["terminal_state"], "failed");
    assert_eq!(event["settlement_method"], method, "{code}");
    assert_eq!(event["committed_credits_micro"], charge, "{code}");
    let after = scene.stack.scrape().await?;
    let labels = [("error_code", code), ("provider", "main"), ("model", "std")];
    let name = "mini_chat_stream_failed_total";
    let counted = after.sum(name, &labels) - before.sum(name, &labels);
    assert!((counted - 1.0).abs() < 0.5, "{code} counted {counted}");
    Ok(error)
}

fn failed(message: &str) -> Ending {
    Ending::Failed {
        code: "server_error".to_owned(),
        message: message.to_owned(),
    }
}

on_each_database! {
    /// API-33, API-151, TURN-23, TURN-40, D54: a refused turn costs nothing.
    async fn an_http_failure_is_an_error_event_under_200(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for (status, code) in [
            (400, "provider_error"), (401, "provider_error"), (408, "provider_timeout"),
            (429, "rate_limited"), (500, "provider_error"), (503, "provider_error"),
            (504, "provider_timeout"),
        ] {
            let body = json!({"error": {"message": "it failed", "type": "x"}});
            scene.provider.push_scenario(Scenario::status(status, body));
            check_failure(&scene, &user, code, Cost::Released).await?;
        }
    }

    /// TURN-20, QUOTA-67: reported usage is charged even if the turn fails.
    async fn a_failed_response_is_charged_by_its_usage_if_it_has_one(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let usage = Some(Tokens { input: 30, output: 2 });
        let flat = Ending::FailedFlat { code: "server_error".to_owned(), message: "no".to_owned() };
        for ending in [failed("no"), flat] {
            let with_usage = Scenario { usage, ..Scenario::deltas(&["Partial"], ending.clone()) };
            scene.provider.push_scenario(with_usage);
            check_failure(&scene, &user, "provider_error", Cost::Actual(36)).await?;
            let without = Scenario { without_usage: true, ..Scenario::deltas(&["Partial"], ending) };
            scene.provider.push_scenario(without);
            check_failure(&scene, &user, "provider_error", Cost::Estimated).await?;
        }
    }

    /// TURN-19, TURN-20, TURN-23, PLAT-115
    async fn a_stream_that_breaks_off_is_a_provider_error(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let (code, message) = ("server_error".to_owned(), "it failed".to_owned());
        let garbage = "event: response.output_text.delta\ndata: {nonsense\n\n";
        for scenario in [
            Scenario::deltas(&["Partial"], Ending::Missing),
            Scenario::deltas(&["Partial"], Ending::Cut),
            Scenario::deltas(&[], Ending::Missing),
            Scenario::deltas(&["a"], Ending::Error { code: code.clone(), message: message.clone() }),
            Scenario::deltas(&["a"], Ending::ErrorFlat { code, message }),
            Scenario::raw(garbage),
            Scenario::status(200, json!({"id": "resp_1"})),
            Scenario { drop_connection: true,
                // A connection that fails before the answer is retried once.
                times: 2, ..Scenario::default() },
        ] {
            scene.provider.push_scenario(scenario);
            check_failure(&scene, &user, "provider_error", Cost::Estimated).await?;
        }
    }

    /// QUOTA-60, QUOTA-61, TURN-40
    async fn a_provider_that_cannot_be_reached_costs_nothing(env) {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["baseUrl"] = json!(format!("http://{closed}"));
            tenant
        }).await?;
        let user = scene.new_user()?;
        check_failure(&scene, &user, "provider_error", Cost::Released).await?;
        let calls = "SELECT calls FROM quota_usage WHERE period_type = 'daily'";
        assert_eq!(scene.database().number(calls).await?, 1);
    }

    /// D48: the process never calls itself, whatever is allowed.
    async fn a_provider_at_the_process_s_own_listener_is_never_called(env) {
        let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        tenant.spec()["providers"][0]["baseUrl"] = json!(format!("http://0x7f.1:{}", admin.port()));
        let settings = format!("MINICHAT_METRICS_BIND_ADDR={admin}");
        let stack = env.serve_with(&[&tenant], &settings).await?;
        let scene = Scene { provider, tenant, stack };
        let user = scene.new_user()?;
        let error = check_failure(&scene, &user, "provider_error", Cost::Released).await?;
        assert_eq!(error["message"], "The provider's address may not be called from here.");
    }

    /// TURN-50, PLAT-118, D28: comments are no progress.
    async fn a_provider_that_falls_silent_times_out(env) {
        let scene = env.scene_with(|mut tenant| {
            tenant.spec()["providers"][0]["timeouts"] = json!({"firstByteSeconds": 1, "idleSeconds": 1});
            tenant
        }).await?;
        let user = scene.new_user()?;
        for scenario in [
            Scenario::deltas(&["part"], Ending::Hang),
            Scenario::deltas(&["part"], Ending::Comments { every_ms: 100 }),
            Scenario { hold_before_head: true, ..Scenario::default() },
        ] {
            scene.provider.push_scenario(scenario);
            check_failure(&scene, &user, "provider_timeout", Cost::Estimated).await?;
            scene.provider.wait_until(|stats| stats.answers_open == 0).await;
        }
        let scrape = scene.stack.scrape().await?;
        let timeouts = scrape.sum("mini_chat_cancel_requested_total", &[("trigger", "timeout")]);
        assert!((timeouts - 3.0).abs() < 0.5, "{timeouts}");
    }

    /// API-147, CONT-39, PLAT-117, TURN-24
    async fn no_identifier_url_or_key_of_a_provider_reaches_a_client(env) {
        const SECRETS: [&str; 4] = ["resp_ab1_2", "batch_456", "hidden.example", "sk-abcdefghijkl"];
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let text = "resp_ab1_2 in batch_456 at https://hidden.example/x with sk-abcdefghijkl";
        let body = json!({"error": {"message": text}});
        let raw = Scenario { status: 500, raw: Some(text.to_owned()), ..Scenario::default() };
        for (scenario, cost) in [
            (
                Scenario { without_usage: true, ..Scenario::deltas(&["a"], failed(text)) },
                Cost::Estimated,
            ),
            (Scenario::status(500, body), Cost::Released),
            (raw, Cost::Estimated),
        ] {
            scene.provider.push_scenario(scenario);
            let error = check_failure(&scene, &user, "provider_error", cost).await?;
            let shown = error.to_string();
            for secret in SECRETS {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        let stored = scene.database().query("SELECT error_detail FROM chat_turns").await?;
        let stored = format!("{stored:?}");
        assert!(!stored.contains("sk-abcdefghijkl"), "{stored}");
    }
}
