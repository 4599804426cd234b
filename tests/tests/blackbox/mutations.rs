//! Retry, edit and deletion of a chat's newest turn.

use anyhow::Context as _;
use futures_util::future::try_join_all;
use minichat_tests::client::{Answer, Api};
use minichat_tests::exposition::Scrape;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::sse::Events;
use serde_json::{Value, json};
use uuid::Uuid;

/// The request id that a stream announces.
fn request_id(events: &Events) -> anyhow::Result<String> {
    let started = events.only("stream_started")?;
    let id = started["request_id"].as_str();
    Ok(id.context("no request_id")?.to_owned())
}

/// Runs one turn with the message `content` and returns its request id.
async fn said(user: &Api, chat: &str, content: &str) -> anyhow::Result<String> {
    request_id(&user.say(chat, content).await?)
}

/// Runs `attempt` and checks that it was counted once, as `op` with `result`.
async fn counted(
    scene: &Scene,
    (op, result): (&str, &str),
    attempt: impl Future<Output = anyhow::Result<Answer>>,
) -> anyhow::Result<Answer> {
    let before = scene.stack.scrape().await?;
    let answer = attempt.await?;
    let after = scene.stack.scrape().await?;
    let moved = |name: &str, labels: &[(&str, &str)]| {
        anyhow::Ok(after.count(name, labels)? - before.count(name, labels)?)
    };
    let counter = "mini_chat_turn_mutation_total";
    assert_eq!(moved(counter, &[])?, 1, "{op} {result}: {answer:?}");
    let labels = [("op", op), ("result", result)];
    assert_eq!(moved(counter, &labels)?, 1, "{op} {result}: {answer:?}");
    let latency = "mini_chat_turn_mutation_latency_ms_count";
    assert_eq!(moved(latency, &[("op", op)])?, 1, "{op} {result}");
    Ok(answer)
}

fn attempts(scrape: &Scrape) -> anyhow::Result<usize> {
    scrape.count("mini_chat_turn_mutation_total", &[])
}

/// The audit events of mutations, oldest first.
async fn audit(scene: &Scene) -> anyhow::Result<Vec<Value>> {
    let sql = "SELECT payload FROM outbox_messages WHERE queue = 'mini-chat.audit' ORDER BY id";
    let mut events = Vec::new();
    for row in scene.database().query(sql).await? {
        let event: Value = serde_json::from_str(row[0].as_deref().unwrap_or_default())?;
        if event["type"] != "turn" {
            events.push(event);
        }
    }
    Ok(events)
}

/// `replaced_by_request_id` of a turn, and whether it is deleted.
async fn fate(scene: &Scene, request_id: &str) -> anyhow::Result<(Option<String>, bool)> {
    let sql = format!(
        "SELECT replaced_by_request_id, deleted_at FROM chat_turns WHERE request_id = '{request_id}'"
    );
    let rows = scene.database().query(&sql).await?;
    Ok((rows[0][0].clone(), rows[0][1].is_some()))
}

