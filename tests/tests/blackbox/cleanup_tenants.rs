//! The clean-up of one tenant does not wait for another's provider.

use minichat_dataplane::cleanup::{Limits, Stopped};
use minichat_telemetry::Signal;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Scenario, ScriptedProvider};
use minichat_tests::stored_files::{Row, StoredFiles, insert, new_file};
use tokio::time::{Duration, Instant};

const TENANTS: usize = 20;
const CHATS: usize = 3;
/// A call that hangs is longer than this test.
const SETTINGS: &str =
    "MINICHAT_CLEANUP_WORKER_ENABLED=false\nMINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=100";

on_each_database! {
    /// CONT-171: the oldest work is that of a tenant whose provider hangs, and of one whose
    /// provider is not configured; the files of all others are gone while the first call hangs.
    async fn one_tenants_provider_holds_up_no_other(env) {
        let (good, hanging) = (ScriptedProvider::start().await?, ScriptedProvider::start().await?);
        let hangs = Scenario {
            times: 1000,
            for_method: Some("DELETE".to_owned()),
            for_path: Some("/v1/".to_owned()),
            hold_before_head: true,
            ..Scenario::default()
        };
        hanging.push_scenario(hangs);
        let providers = |place| if place == 0 { hanging.addr } else { good.addr };
        let tenants: Vec<Tenant> = (0..TENANTS)
            .map(|place| Tenant::new(&format!("tenant-{place}"), providers(place)))
            .collect();
        let stack = env.serve_with(&tenants.iter().collect::<Vec<_>>(), SETTINGS).await?;
        for (place, tenant) in tenants.iter().enumerate() {
            let user = stack.new_user(tenant)?;
            let backend = if place == 1 { "elsewhere" } else { "main" };
            for _ in 0..CHATS {
                let chat = user.create_chat(None).await?;
                let file = new_file(providers(place)).await?;
                let row = Row { file: Some(&file), status: "ready", backend };
                insert(&stack.database, &chat, row).await?;
                user.delete(&format!("/chats/{chat}")).await?.expect(204)?;
            }
        }
        let (cleanup, stop) = (stack.cleanup(), Signal::new());
        let limits = Limits { stop: &stop, deadline: Instant::now() + Duration::from_secs(1000) };
        let others_are_gone = stack.eventually("the files of the others are gone", async || {
            Ok(good.stored().0.len() == CHATS)
        });
        tokio::select! {
            report = cleanup.run_once(limits) => panic!("a call hangs: {report:?}"),
            gone = others_are_gone => gone?,
        }
        let calls = hanging.requests().into_iter().filter(|it| it.method == "DELETE").count();
        assert!(calls <= 1, "{calls} calls of the provider that hangs");
        assert_eq!(hanging.stored().0.len(), CHATS);
    }

    /// CONT-171, CONT-172, PLAT-22: a pass ends within its time, although more is due than it
    /// can delete, and an erasure that can end does.
    async fn a_full_backlog_leaves_time_for_erasures(env) {
        let settings = "MINICHAT_CLEANUP_WORKER_ENABLED=false\n\
            MINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=1";
        let world = StoredFiles::start(&env, settings).await?;
        let database = &world.stack.database;
        let scopes = ("x-scopes", "ai:mini_chat ai:mini_chat:erase");
        let person = world.stack.new_user(&world.tenant)?.with_header(scopes.0, scopes.1)?;
        let chat = person.create_chat(None).await?;
        world.document(&chat).await?;
        assert_eq!(person.delete("/me").await?.status.as_u16(), 202);
        // As if another pass had deleted its file.
        let done = format!("UPDATE attachments SET cleanup_status = 'done' WHERE chat_id = '{chat}'");
        database.query(&done).await?;
        let chat = world.chat_with(40).await?;
        world.delete_chat(&chat).await?;
        let slow = Scenario {
            times: 1000,
            for_method: Some("DELETE".to_owned()),
            for_path: Some("/v1/".to_owned()),
            delay_before_head_ms: 300,
            ..Scenario::default()
        };
        world.provider.push_scenario(slow);
        let (began, stop) = (Instant::now(), Signal::new());
        let limits = Limits { stop: &stop, deadline: began + Duration::from_secs(4) };
        let report = world.stack.cleanup().run_once(limits).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert_eq!((report.stopped, report.failed), (Stopped::Budget, 0), "{report:?}");
        assert!(report.completed > 0 && report.remaining_pending > 0, "{report:?}");
        let open = "SELECT count(*) FROM erasures WHERE user_id IS NOT NULL";
        assert_eq!(database.number(open).await?, 0);
        world.provider.clear_scenarios();
        assert_eq!(world.pass().await.remaining_pending, 0);
        assert_eq!(world.stored().1, 0);
    }
}
