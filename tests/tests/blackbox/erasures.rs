//! A person who is erased, and what a person can read of himself.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use minichat_core::Clock as _;
use minichat_tests::books::{check_balanced, check_books};
use minichat_tests::child::job;
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Scene, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit_events::curious;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");

/// What the persons of these tests write.
const SECRET: &str = "marzipan";

/// Columns that say whose a row is.
const PERSONS: [(&str, &str); 7] = [
    ("chats", "user_id"),
    ("chat_turns", "requester_user_id"),
    ("quota_usage", "user_id"),
    ("message_reactions", "user_id"),
    ("attachments", "uploaded_by_user_id"),
    ("usage_rollups", "user_id"),
    ("erasures", "user_id"),
];

/// Columns that contain what was written.
const CONTENT: [(&str, &str); 6] = [
    ("attachments", "filename"),
    ("chats", "title"),
    ("messages", "content"),
    ("thread_summaries", "summary_text"),
    ("outbox_messages", "payload"),
    ("outbox_dead_letters", "payload"),
];

/// One person of a scene, with the right to erase himself.
struct Person {
    tenant: Uuid,
    id: Uuid,
    api: Api,
}

impl Person {
    fn new(scene: &Scene) -> anyhow::Result<Self> {
        Self::of(&scene.stack, &scene.tenant, Uuid::new_v4())
    }

    fn of(stack: &Stack, tenant: &Tenant, id: Uuid) -> anyhow::Result<Self> {
        let api = stack.caller(tenant, id)?;
        let api = api.with_header("x-scopes", "ai:mini_chat ai:mini_chat:erase")?;
        let tenant = tenant.id;
        Ok(Self { tenant, id, api })
    }

    /// Chats with every kind of row: answers, a retry, a failure, a reaction, a
    /// deleted chat.
    async fn live(&self, database: &Database) -> anyhow::Result<()> {
        let chat = self.api.create_chat(Some("std")).await?;
        let title = json!({"title": format!("my {SECRET}")});
        self.api
            .patch(&format!("/chats/{chat}"), &title)
            .await?
            .expect(200)?;
        let said = self.api.say(&chat, &format!("I like {SECRET}")).await?;
        let request = said.only("stream_started")?["request_id"]
            .as_str()
            .context("no request_id")?
            .to_owned();
        let retried = self
            .api
            .open_retry(&chat, &request)
            .await?
            .collect()
            .await?;
        let answer = retried.only("stream_started")?["message_id"].clone();
        let answer = answer.as_str().context("no message_id")?;
        let reaction = format!("/chats/{chat}/messages/{answer}/reaction");
        self.api
            .put(&reaction, &json!({"reaction": "like"}))
            .await?
            .expect(200)?;
        self.api.say(&chat, "ERROR").await?;
        let deleted = self.api.create_chat(Some("prem")).await?;
        self.api.say(&deleted, &format!("no {SECRET}")).await?;
        self.api
            .delete(&format!("/chats/{deleted}"))
            .await?
            .expect(204)?;
        self.have_a_summary_and_a_file(database, &chat).await?;
        ensure!(
            count(database, &written()).await? > 0,
            "nothing was written"
        );
        Ok(())
    }

