//! Everything that is kept about a person, row by row (API-114): also what is
//! deleted and waits for its removal. Not what belongs to the operation: leases,
//! ids of the provider, errors in its words.

use minichat_core::{ChatId, Date, TenantId, Timestamp, UserId};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::attachments::thumbnail;
use crate::outbox::of_person::{delivered, pattern, refused, waiting};
use crate::value::{Row, params};
use crate::{StoreError, Thumbnail, Tx};

/// Rows of a few hundred bytes that are read at a time.
const ROWS: u32 = 200;

/// Rows with texts or pictures that are read at a time; one may have several MiB.
const TEXTS: u32 = 10;

/// A table with rows about a person.
#[derive(Clone, Copy, Debug)]
pub struct ExportTable {
    /// What a row is called: `type` of its line.
    pub name: &'static str,
    /// How many rows to read at a time, so that they fit into memory.
    pub page: u32,
    sql: &'static str,
    map: fn(&Row<'_>) -> Result<ExportedRow, StoreError>,
}

/// One row. Columns without a value are absent.
#[derive(Clone, Debug)]
pub struct ExportedRow {
    /// The row's id; the next page begins after it.
    pub key: Uuid,
    pub columns: Map<String, Value>,
    /// The picture of a file that is an image.
    pub thumbnail: Option<Thumbnail>,
}

impl ExportTable {
    /// The person's chats, live and deleted.
    pub const CHATS: [Self; 2] = [CHATS, DELETED_CHATS];
    /// Other rows of the person.
    pub const OF_PERSON: [Self; 2] = [QUOTA, ERASURES];
    /// Rows of a chat.
    pub const OF_CHAT: [Self; 7] = [
        MESSAGES,
        DELETED_MESSAGES,
        TURNS,
        REACTIONS,
        ATTACHMENTS,
        LINKS,
        SUMMARIES,
    ];
}

impl Tx {
    /// The next page of `user` in one of [`ExportTable::CHATS`] or
    /// [`ExportTable::OF_PERSON`], after the row `after`, by id.
    pub async fn export_of_person(
        &mut self,
        tenant: TenantId,
        user: UserId,
        table: &ExportTable,
        after: Uuid,
    ) -> Result<Vec<ExportedRow>, StoreError> {
        let params = params![tenant, user, after, table.page];
        self.query(table.sql, &params, table.map).await
    }

    /// The same for a chat of the person and the tables
    /// [`ExportTable::OF_CHAT`].
    pub async fn export_of_chat(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        table: &ExportTable,
        after: Uuid,
    ) -> Result<Vec<ExportedRow>, StoreError> {
        let params = params![tenant, chat, after, table.page];
        self.query(table.sql, &params, table.map).await
    }

