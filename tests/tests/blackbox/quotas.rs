//! What the quota allows, and what it charges.

use futures_util::future::{join_all, try_join_all};
use minichat_tests::exposition::Scrape;
use minichat_tests::harness::Env;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider, Tokens};
use serde_json::json;
use uuid::Uuid;

/// M of chapter 03: 4,000 bytes.
fn message() -> String {
    "x".repeat(4000)
}

const PLENTY: (i64, i64) = (100_000_000, 1_000_000_000);

/// Runs one turn with `scenario` for a new user on model `std`. Returns the
/// daily total row: spent, reserved, input and output tokens.
async fn settled(env: &Env, scenario: Scenario) -> anyhow::Result<Vec<i64>> {
    let scene = env.scene().await?;
    scene.provider.push_scenario(scenario);
    let user = scene.new_user()?;
    let chat = user.create_chat(Some("std")).await?;
    user.say(&chat, &message()).await?;
    let cell = "SELECT spent_credits_micro, reserved_credits_micro, input_tokens, output_tokens \
        FROM quota_usage WHERE period_type = 'daily' AND bucket = 'total'";
    let rows = scene.database().query(cell).await?;
    let numbers = rows[0]
        .iter()
        .map(|value| value.as_deref().unwrap_or("-").parse());
    Ok(numbers.collect::<Result<_, _>>()?)
}

fn reporting(input: u64, output: u64) -> Scenario {
    Scenario {
        usage: Some(Tokens { input, output }),
        ..Scenario::deltas(&["ok"], Ending::Completed)
    }
}

