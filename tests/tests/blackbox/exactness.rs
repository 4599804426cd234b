//! Limits and chats under many requests at once, also across processes.

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use minichat_tests::books::check_balanced;
use minichat_tests::child::Process;
use minichat_tests::client::Api;
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Env, run};
use minichat_tests::installation::eventually;
use minichat_tests::manifest::Tenant;
use minichat_tests::plans::PLANS;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const SENDS: usize = 200;
const ADMITTED: usize = 17;
const ROUNDS: usize = 50;
/// In micro-credits, for a limit that refuses nobody.
const PLENTY: i64 = 1_000_000_000;

/// A busy machine makes nobody wait in vain.
const PATIENT: &str = "MINICHAT_SERVER_REQUEST_DEADLINE_SECS=120
MINICHAT_DATABASE_JOB_TIMEOUT_SECS=100
MINICHAT_DATABASE_ACQUIRE_TIMEOUT_SECS=100
MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS=90
MINICHAT_DATABASE_LOCK_TIMEOUT_SECS=90";

/// Two processes on one database, with one tenant and its provider.
struct Pair {
    provider: ScriptedProvider,
    tenant: Tenant,
    processes: [Process; 2],
}

impl Pair {
    async fn new(env: &Env, change: impl FnOnce(Tenant) -> Tenant) -> anyhow::Result<Self> {
        let provider = ScriptedProvider::start().await?;
        let tenant = change(Tenant::new("acme", provider.addr));
        env.write_manifest(&tenant.name, &tenant.manifest())?;
        // The first one creates the tables.
        let processes = [serve(env).await?, serve(env).await?];
        Ok(Self {
            provider,
            tenant,
            processes,
        })
    }

    /// One user at both.
    fn user(&self, id: Uuid) -> anyhow::Result<[Api; 2]> {
        let [here, there] = &self.processes;
        let tenant = self.tenant.id;
        Ok([
            here.api.acting_as(tenant, id)?,
            there.api.acting_as(tenant, id)?,
        ])
    }

    /// A provider that answers `count` requests when it is let.
    fn hold(&self, count: usize) {
        for _ in 0..count {
            self.provider.push_scenario(Scenario {
                hold_before_head: true,
                ..Scenario::deltas(&["ok"], Ending::Completed)
            });
        }
    }
}

async fn serve(env: &Env) -> anyhow::Result<Process> {
    let mut process = Process::serve(BINARY, env, PATIENT).await?;
    // A full pipe would stop it.
    process.write_logs(tempfile::tempfile()?);
    eventually("ready", async || {
        Ok(process.admin.get_absolute("/readyz").await?.status == 200)
    })
    .await?;
    Ok(process)
}

/// What came of a send.
enum Sent {
    /// Its turn runs until this is dropped.
    Stream(#[expect(dead_code, reason = "it is only kept")] Response<Incoming>),
    /// Status and code.
    Refused(u16, Value),
}

async fn send(user: &Api, chat: &str) -> anyhow::Result<Sent> {
    let path = format!("/mini-chat/v1/chats/{chat}/messages:stream");
    let body = json!({"content": "hello"}).to_string();
    let json = [("content-type", "application/json")];
    let answer = user
        .send(http::Method::POST, &path, &json, body.into())
        .await?;
    let status = answer.status().as_u16();
    if status == 200 {
        return Ok(Sent::Stream(answer));
    }
    let problem = answer.into_body().collect().await?.to_bytes();
    let problem: Value = serde_json::from_slice(&problem)?;
    Ok(Sent::Refused(status, problem["code"].clone()))
}

/// How many of `answers` are streams, if all others are refused with `code`.
fn streams(answers: &[Sent], status: u16, code: &str) -> anyhow::Result<usize> {
    let mut streams = 0;
    for answer in answers {
        match answer {
            Sent::Stream(_) => streams += 1,
            Sent::Refused(found, told) => {
                ensure!((*found, told) == (status, &json!(code)), "{found} {told}");
            }
        }
    }
    Ok(streams)
}

/// Chats of `user`, past the interface.
async fn chats(env: &Env, tenant: Uuid, user: Uuid) -> anyhow::Result<Vec<String>> {
    let chats: Vec<String> = (0..SENDS).map(|_| Uuid::new_v4().to_string()).collect();
    let rows: Vec<String> = chats
        .iter()
        .map(|id| format!("('{id}', '{tenant}', '{user}', 'std', now(), now())"))
        .collect();
    let insert =
        "INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at) VALUES ";
    env.database
        .query(&format!("{insert}{}", rows.join(", ")))
        .await?;
    Ok(chats)
}

/// Makes the rows that the first turn of a day makes.
fn rows_of_today(tenant: Uuid, user: Uuid) -> String {
    let row = |period, start| {
        let id = Uuid::new_v4();
        format!("('{id}', '{tenant}', '{user}', '{period}', {start}, 'total', now())")
    };
    format!(
        "INSERT INTO quota_usage (id, tenant_id, user_id, period_type, period_start, bucket, \
         updated_at) VALUES {}, {}",
        row(
            "monthly",
            "CAST(date_trunc('month', now() AT TIME ZONE 'UTC') AS DATE)"
        ),
        row("daily", "CAST(now() AT TIME ZONE 'UTC' AS DATE)")
    )
}

/// A pair whose tenant has a daily limit.
struct Limited {
    pair: Pair,
    /// In micro-credits, with room for [`ADMITTED`] turns.
    limit: i64,
}

impl Limited {
    async fn new(env: &Env) -> anyhow::Result<Self> {
        let first = env.scene().await?;
        let user = first.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "hello").await?;
        let reserve = "SELECT reserved_credits_micro FROM chat_turns";
        let reserve = env.database.number(reserve).await?;
        first.stack.stop().await?;
        let limit = reserve * i64::try_from(ADMITTED)? + reserve / 2;
        let pair = Self::pair(env, limit).await?;
        Ok(Self { pair, limit })
    }

