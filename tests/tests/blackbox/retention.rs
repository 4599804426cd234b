//! What is removed of deleted chats, and when.

use anyhow::{Context as _, ensure};
use minichat_dataplane::cleanup::Report;
use minichat_tests::books::check_balanced;
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::Scenario;
use minichat_tests::stored_files::{MANUAL, Row, StoredFiles, new_file};
use serde_json::{Value, json};

const KEPT_A_MONTH: &str = "MINICHAT_RETENTION_PURGE_GRACE_DAYS=30";
const CHATS: &str = "SELECT count(*) FROM chats";
const ROLLED_UP: &str = "SELECT CAST(COALESCE(sum(turns), 0) AS BIGINT) FROM turn_rollups";

/// Tables with rows of chats.
const OF_CHATS: [&str; 8] = [
    "chat_turns",
    "messages",
    "message_reactions",
    "message_attachments",
    "attachments",
    "thread_summaries",
    "chat_vector_stores",
    "cleanup_claims",
];

/// Moves the deletion of a chat `days` into the past.
async fn age_deletion(database: &Database, chat: &str, days: i64) -> anyhow::Result<()> {
    let age = match database.kind() {
        DatabaseKind::Sqlite => format!("{days} * 86400000000"),
        DatabaseKind::Postgres => format!("{days} * INTERVAL '1 day'"),
    };
    let sql = format!("UPDATE chats SET deleted_at = deleted_at - {age} WHERE id = '{chat}'");
    database.query(&sql).await?;
    Ok(())
}

/// A chat with a turn of every end, a file, a reaction, a retry and a deleted turn, which
/// is deleted then. Returns the chat and the id of a request in it.
async fn lived(world: &StoredFiles, model: &str) -> anyhow::Result<(String, Value)> {
    let user = &world.user;
    let chat = user.create_chat(Some(model)).await?;
    let file = new_file(world.provider.addr).await?;
    let row = Row {
        file: Some(&file),
        status: "ready",
        backend: "main",
    };
    let file = world.insert(&chat, row).await?;
    let request_id = json!(uuid::Uuid::new_v4());
    let body = json!({"content": "PING", "request_id": request_id, "attachment_ids": [file]});
    let said = user.open(&chat, &body).await?.collect().await?;
    let started = said.only("stream_started")?;
    let reaction = format!(
        "/chats/{chat}/messages/{}/reaction",
        started["message_id"].as_str().context("no message")?
    );
    user.put(&reaction, &json!({"reaction": "like"}))
        .await?
        .expect(200)?;
    user.say(&chat, "ERROR").await?;
    let said = user.say(&chat, "PING").await?;
    let id = |events: &minichat_tests::sse::Events| -> anyhow::Result<String> {
        let id = events.only("stream_started")?["request_id"].as_str();
        Ok(id.context("no request_id")?.to_owned())
    };
    let retried = user.open_retry(&chat, &id(&said)?).await?.collect().await?;
    user.delete_turn(&chat, &id(&retried)?).await?.expect(204)?;
    user.say(&chat, "the last").await?;
    world.delete_chat(&chat).await?;
    Ok((chat, request_id))
}

async fn pass(world: &StoredFiles, purged: u64) -> anyhow::Result<Report> {
    let report = world.pass().await;
    ensure!(
        report.error.is_none() && report.purged == purged,
        "{report:?}"
    );
    check_balanced(&world.stack.database).await?;
    Ok(report)
}

async fn lines(user: &Api, kind: &str) -> anyhow::Result<Vec<Value>> {
    let answer = user.get("/me/export").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec())?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    Ok(lines
        .into_iter()
        .filter(|line| line["type"] == kind)
        .collect())
}