on_each_database! {
    /// QUOTA-12, QUOTA-13, QUOTA-22, QUOTA-47
    async fn a_reserve_that_fits_exactly_is_allowed_and_one_more_is_a_downgrade(env) {
        for (premium, decision) in [
            ((18_630, 1_000_000), "allow"),
            ((18_629, 1_000_000), "downgrade"),
            ((1_000_000, 18_629), "downgrade"),
        ] {
            let scene = env.scene_with(|tenant| tenant.with_limits(PLENTY, premium)).await?;
            let user = scene.new_user()?;
            let chat = user.create_chat(Some("prem")).await?;
            let events = user.say(&chat, &message()).await?;
            let done = events.only("done")?;
            assert_eq!(done["quota_decision"], decision, "{premium:?}");
            assert_eq!(done["selected_model"], "prem");
            let asked_for = &scene.provider.requests()[0].body["model"];
            if decision == "downgrade" {
                assert_eq!(done["downgrade_from"], "prem");
                assert_eq!(done["downgrade_reason"], "premium_quota_exhausted");
                assert_eq!(done["effective_model"], "std");
                assert_eq!(asked_for, "std-at-provider");
            } else {
                assert_eq!(asked_for, "prem-at-provider");
            }
            scene.stack.stop().await?;
        }
    }

    /// QUOTA-45, QUOTA-48, QUOTA-49, QUOTA-103
    async fn exhausted_limits_refuse_without_a_trace(env) {
        let scene = env.scene_with(|tenant| {
            tenant.with_limits((4209, 1_000_000), (4000, 1_000_000))
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        let before = scene.stack.scrape().await?;
        let body = json!({"content": message()});
        let refusal = user.refused(&chat, &body).await?.problem(429, "quota_exceeded")?;
        assert_eq!(refusal["quota_scope"], "tokens");
        scene.check_nothing_written().await?;
        let moved = scene.stack.scrape().await?.increases(&before);
        let expected =
            "mini_chat_quota_preflight_total{decision=\"reject\",model=\"prem\",tier=\"standard\"}";
        assert_eq!(moved, [(expected.to_owned(), 1.0)]);
    }

    /// QUOTA-18, QUOTA-21, QUOTA-47
    async fn switches_and_disabled_models_are_named_as_the_reason(env) {
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("prem")).await?;
        let original = tenant.clone();
        for (switches, enabled, reason) in [
            (json!({"disablePremiumTier": true}), true, "disable_premium_tier"),
            (json!({"forceStandardTier": true}), true, "force_standard_tier"),
            (json!({"forceStandardTier": true, "disablePremiumTier": true}), true, "force_standard_tier"),
            (json!({}), false, "model_disabled"),
        ] {
            let revision = stack.configz(&tenant).await?["revision"].clone();
            tenant = original.clone();
            tenant.spec()["killSwitches"] = switches;
            tenant.model("prem")["enabled"] = json!(enabled);
            stack.write_manifest("acme", &tenant.manifest())?;
            stack.eventually("reloaded", async || {
                Ok(stack.configz(&tenant).await?["revision"] != revision)
            }).await?;
            let done = user.say(&chat, "PING").await?.only("done")?.clone();
            assert_eq!(done["downgrade_reason"], reason);
            assert_eq!(done["effective_model"], "std");
        }
    }

    /// QUOTA-52, QUOTA-78, QUOTA-80, QUOTA-82: there is room for ten of twenty-five.
    async fn parallel_sends_never_pass_a_limit(env) {
        let scene = env.scene_with(|tenant| {
            tenant.with_limits((42_100, 1_000_000), (1_000, 1_000_000))
        }).await?;
        scene.provider.push_scenario(Scenario {
            times: 10,
            hold_before_head: true,
            ..Scenario::deltas(&["ok"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chats = join_all((0..25).map(|_| user.create_chat(Some("std")))).await;
        let sends = chats.into_iter().map(|chat| {
            let user = user.clone();
            async move {
                let body = json!({"content": message()});
                let path = format!("/mini-chat/v1/chats/{}/messages:stream", chat?);
                let json = [("content-type", "application/json")];
                user.send(http::Method::POST, &path, &json, body.to_string().into()).await
            }
        });
        let answers = join_all(sends).await;
        let mut statuses = Vec::new();
        for answer in &answers {
            let answer = answer.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            statuses.push(answer.status().as_u16());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 10].as_slice(), &[429; 15]].concat());
        let reserved = "SELECT reserved_credits_micro FROM quota_usage \
            WHERE bucket = 'total' AND period_type = 'daily'";
        assert_eq!(scene.database().number(reserved).await?, 42_100);
        scene.provider.release(10);
    }

    /// QUOTA-47, QUOTA-52, QUOTA-82, QUOTA-103; checks 17 of chapter 03 and 30 of
    /// chapter 05: the last premium reserve
    /// is one turn's, and the others are downgraded.
    async fn of_parallel_sends_one_gets_the_last_premium_reserve(env) {
        let scene = env.scene_with(|tenant| tenant.with_limits(PLENTY, (18_630, 18_630))).await?;
        scene.provider.push_scenario(Scenario {
            times: 8,
            hold_before_end: true,
            ..Scenario::deltas(&["ok"], Ending::Completed)
        });
        let user = scene.new_user()?;
        let chats = try_join_all((0..8).map(|_| user.create_chat(Some("prem")))).await?;
        let body = json!({"content": message()});
        let streams = try_join_all(chats.iter().map(|chat| user.open(chat, &body))).await?;
        scene.provider.release(8);
        let mut decisions = Vec::new();
        for stream in streams {
            let events = stream.collect().await?;
            let done = events.only("done")?;
            decisions.push(done["quota_decision"].as_str().unwrap_or_default().to_owned());
        }
        decisions.sort();
        assert_eq!(decisions, [&["allow"][..], &["downgrade"; 7]].concat());
        let scrape = scene.stack.scrape().await?;
        for (decision, model, tier, count) in [
            ("allow", "prem", "premium", 1.0),
            ("downgrade", "std", "standard", 7.0),
        ] {
            let labels = [("decision", decision), ("tier", tier), ("model", model)];
            let counted = scrape.sum("mini_chat_quota_preflight_total", &labels);
            assert!((counted - count).abs() < f64::EPSILON, "{decision}: {counted}");
        }
    }

    /// QUOTA-14, QUOTA-84; check 29 of chapter 03
    async fn a_limit_below_what_is_used_refuses_the_next_turn_alone(env) {
        let scene = env.scene().await?;
        let stack = &scene.stack;
        scene.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..reporting(30, 2)
        });
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut stream = user.open(&chat, &json!({"content": message()})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let revision = stack.configz(&scene.tenant).await?["revision"].clone();
        let lower = scene.tenant.clone().with_limits((100, 1_000_000), (100, 1_000_000));
        stack.write_manifest("acme", &lower.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&lower).await?["revision"] != revision)
        }).await?;
        let next = user.create_chat(Some("std")).await?;
        let refusal = user.refused(&next, &json!({"content": "PING"})).await?;
        refusal.problem(429, "quota_exceeded")?;
        scene.provider.release(1);
        stream.expect("done").await?;
        let spent = "SELECT spent_credits_micro FROM quota_usage \
            WHERE bucket = 'total' AND period_type = 'daily'";
        assert_eq!(scene.database().number(spent).await?, 36);
    }

    /// QUOTA-58, QUOTA-103; checks 18 of chapter 03 and 31 of chapter 05
    async fn an_overshoot_is_counted_in_both_periods(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for (usage, counted) in [(reporting(1210, 1000), 0.0), (reporting(2000, 431), 1.0)] {
            scene.provider.push_scenario(usage);
            let chat = user.create_chat(Some("std")).await?;
            let before = scene.stack.scrape().await?;
            user.say(&chat, &message()).await?;
            let after = scene.stack.scrape().await?;
            for period in ["daily", "monthly"] {
                let sum = |scrape: &Scrape| {
                    scrape.sum("mini_chat_quota_overshoot_total", &[("period", period)])
                };
                let moved = sum(&after) - sum(&before);
                assert!((moved - counted).abs() < f64::EPSILON, "{period}: {moved}");
            }
        }
    }

    /// QUOTA-58: within the tolerance the full price is charged.
    async fn usage_within_the_tolerance_is_charged_in_full(env) {
        assert_eq!(settled(&env, reporting(2000, 431)).await?, [3293, 0, 2000, 431]);
    }

    /// QUOTA-58: beyond it, at most the reserve is charged.
    async fn usage_beyond_the_tolerance_is_capped(env) {
        assert_eq!(settled(&env, reporting(1432, 1000)).await?, [4210, 0, 1432, 1000]);
    }

    /// QUOTA-5
    async fn impossible_usage_is_charged_the_reserve(env) {
        let numbers = settled(&env, reporting(20_000_000, 1)).await?;
        assert_eq!(numbers[..2], [4210, 0]);
    }

    /// QUOTA-57, QUOTA-59
    async fn unknown_usage_is_charged_the_estimate(env) {
        let scenario = Scenario {
            without_usage: true,
            ..Scenario::deltas(&["ok"], Ending::Completed)
        };
        assert_eq!(settled(&env, scenario).await?, [1360, 0, 0, 0]);
    }

    /// QUOTA-6: they are part of the totals.
    async fn cached_and_reasoning_tokens_are_recorded_and_not_priced(env) {
        let scene = env.scene().await?;
        let usage = json!({
            "input_tokens": 2000, "input_tokens_details": {"cached_tokens": 1500},
            "output_tokens": 31, "output_tokens_details": {"reasoning_tokens": 20},
        });
        let end = json!({"response": {"id": "resp_1", "status": "completed", "usage": usage}});
        scene.provider.push_scenario(Scenario::raw(format!(
            "event: response.output_text.delta\ndata: {{\"delta\":\"ok\"}}\n\n\
             event: response.completed\ndata: {end}\n\n"
        )));
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, &message()).await?.only("done")?;
        let priced = "SELECT count(*) FROM quota_usage WHERE spent_credits_micro = 2093";
        assert_eq!(scene.database().number(priced).await?, 2);
        let stored = "SELECT count(*) FROM messages WHERE role = 'assistant' \
            AND input_tokens = 2000 AND cache_read_input_tokens = 1500 \
            AND output_tokens = 31 AND reasoning_tokens = 20";
        assert_eq!(scene.database().number(stored).await?, 1);
        let event = &scene.database().payloads("mini-chat.usage_snapshot").await?[0];
        assert_eq!(event["committed_credits_micro"], 2093);
        assert_eq!(event["usage"]["cache_read_input_tokens"], 1500);
        assert_eq!(event["usage"]["reasoning_tokens"], 20);
    }

    /// QUOTA-79, CONT-102: credits alone decide; a turn without a tool needs no
    /// calls of it.
    async fn what_is_only_counted_refuses_nobody(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?;
        let much = ["calls", "input_tokens", "output_tokens", "file_search_calls",
            "web_search_calls", "code_interpreter_calls", "rag_retrieval_calls", "image_inputs",
            "image_upload_bytes"].map(|column| format!("{column} = 1000000000"));
        let change = format!("UPDATE quota_usage SET {}", much.join(", "));
        scene.database().query(&change).await?;
        let body = json!({"content": "PING", "web_search": {"enabled": true}});
        let events = user.open(&chat, &body).await?.collect().await?;
        assert_eq!(events.only("done")?["quota_decision"], "allow");
        let spend = "UPDATE quota_usage SET spent_credits_micro = 1000000000";
        scene.database().query(spend).await?;
        user.refused(&chat, &body).await?.problem(429, "quota_exceeded")?;
    }

    /// QUOTA-68, QUOTA-91, TURN-30
    async fn a_truncated_answer_is_completed_and_says_why_in_the_usage_event(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let before = scene.stack.scrape().await?;
        let events = user.say(&chat, "TRUNCATE").await?;
        events.only("done")?;
        let rows = scene.database().query("SELECT payload FROM outbox_messages \
            WHERE queue = 'mini-chat.usage_snapshot'").await?;
        let payload = rows[0][0].as_deref().unwrap_or_default();
        let event: serde_json::Value = serde_json::from_str(payload)?;
        assert_eq!(event["completion_signal"], json!({"kind": "incomplete", "reason": "max_tokens"}));
        let after = scene.stack.scrape().await?;
        for (name, labels) in [
            ("mini_chat_stream_completed_total", [].as_slice()),
            ("mini_chat_stream_incomplete_total", &[("reason", "max_tokens")]),
        ] {
            let moved = after.sum(name, labels) - before.sum(name, labels);
            assert!((moved - 1.0).abs() < f64::EPSILON, "{name} moved by {moved}");
        }
    }

    /// QUOTA-24, QUOTA-25
    async fn a_quota_that_names_a_user_applies_to_that_user_alone(env) {
        let named = Uuid::new_v4();
        let scene = env.scene_with(|mut tenant| {
            tenant.others.push(json!({
                "apiVersion": "minichat.dev/v1alpha1",
                "kind": "ChatQuota",
                "metadata": {"name": "nothing", "namespace": "default"},
                "spec": {
                    "tenantRef": {"name": "acme"},
                    "subjects": [{"kind": "User", "name": named.to_string()}],
                    "limits": {"standard": {"daily": "0", "monthly": "0"},
                               "premium": {"daily": "0", "monthly": "0"}},
                },
            }));
            tenant
        }).await?;
        let without = scene.stack.caller(&scene.tenant, named)?;
        let chat = without.create_chat(None).await?;
        let refusal = without.refused(&chat, &json!({"content": "PING"})).await?;
        refusal.problem(429, "quota_exceeded")?;
        let other = scene.new_user()?;
        let chat = other.create_chat(None).await?;
        other.say(&chat, "PING").await?.only("done")?;
    }

    /// API-112: percentages are rounded down, and a period without a limit is
    /// not shown.
    async fn the_status_warns_at_the_threshold_and_says_when_nothing_is_left(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("prem")).await?;
        user.say(&chat, "PING").await?;
        let revision = stack.configz(&tenant).await?["revision"].clone();
        let tenant = tenant.with_limits((1000, 0), (0, 100));
        stack.write_manifest("acme", &tenant.manifest())?;
        stack.eventually("reloaded", async || {
            Ok(stack.configz(&tenant).await?["revision"] != revision)
        }).await?;
        // Of 1000 and of 100.
        for (spent, remaining, percentage, warning, exhausted) in [
            (79, [921, 21], [92, 21], [false, false], [false, false]),
            (80, [920, 20], [92, 20], [false, true], [false, false]),
            (99, [901, 1], [90, 1], [false, true], [false, false]),
            (100, [900, 0], [90, 0], [false, true], [false, true]),
            (1001, [0, 0], [0, 0], [true, true], [true, true]),
        ] {
            let change = format!("UPDATE quota_usage SET spent_credits_micro = {spent}");
            env.database.query(&change).await?;
            let status = user.get("/quota/status").await?.expect(200)?;
            let tiers: Vec<_> = status["tiers"].as_array().into_iter().flatten().collect();
            assert_eq!((&tiers[0]["tier"], &tiers[1]["tier"]), (&json!("premium"), &json!("total")));
            // One period each, because the other has no limit.
            for (cell, (tier, period)) in [(1, "daily"), (0, "monthly")].into_iter().enumerate() {
                let periods = tiers[tier]["periods"].as_array();
                let [shown] = periods.map(Vec::as_slice).unwrap_or_default() else {
                    anyhow::bail!("{status}");
                };
                assert_eq!(shown["period"], period);
                assert_eq!(shown["used_credits_micro"], spent);
                assert_eq!(shown["remaining_credits_micro"], remaining[cell], "{status}");
                assert_eq!(shown["remaining_percentage"], percentage[cell], "{status}");
                assert_eq!(shown["warning"], warning[cell], "{status}");
                assert_eq!(shown["exhausted"], exhausted[cell], "{status}");
                assert!(shown["next_reset"].as_str().is_some_and(|at| at.ends_with("T00:00:00Z")));
            }
        }
    }
}