    /// Usage events of the person that were delivered, added up by model and day:
    /// few rows.
    pub async fn export_usage(
        &mut self,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Vec<ExportedRow>, StoreError> {
        self.query(
            "SELECT model, day, events, credits_micro, input_tokens, output_tokens \
             FROM usage_rollups WHERE tenant_id = $1 AND user_id = $2 ORDER BY day, model",
            &params![tenant, user],
            |row| {
                sums_row(
                    row,
                    &["events", "credits_micro", "input_tokens", "output_tokens"],
                )
            },
        )
        .await
    }

    /// Turns of the person whose chats were purged, added up by model and day: few
    /// rows.
    pub async fn export_purged(
        &mut self,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Vec<ExportedRow>, StoreError> {
        self.query(
            "SELECT model, day, CAST(SUM(turns) AS BIGINT), CAST(SUM(credits_micro) AS BIGINT) \
             FROM turn_rollups WHERE tenant_id = $1 AND user_id = $2 \
             GROUP BY day, model ORDER BY day, model",
            &params![tenant, user],
            |row| sums_row(row, &["turns", "credits_micro"]),
        )
        .await
    }

    /// At most `limit` payloads of the person's events after `after`, with their ids.
    pub async fn export_events(
        &mut self,
        tenant: TenantId,
        user: UserId,
        source: EventSource,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let pattern = pattern(user);
        let sql = match source {
            EventSource::Waiting => WAITING_SQL,
            EventSource::Delivered => DELIVERED_SQL,
            EventSource::Refused => REFUSED_SQL,
        };
        let params = params![tenant, pattern.as_str(), after, limit];
        self.query(sql, &params, |row| Ok((row.take()?, row.take()?)))
            .await
    }
}

/// Where events are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventSource {
    /// They wait for a sink.
    Waiting,
    /// They wait for their removal.
    Delivered,
    /// They wait for a decision: a sink refused them.
    Refused,
}

const WAITING_SQL: &str = concat!(
    "SELECT id, payload FROM outbox_messages WHERE ",
    waiting!(),
    " AND id > $3 ORDER BY id LIMIT $4"
);
const DELIVERED_SQL: &str = concat!(
    "SELECT id, payload FROM outbox_messages WHERE ",
    delivered!(),
    " AND id > $3 ORDER BY id LIMIT $4"
);
const REFUSED_SQL: &str = concat!(
    "SELECT id, payload FROM outbox_dead_letters WHERE ",
    refused!(),
    " AND id > $3 ORDER BY id LIMIT $4"
);

/// Adds a column with a value.
fn put<T: serde::Serialize>(columns: &mut Map<String, Value>, name: &str, value: Option<T>) {
    let value = value.and_then(|value| serde_json::to_value(value).ok());
    if let Some(value) = value {
        columns.insert(name.to_owned(), value);
    }
}

/// A table whose rows have an `id`: its columns with their types, and which rows.
macro_rules! table {
    ($name:literal, $page:expr, $from:literal, { $($column:ident: $type:ty),* $(,)? }) => {
        table!($name, $page, $from, { $($column: $type),* }, "", |_| Ok(None))
    };
    (
        $name:literal, $page:expr, $from:literal, { $($column:ident: $type:ty),* $(,)? },
        $thumbnail_columns:literal, $thumbnail:expr
    ) => {
        ExportTable {
            name: $name,
            page: $page,
            sql: concat!(
                "SELECT id", $(", ", stringify!($column),)* $thumbnail_columns,
                " FROM ", $from, " AND id > $3 ORDER BY id LIMIT $4"
            ),
            map: |row| {
                let thumbnail: ThumbnailOf = $thumbnail;
                let key = row.peek()?;
                let mut columns = Map::new();
                put(&mut columns, "id", row.take::<Option<Uuid>>()?);
                $(put(&mut columns, stringify!($column), row.take::<Option<$type>>()?);)*
                Ok(ExportedRow { key, columns, thumbnail: thumbnail(row)? })
            },
        }
    };
}

/// Reads the thumbnail of a row, behind its other columns.
type ThumbnailOf = fn(&Row<'_>) -> Result<Option<Thumbnail>, StoreError>;

/// Live and deleted chats are found by different indexes.
macro_rules! chats {
    ($which:literal) => {
        table!("chat", ROWS, $which, {
            model: String,
            title: String,
            is_temporary: bool,
            created_at: Timestamp,
            updated_at: Timestamp,
            deleted_at: Timestamp,
        })
    };
}

const CHATS: ExportTable =
    chats!("chats WHERE tenant_id = $1 AND user_id = $2 AND deleted_at IS NULL");
const DELETED_CHATS: ExportTable =
    chats!("chats WHERE tenant_id = $1 AND user_id = $2 AND deleted_at IS NOT NULL");

const QUOTA: ExportTable = table!("quota", ROWS, "quota_usage WHERE tenant_id = $1 AND user_id = $2", {
    period_type: String,
    period_start: Date,
    bucket: String,
    spent_credits_micro: i64,
    reserved_credits_micro: i64,
    calls: i64,
    input_tokens: i64,
    output_tokens: i64,
    file_search_calls: i64,
    web_search_calls: i64,
    code_interpreter_calls: i64,
    updated_at: Timestamp,
});

/// An erasure that is not finished; others name nobody (PLAT-23).
const ERASURES: ExportTable = table!(
    "erasure",
    ROWS,
    "erasures WHERE tenant_id = $1 AND user_id = $2",
    { requested_at: Timestamp }
);

/// Live and deleted messages are found by different indexes.
macro_rules! messages {
    ($which:literal) => {
        table!("message", TEXTS, $which, {
            chat_id: Uuid,
            request_id: Uuid,
            role: String,
            content: String,
            model: String,
            input_tokens: i64,
            output_tokens: i64,
            cache_read_input_tokens: i64,
            cache_write_input_tokens: i64,
            reasoning_tokens: i64,
            created_at: Timestamp,
            deleted_at: Timestamp,
        })
    };
}

const MESSAGES: ExportTable =
    messages!("messages WHERE tenant_id = $1 AND chat_id = $2 AND deleted_at IS NULL");
const DELETED_MESSAGES: ExportTable =
    messages!("messages WHERE tenant_id = $1 AND chat_id = $2 AND deleted_at IS NOT NULL");

const TURNS: ExportTable = table!("turn", ROWS, "chat_turns WHERE tenant_id = $1 AND chat_id = $2", {
    chat_id: Uuid,
    request_id: Uuid,
    state: String,
    error_code: String,
    assistant_message_id: Uuid,
    effective_model: String,
    reserved_credits_micro: i64,
    settled_credits_micro: i64,
    settlement_method: String,
    web_search_enabled: bool,
    replaced_by_request_id: Uuid,
    started_at: Timestamp,
    completed_at: Timestamp,
    deleted_at: Timestamp,
});

const REACTIONS: ExportTable = table!(
    "reaction",
    ROWS,
    "message_reactions WHERE tenant_id = $1 AND chat_id = $2",
    { chat_id: Uuid, message_id: Uuid, reaction: String, created_at: Timestamp }
);

const ATTACHMENTS: ExportTable = table!(
    "attachment",
    TEXTS,
    "attachments WHERE tenant_id = $1 AND chat_id = $2",
    {
        chat_id: Uuid,
        filename: String,
        content_type: String,
        size_bytes: i64,
        attachment_kind: String,
        status: String,
        error_code: String,
        doc_summary: String,
        summary_updated_at: Timestamp,
        created_at: Timestamp,
        deleted_at: Timestamp,
    },
    ", img_thumbnail, img_thumbnail_width, img_thumbnail_height",
    thumbnail
);

const SUMMARIES: ExportTable = table!(
    "summary",
    TEXTS,
    "thread_summaries WHERE tenant_id = $1 AND chat_id = $2",
    { chat_id: Uuid, summary_text: String, created_at: Timestamp, updated_at: Timestamp }
);

/// Which messages show which files. Their key is the attachment's id, which a chat
/// may show several times; so a page ends with all rows of its last key.
const LINKS: ExportTable = ExportTable {
    name: "message_attachment",
    page: ROWS,
    sql: "SELECT attachment_id, message_id, chat_id FROM message_attachments \
          WHERE tenant_id = $1 AND chat_id = $2 AND attachment_id IN \
          (SELECT DISTINCT attachment_id FROM message_attachments WHERE tenant_id = $1 \
          AND chat_id = $2 AND attachment_id > $3 ORDER BY attachment_id LIMIT $4) \
          ORDER BY attachment_id, message_id",
    map: |row| {
        let key = row.peek()?;
        let mut columns = Map::new();
        put(&mut columns, "attachment_id", row.take::<Option<Uuid>>()?);
        put(&mut columns, "message_id", row.take::<Option<Uuid>>()?);
        put(&mut columns, "chat_id", row.take::<Option<Uuid>>()?);
        Ok(ExportedRow {
            key,
            columns,
            thumbnail: None,
        })
    },
};

/// A roll-up of a model and a day, with the sums `names`.
fn sums_row(row: &Row<'_>, names: &[&str]) -> Result<ExportedRow, StoreError> {
    let mut columns = Map::new();
    put(&mut columns, "model", row.take::<Option<String>>()?);
    put(&mut columns, "day", row.take::<Option<Date>>()?);
    for name in names {
        put(&mut columns, name, row.take::<Option<i64>>()?);
    }
    Ok(ExportedRow {
        key: Uuid::nil(),
        columns,
        thumbnail: None,
    })
}
