//! Summaries of long chats: when they are made, what models see of them, and what
//! becomes of them when something fails or what they cover is deleted.

use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::sse::Events;
use serde_json::{Value, json};

const QUEUE: &str = "mini-chat.thread_summary";
const PREAMBLE: &str = "Earlier messages of this conversation were replaced by the summary below.";

/// Serves a tenant whose model `std` has room for a few messages of [`long`], and whose
/// chats get a summary with the third turn.
async fn scene(env: &Env) -> anyhow::Result<Scene> {
    env.scene_with(|mut tenant| {
        let model = tenant.model("std");
        model["contextWindow"] = json!(2000);
        model["maxInputTokens"] = json!(1800);
        model["maxOutputTokens"] = json!(200);
        tenant.spec()["threadSummary"] = json!({"compressionThresholdPct": 50});
        tenant
    })
    .await
}

/// 385 of the 900 tokens from which a summary is made.
fn long() -> String {
    "x".repeat(1000)
}

struct Talk {
    scene: Scene,
    user: Api,
    chat: String,
}

impl Talk {
    /// A chat after two turns, without a summary.
    async fn begun(env: &Env) -> anyhow::Result<Self> {
        let scene = scene(env).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let talk = Self { scene, user, chat };
        talk.say().await?;
        talk.say().await?;
        Ok(talk)
    }

    async fn say(&self) -> anyhow::Result<Events> {
        self.user.say(&self.chat, &long()).await
    }

    /// A third turn, after which the summarizing model answers as `scenarios` say.
    async fn third(&self, scenarios: Vec<Scenario>) -> anyhow::Result<Events> {
        let answer = Scenario::deltas(&["answer"], Ending::Completed);
        self.scene.provider.push_scenario(answer);
        for scenario in scenarios {
            self.scene.provider.push_scenario(scenario);
        }
        self.say().await
    }

