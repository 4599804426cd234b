//! A person who is erased, and what a person can read of himself.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use minichat_core::Clock as _;
use minichat_tests::books::{check_balanced, check_books};
use minichat_tests::child::job;
use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::sent_files::StoredFile;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit_events::curious;
use crate::persons::{Person, SECRET, count, written};

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

on_each_database! {
    /// PLAT-22, API-113
    async fn nothing_of_an_erased_person_is_left_but_what_was_spent(env) {
        let scene = env.scene_with(curious).await?;
        let (person, other) = (Person::new(&scene)?, Person::new(&scene)?);
        person.live(scene.database()).await?;
        let chat = other.api.create_chat(None).await?;
        other.api.say(&chat, &format!("who is {}?", person.id)).await?;
        let before = other.export().await?;
        let turns = "SELECT count(*) FROM chat_turns";
        let all = scene.database().number(turns).await?;

        let erased = person.erase(200).await?;
        assert_eq!(erased["status"], "finished", "{erased}");
        assert_eq!(erased["erased"]["chats"], 2, "{erased}");
        assert_eq!(erased["erased"]["files"], 1, "{erased}");
        assert_eq!(erased["erased"]["turns"], all - 1, "{erased}");
        assert!(erased["erased"]["quota_rows"].as_i64() > Some(0), "{erased}");
        let in_text = [
            ("messages", format!("content LIKE '%{}%'", person.id)),
            ("outbox_messages", format!("payload LIKE '%who is {}%'", person.id)),
        ];
        let of_other = count(scene.database(), &in_text).await?;
        assert_eq!(of_other, 2, "what another person wrote stays");
        assert_eq!(person.traces(scene.database()).await?, 1, "the event of the other person");
        assert_eq!(count(scene.database(), &written()).await?, 0);
        assert_eq!(scene.database().number(turns).await?, all);
        check_books(scene.database()).await?;
        assert_eq!(other.export().await?, before);
        assert_eq!(person.export().await?, Vec::<Value>::new());
        assert_eq!(person.erase(200).await?["erased"]["turns"], 0);
    }

    /// PLAT-22, API-114: wherever the events of the person are, they are changed, and
    /// nothing of another person of the tenant, or of who has the same id in another
    /// tenant. What a provider said goes as well.
    async fn an_erasure_reaches_every_table_and_no_other_person(env) {
        let provider = ScriptedProvider::start().await?;
        let tenants = ["acme", "other"].map(|name| {
            let mut tenant = curious(Tenant::new(name, provider.addr));
            let sink = json!({"url": "http://127.0.0.1:1/usage"});
            tenant.spec()["usageSink"] = json!({"type": "Webhook", "webhook": sink});
            tenant
        });
        let stack = env.serve(&tenants.each_ref()).await?;
        let database = &stack.database;
        let person = Person::of(&stack, &tenants[0], Uuid::new_v4())?;
        let neighbour = Person::of(&stack, &tenants[0], Uuid::new_v4())?;
        let namesake = Person::of(&stack, &tenants[1], person.id)?;
        for other in [&neighbour, &namesake] {
            other.live(database).await?;
            other.spread_events(database).await?;
        }
        let before = (neighbour.export().await?, namesake.export().await?);
        let named = (neighbour.traces(database).await?, namesake.traces(database).await?);
        person.live(database).await?;
        person.spread_events(database).await?;
        let exported = (neighbour.export().await?, namesake.export().await?);
        assert!(exported == before, "nothing of the person");
        check_balanced(database).await?;

        // What a provider said.
        let chats = format!(
            "(SELECT id FROM chats WHERE tenant_id = '{}' AND user_id = '{}')",
            person.tenant, person.id
        );
        for said in [
            format!("UPDATE chat_turns SET error_detail = '{SECRET}' WHERE chat_id IN {chats}"),
            format!("UPDATE chat_turns SET provider_response_id = '{SECRET}' WHERE chat_id IN {chats}"),
            format!("UPDATE messages SET provider_response_id = '{SECRET}' WHERE chat_id IN {chats}"),
        ] {
            database.query(&said).await?;
        }
        let links = "SELECT count(*) FROM message_attachments";
        assert_eq!(database.number(links).await?, 3);
        person.erase(200).await?;
        let said = [
            ("chat_turns", format!("error_detail = '{SECRET}'")),
            ("chat_turns", format!("provider_response_id = '{SECRET}'")),
            ("messages", format!("provider_response_id = '{SECRET}'")),
        ];
        for said in said {
            assert_eq!(count(database, std::slice::from_ref(&said)).await?, 0, "{said:?}");
        }
        assert_eq!(database.number(links).await?, 2);
        assert_eq!(person.traces(database).await?, 0);
        assert_eq!(person.export().await?, Vec::<Value>::new());
        let exported = (neighbour.export().await?, namesake.export().await?);
        assert!(exported == before, "{exported:#?} {before:#?}");
        assert_eq!((neighbour.traces(database).await?, namesake.traces(database).await?), named);
        check_balanced(database).await?;
    }

    /// API-113: an app's ordinary token is not enough.
    async fn only_a_scope_by_its_name_erases(env) {
        let scene = env.scene().await?;
        let person = Person::new(&scene)?;
        person.live(scene.database()).await?;
        for scopes in ["", "ai:mini_chat", "ai:mini_chat:write", "ai:mini_chat:erase"] {
            let api = person.api.with_header("x-scopes", scopes)?;
            api.delete("/me").await?.problem(403, "insufficient_permissions")?;
        }
        assert_eq!(count(scene.database(), &[("erasures", "1 = 1".to_owned())]).await?, 0);
        let named = person.api.with_header("x-scopes", "ai:mini_chat:write,ai:mini_chat:erase")?;
        named.delete("/me").await?.expect(200)?;
    }

    /// API-114, PLAT-22, PLAT-23: an answer that is being written is waited for, then it
    /// goes as well.
    async fn an_erasure_waits_for_a_running_turn(env) {
        let scene = env.scene().await?;
        let mut held = scene.held_with("std", SECRET).await?;
        let eraser = held.user.with_header("x-scopes", "*")?;
        let waits = eraser.delete("/me").await?.expect(202)?;
        assert_eq!(waits["status"], "in_progress", "{waits}");
        assert_eq!(waits["waiting_for"]["running_turns"], 1, "{waits}");
        let exported = eraser.get("/me/export").await?;
        let exported = String::from_utf8(exported.body.to_vec())?;
        assert!(exported.contains("{\"type\":\"erasure\","), "{exported}");
        eraser.get(&format!("/chats/{}", held.chat)).await?.problem(404, "chat_not_found")?;
        scene.provider.release(1);
        held.stream.expect("done").await?;
        let ended = async || {
            Ok(scene.database().number("SELECT count(*) FROM chat_turns WHERE state = 'running'").await? == 0)
        };
        scene.stack.eventually("ended", ended).await?;
        eraser.delete("/me").await?.expect(200)?;
        assert_eq!(count(scene.database(), &written()).await?, 0);
        check_books(scene.database()).await?;
    }

    /// PLAT-22: what a person writes while he is erased is erased as well or belongs to
    /// him alone, and the books balance at every end.
    async fn a_person_who_goes_on_writing_is_erased_without_losing_a_credit(env) {
        let scene = env.scene().await?;
        for _ in 0..10 {
            let person = Person::new(&scene)?;
            let writes = async {
                for _ in 0..6 {
                    let chat = person.api.create_chat(None).await?;
                    // Refused if the chat is deleted meanwhile.
                    let body = json!({"content": SECRET});
                    let path = format!("/chats/{chat}/messages:stream");
                    person.api.post(&path, &body).await?;
                }
                anyhow::Ok(())
            };
            let erases = async {
                for _ in 0..6 {
                    let answer = person.api.delete("/me").await?;
                    ensure!([200, 202].contains(&answer.status.as_u16()), "{answer:?}");
                }
                anyhow::Ok(())
            };
            let also_erases = async {
                for _ in 0..6 {
                    person.api.delete("/me").await?;
                }
                anyhow::Ok(())
            };
            tokio::try_join!(writes, erases, also_erases)?;
            let over = async || Ok(person.api.delete("/me").await?.status == 200);
            scene.stack.eventually("erased", over).await?;
            assert_eq!(person.traces(scene.database()).await?, 0);
            check_balanced(scene.database()).await?;
        }
        assert_eq!(count(scene.database(), &written()).await?, 0);
    }

    /// API-114
    async fn an_export_has_everything_of_its_reader_and_nothing_of_others(env) {
        let scene = env.scene_with(curious).await?;
        let (person, other) = (Person::new(&scene)?, Person::new(&scene)?);
        person.live(scene.database()).await?;
        let chat = other.api.create_chat(None).await?;
        other.api.say(&chat, &format!("{} is not me", person.id)).await?;
        person.spread_events(scene.database()).await?;
        let lines = person.export().await?;
        let kinds: BTreeSet<_> = lines.iter().filter_map(|line| line["type"].as_str()).collect();
        for kind in [
            "chat", "message", "turn", "reaction", "attachment", "message_attachment", "summary",
            "quota", "usage", "event",
        ] {
            assert!(kinds.contains(kind), "{kind} is missing: {kinds:?}");
        }
        let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
        assert_eq!(of("chat"), 2);
        let messages = format!(
            "SELECT count(*) FROM messages m JOIN chats c ON c.id = m.chat_id \
             WHERE c.user_id = '{}'", person.id
        );
        assert_eq!(i64::try_from(of("message"))?, scene.database().number(&messages).await?);
        let events = ["outbox_messages", "outbox_dead_letters"]
            .map(|table| (table, format!("payload LIKE '%user_id\":\"{}\"%'", person.id)));
        let events = count(scene.database(), &events).await?;
        assert_eq!(i64::try_from(of("event"))?, events, "waiting, delivered and refused");
        let text = serde_json::to_string(&lines)?;
        assert!(text.contains(SECRET) && !text.contains("is not me"), "{text}");
        assert!(!text.contains(&other.id.to_string()), "{text}");
        let now = minichat_core::SystemClock.now().date().to_string();
        assert!(text.contains(&now), "{text}");
    }

    /// API-107, API-114: thumbnails too, of as many files as there are.
    async fn an_export_has_every_thumbnail(env) {
        let scene = env.scene().await?;
        let person = Person::new(&scene)?;
        let chat = person.api.create_chat(None).await?;
        for with_thumbnail in [true, false].repeat(6) {
            let image = StoredFile::image(&chat).insert(scene.database()).await?;
            if with_thumbnail {
                image.add_thumbnail(scene.database()).await?;
            }
        }
        let lines = person.export().await?;
        let files: Vec<_> = lines.iter().filter(|line| line["type"] == "attachment").collect();
        assert_eq!(files.len(), 12);
        let thumbnails = files.iter().filter_map(|file| file.get("img_thumbnail"));
        let thumbnails: Vec<_> = thumbnails.collect();
        let expected = json!({"content_type": "image/webp", "width": 128, "height": 64,
            "data_base64": "aGk="});
        assert_eq!(thumbnails, [&expected; 6]);
    }

    /// PLAT-22: the command, on a database that nobody serves.
    async fn the_command_erases_whom_it_names_and_nobody_else(env) {
        let scene = env.scene().await?;
        let (person, other) = (Person::new(&scene)?, Person::new(&scene)?);
        person.live(scene.database()).await?;
        other.live(scene.database()).await?;
        let kept = other.export().await?;
        let (tenant, url) = (scene.tenant.id, scene.database().url());
        let Scene { stack, provider, .. } = scene;
        stack.stop().await?;
        let erase = async |tenant: Uuid, user: Uuid| {
            let (tenant, user) = (tenant.to_string(), user.to_string());
            let command = ["erase", "--tenant", &tenant, "--user", &user, "--timeout", "0"];
            anyhow::Ok(job(BINARY, &command, &url)?.wait_with_output().await?)
        };
        let words = loop {
            let unknown = erase(Uuid::new_v4(), person.id).await?;
            assert_eq!(unknown.status.code(), Some(1));
            let words = String::from_utf8(unknown.stderr)?;
            // The last task of what has served may still have the file open.
            if !words.contains("another process has the database file") {
                break words;
            }
        };
        assert!(words.contains("was ever served from this database"), "{words}");

        let done = erase(tenant, person.id).await?;
        let out = String::from_utf8(done.stdout)?;
        let report = out.lines().find(|line| line.contains("\"job\":\"erase\""));
        let report: Value = serde_json::from_str(report.context("no report")?)?;
        assert_eq!(done.status.code(), Some(0), "{report}");
        assert_eq!(report["status"], "finished", "{report}");
        assert_eq!(report["erased"]["chats"], 2, "{report}");
        drop(provider);
        check_books(&env.database).await?;
        let named = format!("SELECT count(*) FROM chats WHERE user_id = '{}'", person.id);
        assert_eq!(env.database.number(&named).await?, 0);
        let others = format!("SELECT count(*) FROM chats WHERE user_id = '{}'", other.id);
        let chats = kept.iter().filter(|line| line["type"] == "chat").count();
        assert_eq!(env.database.number(&others).await?, i64::try_from(chats)?);
    }
}
