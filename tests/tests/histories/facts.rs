//! The rows of one history, read from the database without the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::database::{Database, Rows};
use minichat_tests::postgres::query_on;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::client::Identity;

/// The rows of one user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) turns: BTreeMap<Uuid, Turn>,
    pub(crate) messages: BTreeMap<Uuid, Message>,
    pub(crate) files: BTreeMap<Uuid, File>,
    /// The files of messages, in their order, by message.
    pub(crate) links: BTreeMap<Uuid, Vec<Uuid>>,
    /// By period, its first day and the bucket; rows of zeros are left out.
    pub(crate) cells: BTreeMap<(String, String, String), Cell>,
    /// By turn.
    pub(crate) usage: BTreeMap<Uuid, UsageEvent>,
    /// Type and turn, sorted.
    pub(crate) audits: Vec<(String, Uuid)>,
    pub(crate) deleted_chats: BTreeSet<Uuid>,
    /// Chats and files that are queued for clean-up, sorted.
    pub(crate) cleanups: Vec<Uuid>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    pub(crate) chat: Uuid,
    pub(crate) request: Uuid,
    pub(crate) state: String,
    pub(crate) error_code: Option<String>,
    pub(crate) answer: Option<Uuid>,
    pub(crate) is_deleted: bool,
    pub(crate) replaced_by: Option<Uuid>,
    pub(crate) reserve_tokens: i64,
    pub(crate) reserved_credits: i64,
    pub(crate) max_output: i64,
    pub(crate) floor: i64,
    pub(crate) day: String,
    pub(crate) searches_web: bool,
    /// Completed calls that are stored.
    pub(crate) calls: Calls,
    /// Microseconds since 1970, like all times here.
    pub(crate) started_at: i64,
    pub(crate) last_progress_at: i64,
}

impl Turn {
    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) chat: Uuid,
    pub(crate) request: Uuid,
    pub(crate) role: String,
    pub(crate) content: String,
    pub(crate) is_deleted: bool,
    pub(crate) tokens: (i64, i64),
    pub(crate) created_at: i64,
}

/// Calls of the tools whose calls are limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) web_search: i64,
    pub(crate) code_interpreter: i64,
}

/// A file that was uploaded to a chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct File {
    pub(crate) chat: Uuid,
    pub(crate) is_image: bool,
    /// The code interpreter can read it.
    pub(crate) is_for_code: bool,
    pub(crate) is_deleted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) reserved: i64,
    pub(crate) spent: i64,
    pub(crate) calls: i64,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) tools: Calls,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UsageEvent {
    pub(crate) state: String,
    pub(crate) error_code: Option<String>,
    pub(crate) billing: String,
    pub(crate) method: String,
    pub(crate) credits: i64,
    pub(crate) reserved: i64,
    pub(crate) tools: Calls,
}

/// A connection to the database beside those of the code under test. It only reads,
/// and writes what is there before a history begins.
pub(crate) struct Window {
    backend: Backend,
    texts: [String; 7],
}

enum Backend {
    Sqlite { reader: Connection, path: PathBuf },
    Postgres(PostgresThread),
}

