//! Races for one place, provoked: both sides are admitted before either writes,
//! and then their transactions begin at the same moment. On PostgreSQL, where
//! they run side by side, neither changes a turn before both have come as far as
//! they get.

use anyhow::{Context as _, bail, ensure};
use http::Method;
use minichat_store::testing::{Access, Moment};
use minichat_tests::database::Database;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use uuid::Uuid;

use crate::client::{Client, Identity, Request, Seen};
use crate::model;
use crate::world::{Life, Process, TENANT, World};
use crate::{POSTGRES, SQLITE};

const ROUNDS: u32 = 20;

/// The text of the first turn.
const FIRST: &str = "the code is 4711";

/// A chat with one failed turn.
pub(crate) struct Scene {
    pub(crate) life: Life,
    pub(crate) who: Identity,
    chat: String,
    turn: Uuid,
    database: Database,
}

/// Sessions that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

impl Scene {
    /// Sets the clock to the instant `at`, in microseconds since 1970.
    pub(crate) async fn set(world: &mut World, process: &Process, at: i64) -> anyhow::Result<Self> {
        world.set_time(at)?;
        let life = world.start(process).await?;
        // Every turn fails at once, because the provider refuses connections.
        life.provider.refuse_connections(true);
        let user = Uuid::new_v4();
        let mut scene = Self {
            life,
            who: Identity {
                tenant: TENANT,
                user,
            },
            chat: String::new(),
            turn: Uuid::new_v4(),
            database: world.database().clone(),
        };
        let chat = scene.call(Method::POST, "/chats", json!({}));
        scene.flush().await;
        let body = chat.seen().body.unwrap_or_default();
        scene.chat = body["id"].as_str().context("no chat")?.to_owned();
        let first = scene.say(scene.turn, FIRST);
        scene.flush().await;
        ensure!(first.seen().has_ended, "the first turn goes on");
        Ok(scene)
    }

    fn call(&self, method: Method, path: &str, body: Value) -> Client {
        let request = Request {
            method,
            path: path.to_owned(),
            body: Some(body),
        };
        Client::send(self.life.router.clone(), self.who, "op", &request)
    }

    pub(crate) fn send(&self, request: Uuid) -> Client {
        self.say(request, "hello")
    }

    fn say(&self, request: Uuid, content: &str) -> Client {
        let path = format!("/chats/{}/messages:stream", self.chat);
        let body = json!({"content": content, "request_id": request});
        self.call(Method::POST, &path, body)
    }

    fn delete_chat(&self) -> Client {
        self.call(Method::DELETE, &format!("/chats/{}", self.chat), json!({}))
    }

    /// Whether the provider was called, and whether a prompt contained the text
    /// of the first turn.
    fn provider_saw(&self) -> (bool, bool) {
        let calls = self.life.provider.calls();
        let saw_first_turn = calls.iter().any(|call| call.prompt.contains(FIRST));
        (!calls.is_empty(), saw_first_turn)
    }

    fn of_turn(&self, method: Method, action: &str, body: Value) -> Client {
        let path = format!("/chats/{}/turns/{}{action}", self.chat, self.turn);
        self.call(method, &path, body)
    }

    pub(crate) async fn flush(&self) {
        self.life.settle().await;
        while let Some(waiter) = self.life.turnstile.waiting().first() {
            self.life.turnstile.release(waiter.number);
            self.life.settle().await;
        }
    }

    /// Runs both sides up to their first write, releases the writes together,
    /// and then everything else.
    async fn race(&self, sides: [Client; 2]) -> anyhow::Result<[Seen; 2]> {
        let turnstile = &self.life.turnstile;
        let writes = |access, moment| access == Access::Write && moment == Moment::Begin;
        loop {
            self.life.settle().await;
            let waiting = turnstile.waiting();
            let other = waiting.iter().find(|it| !writes(it.access, it.moment));
            let Some(other) = other else {
                ensure!(waiting.len() == 2, "not both write: {waiting:?}");
                break;
            };
            turnstile.release(other.number);
        }
        self.meet().await?;
        self.flush().await;
        Ok(sides.map(|side| side.seen()))
    }

    /// Releases everything that waits. Whoever comes to change a turn waits until
    /// the others wait as well, or are done.
    async fn meet(&self) -> anyhow::Result<()> {
        let (database, turnstile) = (self.database.clone(), self.life.turnstile.clone());
        let release = move || {
            for waiter in turnstile.waiting() {
                turnstile.release(waiter.number);
            }
            turnstile
        };
        if let Database::Sqlite(_) = database {
            release();
            return Ok(());
        }
        // Beside the process, whose time stands still.
        let conducted = tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let lock = database.lock_table("chat_turns").await?;
                let turnstile = release();
                while database.number(WAITING).await? < i64::try_from(turnstile.inside())? {}
                drop(lock);
                anyhow::Ok(())
            })
        });
        conducted.await?
    }
}

