//! The worked example of section 15 of chapter 03, with its variants, to the last
//! micro-credit.

use anyhow::Context as _;
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, Tokens};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the user has spent before: premium and all, each of the day and the month.
const SPENT: [(&str, &str, i64); 4] = [
    ("daily", "tier:premium", 20_000),
    ("monthly", "tier:premium", 200_000),
    ("daily", "total", 25_000),
    ("monthly", "total", 240_000),
];

/// Nothing listens there.
const CLOSED: &str = "http://127.0.0.1:1";

/// P and S of the example, and their limits.
fn tenant(mut tenant: Tenant) -> Tenant {
    for (model, multiplier) in [("prem", 2_500_000), ("std", 1_000_000)] {
        let entry = tenant.model(model);
        entry["inputTokensCreditMultiplierMicro"] = json!(multiplier);
        entry["outputTokensCreditMultiplierMicro"] = json!(multiplier);
        entry["maxOutputTokens"] = json!(500);
    }
    tenant.with_limits((60_000, 600_000), (22_000, 300_000))
}

/// The same, but the provider of S cannot be reached.
fn unreachable(original: Tenant) -> Tenant {
    let mut tenant = tenant(original);
    let mut gone = tenant.spec()["providers"][0].clone();
    gone["name"] = json!("gone");
    gone["baseUrl"] = json!(CLOSED);
    if let Some(providers) = tenant.spec()["providers"].as_array_mut() {
        providers.push(gone);
    }
    tenant.model("std")["providerRef"] = json!("gone");
    tenant
}

struct Spender {
    user: Api,
    id: Uuid,
    /// A chat with P, in which nothing was said yet.
    chat: String,
}

/// A user whose rows are those of the beginning.
async fn spender(scene: &Scene) -> anyhow::Result<Spender> {
    let id = Uuid::new_v4();
    let user = scene.stack.caller(&scene.tenant, id)?;
    let first = user.create_chat(Some("prem")).await?;
    let done = user.say(&first, "PING").await?.only("done")?.clone();
    assert_eq!(done["quota_decision"], "allow", "the rows of both buckets");
    for (period, bucket, spent) in SPENT {
        let sql = format!(
            "UPDATE quota_usage SET spent_credits_micro = {spent}, calls = 0, input_tokens = 0, \
             output_tokens = 0 WHERE period_type = '{period}' AND bucket = '{bucket}' \
             AND user_id = '{id}'"
        );
        scene.database().query(&sql).await?;
    }
    let chat = user.create_chat(Some("prem")).await?;
    Ok(Spender { user, id, chat })
}

/// Spent and reserved credits, calls, input and output tokens of the rows of all
/// spending, which are those of the day and the month; of premium, all but zeros.
async fn cells(scene: &Scene, id: Uuid, bucket: &str) -> anyhow::Result<Vec<Vec<i64>>> {
    let sql = format!(
        "SELECT spent_credits_micro, reserved_credits_micro, calls, input_tokens, output_tokens \
         FROM quota_usage WHERE user_id = '{id}' AND bucket = '{bucket}' ORDER BY period_type"
    );
    let rows = scene.database().query(&sql).await?.into_iter();
    let number = |value: Option<String>| Ok(value.context("null")?.parse()?);
    rows.map(|row| row.into_iter().map(number).collect())
        .collect()
}

/// What the turn's rows say that it was charged: credits and tokens.
async fn check_settled(
    scene: &Scene,
    spender: &Spender,
    committed: i64,
    tokens: [i64; 2],
) -> anyhow::Result<Value> {
    let [input, output] = tokens;
    let total = cells(scene, spender.id, "total").await?;
    assert_eq!(
        total,
        [
            [25_000 + committed, 0, 1, input, output],
            [240_000 + committed, 0, 1, input, output]
        ]
    );
    let premium = cells(scene, spender.id, "tier:premium").await?;
    assert_eq!(premium, [[20_000, 0, 0, 0, 0], [200_000, 0, 0, 0, 0]]);
    let mut usage = scene
        .database()
        .payloads("mini-chat.usage_snapshot")
        .await?;
    let event = usage.pop().context("no usage event")?;
    assert_eq!(event["actual_credits_micro"], committed, "{event}");
    assert_eq!(event["reserved_credits_micro"], 1500, "{event}");
    Ok(event)
}

/// The message of 3,236 bytes.
fn message() -> String {
    "x".repeat(3236)
}

fn reporting(input: u64, output: u64) -> Scenario {
    Scenario {
        usage: Some(Tokens { input, output }),
        ..Scenario::deltas(&["ok"], Ending::Completed)
    }
}

async fn wait_until_ended(scene: &Scene) -> anyhow::Result<()> {
    let running = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
    let has_ended = async || Ok(scene.database().number(running).await? == 0);
    scene.stack.eventually("ended", has_ended).await
}

/// Period, remaining credits and per cent, and whether a tier warns.
fn shown(status: &Value, tier: usize) -> Vec<(String, i64, i64, bool)> {
    let periods = status["tiers"][tier]["periods"].as_array();
    let number = |value: &Value| value.as_i64().unwrap_or(-1);
    let period = |shown: &Value| {
        (
            shown["period"].as_str().unwrap_or_default().to_owned(),
            number(&shown["remaining_credits_micro"]),
            number(&shown["remaining_percentage"]),
            shown["warning"] == true,
        )
    };
    periods.into_iter().flatten().map(period).collect()
}

/// A turn of a new spender whose provider answers with `scenario`.
async fn charged(
    env: &Env,
    scenario: Scenario,
    committed: i64,
    tokens: [i64; 2],
) -> anyhow::Result<Value> {
    let scene = env.scene_with(tenant).await?;
    let spender = spender(&scene).await?;
    scene.provider.push_scenario(scenario);
    spender.user.say(&spender.chat, &message()).await?;
    let event = check_settled(&scene, &spender, committed, tokens).await;
    scene.stack.stop().await?;
    event
}