/// `?1` and `?2` are the tenant and the user; `at(…)` is an instant in
/// microseconds.
const TEXTS: [&str; 7] = [
    "SELECT id, chat_id, request_id, state, error_code, \
     assistant_message_id, CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END, \
     replaced_by_request_id, reserve_tokens, reserved_credits_micro, \
     max_output_tokens_applied, minimal_generation_floor_applied, reserve_day, \
     at(started_at), at(last_progress_at), \
     CASE WHEN web_search_enabled THEN 1 ELSE 0 END, web_search_completed_count, \
     code_interpreter_completed_count FROM chat_turns \
     WHERE chat_id IN (SELECT id FROM chats WHERE tenant_id = ?1 AND user_id = ?2)",
    "SELECT id, chat_id, request_id, role, content, \
     CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END, input_tokens, output_tokens, \
     at(created_at) FROM messages \
     WHERE chat_id IN (SELECT id FROM chats WHERE tenant_id = ?1 AND user_id = ?2)",
    "SELECT id, chat_id, CASE WHEN attachment_kind = 'image' THEN 1 ELSE 0 END, \
     CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END, \
     CASE WHEN for_code_interpreter THEN 1 ELSE 0 END FROM attachments \
     WHERE chat_id IN (SELECT id FROM chats WHERE tenant_id = ?1 AND user_id = ?2)",
    "SELECT message_id, attachment_id FROM message_attachments \
     WHERE chat_id IN (SELECT id FROM chats WHERE tenant_id = ?1 AND user_id = ?2) \
     ORDER BY message_id, created_at, attachment_id",
    "SELECT period_type, period_start, bucket, reserved_credits_micro, \
     spent_credits_micro, calls, input_tokens, output_tokens, web_search_calls, \
     code_interpreter_calls FROM quota_usage \
     WHERE tenant_id = ?1 AND user_id = ?2",
    "SELECT id FROM chats WHERE tenant_id = ?1 AND user_id = ?2 AND deleted_at IS NOT NULL",
    // The queue has no index by user. Only one history at a time writes to it.
    "SELECT queue, dedupe_key, payload FROM outbox_messages WHERE id > ?1 ORDER BY id",
];

impl Window {
    pub(crate) fn open(database: &Database) -> anyhow::Result<Self> {
        let (backend, at) = match database {
            Database::Sqlite(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
                let reader = Connection::open_with_flags(path, flags)?;
                let path = path.clone();
                (Backend::Sqlite { reader, path }, "(")
            }
            Database::Postgres(_) => {
                let thread = PostgresThread::start(database.url())?;
                (
                    Backend::Postgres(thread),
                    "trunc(1000000 * extract(epoch FROM ",
                )
            }
        };
        let end = if at == "(" { ")" } else { "))" };
        let texts = TEXTS.map(|text| {
            let mut parts = text.split("at(");
            let mut whole = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                whole.push_str(at);
                whole.push_str(&part.replacen(')', end, 1));
            }
            whole
        });
        Ok(Self { backend, texts })
    }

    /// The end of the queues, after which a new history writes.
    pub(crate) fn end_of_queues(&self) -> anyhow::Result<i64> {
        let sql = "SELECT COALESCE(MAX(id), 0) FROM outbox_messages";
        let rows = self.rows(sql, &[])?;
        number(rows.first().context("no row")?, 0)
    }

    /// Sets the time of a database that has its own clock.
    pub(crate) fn set_time(&self, micros: i64) -> anyhow::Result<()> {
        match &self.backend {
            Backend::Sqlite { .. } => Ok(()),
            Backend::Postgres(thread) => {
                let sql = format!(
                    "UPDATE simulated.clock \
                     SET now = TIMESTAMPTZ 'epoch' + {micros} * INTERVAL '1 microsecond'"
                );
                thread.query(sql).map(drop)
            }
        }
    }

    pub(crate) fn look(&self, who: Identity, behind: i64) -> anyhow::Result<Facts> {
        let user = [who.tenant.to_string(), who.user.to_string()];
        let [turns, messages, files, links, cells, deleted, queues] = &self.texts;
        let mut facts = Facts::default();
        for row in self.rows(turns, &user)? {
            let (id, turn) = turn(&row)?;
            facts.turns.insert(id, turn);
        }
        for row in self.rows(messages, &user)? {
            let (id, message) = message(&row)?;
            facts.messages.insert(id, message);
        }
        for row in self.rows(files, &user)? {
            let file = File {
                chat: text(&row, 1)?.parse()?,
                is_image: number(&row, 2)? == 1,
                is_deleted: number(&row, 3)? == 1,
                is_for_code: number(&row, 4)? == 1,
            };
            facts.files.insert(text(&row, 0)?.parse()?, file);
        }
        for row in self.rows(links, &user)? {
            let message = facts.links.entry(text(&row, 0)?.parse()?).or_default();
            message.push(text(&row, 1)?.parse()?);
        }
        for row in self.rows(cells, &user)? {
            let key = (text(&row, 0)?, text(&row, 1)?, text(&row, 2)?);
            let cell = cell(&row)?;
            if cell != Cell::default() {
                facts.cells.insert(key, cell);
            }
        }
        for row in self.rows(deleted, &user)? {
            facts.deleted_chats.insert(text(&row, 0)?.parse()?);
        }
        for row in self.rows(queues, &[behind.to_string()])? {
            facts.add_event(&row)?;
        }
        facts.audits.sort();
        facts.cleanups.sort();
        Ok(facts)
    }

    /// Gives `chat` two images, a document and a sheet for the code interpreter, as
    /// uploads leave them.
    pub(crate) fn add_files(&self, chat: Uuid) -> anyhow::Result<()> {
        for (kind, is_for_code) in [
            ("image", false),
            ("image", false),
            ("document", false),
            ("document", true),
        ] {
            let id = Uuid::new_v4();
            let sql = format!(
                "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, \
                 filename, content_type, size_bytes, storage_backend, provider_file_id, \
                 status, attachment_kind, for_code_interpreter, created_at, updated_at) \
                 SELECT '{id}', tenant_id, id, user_id, 'file', 'image/png', 1, 'llm', \
                 'file-{id}', 'ready', '{kind}', {is_for_code}, created_at, updated_at \
                 FROM chats WHERE id = '{chat}'"
            );
            match &self.backend {
                Backend::Sqlite { path, .. } => {
                    let writer = Connection::open(path)?;
                    writer.busy_timeout(Duration::from_secs(10))?;
                    writer.execute(&sql, [])?;
                }
                Backend::Postgres(thread) => {
                    thread.query(sql)?;
                }
            }
        }
        Ok(())
    }

    fn rows(&self, sql: &str, params: &[String]) -> anyhow::Result<Rows> {
        match &self.backend {
            Backend::Sqlite { reader, .. } => sqlite_rows(reader, sql, params),
            Backend::Postgres(thread) => {
                let mut sql = sql.to_owned();
                for (index, value) in params.iter().enumerate() {
                    sql = sql.replace(&format!("?{}", index + 1), &format!("'{value}'"));
                }
                thread.query(sql)
            }
        }
    }
}

