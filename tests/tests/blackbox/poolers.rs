//! PostgreSQL behind a pooler in transaction mode (D43): sessions are lent for one transaction each.

use minichat_tests::books::check_books;
use minichat_tests::child::{job_run, spawn};
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Env, Scene, Stack, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::pooler::Pooler;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::json;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
/// Far fewer than the data planes would open.
const CONNECTIONS: u32 = 3;

async fn serve(env: &Env, pooler: &Pooler, tenant: &Tenant) -> anyhow::Result<Stack> {
    let (behind, direct) = (pooler.url(&env.database.url())?, env.database.url());
    let settings = format!("MINICHAT_DATABASE_URL={behind}\nMINICHAT_DATABASE_LISTEN_URL={direct}");
    env.serve_with(&[tenant], &settings).await
}

/// Forty users of both data planes at once, three turns each.
async fn crowd(here: &Stack, there: &Stack, tenant: &Tenant) -> anyhow::Result<()> {
    let users = (0..40).map(|number| {
        let stack = if number % 2 == 0 { here } else { there };
        async {
            let user = stack.new_user(tenant)?;
            let chat = user.create_chat(None).await?;
            for _ in 0..3 {
                user.say(&chat, "PING").await?.only("done")?;
            }
            anyhow::ensure!(user.messages(&chat).await?.len() == 6);
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(users).await?;
    Ok(())
}

/// A turn of one data plane is stopped at the other.
async fn stop_across(scene: &Scene, there: &Stack) -> anyhow::Result<()> {
    let user_id = Uuid::new_v4();
    let user = scene.stack.caller(&scene.tenant, user_id)?;
    let chat = user.create_chat(None).await?;
    let hanging = Scenario::deltas(&["part"], Ending::Hang);
    scene.provider.push_scenario(hanging);
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    let started = stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    let elsewhere = there.caller(&scene.tenant, user_id)?;
    let stopped = elsewhere.cancel(&chat, started.text("request_id")).await?;
    stopped.expect(202)?;
    assert_eq!(stream.expect("error").await?.text("code"), "cancelled");
    Ok(())
}

async fn two_data_planes_serve_and_stop_turns_of_each_other(env: Env) -> anyhow::Result<()> {
    let pooler = Pooler::start(&env.database.url(), CONNECTIONS, "").await?;
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    let stack = serve(&env, &pooler, &tenant).await?;
    let there = serve(&env, &pooler, &tenant).await?;
    let scene = Scene {
        provider,
        tenant,
        stack,
    };
    crowd(&scene.stack, &there, &scene.tenant).await?;
    stop_across(&scene, &there).await?;
    stop_across(&scene, &there).await?;
    there.stop().await?;
    scene.stack.stop().await?;
    check_books(&env.database).await?;
    // The other commands take the same two addresses.
    let (behind, direct) = (pooler.url(&env.database.url())?, env.database.url());
    let variables = [
        ("MINICHAT_DATABASE_URL", behind.as_str()),
        ("MINICHAT_DATABASE_LISTEN_URL", direct.as_str()),
    ];
    for arguments in [
        &["migrate"][..],
        &["watchdog"],
        &["tenants", "list", "--json"],
    ] {
        let done = job_run(spawn(BINARY, arguments, &variables)?).await?;
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
    Ok(())
}

/// Whether the pooler refuses settings that come with a connection, or forgets them.
async fn a_pooler_alone_is_refused(env: Env) -> anyhow::Result<()> {
    let manifests = env.manifests().display().to_string();
    let commands: [&[&str]; 3] = [
        &["serve", "--manifests", &manifests],
        &["migrate"],
        &["tenants", "list"],
    ];
    for settings in ["", "ignore_startup_parameters = options,extra_float_digits"] {
        let pooler = Pooler::start(&env.database.url(), CONNECTIONS, settings).await?;
        let behind = pooler.url(&env.database.url())?;
        let variables = [
            ("MINICHAT_DATABASE_URL", behind.as_str()),
            ("MINICHAT_AUTH_MODE", "dev"),
            ("MINICHAT_AUTH_ALLOW_DEV", "true"),
            ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
            ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
        ];
        for arguments in commands {
            let refused = job_run(spawn(BINARY, arguments, &variables)?).await?;
            assert_eq!(refused.status.code(), Some(1), "{arguments:?} {settings}");
            for words in ["database.url leads through a pooler", "database.listen_url"] {
                let said = &refused.stderr;
                assert!(said.contains(words), "{arguments:?} {settings}: {said}");
            }
        }
    }
    Ok(())
}

/// The address of the server and that of the pooler in each other's place, and the pooler's in both.
async fn a_pooler_that_listens_is_refused(env: Env) -> anyhow::Result<()> {
    let manifests = env.manifests().display().to_string();
    for settings in ["", "ignore_startup_parameters = options,extra_float_digits"] {
        let pooler = Pooler::start(&env.database.url(), CONNECTIONS, settings).await?;
        let behind = pooler.url(&env.database.url())?;
        for url in [&behind, &env.database.url()] {
            let variables = [
                ("MINICHAT_DATABASE_URL", url.as_str()),
                ("MINICHAT_DATABASE_LISTEN_URL", behind.as_str()),
                ("MINICHAT_AUTH_MODE", "dev"),
                ("MINICHAT_AUTH_ALLOW_DEV", "true"),
                ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
                ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
            ];
            let serve = ["serve", "--manifests", &manifests];
            let refused = job_run(spawn(BINARY, &serve, &variables)?).await?;
            assert_eq!(refused.status.code(), Some(1), "{url} {settings}");
            for words in [
                "database.listen_url leads through a pooler",
                "write the address of PostgreSQL itself there",
            ] {
                let said = &refused.stderr;
                assert!(said.contains(words), "{url} {settings}: {said}");
            }
        }
    }
    Ok(())
}

mod on_postgres {
    use super::*;

    /// D3, D43
    #[test]
    fn two_data_planes_serve_and_stop_turns_of_each_other() -> anyhow::Result<()> {
        run(
            DatabaseKind::Postgres,
            super::two_data_planes_serve_and_stop_turns_of_each_other,
        )
    }

    /// D43
    #[test]
    fn a_pooler_alone_is_refused() -> anyhow::Result<()> {
        run(DatabaseKind::Postgres, super::a_pooler_alone_is_refused)
    }

    /// D3, D43
    #[test]
    fn a_pooler_that_listens_is_refused() -> anyhow::Result<()> {
        run(
            DatabaseKind::Postgres,
            super::a_pooler_that_listens_is_refused,
        )
    }
}
