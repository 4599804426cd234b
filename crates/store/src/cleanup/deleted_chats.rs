//! Attachments and vector stores of deleted chats that no deletion has marked
//! (CONT-174): an upload may have inserted one while the chat was deleted. Deleted chats only become more, so
//! they are looked through in the order of their deletion, page by page, and the
//! database remembers how far.

use minichat_core::Timestamp;
use uuid::Uuid;

use super::due::UNMARKED_STORES_SQL;
use crate::tx::{Dialect, only_column};
use crate::value::params;
use crate::{StoreError, Tx};

/// Chats that were deleted after `from`, until `until`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeletedChats {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// What a page of deleted chats has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeletedPage {
    pub chats: DeletedChats,
    /// Whether there are no later ones.
    pub is_last: bool,
    /// Whether an attachment or a vector store of theirs is not marked.
    pub has_unmarked: bool,
}

impl Tx {
    /// Until when deleted chats have been looked through, in this pass or earlier.
    pub async fn cleanup_looked_until(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.query_opt(
            "SELECT deleted_until FROM cleanup_progress WHERE scan = 'chats_and_stores'",
            &[],
            only_column,
        )
        .await
    }

    /// Writes down that the chats that were deleted until `until` have been looked
    /// through.
    pub fn cleanup_set_looked_until(&mut self, until: Timestamp) -> Result<(), StoreError> {
        self.execute_later(
            "INSERT INTO cleanup_progress (scan, deleted_until) VALUES ('chats_and_stores', $1) \
             ON CONFLICT (scan) DO UPDATE SET deleted_until = excluded.deleted_until \
             WHERE cleanup_progress.deleted_until < excluded.deleted_until",
            params![until],
        )
    }

    /// Looks through the first `limit` chats that were deleted after `from`, and
    /// through those that were deleted at the same instant as the last of them.
    pub async fn cleanup_deleted_page(
        &mut self,
        from: Timestamp,
        limit: u32,
    ) -> Result<DeletedPage, StoreError> {
        let deleted: Vec<Timestamp> = self
            .query(PAGE_SQL, &params![from, limit], only_column)
            .await?;
        let chats = DeletedChats {
            from,
            until: deleted.last().copied().unwrap_or(from),
        };
        let mut has_unmarked = false;
        for sql in [UNMARKED_SQL, UNMARKED_STORES_SQL] {
            let params = params![1_u32, chats.from, chats.until];
            let unmarked: Option<Uuid> = self.query_opt(sql, &params, only_column).await?;
            has_unmarked |= unmarked.is_some();
        }
        Ok(DeletedPage {
            chats,
            is_last: deleted.len() < limit as usize,
            has_unmarked,
        })
    }

    /// At most `limit` attachments of `chats` that are not marked become pending, and as
    /// many stores due. Returns how many; attachments that another process is changing are left to it.
    pub async fn cleanup_rearm_deleted(
        &mut self,
        chats: DeletedChats,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let sql = match self.dialect() {
            Dialect::Postgres => rearm!(" FOR UPDATE OF a SKIP LOCKED"),
            Dialect::Sqlite => rearm!(""),
        };
        let rearmed: Vec<Uuid> = self
            .query(sql, &params![limit, chats.from, chats.until], only_column)
            .await?;
        Ok(rearmed.len() + self.cleanup_mark_stores(chats, limit).await?)
    }
}

const PAGE_SQL: &str = "SELECT deleted_at FROM chats WHERE deleted_at > $1 \
     ORDER BY deleted_at LIMIT $2";

/// From the chats to their attachments: the other way round, SQLite would read all
/// attachments.
macro_rules! unmarked {
    () => {
        "SELECT a.id FROM chats c CROSS JOIN attachments a WHERE c.deleted_at > $2 \
         AND c.deleted_at <= $3 AND a.chat_id = c.id AND a.cleanup_status IS NULL LIMIT $1"
    };
}
use unmarked;

const UNMARKED_SQL: &str = unmarked!();

macro_rules! rearm {
    ($locks:literal) => {
        concat!(
            "UPDATE attachments SET cleanup_status = 'pending', \
             cleanup_updated_at = statement_timestamp() WHERE id IN (",
            unmarked!(),
            $locks,
            ") AND cleanup_status IS NULL RETURNING id"
        )
    };
}
use rearm;

/// Statements whose plans a test reads, with the values of their parameters.
#[cfg(test)]
pub(crate) const PLANNED: [(&str, &str); 3] = [
    ("page", PAGE_SQL),
    ("unmarked", UNMARKED_SQL),
    ("unmarked stores", UNMARKED_STORES_SQL),
];
