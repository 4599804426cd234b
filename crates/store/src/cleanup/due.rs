//! What is due (CONT-171), by tenant and provider, so that what waits at one provider
//! is not read before what is due at another.

use minichat_core::{ChatId, TenantId, Timestamp};
use uuid::Uuid;

use super::{CleanupTimes, due_at, is_due};
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// Which rows are due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DueKind {
    Files,
    /// Attachments without a file, for which no provider is needed.
    Fileless,
    Stores,
}

/// What a tenant has at one provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DuePart {
    pub tenant_id: TenantId,
    pub kind: DueKind,
    /// Label of the provider.
    pub label: String,
}

/// The place of a row in the order in which the rows of a part become due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DuePlace {
    pub since: Timestamp,
    /// Of the attachment or vector store.
    pub id: Uuid,
}

impl DuePlace {
    /// Before all rows.
    pub const START: Self = Self {
        since: Timestamp::from_micros(0),
        id: Uuid::nil(),
    };
}

/// A chat with something due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DueChat {
    pub chat_id: ChatId,
    /// Of its row that is due.
    pub place: DuePlace,
}

impl Tx {
    /// Files and vector stores of which some may be due, by tenant: files first.
    pub async fn cleanup_parts(&mut self, now: Timestamp) -> Result<Vec<DuePart>, StoreError> {
        let mut parts = Vec::new();
        for (kind, sql) in [
            (DueKind::Files, FILE_LABELS_SQL),
            (DueKind::Stores, STORE_LABELS_SQL),
        ] {
            let labels: Vec<(TenantId, String)> = self.query(sql, &params![now], label_row).await?;
            parts.extend(labels.into_iter().map(|(tenant_id, label)| DuePart {
                tenant_id,
                kind,
                label,
            }));
        }
        parts.sort_by_key(|part| (part.tenant_id.0, part.kind));
        Ok(parts)
    }

    /// The chats of at most `limit` rows of a part that are due and that nobody has
    /// claimed, the oldest first, after the place of `after`. A chat with several such
    /// rows is there several times.
    pub async fn cleanup_due(
        &mut self,
        part: &DuePart,
        times: CleanupTimes,
        after: DuePlace,
        limit: u32,
    ) -> Result<Vec<DueChat>, StoreError> {
        let sql = match part.kind {
            DueKind::Files => DUE_FILES_SQL,
            DueKind::Fileless => DUE_FILELESS_SQL,
            DueKind::Stores => DUE_STORES_SQL,
        };
        self.query(
            sql,
            &params![
                part.tenant_id,
                times.now,
                times.stale_before,
                after.since,
                after.id,
                limit,
                part.label.as_str(),
            ],
            due_row,
        )
        .await
    }

    /// Makes stores of deleted chats due whose deletion did not: processes of an older
    /// release do not write this. Returns how many.
    pub(super) async fn cleanup_mark_stores(
        &mut self,
        chats: super::DeletedChats,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let sql = match self.dialect() {
            Dialect::Postgres => mark_stores!(" FOR UPDATE OF s SKIP LOCKED"),
            Dialect::Sqlite => mark_stores!(""),
        };
        let marked: Vec<Uuid> = self
            .query(sql, &params![limit, chats.from, chats.until], only_column)
            .await?;
        Ok(marked.len())
    }
}

/// A deleted chat's store `s` is due.
macro_rules! store_is_due {
    ($now:literal, $stale:literal) => {
        concat!(
            "c.deleted_at IS NOT NULL AND s.cleanup_due_at <= ",
            $now,
            " AND (s.vector_store_id IS NOT NULL OR s.created_at <= ",
            $stale,
            ") AND NOT EXISTS (SELECT 1 FROM attachments p WHERE p.chat_id = s.chat_id \
             AND p.cleanup_status = 'pending')"
        )
    };
}
pub(super) use store_is_due;

macro_rules! not_claimed {
    ($row:literal) => {
        concat!(
            " AND NOT EXISTS (SELECT 1 FROM cleanup_claims k WHERE k.chat_id = ",
            $row,
            ".chat_id AND k.locked_until > statement_timestamp()) ORDER BY 2, 3 LIMIT $6"
        )
    };
}

macro_rules! due_files {
    ($which:literal) => {
        concat!(
            "SELECT a.chat_id, ",
            due_at!(),
            ", a.id FROM attachments a JOIN chats c ON c.id = a.chat_id \
             WHERE a.tenant_id = $1 AND a.storage_backend = $7 AND ",
            is_due!("$2", "$3"),
            " AND (",
            due_at!(),
            ", a.id) > ($4, $5)",
            $which,
            not_claimed!("a")
        )
    };
}

const DUE_FILES_SQL: &str = due_files!("");
const DUE_FILELESS_SQL: &str = due_files!(" AND a.provider_file_id IS NULL");

const DUE_STORES_SQL: &str = concat!(
    "SELECT s.chat_id, s.cleanup_due_at, s.id \
     FROM chat_vector_stores s JOIN chats c ON c.id = s.chat_id \
     WHERE s.tenant_id = $1 AND s.provider = $7 AND ",
    store_is_due!("$2", "$3"),
    " AND (s.cleanup_due_at, s.id) > ($4, $5)",
    not_claimed!("s")
);

const FILE_LABELS_SQL: &str = concat!(
    "SELECT DISTINCT a.tenant_id, a.storage_backend FROM attachments a \
     WHERE a.cleanup_status = 'pending' AND ",
    due_at!(),
    " <= $1"
);

const STORE_LABELS_SQL: &str = "SELECT DISTINCT s.tenant_id, s.provider \
     FROM chat_vector_stores s WHERE s.cleanup_due_at <= $1";

/// From the chats to their stores: the other way round, all stores would be read.
macro_rules! unmarked_stores {
    () => {
        "SELECT s.id FROM chats c CROSS JOIN chat_vector_stores s WHERE c.deleted_at > $2 \
         AND c.deleted_at <= $3 AND s.tenant_id = c.tenant_id AND s.chat_id = c.id \
         AND s.cleanup_due_at IS NULL LIMIT $1"
    };
}

pub(super) const UNMARKED_STORES_SQL: &str = unmarked_stores!();

macro_rules! mark_stores {
    ($locks:literal) => {
        concat!(
            "UPDATE chat_vector_stores SET cleanup_due_at = statement_timestamp() WHERE id IN (",
            unmarked_stores!(),
            $locks,
            ") AND cleanup_due_at IS NULL RETURNING id"
        )
    };
}
use {mark_stores, unmarked_stores};

fn label_row(row: &Row<'_>) -> Result<(TenantId, String), StoreError> {
    Ok((row.take()?, row.take()?))
}

fn due_row(row: &Row<'_>) -> Result<DueChat, StoreError> {
    Ok(DueChat {
        chat_id: row.take()?,
        place: DuePlace {
            since: row.take()?,
            id: row.take()?,
        },
    })
}

/// Statements whose plans a test reads, of one part, and of all.
#[cfg(test)]
pub(crate) const PLANNED: [(&str, &str); 3] = [
    ("files", DUE_FILES_SQL),
    ("files that are none", DUE_FILELESS_SQL),
    ("stores", DUE_STORES_SQL),
];
#[cfg(test)]
pub(crate) const PLANNED_LABELS: [(&str, &str); 2] =
    [("files", FILE_LABELS_SQL), ("stores", STORE_LABELS_SQL)];