on_each_database! {
    /// PLAT-18, PLAT-21, API-114: what was deleted long ago goes with everything in it, the books
    /// stay, and other chats are as they were.
    async fn a_chat_that_was_deleted_long_ago_leaves_only_what_it_cost(env) {
        let settings = format!("{MANUAL}\n{KEPT_A_MONTH}");
        let world = StoredFiles::start(&env, &settings).await?;
        let database = world.stack.database.clone();
        let living = world.user.create_chat(None).await?;
        world.user.say(&living, "PING").await?;
        let (recent, _) = lived(&world, "std").await?;
        let (old, request_id) = lived(&world, "prem").await?;
        age_deletion(&database, &recent, 29).await?;
        age_deletion(&database, &old, 31).await?;
        // Its file is at the provider, so this pass deletes only that.
        pass(&world, 0).await?;
        pass(&world, 1).await?;
        pass(&world, 0).await?;
        for table in OF_CHATS {
            let of_old = format!("SELECT count(*) FROM {table} WHERE chat_id = '{old}'");
            assert_eq!(database.number(&of_old).await?, 0, "{table}");
        }
        for table in ["chat_turns", "messages", "message_reactions", "message_attachments", "attachments"] {
            let of_recent = format!("SELECT count(*) FROM {table} WHERE chat_id = '{recent}'");
            assert!(database.number(&of_recent).await? > 0, "{table}");
        }
        assert_eq!(database.number(CHATS).await?, 2);
        let turns = "SELECT count(*) FROM chat_turns";
        assert_eq!((database.number(turns).await?, database.number(ROLLED_UP).await?), (6, 5));
        let path = format!("/chats/{old}/messages:stream");
        let body = json!({"content": "PING", "request_id": request_id});
        world.user.post(&path, &body).await?.problem(404, "chat_not_found")?;
        world.user.get(&format!("/chats/{living}")).await?.expect(200)?;
        let purged = lines(&world.user, "purged_turns").await?;
        let count: u64 = purged.iter().filter_map(|line| line["turns"].as_u64()).sum();
        assert_eq!(count, 5, "{purged:?}");
        assert_eq!(lines(&world.user, "turn").await?.len(), 6);
        let spent = |line: &Value| line["credits_micro"].as_u64().unwrap_or_default();
        assert!(purged.iter().map(spent).sum::<u64>() > 0, "{purged:?}");
        // The events that wait for their chat's clean-up do not need the chat.
        assert_eq!(database.number("SELECT count(*) FROM outbox_dead_letters").await?, 0);
    }

    /// PLAT-21: without the setting, deleted chats are kept.
    async fn without_a_time_of_grace_nothing_is_removed(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let (old, _) = lived(&world, "std").await?;
        age_deletion(&world.stack.database, &old, 4_000).await?;
        pass(&world, 0).await?;
        pass(&world, 0).await?;
        assert_eq!(world.stack.database.number(CHATS).await?, 1);
    }

    /// PLAT-21, CONT-177: a file or a store that the provider may still have keeps its chat.
    async fn a_chat_is_kept_while_its_provider_has_something_of_it(env) {
        let settings = format!("{MANUAL}\n{KEPT_A_MONTH}\nMINICHAT_CLEANUP_WORKER_MAX_ATTEMPTS=1");
        let world = StoredFiles::start(&env, &settings).await?;
        let database = world.stack.database.clone();
        let refused = |path: &str, times| Scenario {
            times,
            for_method: Some("DELETE".to_owned()),
            status: 400,
            body: Some(json!({})),
            ..Scenario::default().for_path(path)
        };
        let (given_up, _) = lived(&world, "std").await?;
        world.provider.push_scenario(refused("/files/", 1));
        pass(&world, 0).await?;
        let with_store = world.chat_with(0).await?;
        world.delete_chat(&with_store).await?;
        for chat in [&given_up, &with_store] {
            age_deletion(&database, chat, 31).await?;
        }
        world.provider.push_scenario(refused("/vector_stores/", 1));
        let report = pass(&world, 0).await?;
        assert_eq!((report.retried, report.remaining_failed), (1, 1), "{report:?}");
        minichat_tests::stored_files::age(&database).await?;
        pass(&world, 0).await?;
        pass(&world, 1).await?;
        pass(&world, 0).await?;
        let left = format!("SELECT count(*) FROM chats WHERE id = '{given_up}'");
        assert_eq!((database.number(CHATS).await?, database.number(&left).await?), (1, 1));
        // An administrator has deleted the file.
        database.query("UPDATE attachments SET cleanup_status = 'done'").await?;
        pass(&world, 1).await?;
    }

    /// PLAT-21, PLAT-22: who is erased is not in what was added up, and what he has spent stays
    /// in the books; his erased chats are removed like others.
    async fn an_erased_person_leaves_purged_turns_without_a_name(env) {
        let settings = format!("{MANUAL}\n{KEPT_A_MONTH}");
        let mut world = StoredFiles::start(&env, &settings).await?;
        world.user = world.user.with_header("x-scopes", "ai:mini_chat ai:mini_chat:erase")?;
        let database = world.stack.database.clone();
        let (old, _) = lived(&world, "std").await?;
        age_deletion(&database, &old, 31).await?;
        pass(&world, 0).await?;
        pass(&world, 1).await?;
        let (erased, _) = lived(&world, "prem").await?;
        pass(&world, 0).await?;
        let person = "SELECT DISTINCT user_id FROM turn_rollups";
        let person = database.query(person).await?[0][0].clone().context("no person")?;
        let done = world.user.delete("/me").await?.expect(200)?;
        assert_eq!(done["erased"]["turns"], 10, "{done}");
        check_balanced(&database).await?;
        let named = format!("SELECT count(*) FROM turn_rollups WHERE user_id = '{person}'");
        assert_eq!((database.number(&named).await?, database.number(ROLLED_UP).await?), (0, 5));
        assert!(lines(&world.user, "purged_turns").await?.is_empty());
        age_deletion(&database, &erased, 31).await?;
        pass(&world, 1).await?;
        assert_eq!((database.number(CHATS).await?, database.number(ROLLED_UP).await?), (0, 10));
        assert_eq!(database.number("SELECT count(*) FROM chat_turns").await?, 0);
    }

    /// CONT-174: chats whose deletion nobody cleaned up for long are looked through, each once;
    /// recent ones by each pass.
    async fn deleted_chats_are_looked_through_once(env) {
        let world = StoredFiles::start(&env, MANUAL).await?;
        let database = world.stack.database.clone();
        let raced = async |chat: &str| {
            let file = new_file(world.provider.addr).await?;
            world.insert(chat, Row { file: Some(&file), status: "ready", backend: "main" }).await
        };
        let (old, recent) = (world.user.create_chat(None).await?, world.user.create_chat(None).await?);
        for chat in [&old, &recent] {
            world.delete_chat(chat).await?;
        }
        age_deletion(&database, &old, 100).await?;
        raced(&old).await?;
        assert_eq!(world.pass().await.completed, 1);
        let progress = "SELECT count(*) FROM cleanup_progress";
        assert_eq!(database.number(progress).await?, 1);
        raced(&recent).await?;
        assert_eq!(world.pass().await.completed, 1);
        raced(&old).await?;
        assert_eq!(world.pass().await.completed, 0, "it was looked through");
        database.query("DELETE FROM cleanup_progress").await?;
        assert_eq!(world.pass().await.completed, 1);
        assert_eq!(world.stored(), (0, 0));
    }
}
