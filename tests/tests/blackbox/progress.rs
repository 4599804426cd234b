//! Progress of running turns (TURN-7). It is written every half minute, so
//! these tests take long.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use minichat_telemetry::Signal;
use minichat_tests::database::Database;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::raw_client::{Caller, RawClient};
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;
use uuid::Uuid;

use crate::readers::{flood, stalled};

/// The last progress of the only turn in microseconds.
async fn last_progress(database: &Database) -> anyhow::Result<i64> {
    let column = match database {
        Database::Sqlite(_) => "last_progress_at",
        Database::Postgres(_) => "CAST(extract(epoch FROM last_progress_at) * 1000000 AS BIGINT)",
    };
    database
        .number(&format!("SELECT {column} FROM chat_turns"))
        .await
}

/// Deletes every turn.
async fn forget_turns(database: &Database) -> anyhow::Result<()> {
    database.query("DELETE FROM messages").await?;
    database.query("DELETE FROM chat_turns").await?;
    Ok(())
}

/// Makes every write of progress fail.
async fn refuse_progress(database: &Database) -> anyhow::Result<()> {
    match database {
        Database::Sqlite(_) => {
            database
                .query(
                    "CREATE TRIGGER refused BEFORE UPDATE OF last_progress_at ON chat_turns \
                 WHEN NEW.state = 'running' BEGIN SELECT RAISE(ABORT, 'refused'); END",
                )
                .await?;
        }
        Database::Postgres(_) => {
            database
                .query(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'refused'; END $$",
                )
                .await?;
            database
                .query(
                    "CREATE TRIGGER refused BEFORE UPDATE OF last_progress_at ON chat_turns \
                 FOR EACH ROW EXECUTE FUNCTION refuse()",
                )
                .await?;
        }
    }
    Ok(())
}

async fn allow_progress(database: &Database) -> anyhow::Result<()> {
    let on = if matches!(database, Database::Postgres(_)) {
        " ON chat_turns"
    } else {
        ""
    };
    database.query(&format!("DROP TRIGGER refused{on}")).await?;
    Ok(())
}

/// An answer of `words` words, one per second.
fn a_word_a_second(words: usize) -> Scenario {
    Scenario {
        interval_ms: 1000,
        ..Scenario::deltas(&vec!["word "; words], Ending::Completed)
    }
}

/// What a turn waits for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// The client does not read.
    Reader,
    /// The provider has not answered yet.
    Provider,
}

/// Opens a turn that waits, and makes it look as if it had waited for an hour.
async fn waiting(scene: &Scene, wait: Wait) -> anyhow::Result<RawClient> {
    scene.provider.push_scenario(Scenario {
        hold_before_head: matches!(wait, Wait::Provider),
        ..flood()
    });
    let caller = Caller {
        tenant: scene.tenant.id,
        user: Uuid::new_v4(),
    };
    let user = scene.stack.caller(&scene.tenant, caller.user)?;
    let path = format!("/chats/{}/messages:stream", user.create_chat(None).await?);
    let mut reader = RawClient::connect_narrow(scene.stack.app_addr()).await?;
    let request = caller.request("POST", &path, r#"{"content": "hello"}"#);
    reader.write(&request).await?;
    reader.read_to("event: stream_started").await?;
    if matches!(wait, Wait::Reader) {
        reader.read_to("event: delta").await?;
        stalled(&reader).await?;
    }
    scene.database().age_turns("TRUE").await?;
    Ok(reader)
}

on_each_database! {
    /// TURN-57, D44: a turn of a live process is no orphan, whatever it waits
    /// for.
    async fn a_turn_that_waits_shows_life(env) {
        for wait in [Wait::Reader, Wait::Provider] {
            let scene = env.scene().await?;
            let _reader = waiting(&scene, wait).await?;
            let database = scene.database();
            let aged = last_progress(database).await?;
            let shown = async {
                while last_progress(database).await? == aged {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                anyhow::Ok(())
            };
            let shown = tokio::time::timeout(Duration::from_secs(40), shown).await;
            shown.with_context(|| format!("no life while it waits: {wait:?}"))??;
            let run = scene.stack.watchdog().run_once(&Signal::new()).await;
            assert_eq!((run.detected, run.finalized), (0, 0), "{wait:?}");
            scene.stack.stop().await?;
            forget_turns(&env.database).await?;
        }
    }

    /// TURN-7: at most once in 30 s, however many events the provider sends.
    async fn a_turn_shows_life_twice_a_minute(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(a_word_a_second(66));
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        stream.expect("stream_started").await?;
        let mut seen = BTreeSet::new();
        while let Some(event) = stream.next().await? {
            if event.name == "delta" {
                seen.insert(last_progress(scene.database()).await?);
            }
        }
        let seen: Vec<i64> = seen.into_iter().collect();
        // The first one is the start.
        assert_eq!(seen.len(), 3, "{seen:?}");
        let interval = i64::try_from(Duration::from_secs(30).as_micros())?;
        for pair in seen.windows(2) {
            assert!(pair[1] - pair[0] >= interval - 1_000_000, "{seen:?}");
        }
    }

    /// TURN-7: the write is repeated at the next event, and the answer
    /// continues.
    async fn a_sign_of_life_that_cannot_be_stored_ends_nothing(env) {
        let scene = env.scene().await?;
        scene.provider.push_scenario(a_word_a_second(40));
        let user = scene.new_user()?;
        let chat = user.create_chat(None).await?;
        let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
        let started = stream.expect("stream_started").await?;
        let database = scene.database();
        let first = last_progress(database).await?;
        refuse_progress(database).await?;
        for _ in 0..36 {
            stream.expect("delta").await?;
        }
        assert_eq!(last_progress(database).await?, first);
        allow_progress(database).await?;
        for _ in 0..4 {
            stream.expect("delta").await?;
        }
        stream.expect("done").await?;
        assert!(last_progress(database).await? > first + 30_000_000);
        assert_eq!(user.turn(&chat, started.text("request_id")).await?["state"], "done");
    }
}