on_each_database! {
    /// QUOTA-12, QUOTA-35, QUOTA-43, QUOTA-47, QUOTA-54, QUOTA-58, QUOTA-62, QUOTA-63; check 44 of
    /// chapter 03: steps 1 to 5
    async fn every_step_comes_out_as_written(env) {
        let scene = env.scene_with(tenant).await?;
        let spender = spender(&scene).await?;
        scene.provider.push_scenario(Scenario { hold_before_end: true, ..reporting(900, 300) });
        let body = json!({"content": message()});
        let mut stream = spender.user.open(&spender.chat, &body).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let row = "SELECT reserve_tokens, reserved_credits_micro, max_output_tokens_applied, \
            effective_model FROM chat_turns WHERE state = 'running'";
        let row = scene.database().query(row).await?.remove(0);
        assert_eq!(row, ["1500", "1500", "500", "std"].map(|it| Some(it.to_owned())));
        let total = cells(&scene, spender.id, "total").await?;
        assert_eq!(total, [[25_000, 1500, 0, 0, 0], [240_000, 1500, 0, 0, 0]]);
        let premium = cells(&scene, spender.id, "tier:premium").await?;
        assert_eq!(premium, [[20_000, 0, 0, 0, 0], [200_000, 0, 0, 0, 0]], "no premium row");

        scene.provider.release(1);
        let events = stream.collect().await?;
        let done = events.only("done")?;
        assert_eq!(done["quota_decision"], "downgrade");
        assert_eq!((&done["downgrade_from"], &done["effective_model"]), (&json!("prem"), &json!("std")));
        assert_eq!(done["downgrade_reason"], "premium_quota_exhausted");
        let event = check_settled(&scene, &spender, 1200, [900, 300]).await?;
        assert_eq!((&event["billing_outcome"], &event["settlement_method"]), (&json!("completed"), &json!("actual")));

        let status = spender.user.get("/quota/status").await?.expect(200)?;
        let of = |period: &str, remaining, percentage, warns| (period.to_owned(), remaining, percentage, warns);
        assert_eq!(shown(&status, 0), [of("daily", 2_000, 9, true), of("monthly", 100_000, 33, false)]);
        assert_eq!(shown(&status, 1), [of("daily", 33_800, 56, false), of("monthly", 358_800, 59, false)]);
    }

    /// QUOTA-57, QUOTA-58; check 44 of chapter 03: the variants with usage
    async fn every_usage_is_charged_as_written(env) {
        for (input, output, committed, is_capped) in [
            (1000, 500, 1500, false),
            (1150, 500, 1650, false),
            (1151, 500, 1500, true),
        ] {
            let env = env.another().await?;
            let tokens = [i64::try_from(input)?, i64::try_from(output)?];
            let event = charged(&env, reporting(input, output), committed, tokens).await;
            env.database.remove().await?;
            let event = event.with_context(|| format!("{input} / {output}"))?;
            assert_eq!(event["overshoot_capped"], is_capped, "{event}");
        }
    }

    /// QUOTA-59, QUOTA-67; check 44 of chapter 03: the client leaves
    async fn a_turn_that_is_left_is_charged_as_written(env) {
        let scene = env.scene_with(tenant).await?;
        let spender = spender(&scene).await?;
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
        let mut stream = spender.user.open(&spender.chat, &json!({"content": message()})).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        drop(stream);
        wait_until_ended(&scene).await?;
        let event = check_settled(&scene, &spender, 1050, [0, 0]).await?;
        assert_eq!((&event["billing_outcome"], &event["settlement_method"]), (&json!("aborted"), &json!("estimated")));
    }

    /// QUOTA-60, QUOTA-61; check 44 of chapter 03: the provider is not called
    async fn a_turn_without_a_provider_costs_nothing(env) {
        let scene = env.scene_with(unreachable).await?;
        let spender = spender(&scene).await?;
        spender.user.say(&spender.chat, &message()).await?.only("error")?;
        let event = check_settled(&scene, &spender, 0, [0, 0]).await?;
        assert_eq!(event["settlement_method"], "released");
    }

    /// QUOTA-38, QUOTA-43, QUOTA-58; check 44 of chapter 03: the reserve is no price
    async fn a_reserve_bounds_the_charge_and_does_not_raise_it(env) {
        let scene = env.scene_with(|mut tenant| {
            let model = tenant.model("prem");
            model["maxOutputTokens"] = json!(8192);
            model["toolSupport"] = json!({"webSearch": true});
            tenant.spec()["context"] = json!({"webSearchGuard": ""});
            tenant
        }).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("prem")).await?;
        scene.provider.push_scenario(reporting(17_000, 500));
        let body = json!({"content": "x".repeat(4000), "web_search": {"enabled": true}});
        user.open(&chat, &body).await?.collect().await?.only("done")?;
        let row = "SELECT reserve_tokens, reserved_credits_micro FROM chat_turns";
        let row = scene.database().query(row).await?.remove(0);
        assert_eq!(row, ["9902", "128010"].map(|it| Some(it.to_owned())));
        let spent = "SELECT DISTINCT spent_credits_micro FROM quota_usage";
        assert_eq!(scene.database().number(spent).await?, 58_500);
        let usage = scene.database().payloads("mini-chat.usage_snapshot").await?;
        assert_eq!(usage[0]["actual_credits_micro"], 58_500, "{}", usage[0]);
        assert_eq!(usage[0]["overshoot_capped"], false, "{}", usage[0]);
    }
}