on_each_database! {
    /// API-71, API-72, TURN-54, TURN-55, PLAT-84
    async fn a_retry_takes_the_place_of_the_turn(env) {
        let scene = env.scene().await?;
        let user_id = Uuid::new_v4();
        let user = scene.stack.caller(&scene.tenant, user_id)?;
        let chat = user.create_chat(Some("std")).await?;
        let first = said(&user, &chat, "first").await?;
        scene.provider.push_scenario(Scenario::deltas(&["wrong"], Ending::Completed));
        let old = said(&user, &chat, " again ").await?;

        scene.provider.push_scenario(Scenario::deltas(&["right"], Ending::Completed));
        let events = user.open_retry(&chat, &old).await?.collect().await?;
        events.check_grammar()?;
        let new = request_id(&events)?;
        assert_ne!(new, old);
        assert_eq!(events.only("stream_started")?["is_new_turn"], true);
        assert_eq!(Uuid::parse_str(&new)?.get_version_num(), 4);
        assert_eq!(fate(&scene, &old).await?, (Some(new.clone()), true));
        assert_eq!(fate(&scene, &first).await?, (None, false));

        let messages = user.messages(&chat).await?;
        let texts: Vec<_> = messages.iter().map(|message| message["content"].clone()).collect();
        assert_eq!(texts[0], "first");
        assert_eq!(texts[2..], [json!(" again "), json!("right")]);
        assert_eq!(messages[2]["request_id"], new.as_str());
        // Old rows stay readable, but are not part of the new turn's history.
        assert_eq!(user.turn(&chat, &old).await?["state"], "done");
        let requests = scene.provider.requests();
        let prompt = requests[2].body["input"].to_string();
        assert!(prompt.contains("first") && !prompt.contains("wrong"), "{prompt}");
        assert_eq!(prompt.matches("again").count(), 1, "{prompt}");

        let event = &audit(&scene).await?[0];
        assert_eq!(event["type"], "mutation");
        assert_eq!(event["event_type"], "turn_retry");
        assert_eq!(event["original_request_id"], old.as_str());
        assert_eq!(event["new_request_id"], new.as_str());
        assert_eq!(event["actor_user_id"], user_id.to_string());
        assert_eq!(event["chat_id"], chat.as_str());
        assert_eq!(event["tenant_id"], scene.tenant.id.to_string());
        assert_eq!(event["requester_type"], "user");
        assert_eq!(event["trace_id"].as_str().map(str::len), Some(32));
        let replaced = format!(
            "SELECT count(*) FROM chat_turns WHERE request_id = '{old}' AND id = '{}'",
            event["turn_id"].as_str().unwrap_or_default(),
        );
        assert_eq!(scene.database().number(&replaced).await?, 1);
        let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro > 0";
        assert_eq!(scene.database().number(reserved).await?, 0);
    }

    /// API-72, API-74, TURN-55
    async fn an_edit_changes_the_message_and_a_delete_removes_the_turn(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let old = said(&user, &chat, "typo").await?;

        for blank in ["", " \n"] {
            let before = attempts(&scene.stack.scrape().await?)?;
            user.edit(&chat, &old, blank).await?.problem(400, "invalid_request")?;
            assert_eq!(attempts(&scene.stack.scrape().await?)?, before);
        }
        assert_eq!(fate(&scene, &old).await?, (None, false));

        let events = user.open_edit(&chat, &old, "fixed").await?.collect().await?;
        events.check_grammar()?;
        events.only("done")?;
        let new = request_id(&events)?;
        assert_eq!(fate(&scene, &old).await?, (Some(new.clone()), true));
        let messages = user.messages(&chat).await?;
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0]["content"], "fixed");

        let deleted = counted(&scene, ("delete", "ok"), user.delete_turn(&chat, &new)).await?;
        deleted.expect(204)?;
        assert!(deleted.body.is_empty());
        assert_eq!(fate(&scene, &new).await?, (None, true));
        assert!(user.messages(&chat).await?.is_empty());
        assert_eq!(user.turn(&chat, &new).await?["state"], "done");
        let again = counted(&scene, ("delete", "not_latest"), user.delete_turn(&chat, &new)).await?;
        again.problem(409, "not_latest_turn")?;

        // Deleted messages are not part of the next turn's history, and the
        // request id stays taken.
        let body = json!({"content": "next", "request_id": new});
        user.refused(&chat, &body).await?.problem(409, "request_id_conflict")?;
        user.say(&chat, "next").await?;
        let requests = scene.provider.requests();
        let prompt = requests[requests.len() - 1].body["input"].to_string();
        assert!(!prompt.contains("fixed") && !prompt.contains("typo"), "{prompt}");
        let kinds: Vec<_> = audit(&scene).await?.iter().map(|event| event["event_type"].clone()).collect();
        assert_eq!(kinds, ["turn_edit", "turn_delete"]);
    }

    /// API-71, API-74, TURN-54: checked in this order, each counted once.
    async fn every_condition_of_a_mutation_has_its_answer(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let older = said(&user, &chat, "one").await?;
        let newest = said(&user, &chat, "two").await?;
        let nothing = Uuid::new_v4().to_string();
        let foreign = scene.new_user()?;

        let error = |op: &'static str| (op, "error");
        let answer = counted(&scene, error("retry"), user.retry(&nothing, &newest)).await?;
        answer.problem(404, "chat_not_found")?;
        let answer = counted(&scene, error("delete"), foreign.delete_turn(&chat, &newest)).await?;
        answer.problem(404, "chat_not_found")?;
        let answer = counted(&scene, error("edit"), user.edit(&chat, &nothing, "x")).await?;
        answer.problem(404, "turn_not_found")?;
        for op in ["retry", "edit", "delete"] {
            let attempt = async {
                match op {
                    "retry" => user.retry(&chat, &older).await,
                    "edit" => user.edit(&chat, &older, "x").await,
                    _ => user.delete_turn(&chat, &older).await,
                }
            };
            let answer = counted(&scene, (op, "not_latest"), attempt).await?;
            answer.problem(409, "not_latest_turn")?;
        }
        // A turn of another requester can only be made directly in the
        // database.
        let stranger = format!(
            "UPDATE chat_turns SET requester_user_id = '{nothing}' WHERE request_id = '{newest}'"
        );
        scene.database().query(&stranger).await?;
        let answer = counted(&scene, ("delete", "forbidden"), user.delete_turn(&chat, &newest)).await?;
        answer.problem(403, "insufficient_permissions")?;

        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            ..Scenario::deltas(&["ok"], Ending::Completed)
        });
        let mut stream = user.open(&chat, &json!({"content": "three"})).await?;
        let started = stream.expect("stream_started").await?;
        let running = started.text("request_id");
        for op in ["retry", "edit", "delete"] {
            let attempt = async {
                match op {
                    "retry" => user.retry(&chat, running).await,
                    "edit" => user.edit(&chat, running, "x").await,
                    _ => user.delete_turn(&chat, running).await,
                }
            };
            let answer = counted(&scene, (op, "invalid_state"), attempt).await?;
            answer.problem(400, "invalid_turn_state")?;
        }
        scene.provider.release(1);
        stream.expect("delta").await?;
        stream.expect("done").await?;
        assert!(audit(&scene).await?.is_empty());
        let deleted = "SELECT count(*) FROM chat_turns WHERE deleted_at IS NOT NULL";
        assert_eq!(scene.database().number(deleted).await?, 0);
        let reader = user.with_header("x-scopes", "ai:mini_chat:read")?;
        let before = attempts(&scene.stack.scrape().await?)?;
        reader.delete_turn(&chat, running).await?.problem(403, "insufficient_permissions")?;
        assert_eq!(attempts(&scene.stack.scrape().await?)?, before);
    }

    /// API-73, TURN-55, QUOTA-51
    async fn a_refused_retry_leaves_the_turn_in_place(env) {
        let scene = env.scene_with(|tenant| tenant.with_limits((6_000, 6_000), (6_000, 6_000))).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let request_id = said(&user, &chat, &"x".repeat(4000)).await?;
        let spend = "UPDATE quota_usage SET spent_credits_micro = 6000";
        scene.database().query(spend).await?;
        let answer = counted(&scene, ("retry", "error"), user.retry(&chat, &request_id)).await?;
        answer.problem(429, "quota_exceeded")?;
        let answer = counted(&scene, ("edit", "error"), user.edit(&chat, &request_id, "y")).await?;
        answer.problem(429, "quota_exceeded")?;
        assert_eq!(fate(&scene, &request_id).await?, (None, false));
        assert_eq!(user.messages(&chat).await?.len(), 2);
        assert!(audit(&scene).await?.is_empty());
        assert_eq!(scene.provider.requests().len(), 1);
        // The chat is not locked, and a deletion needs no quota.
        user.delete_turn(&chat, &request_id).await?.expect(204)?;
    }

    /// TURN-54: a turn can be retried however it ended.
    async fn failed_and_cancelled_turns_can_be_retried(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        scene.provider.push_scenario(Scenario::deltas(&["part"], Ending::Cut));
        let failed = said(&user, &chat, "hello").await?;
        assert_eq!(user.turn(&chat, &failed).await?["state"], "error");
        scene.provider.push_scenario(Scenario::deltas(&["half"], Ending::Hang));
        let mut stream = user.open_retry(&chat, &failed).await?;
        let started = stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        drop(stream);
        let cancelled = started.text("request_id");
        scene.stack.eventually("cancelled", async || {
            Ok(user.turn(&chat, cancelled).await?["state"] == "cancelled")
        }).await?;
        let events = user.open_retry(&chat, cancelled).await?.collect().await?;
        events.only("done")?;
        let messages = user.messages(&chat).await?;
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0]["content"], "hello");
    }

    /// API-71, TURN-55: exactly one of parallel mutations succeeds.
    async fn of_parallel_mutations_exactly_one_wins(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        for round in 0..20 {
            let chat = user.create_chat(Some("std")).await?;
            said(&user, &chat, "before").await?;
            let target = said(&user, &chat, "hello").await?;
            let mutations = (0..6).map(|index| {
                let (user, chat, target) = (user.clone(), chat.clone(), target.clone());
                async move {
                    match (index + round) % 3 {
                        0 => user.retry(&chat, &target).await,
                        1 => user.edit(&chat, &target, "other").await,
                        _ => user.delete_turn(&chat, &target).await,
                    }
                }
            });
            let answers = try_join_all(mutations).await?;
            let won = answers.iter().filter(|answer| answer.status.is_success()).count();
            assert_eq!(won, 1, "round {round}: {answers:?}");
            for answer in answers.iter().filter(|answer| !answer.status.is_success()) {
                let code = answer.expect(409)?["code"].clone();
                assert!(code == "not_latest_turn" || code == "generation_in_progress", "{code}");
            }
            let undeleted = format!(
                "SELECT count(*) FROM chat_turns WHERE chat_id = '{chat}' AND deleted_at IS NULL"
            );
            let remaining = scene.database().number(&undeleted).await?;
            assert!(remaining == 1 || remaining == 2, "round {round}: {remaining}");
        }
        assert_eq!(audit(&scene).await?.len(), 20);
        let scrape = scene.stack.scrape().await?;
        assert_eq!(scrape.count("mini_chat_turn_mutation_total", &[("result", "ok")])?, 20);
        assert_eq!(attempts(&scrape)?, 120);
    }

    /// API-72, TURN-55, CONT-12
    async fn a_retry_inherits_the_web_search(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let body = json!({"content": "hello", "web_search": {"enabled": true}});
        let events = user.open(&chat, &body).await?.collect().await?;
        let old = request_id(&events)?;
        user.open_retry(&chat, &old).await?.collect().await?.only("done")?;
        let searching = "SELECT count(*) FROM chat_turns WHERE web_search_enabled";
        assert_eq!(scene.database().number(searching).await?, 2);
    }
}