    async fn count(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<u32> {
        let scrape = self.scene.stack.scrape().await?;
        let sum = scrape.sum(&format!("mini_chat_{name}_total"), labels);
        Ok(format!("{sum:.0}").parse()?)
    }

    /// Waits until a counter has this value.
    async fn until(&self, name: &str, result: &str, count: u32) -> anyhow::Result<()> {
        let labels = [("result", result)];
        let labels = if result.is_empty() { &[][..] } else { &labels };
        let what = format!("{name} {result} {count}");
        self.scene
            .stack
            .eventually(&what, async || Ok(self.count(name, labels).await? == count))
            .await
    }

    async fn number(&self, sql: &str) -> anyhow::Result<i64> {
        self.scene.database().number(sql).await
    }

    async fn summaries(&self) -> anyhow::Result<i64> {
        self.number("SELECT COUNT(*) FROM thread_summaries").await
    }

    async fn compressed(&self) -> anyhow::Result<i64> {
        self.number("SELECT COUNT(*) FROM messages WHERE is_compressed AND deleted_at IS NULL")
            .await
    }

    /// The bodies of the calls of a kind, oldest first.
    fn calls(&self, request_type: &str) -> Vec<Value> {
        let bodies = self.scene.provider.requests().into_iter().map(|it| it.body);
        bodies
            .filter(|body| body["metadata"]["request_type"] == request_type)
            .collect()
    }

    /// The usage events of summaries.
    async fn usage_events(&self) -> anyhow::Result<Vec<Value>> {
        let events = self
            .scene
            .database()
            .payloads("mini-chat.usage_snapshot")
            .await?;
        let of_system = |event: &Value| event["requester_type"] == "system";
        Ok(events.into_iter().filter(of_system).collect())
    }
}

fn saying(text: &str) -> Scenario {
    Scenario::deltas(&[text], Ending::Completed)
}

on_each_database! {
    /// CONT-2, CONT-3, CONT-5, CONT-10, CONT-11, CONT-130 to CONT-137, CONT-140,
    /// QUOTA-96, PLAT-120
    async fn a_summary_takes_the_place_of_the_messages_that_it_covers(env) {
        let talk = Talk::begun(&env).await?;
        assert_eq!(talk.count("thread_summary_trigger", &[("result", "not_needed")]).await?, 2);
        let spoken = "<analysis>thoughts</analysis><summary>The code is 4711.</summary>";
        talk.third(vec![saying(spoken)]).await?;
        talk.until("thread_summary_execution", "success", 1).await?;
        assert_eq!(talk.count("thread_summary_trigger", &[("result", "scheduled")]).await?, 1);
        assert_eq!((talk.summaries().await?, talk.compressed().await?), (1, 6));
        assert_eq!(talk.user.messages(&talk.chat).await?.len(), 6);
        let calls = talk.calls("summary");
        let [call] = calls.as_slice() else {
            anyhow::bail!("{calls:?}");
        };
        assert_eq!(call["stream"], false);
        assert_eq!(call["metadata"]["user_id"], "system");
        assert!(call.get("tools").is_none() && call.get("max_tool_calls").is_none());
        let events = talk.usage_events().await?;
        let [event] = events.as_slice() else {
            anyhow::bail!("{events:?}");
        };
        assert_eq!(event["system_task_type"], "thread_summary_update");
        assert_eq!(event["billing_outcome"], "system_task");
        assert_eq!(event["committed_credits_micro"], 0);
        assert!(event.get("turn_id").is_none() && event.get("user_id").is_none());
        assert_eq!(talk.number("SELECT COUNT(*) FROM chat_turns").await?, 3);
        let calls = "SELECT SUM(calls) FROM quota_usage WHERE period_type = 'daily' AND bucket = 'total'";
        assert_eq!(talk.number(calls).await?, 3);

        let fourth = talk.say().await?;
        let stored = talk.number("SELECT token_estimate FROM thread_summaries").await?;
        let started = fourth.only("stream_started")?;
        assert_eq!(started["thread_summary_applied"]["token_estimate"], stored);
        let asked = talk.calls("chat").pop().unwrap_or_default();
        let input = asked["input"].as_array().cloned().unwrap_or_default();
        assert_eq!(input.len(), 2, "{input:?}");
        let first = input[0]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(first.starts_with(PREAMBLE), "{first}");
        assert!(first.ends_with("\n\nThe code is 4711."), "{first}");
        assert_eq!(input[0]["role"], "user");
        assert_eq!(talk.count("thread_summary_trigger", &[("result", "not_needed")]).await?, 3);
    }

    /// CONT-134, CONT-137: the same item again.
    async fn an_item_that_comes_again_is_a_conflict_without_a_call(env) {
        let talk = Talk::begun(&env).await?;
        talk.third(Vec::new()).await?;
        talk.until("thread_summary_execution", "success", 1).await?;
        let sql = format!("SELECT COUNT(*) FROM outbox_messages WHERE queue = '{QUEUE}' AND done_at IS NOT NULL");
        talk.scene
            .stack
            .eventually("delivered", async || Ok(talk.number(&sql).await? == 1))
            .await?;
        let again = format!("UPDATE outbox_messages SET done_at = NULL WHERE queue = '{QUEUE}'");
        talk.scene.database().query(&again).await?;
        talk.until("thread_summary_cas_conflicts", "", 1).await?;
        assert_eq!(talk.calls("summary").len(), 1);
        assert_eq!(talk.usage_events().await?.len(), 1);
    }

    /// CONT-138, CONT-139
    async fn a_summary_that_cannot_be_made_is_tried_three_times(env) {
        let talk = Talk::begun(&env).await?;
        let failing = Scenario {
            times: 2,
            ..Scenario::status(500, json!({"error": {"message": "broken"}}))
        };
        talk.third(vec![failing, saying("<summary>half")]).await?;
        talk.until("thread_summary_execution", "provider_error", 2).await?;
        talk.until("thread_summary_execution", "empty_summary", 1).await?;
        let letters = "SELECT COUNT(*) FROM outbox_dead_letters";
        talk.scene
            .stack
            .eventually("dead letter", async || Ok(talk.number(letters).await? == 1))
            .await?;
        assert_eq!(talk.count("summary_fallback", &[]).await?, 3);
        assert_eq!((talk.summaries().await?, talk.compressed().await?), (0, 0));
        assert!(talk.usage_events().await?.is_empty());
        talk.say().await?.only("done")?;
    }

    /// CONT-134, PLAT-120
    async fn a_prompt_that_is_too_long_loses_its_oldest_messages(env) {
        let talk = Talk::begun(&env).await?;
        let error = json!({"error": {"code": "context_length_exceeded", "message": "too long"}});
        talk.third(vec![Scenario::status(400, error), saying("short")]).await?;
        talk.until("thread_summary_execution", "success", 1).await?;
        let texts: Vec<usize> = talk
            .calls("summary")
            .iter()
            .map(|call| call["input"].to_string().matches("User: ").count())
            .collect();
        assert!(texts.len() == 2 && texts[1] < texts[0], "{texts:?}");
        assert_eq!(talk.compressed().await?, 6);
    }

    /// CONT-141
    async fn a_retry_of_a_summarized_turn_forgets_the_summary(env) {
        let talk = Talk::begun(&env).await?;
        let third = talk.third(Vec::new()).await?;
        talk.until("thread_summary_execution", "success", 1).await?;
        let request = third.only("stream_started")?["request_id"].clone();
        let request = request.as_str().unwrap_or_default();
        let held = Scenario { hold_before_end: true, ..saying("again") };
        talk.scene.provider.push_scenario(held);
        let stream = talk.user.open_retry(&talk.chat, request).await?;
        assert_eq!((talk.summaries().await?, talk.compressed().await?), (0, 0));
        talk.scene.provider.release(1);
        let events = stream.collect().await?;
        let started = events.only("stream_started")?;
        assert!(started.get("thread_summary_applied").is_none(), "{started}");
        let asked = talk.calls("chat").pop().unwrap_or_default();
        assert_eq!(asked["input"].as_array().map(Vec::len), Some(5));
    }

    /// CONT-137, CONT-141
    async fn a_summary_of_a_turn_that_is_deleted_meanwhile_is_lost(env) {
        let talk = Talk::begun(&env).await?;
        let held = Scenario { hold_before_head: true, ..saying("late") };
        let third = talk.third(vec![held]).await?;
        talk.scene
            .stack
            .eventually("called", async || Ok(talk.calls("summary").len() == 1))
            .await?;
        let request = third.only("stream_started")?["request_id"].clone();
        let request = request.as_str().unwrap_or_default();
        talk.user.delete_turn(&talk.chat, request).await?.expect(204)?;
        talk.scene.provider.release(1);
        talk.until("thread_summary_cas_conflicts", "", 1).await?;
        assert_eq!((talk.summaries().await?, talk.compressed().await?), (0, 0));
        assert!(talk.usage_events().await?.is_empty());
    }

    /// CONT-134: messages of turns that end while the summary is made.
    async fn messages_that_come_meanwhile_are_not_covered(env) {
        let talk = Talk::begun(&env).await?;
        let held = Scenario { hold_before_head: true, ..saying("The code is 4711.") };
        talk.third(vec![held]).await?;
        talk.scene
            .stack
            .eventually("called", async || Ok(talk.calls("summary").len() == 1))
            .await?;
        talk.say().await?.only("done")?;
        talk.scene.provider.release(1);
        talk.until("thread_summary_execution", "success", 1).await?;
        assert_eq!((talk.summaries().await?, talk.compressed().await?), (1, 6));
        let after = talk.number("SELECT COUNT(*) FROM messages WHERE NOT is_compressed").await?;
        assert_eq!(after, 2);
    }

    /// CONT-134, CONT-135, CONT-140: a chat that had no summary for long.
    async fn what_does_not_fit_into_one_prompt_is_summarized_part_by_part(env) {
        let talk = Talk::begun(&env).await?;
        let mut tenant = talk.scene.tenant.clone();
        let threshold = tenant.spec()["threadSummary"].take();
        tenant.spec()["threadSummary"] = json!({"enabled": false});
        talk.scene.stack.apply(&tenant).await?;
        for turn in 0..7 {
            let text = format!("fact-{turn} {}", long());
            talk.user.say(&talk.chat, &text).await?.only("done")?;
        }
        assert!(talk.calls("summary").is_empty());
        tenant.spec()["threadSummary"] = threshold;
        talk.scene.stack.apply(&tenant).await?;
        talk.say().await?.only("done")?;
        talk.until("thread_summary_execution", "success", 1).await?;
        let calls = talk.calls("summary");
        assert!(calls.len() > 1, "{calls:?}");
        for (number, call) in calls.iter().enumerate() {
            let text = call["input"].to_string();
            assert!(text.len() < 4 * 1800, "{number}: {}", text.len());
            assert_eq!(text.contains("<existing_summary>"), number > 0, "{number}: {text}");
        }
        let facts: Vec<String> = (0..7).map(|turn| format!("fact-{turn}")).collect();
        let text = talk.scene.database().query("SELECT summary_text FROM thread_summaries").await?;
        let text = text[0][0].clone().unwrap_or_default();
        assert_eq!(text, format!("Facts: {}", facts.join(" ")));
        assert_eq!(talk.compressed().await?, 20);
        let events = talk.usage_events().await?;
        let count = u64::try_from(calls.len())?;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["usage"]["output_tokens"], 20 * count);
    }
}