    async fn pair(env: &Env, limit: i64) -> anyhow::Result<Pair> {
        let limits = (limit, PLENTY);
        Pair::new(env, |tenant| tenant.with_limits(limits, (PLENTY, PLENTY))).await
    }

    /// A user whose rows of the day exist in every second round.
    async fn check(&self, env: &Env, round: usize) -> anyhow::Result<()> {
        let Self { pair, limit } = self;
        let (tenant, id) = (pair.tenant.id, Uuid::new_v4());
        let user = pair.user(id)?;
        if round % 2 == 1 {
            env.database.query(&rows_of_today(tenant, id)).await?;
        }
        let chats = chats(env, tenant, id).await?;
        pair.hold(ADMITTED);
        let sends = chats.iter().enumerate();
        let sends = sends.map(|(number, chat)| send(&user[number % 2], chat));
        let answers = try_join_all(sends).await?;
        let admitted = streams(&answers, 429, "quota_exceeded")?;
        ensure!(admitted == ADMITTED, "{admitted} were admitted");
        let sum = format!(
            "SELECT reserved_credits_micro + spent_credits_micro FROM quota_usage \
             WHERE user_id = '{id}' AND bucket = 'total' AND period_type = 'daily'"
        );
        let booked = env.database.number(&sum).await?;
        ensure!(booked <= *limit, "{booked} of {limit} are booked");
        pair.provider.reset();
        Ok(())
    }
}

/// All sends to one chat of a new user.
async fn check_chat(pair: &Pair) -> anyhow::Result<()> {
    let user = pair.user(Uuid::new_v4())?;
    let chat = user[0].create_chat(Some("std")).await?;
    pair.hold(1);
    let sends = (0..SENDS).map(|number| send(&user[number % 2], &chat));
    let answers = try_join_all(sends).await?;
    let streams = streams(&answers, 409, "generation_in_progress")?;
    ensure!(streams == 1, "{streams} streams");
    pair.provider.reset();
    Ok(())
}

/// QUOTA-52, QUOTA-82: of 200 sends of one user at two processes, a limit admits
/// exactly as many as it has room for, with and without the rows of the day.
#[test]
fn of_two_hundred_sends_a_limit_admits_exactly_seventeen() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let limited = Limited::new(&env).await?;
        for round in 0..ROUNDS {
            let checked = limited.check(&env, round).await;
            checked.with_context(|| format!("round {round}"))?;
        }
        check_balanced(&env.database).await
    })
}

/// TURN-4, TURN-12: of 200 sends to one chat at two processes one streams.
#[test]
fn of_two_hundred_sends_to_one_chat_exactly_one_streams() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let pair = Pair::new(&env, |tenant| tenant).await?;
        for round in 0..ROUNDS {
            let checked = check_chat(&pair).await;
            checked.with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
}

/// QUOTA-52, QUOTA-82, TURN-12: the same is admitted however badly PostgreSQL plans.
#[test]
fn no_plan_changes_what_is_admitted() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |mut env| {
        let database = env.database.clone();
        let mut limited = Limited::new(&env).await?;
        for plan in PLANS {
            env.database = database.with_settings(&plan.settings());
            for sql in plan.statements() {
                database.query(&sql).await?;
            }
            limited.pair = Limited::pair(&env, limited.limit).await?;
            for round in 0..2 {
                let checked = async {
                    limited.check(&env, round).await?;
                    check_chat(&limited.pair).await
                };
                let checked = checked.await;
                checked.with_context(|| format!("{plan:?}, round {round}"))?;
            }
        }
        Ok(())
    })
}

/// QUOTA-82: whatever one user does at once in a few chats at two processes, no
/// transaction waits for one that waits for it.
#[test]
fn nothing_that_a_user_does_at_once_deadlocks() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let pair = Pair::new(&env, |tenant| tenant).await?;
        let users = pair.user(Uuid::new_v4())?;
        let mut chats = Vec::new();
        for model in ["std", "prem", "std"] {
            chats.push(users[0].create_chat(Some(model)).await?);
        }
        let busy = (0..24).map(async |number: usize| {
            let (user, chat) = (&users[number % 2], &chats[number % chats.len()]);
            for step in 0..20 {
                let path = format!("/chats/{chat}/messages:stream");
                let sent = user.post(&path, &json!({"content": "PING"})).await?;
                ensure!(matches!(sent.status.as_u16(), 200 | 409), "{sent:?}");
                let turns = user.messages(chat).await?;
                let Some(request) = turns.last().and_then(|it| it["request_id"].as_str()) else {
                    continue;
                };
                let changed = match (number + step) % 3 {
                    0 => user.retry(chat, request).await?,
                    1 => user.edit(chat, request, "PING").await?,
                    _ => user.delete_turn(chat, request).await?,
                };
                ensure!(
                    matches!(changed.status.as_u16(), 200 | 204 | 400 | 404 | 409),
                    "{changed:?}"
                );
            }
            anyhow::Ok(())
        });
        try_join_all(busy).await?;
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        assert_eq!(env.database.number(deadlocks).await?, 0);
        let reserved = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
        eventually("settled", async || {
            Ok(env.database.number(reserved).await? == 0)
        })
        .await
    })
}