fn sqlite_rows(connection: &Connection, sql: &str, params: &[String]) -> anyhow::Result<Rows> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let values: Result<Vec<_>, rusqlite::Error> = (0..columns)
            .map(|index| row.get_ref(index).map(as_text))
            .collect();
        found.push(values?);
    }
    Ok(found)
}

/// A connection in a separate thread, so that reading does not wake the runtime
/// of the history.
struct PostgresThread {
    questions: mpsc::Sender<(String, mpsc::Sender<anyhow::Result<Rows>>)>,
}

impl PostgresThread {
    fn start(url: String) -> anyhow::Result<Self> {
        let (questions, asked) = mpsc::channel::<(String, mpsc::Sender<anyhow::Result<Rows>>)>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(mut connection) = PgConnection::connect(&url).await else {
                    return;
                };
                while let Ok((sql, reply)) = asked.recv() {
                    let rows = query_on(&mut connection, &sql).await;
                    // The caller waits for it.
                    let _ = reply.send(rows);
                }
            });
        });
        Ok(Self { questions })
    }

    fn query(&self, sql: String) -> anyhow::Result<Rows> {
        let (reply, answer) = mpsc::channel();
        self.questions.send((sql, reply))?;
        answer.recv()?
    }
}

impl Facts {
    fn add_event(&mut self, row: &[Option<String>]) -> anyhow::Result<()> {
        let payload: Value = serde_json::from_str(&text(row, 2)?)?;
        if text(row, 0)? == "mini-chat.chat_cleanup" {
            self.cleanups.push(member(&payload, "chat_id")?.parse()?);
            return Ok(());
        }
        if text(row, 0)? == "mini-chat.attachment_cleanup" {
            let file = member(&payload, "attachment_id")?;
            self.cleanups.push(file.parse()?);
            return Ok(());
        }
        let turn: Uuid = member(&payload, "turn_id")?.parse()?;
        if text(row, 0)? == "mini-chat.audit" {
            self.audits.push((member(&payload, "event_type")?, turn));
            return Ok(());
        }
        let tenant = member(&payload, "tenant_id")?.replace('-', "");
        let request = member(&payload, "request_id")?.replace('-', "");
        let key = format!("{tenant}/{}/{request}", turn.as_simple());
        anyhow::ensure!(text(row, 1)? == key, "dedupe_key of {payload}");
        let event = UsageEvent {
            state: member(&payload, "terminal_state")?,
            error_code: payload["error_code"].as_str().map(str::to_owned),
            billing: member(&payload, "billing_outcome")?,
            method: member(&payload, "settlement_method")?,
            credits: payload["actual_credits_micro"].as_i64().unwrap_or(-1),
            reserved: payload["reserved_credits_micro"].as_i64().unwrap_or(-1),
            tools: Calls {
                web_search: payload["web_search_calls"].as_i64().unwrap_or(-1),
                code_interpreter: payload["code_interpreter_calls"].as_i64().unwrap_or(-1),
            },
        };
        let twice = self.usage.insert(turn, event);
        anyhow::ensure!(twice.is_none(), "two usage events of turn {turn}");
        Ok(())
    }
}