    /// A summary, and a file of a message that its provider does not have any more.
    async fn have_a_summary_and_a_file(
        &self,
        database: &Database,
        chat: &str,
    ) -> anyhow::Result<()> {
        let tenant = self.tenant;
        let (now, yes) = match database.kind() {
            DatabaseKind::Sqlite => ("1700000000000000", "1"),
            DatabaseKind::Postgres => ("now()", "true"),
        };
        let ids = [Uuid::new_v4(), Uuid::new_v4()];
        let summary = format!(
            "INSERT INTO thread_summaries (id, tenant_id, chat_id, summary_text, \
             summarized_up_to_created_at, summarized_up_to_message_id, created_at, updated_at) \
             VALUES ('{}', '{tenant}', '{chat}', 'about {SECRET}', {now}, '{}', {now}, {now})",
            ids[0], ids[1]
        );
        let file = format!(
            "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
             content_type, size_bytes, storage_backend, status, attachment_kind, \
             for_file_search, cleanup_status, created_at, updated_at) VALUES ('{}', '{tenant}', \
             '{chat}', '{}', '{SECRET}.txt', 'text/plain', 1, 'mock', 'failed', 'document', \
             {yes}, 'done', {now}, {now})",
            ids[1], self.id
        );
        let link = format!(
            "INSERT INTO message_attachments (tenant_id, chat_id, message_id, attachment_id, \
             created_at) SELECT tenant_id, chat_id, id, '{}', created_at FROM messages \
             WHERE chat_id = '{chat}' AND role = 'user' AND deleted_at IS NULL \
             ORDER BY id LIMIT 1",
            ids[1]
        );
        for sql in [summary, file, link] {
            database.query(&sql).await?;
        }
        Ok(())
    }

    /// Puts events of the person wherever events can be: of each queue, one was
    /// delivered, one was refused, the others stay, and one of usage is added up.
    async fn spread_events(&self, database: &Database) -> anyhow::Result<()> {
        let columns = "queue, partition, tenant_id, dedupe_key, payload_type, payload, created_at";
        for queue in ["mini-chat.usage_snapshot", "mini-chat.audit"] {
            let events = format!(
                "SELECT id, payload FROM outbox_messages WHERE queue = '{queue}' \
                 AND tenant_id = '{}' AND payload LIKE '%user_id\":\"{}\"%' ORDER BY id",
                self.tenant, self.id
            );
            let events: Vec<Vec<String>> = database
                .query(&events)
                .await?
                .into_iter()
                .map(|row| row.into_iter().flatten().collect())
                .collect();
            ensure!(events.len() >= 4, "{queue}: {events:?}");
            let (delivered, refused) = (&events[0][0], &events[1][0]);
            let mut changes = vec![
                format!(
                    "UPDATE outbox_messages SET done_at = NULL WHERE queue = '{queue}' AND tenant_id = '{}'",
                    self.tenant
                ),
                format!("UPDATE outbox_messages SET done_at = created_at WHERE id = {delivered}"),
                format!(
                    "INSERT INTO outbox_dead_letters ({columns}, message_id, failed_at) \
                     SELECT {columns}, id, created_at FROM outbox_messages WHERE id = {refused}"
                ),
                format!("DELETE FROM outbox_messages WHERE id = {refused}"),
            ];
            if queue == "mini-chat.usage_snapshot" {
                let event: Value = serde_json::from_str(&events[2][1])?;
                let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                changes.push(format!(
                    "INSERT INTO usage_rollups (tenant_id, user_id, model, day, events, \
                     credits_micro) VALUES ('{}', '{}', '{}', '{}', 1, {})",
                    self.tenant,
                    self.id,
                    text("effective_model"),
                    text("reserve_day"),
                    event["committed_credits_micro"]
                ));
                changes.push(format!(
                    "DELETE FROM outbox_messages WHERE id = {}",
                    events[2][0]
                ));
            }
            for sql in changes {
                database.query(&sql).await?;
            }
        }
        Ok(())
    }

    async fn erase(&self, status: u16) -> anyhow::Result<Value> {
        self.api.delete("/me").await?.expect(status)
    }

    /// The lines of the export, which is complete.
    async fn export(&self) -> anyhow::Result<Vec<Value>> {
        let answer = self.api.get("/me/export").await?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.header("content-type") == "application/jsonl");
        let text = String::from_utf8(answer.body.to_vec())?;
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.push(serde_json::from_str::<Value>(line)?);
        }
        let end = lines.pop().context("no line")?;
        ensure!(end == json!({"type": "end"}), "{end}");
        Ok(lines)
    }

    /// Rows of the tenant that still name the person.
    async fn traces(&self, database: &Database) -> anyhow::Result<i64> {
        let of_tenant = format!("tenant_id = '{}' AND", self.tenant);
        let named = PERSONS
            .iter()
            .map(|(table, column)| (*table, format!("{of_tenant} {column} = '{}'", self.id)));
        let mut traces = count(database, &named.collect::<Vec<_>>()).await?;
        let events = ["outbox_messages", "outbox_dead_letters"]
            .map(|table| (table, format!("{of_tenant} payload LIKE '%{}%'", self.id)));
        traces += count(database, &events).await?;
        Ok(traces)
    }
}

/// Rows with what somebody wrote.
fn written() -> Vec<(&'static str, String)> {
    let content = CONTENT.iter();
    content
        .map(|(table, column)| (*table, format!("{column} LIKE '%{SECRET}%'")))
        .collect()
}

async fn count(database: &Database, rows: &[(&str, String)]) -> anyhow::Result<i64> {
    let mut all = 0;
    for (table, condition) in rows {
        let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
        all += database.number(&sql).await?;
    }
    Ok(all)
}

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

        let said = |tenant: Uuid| {
            let of_tenant = format!("tenant_id = '{tenant}' AND");
            [
                ("chat_turns", format!("{of_tenant} error_detail IS NOT NULL")),
                ("chat_turns", format!("{of_tenant} provider_response_id IS NOT NULL")),
                ("messages", format!("{of_tenant} provider_response_id IS NOT NULL")),
                ("message_attachments", format!("{of_tenant} 1 = 1")),
            ]
        };
        let mut rows = Vec::new();
        for row in said(person.tenant) {
            rows.push(count(database, std::slice::from_ref(&row)).await?);
        }
        person.erase(200).await?;
        for (row, rows) in said(person.tenant).iter().zip(rows) {
            // Half of it is the neighbour's.
            assert!(rows > 0 && count(database, std::slice::from_ref(row)).await? == rows / 2, "{row:?}");
        }
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

    /// PLAT-22: an answer that is being written is waited for, then it goes as well.
    async fn an_erasure_waits_for_a_running_turn(env) {
        let scene = env.scene().await?;
        let mut held = scene.held_with("std", SECRET).await?;
        let eraser = held.user.with_header("x-scopes", "*")?;
        let waits = eraser.delete("/me").await?.expect(202)?;
        assert_eq!(waits["status"], "in_progress", "{waits}");
        assert_eq!(waits["waiting_for"]["running_turns"], 1, "{waits}");
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
        assert_eq!(report["chats"], 2, "{report}");
        drop(provider);
        check_books(&env.database).await?;
        let named = format!("SELECT count(*) FROM chats WHERE user_id = '{}'", person.id);
        assert_eq!(env.database.number(&named).await?, 0);
        let others = format!("SELECT count(*) FROM chats WHERE user_id = '{}'", other.id);
        let chats = kept.iter().filter(|line| line["type"] == "chat").count();
        assert_eq!(env.database.number(&others).await?, i64::try_from(chats)?);
    }
}
