//! How often a send waits for PostgreSQL before the provider is called.

use minichat_tests::client::Api;
use minichat_tests::database::DatabaseKind;
use minichat_tests::harness::{Scene, run};
use minichat_tests::postgres_proxy::PostgresProxy;
use minichat_tests::scripted_provider::{Ending, Scenario};
use minichat_tests::sent_files::StoredFile;
use serde_json::{Value, json};

/// Without files: a read, and the statement that reserves.
const WITHOUT_FILES: usize = 2;

/// In a chat with files for tools: these are read, too.
const WITH_TOOL_FILES: usize = 3;

/// With files: the locks, what they protect, and the rows one by one.
const WITH_FILES: usize = 12;

/// Round trips of the reserve of a message: the least of several, because
/// other work of the process can only add to them.
async fn of_send(
    scene: &Scene,
    proxy: &PostgresProxy,
    (user, chat): (&Api, &str),
    body: &Value,
) -> anyhow::Result<usize> {
    let mut least = usize::MAX;
    for _ in 0..8 {
        scene.provider.push_scenario(Scenario {
            hold_before_head: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let before = proxy.round_trips();
        let stream = user.open(chat, body).await?;
        least = least.min(proxy.round_trips() - before);
        scene.provider.release(1);
        stream.collect().await?.only("done")?;
    }
    Ok(least)
}

/// CONT-70: what files cost does not depend on their number, and a message without any
/// pays nothing for them.
#[test]
fn a_send_takes_as_many_round_trips_with_five_files_as_with_one() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let mut files = Vec::new();
        for _ in 0..5 {
            let file = StoredFile::document(&chat);
            files.push(file.insert(scene.database()).await?.id);
        }
        let mut taken = Vec::new();
        for count in [0, 1, 5] {
            let body = json!({"content": "look", "attachment_ids": files[..count]});
            taken.push(of_send(&scene, &proxy, (&user, chat.as_str()), &body).await?);
        }
        assert_eq!(taken, [WITHOUT_FILES, WITH_FILES, WITH_FILES]);
        Ok(())
    })
}

/// CONT-100, QUOTA-50, QUOTA-52: a message that may make counted calls of tools is
/// admitted by what was read once, without locks.
#[test]
fn a_send_that_offers_tools_reads_the_chat_once() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, async |env| {
        let (scene, proxy) = env.proxied_scene("").await?;
        let mut tenant = scene.tenant.clone();
        tenant.model("std")["toolSupport"] =
            json!({"webSearch": true, "fileSearch": true, "codeInterpreter": true});
        scene.stack.apply(&tenant).await?;
        let user = scene.new_user()?;
        let chat = user.create_chat(Some("std")).await?;
        let offered = || {
            let request = scene.provider.requests().pop();
            request.map_or(Value::Null, |request| {
                request.body["tools"][0]["type"].clone()
            })
        };
        let body = json!({"content": "look", "web_search": {"enabled": true}});
        let taken = of_send(&scene, &proxy, (&user, chat.as_str()), &body).await?;
        assert_eq!((taken, offered()), (WITHOUT_FILES, json!("web_search")));
        let file = StoredFile::document(&chat).insert(scene.database()).await?;
        let for_code = "for_code_interpreter = TRUE, for_file_search = FALSE";
        file.set(scene.database(), for_code).await?;
        let body = json!({"content": "look"});
        let taken = of_send(&scene, &proxy, (&user, chat.as_str()), &body).await?;
        assert_eq!(
            (taken, offered()),
            (WITH_TOOL_FILES, json!("code_interpreter"))
        );
        Ok(())
    })
}