fn turn(row: &[Option<String>]) -> anyhow::Result<(Uuid, Turn)> {
    let turn = Turn {
        chat: text(row, 1)?.parse()?,
        request: text(row, 2)?.parse()?,
        state: text(row, 3)?,
        error_code: row[4].clone(),
        answer: optional_id(row, 5)?,
        is_deleted: number(row, 6)? == 1,
        replaced_by: optional_id(row, 7)?,
        reserve_tokens: number(row, 8)?,
        reserved_credits: number(row, 9)?,
        max_output: number(row, 10)?,
        floor: number(row, 11)?,
        day: text(row, 12)?,
        started_at: number(row, 13)?,
        last_progress_at: number(row, 14)?,
        searches_web: number(row, 15)? == 1,
        calls: calls(row, 16)?,
    };
    Ok((text(row, 0)?.parse()?, turn))
}

fn message(row: &[Option<String>]) -> anyhow::Result<(Uuid, Message)> {
    let message = Message {
        chat: text(row, 1)?.parse()?,
        request: text(row, 2)?.parse()?,
        role: text(row, 3)?,
        content: text(row, 4)?,
        is_deleted: number(row, 5)? == 1,
        tokens: (number(row, 6)?, number(row, 7)?),
        created_at: number(row, 8)?,
    };
    Ok((text(row, 0)?.parse()?, message))
}

fn cell(row: &[Option<String>]) -> anyhow::Result<Cell> {
    Ok(Cell {
        reserved: number(row, 3)?,
        spent: number(row, 4)?,
        calls: number(row, 5)?,
        input_tokens: number(row, 6)?,
        output_tokens: number(row, 7)?,
        tools: calls(row, 8)?,
    })
}

/// Those in the column and the next one.
fn calls(row: &[Option<String>], column: usize) -> anyhow::Result<Calls> {
    Ok(Calls {
        web_search: number(row, column)?,
        code_interpreter: number(row, column + 1)?,
    })
}

fn text(row: &[Option<String>], column: usize) -> anyhow::Result<String> {
    let value = row.get(column).and_then(Clone::clone);
    value.with_context(|| format!("column {column} is null"))
}

fn number(row: &[Option<String>], column: usize) -> anyhow::Result<i64> {
    Ok(text(row, column)?.parse()?)
}

fn optional_id(row: &[Option<String>], column: usize) -> anyhow::Result<Option<Uuid>> {
    let value = row.get(column).and_then(Option::as_deref);
    Ok(value.map(str::parse).transpose()?)
}

fn member(payload: &Value, name: &str) -> anyhow::Result<String> {
    let value = payload[name].as_str();
    Ok(value
        .with_context(|| format!("no {name} in {payload}"))?
        .to_owned())
}

fn as_text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Some(String::from_utf8_lossy(text).into_owned())
        }
    }
}
