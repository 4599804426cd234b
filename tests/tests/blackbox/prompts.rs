//! The contents of a prompt while something in its chat is being deleted.

use std::future::Future;

use anyhow::Context as _;
use http::Method;
use minichat_tests::client::{Answer, Api};
use minichat_tests::database::{Database, WriteLock};
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use serde_json::json;
use tokio::sync::{Notify, oneshot};

/// A text that occurs only in the chat's newest turn.
const SECRET: &str = "the code is 4711";

/// The sessions that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// What is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deleted {
    /// The newest turn, which contains [`SECRET`].
    Turn,
    Chat,
}

/// What opens a turn at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opening {
    Send,
    Retry,
    Edit,
}

/// A chat with two turns.
struct Talk {
    user: Api,
    chat: String,
    turns: [String; 2],
}

impl Talk {
    async fn begin(scene: &Scene) -> anyhow::Result<Self> {
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut turns = [String::new(), String::new()];
        for (turn, text) in turns.iter_mut().zip(["hello", SECRET]) {
            let events = user.say(&chat, text).await?;
            let started = events.only("stream_started")?;
            *turn = started["request_id"].as_str().context("an id")?.to_owned();
        }
        scene.provider.reset();
        Ok(Self { user, chat, turns })
    }

    async fn delete(&self, deleted: Deleted) -> anyhow::Result<Answer> {
        let chat = format!("/chats/{}", self.chat);
        match deleted {
            Deleted::Turn => self.user.delete_turn(&self.chat, &self.turns[1]).await,
            Deleted::Chat => self.user.delete(&chat).await,
        }
    }

    /// Opens a turn; a retry or an edit replaces `target`.
    async fn open(&self, opening: Opening, target: &str) -> anyhow::Result<Answer> {
        match opening {
            Opening::Send => {
                let path = format!("/chats/{}/messages:stream", self.chat);
                self.user.post(&path, &json!({"content": "and now?"})).await
            }
            Opening::Retry => self.user.retry(&self.chat, target).await,
            Opening::Edit => self.user.edit(&self.chat, target, "and now?").await,
        }
    }

    /// Waits until `count` sessions wait for a lock. SQLite has only one writer
    /// and no view of waiting sessions: there, other requests are answered in
    /// the meantime.
    async fn until_waiting(&self, scene: &Scene, count: i64) -> anyhow::Result<()> {
        if let Database::Sqlite(_) = scene.database() {
            for _ in 0..5 {
                let path = format!("/chats/{}", self.chat);
                self.user
                    .exchange(Method::GET, &path, &[], "".into())
                    .await?;
            }
            return Ok(());
        }
        let waiting = async || Ok(scene.database().number(WAITING).await? >= count);
        scene.stack.eventually("waiting", waiting).await
    }

    /// Starts `first`, which waits for `lock`, and then `second`. Releases the
    /// lock as soon as `second` waits too or is answered.
    async fn overlap(
        &self,
        scene: &Scene,
        lock: WriteLock,
        first: impl Future<Output = anyhow::Result<Answer>>,
        second: impl Future<Output = anyhow::Result<Answer>>,
    ) -> anyhow::Result<[Answer; 2]> {
        let (go, gone) = oneshot::channel::<()>();
        let is_answered = Notify::new();
        let second = async {
            gone.await?;
            let answer = second.await;
            is_answered.notify_one();
            answer
        };
        let conducted = async {
            self.until_waiting(scene, 1).await?;
            go.send(()).ok().context("the second is gone")?;
            tokio::select! {
                waiting = self.until_waiting(scene, 2) => waiting?,
                () = is_answered.notified() => {}
            }
            drop(lock);
            anyhow::Ok(())
        };
        let (first, second, conducted) = tokio::join!(first, second, conducted);
        conducted?;
        Ok([first?, second?])
    }
}

/// Whether a prompt contained the chat's second message.
fn provider_saw_secret(scene: &Scene) -> bool {
    let requests = scene.provider.requests();
    requests
        .iter()
        .any(|request| request.body.to_string().contains(SECRET))
}

/// Whichever is first: after a deletion was acknowledged, no prompt contains
/// the deleted text.
fn check(scene: &Scene, deleted: Deleted, deletion: &Answer, opened: &Answer) {
    let (deletion, opened) = (deletion.status.as_u16(), opened.status.as_u16());
    match deleted {
        Deleted::Turn => {
            assert!(matches!(deletion, 204 | 409), "{deletion}");
            assert_eq!(provider_saw_secret(scene), deletion == 409 && opened == 200);
        }
        Deleted::Chat => {
            assert_eq!(deletion, 204);
            assert!(matches!(opened, 200 | 404), "{opened}");
            assert_eq!(scene.provider.requests().is_empty(), opened == 404);
        }
    }
}

const OPENINGS: [Opening; 3] = [Opening::Send, Opening::Retry, Opening::Edit];

on_each_database! {
    /// TURN-10, TURN-55, API-55, API-74: the deletion has found its turn and is
    /// not committed yet.
    async fn a_prompt_waits_for_a_deletion_that_has_begun(env) {
        let scene = env.scene().await?;
        let is_postgres = matches!(env.database, Database::Postgres(_));
        for deleted in [Deleted::Turn, Deleted::Chat] {
            for opening in OPENINGS {
                let talk = Talk::begin(&scene).await?;
                let lock = env.database.lock_table("outbox_messages").await?;
                let delete = talk.delete(deleted);
                // It is the newest only if the deletion is first.
                let open = talk.open(opening, &talk.turns[0]);
                let [deletion, opened] = talk.overlap(&scene, lock, delete, open).await?;
                let opened_with = opened.status.as_u16();
                if is_postgres {
                    let expected = if deleted == Deleted::Turn { 200 } else { 404 };
                    assert_eq!(deletion.status, 204, "{deleted:?}, {opening:?}");
                    assert_eq!(opened_with, expected, "{deleted:?}, {opening:?}");
                }
                if opening == Opening::Send || opened_with != 409 {
                    check(&scene, deleted, &deletion, &opened);
                }
            }
        }
    }

    /// TURN-54, TURN-55, API-71: the prompt is built and its turn is not
    /// committed yet.
    async fn a_deletion_waits_for_a_prompt_that_is_made(env) {
        let scene = env.scene().await?;
        for deleted in [Deleted::Turn, Deleted::Chat] {
            for opening in OPENINGS {
                let talk = Talk::begin(&scene).await?;
                let lock = env.database.lock_rows("quota_usage").await?;
                let open = talk.open(opening, &talk.turns[1]);
                let delete = talk.delete(deleted);
                let [opened, deletion] = talk.overlap(&scene, lock, open, delete).await?;
                if deleted == Deleted::Turn && opening != Opening::Send {
                    // Both want the same turn, and one gets it.
                    let statuses = [opened.status.as_u16(), deletion.status.as_u16()];
                    assert!(matches!(statuses, [200, 409] | [409, 204]), "{statuses:?}");
                    continue;
                }
                if matches!(env.database, Database::Postgres(_)) {
                    assert_eq!(opened.status, 200, "{deleted:?}, {opening:?}");
                }
                check(&scene, deleted, &deletion, &opened);
            }
        }
    }
}