/// Runs `claim` in many scenes on both databases.
fn rounds(mut claim: impl AsyncFnMut(&Scene) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for place in [SQLITE, POSTGRES] {
        let mut world = World::create(place)?;
        for round in 0..ROUNDS {
            let process = Process::spawn()?;
            let played = process.run(async {
                let scene = Scene::set(&mut world, &process, model::NOON).await?;
                claim(&scene).await
            })?;
            played.with_context(|| format!("{:?}, round {round}", place.kind))?;
        }
        world.remove()?;
    }
    Ok(())
}

/// One side was answered with `won`, the other with 409 and one of `lost`.
fn one_wins(seen: &[Seen; 2], won: u16, lost: &[&str]) -> anyhow::Result<()> {
    let code = |seen: &Seen| {
        let body = seen.body.clone().unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    };
    let winners = seen.iter().filter(|it| it.status == Some(won)).count();
    let losers = seen
        .iter()
        .filter(|it| it.status == Some(409) && lost.contains(&code(it).as_str()))
        .count();
    ensure!((winners, losers) == (1, 1), "{seen:?}");
    Ok(())
}

/// TURN-12: both violate the uniqueness of a chat's request.
#[test]
fn of_two_sends_with_one_key_the_later_conflicts() -> anyhow::Result<()> {
    rounds(async |scene| {
        let key = Uuid::new_v4();
        let seen = scene.race([scene.send(key), scene.send(key)]).await?;
        one_wins(&seen, 200, &["request_id_conflict"])
    })
}

/// TURN-12: both violate the uniqueness of a chat's running turn.
#[test]
fn of_two_sends_with_keys_of_their_own_the_later_finds_one_running() -> anyhow::Result<()> {
    rounds(async |scene| {
        let sides = [scene.send(Uuid::new_v4()), scene.send(Uuid::new_v4())];
        let seen = scene.race(sides).await?;
        one_wins(&seen, 200, &["generation_in_progress"])
    })
}

/// TURN-55
#[test]
fn of_two_mutations_of_one_turn_the_later_is_refused() -> anyhow::Result<()> {
    let refusals = ["generation_in_progress", "not_latest_turn"];
    rounds(async |scene| {
        let retry = || scene.of_turn(Method::POST, "/retry", json!({}));
        let edit = || scene.of_turn(Method::PATCH, "", json!({"content": "other"}));
        let seen = scene.race([retry(), edit()]).await?;
        one_wins(&seen, 200, &refusals)
    })?;
    rounds(async |scene| {
        let delete = || scene.of_turn(Method::DELETE, "", json!({}));
        let seen = scene.race([delete(), delete()]).await?;
        one_wins(&seen, 204, &["not_latest_turn"])
    })
}

/// TURN-55
#[test]
fn a_send_and_a_retry_do_not_both_open_a_turn() -> anyhow::Result<()> {
    rounds(async |scene| {
        let retry = scene.of_turn(Method::POST, "/retry", json!({}));
        let seen = scene.race([scene.send(Uuid::new_v4()), retry]).await?;
        one_wins(&seen, 200, &["generation_in_progress", "not_latest_turn"])
    })
}

/// TURN-10, TURN-55: no prompt contains text that was deleted before.
#[test]
fn a_send_and_a_deletion_exclude_each_other() -> anyhow::Result<()> {
    rounds(async |scene| {
        scene.life.provider.refuse_connections(false);
        let delete = scene.of_turn(Method::DELETE, "", json!({}));
        let [sent, deleted] = scene.race([scene.send(Uuid::new_v4()), delete]).await?;
        let expected = match (sent.status, deleted.status) {
            (Some(200), Some(204)) => (true, false),
            (Some(200), Some(409)) => (true, true),
            _ => bail!("{sent:?}, {deleted:?}"),
        };
        ensure!(scene.provider_saw() == expected, "{sent:?}, {deleted:?}");
        Ok(())
    })
}

/// API-55: no turn is opened in a chat that was deleted before.
#[test]
fn a_send_and_the_deletion_of_its_chat_exclude_each_other() -> anyhow::Result<()> {
    rounds(async |scene| {
        scene.life.provider.refuse_connections(false);
        let sides = [scene.send(Uuid::new_v4()), scene.delete_chat()];
        let [sent, deleted] = scene.race(sides).await?;
        ensure!(deleted.status == Some(204), "{deleted:?}");
        let (is_called, _) = scene.provider_saw();
        let expected = if is_called { 200 } else { 404 };
        ensure!(sent.status == Some(expected), "{sent:?}");
        Ok(())
    })
}
