//! Persons with rows in every table, for the tests of erasures and exports.

use anyhow::{Context as _, ensure};
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::{Scene, Stack};
use minichat_tests::manifest::Tenant;
use serde_json::{Value, json};
use uuid::Uuid;

/// What the persons of these tests write.
pub(super) const SECRET: &str = "marzipan";

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
pub(super) struct Person {
    pub(super) tenant: Uuid,
    pub(super) id: Uuid,
    pub(super) api: Api,
}

impl Person {
    pub(super) fn new(scene: &Scene) -> anyhow::Result<Self> {
        Self::of(&scene.stack, &scene.tenant, Uuid::new_v4())
    }

    pub(super) fn of(stack: &Stack, tenant: &Tenant, id: Uuid) -> anyhow::Result<Self> {
        let api = stack.caller(tenant, id)?;
        let api = api.with_header("x-scopes", "ai:mini_chat ai:mini_chat:erase")?;
        let tenant = tenant.id;
        Ok(Self { tenant, id, api })
    }

    /// Chats with every kind of row: answers, a retry, a failure, a reaction, a
    /// deleted chat.
    pub(super) async fn live(&self, database: &Database) -> anyhow::Result<()> {
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
    /// delivered and one was refused when it had another name, the others stay, and one
    /// of usage is added up.
    pub(super) async fn spread_events(&self, database: &Database) -> anyhow::Result<()> {
        let columns = "queue, partition, tenant_id, dedupe_key, payload_type, payload, created_at";
        for queue in ["mini-chat.usage_snapshot", "mini-chat.audit"] {
            let mine = format!(
                "queue = '{queue}' AND tenant_id = '{}' AND payload LIKE '%user_id\":\"{}\"%'",
                self.tenant, self.id
            );
            let events =
                format!("SELECT id, payload FROM outbox_messages WHERE {mine} ORDER BY id");
            let events: Vec<Vec<String>> = database
                .query(&events)
                .await?
                .into_iter()
                .map(|row| row.into_iter().flatten().collect())
                .collect();
            ensure!(events.len() >= 4, "{queue}: {events:?}");
            let (delivered, refused) = (&events[0][0], &events[1][0]);
            let mut changes = vec![
                format!("UPDATE outbox_messages SET done_at = NULL WHERE {mine}"),
                format!(
                    "UPDATE outbox_messages SET done_at = created_at, queue = 'former.' || queue \
                     WHERE id IN ({delivered}, {refused})"
                ),
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

    pub(super) async fn erase(&self, status: u16) -> anyhow::Result<Value> {
        self.api.delete("/me").await?.expect(status)
    }

    /// The lines of the export, which is complete.
    pub(super) async fn export(&self) -> anyhow::Result<Vec<Value>> {
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
    pub(super) async fn traces(&self, database: &Database) -> anyhow::Result<i64> {
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
pub(super) fn written() -> Vec<(&'static str, String)> {
    let content = CONTENT.iter();
    content
        .map(|(table, column)| (*table, format!("{column} LIKE '%{SECRET}%'")))
        .collect()
}

pub(super) async fn count(database: &Database, rows: &[(&str, String)]) -> anyhow::Result<i64> {
    let mut all = 0;
    for (table, condition) in rows {
        let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
        all += database.number(&sql).await?;
    }
    Ok(all)
}
