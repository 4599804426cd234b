//! The metrics that one turn changes, and those that exist before any turn.

use minichat_metrics::catalogue::{self, Kind};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;

const PREFIX: &str = "mini_chat";

/// Every metric that answering PING on the premium model changes, except sums
/// of durations.
const MOVED_BY_PING: [(&str, f64); 18] = [
    ("finalization_latency_ms_count", 1.0),
    ("outbox_enqueue_total{kind=\"audit\",result=\"ok\"}", 1.0),
    ("outbox_enqueue_total{kind=\"usage\",result=\"ok\"}", 1.0),
    ("quota_actual_tokens_count", 1.0),
    ("quota_actual_tokens_sum", 52.0),
    ("quota_commit_total{period=\"daily\"}", 1.0),
    ("quota_commit_total{period=\"monthly\"}", 1.0),
    ("quota_estimated_tokens_count", 1.0),
    ("quota_estimated_tokens_sum", 1112.0),
    (
        "quota_preflight_total{decision=\"allow\",model=\"prem\",tier=\"premium\"}",
        1.0,
    ),
    ("quota_reserve_total{period=\"daily\"}", 1.0),
    ("quota_reserve_total{period=\"monthly\"}", 1.0),
    (
        "stream_completed_total{model=\"prem\",provider=\"main\"}",
        1.0,
    ),
    (
        "stream_started_total{model=\"prem\",provider=\"main\"}",
        1.0,
    ),
    (
        "stream_total_latency_ms_count{model=\"prem\",provider=\"main\"}",
        1.0,
    ),
    ("thread_summary_trigger_total{result=\"not_needed\"}", 1.0),
    (
        "ttft_overhead_ms_count{model=\"prem\",provider=\"main\"}",
        1.0,
    ),
    (
        "ttft_provider_ms_count{model=\"prem\",provider=\"main\"}",
        1.0,
    ),
];

on_each_database! {
    /// PLAT-56, PLAT-58, QUOTA-103, TURN-65
    async fn one_answer_moves_exactly_its_series(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        user.say(&chat, "PING").await?;
        let stack = &scene.stack;
        stack.eventually("idle", async || {
            let scrape = stack.scrape().await?;
            let ended = scrape.sum("mini_chat_stream_total_latency_ms_count", &[]) > 0.5;
            Ok(ended && scrape.sum("mini_chat_active_streams", &[]) < 0.5)
        }).await?;
        let mut moved = stack.scrape().await?.increases(&before);
        moved.retain(|(series, _)| !series.contains("_ms_sum"));
        moved.sort_by(|(one, _), (other, _)| one.cmp(other));
        let expected = MOVED_BY_PING.map(|(series, by)| (format!("{PREFIX}_{series}"), by));
        assert_eq!(moved, expected);
    }

    /// PLAT-52, PLAT-54, PLAT-55, PLAT-58: a fresh process shows every series
    /// with closed labels; the first turn adds those of models.
    async fn every_family_is_visible_from_the_start_or_with_its_first_use(env) {
        let scene = env.scene().await?;
        let fresh = scene.stack.scrape().await?;
        for row in catalogue::CATALOGUE {
            let name = row.series(PREFIX);
            let is_histogram = matches!(row.kind, Kind::Histogram(_));
            for values in row.label_sets().into_iter().flatten() {
                let labels: Vec<_> = row.labels.iter().map(|label| label.name).zip(values).collect();
                assert!(is_histogram || fresh.has(&name, &labels), "{name} {labels:?}");
            }
        }
        let user = scene.new_user()?;
        for content in ["PING", "TRUNCATE", "ERROR"] {
            let chat = user.create_chat(None).await?;
            user.say(&chat, content).await?;
        }
        let used = scene.stack.scrape().await?;
        for family in [
            "stream_started", "stream_completed", "stream_failed", "stream_incomplete",
            "quota_preflight",
        ] {
            let name = format!("{PREFIX}_{family}_total");
            assert!(used.sum(&name, &[]) > 0.5, "{name}");
            assert_eq!(used.types.get(&name).map(String::as_str), Some("counter"), "{name}");
        }
        for row in catalogue::CATALOGUE {
            if let Some(help) = used.helps.get(&row.series(PREFIX)) {
                assert_eq!(help, row.help());
            }
        }
    }

    /// PLAT-50, PLAT-53, PLAT-54, TURN-67: no scope, no ids, no texts of users.
    async fn labels_hold_nothing_but_the_catalogues_keys(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        user.say(&chat, "ERROR").await?;
        let events = user.say(&chat, "PING").await?;
        let request = events.only("stream_started")?["request_id"].clone();
        let request = request.as_str().unwrap_or_default();
        user.retry(&chat, request).await?;
        user.retry(&chat, request).await?.problem(409, "not_latest_turn")?;
        let hanging = Scenario::deltas(&["part"], Ending::Hang);
        for is_stopped in [true, false] {
            scene.provider.push_scenario(hanging.clone());
            let chat = user.create_chat(None).await?;
            let mut stream = user.open(&chat, &json!({"content": "https://example.com/a.txt"})).await?;
            let started = stream.expect("stream_started").await?;
            stream.expect("delta").await?;
            if is_stopped {
                user.cancel(&chat, started.text("request_id")).await?.expect(202)?;
                stream.expect("error").await?;
            }
        }
        scene.provider.wait_until(|stats| stats.answers_open == 0).await;
        scene.database().age_turns("state = 'running'").await?;
        scene.stack.watchdog().run_once(&minichat_telemetry::Signal::new()).await;
        for sample in scene.stack.scrape().await?.samples {
            let known = |name: &str| {
                let base = sample.name.trim_start_matches("mini_chat_");
                catalogue::CATALOGUE.iter().any(|row| {
                    base.starts_with(row.name)
                        && (name == "le" || row.labels.iter().any(|label| label.name == name))
                })
            };
            for (key, value) in &sample.labels {
                assert!(known(key), "{key} of {}", sample.name);
                assert!(value.parse::<uuid::Uuid>().is_err(), "{value} of {}", sample.name);
                assert!(!value.contains("://") && !value.contains(".txt"), "{value} of {}", sample.name);
            }
            assert!(!sample.name.contains("_total_total"), "{}", sample.name);
        }
    }

    /// PLAT-51, PLAT-161: metrics and health are on the admin listener only.
    async fn the_public_listener_shows_no_metrics(env) {
        let scene = env.scene().await?;
        for path in ["/metrics", "/configz", "/healthz", "/readyz"] {
            let public = scene.new_user()?.get_absolute(path).await?;
            public.problem(404, "not_found")?;
            assert_eq!(scene.stack.admin.get_absolute(path).await?.status, 200, "{path}");
        }
    }
}
