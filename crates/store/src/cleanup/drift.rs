//! Repairs what deletions and uploads could not mark themselves (CONT-174). Each
//! statement changes at most `limit` rows and returns how many; those that another
//! process is changing are left to it. Each finds its rows by an index that has no
//! others.

use minichat_core::Timestamp;
use uuid::Uuid;

use crate::tx::{Dialect, only_column};
use crate::value::{Param, params};
use crate::{StoreError, Tx};

impl Tx {
    /// Failed uploads that have left a file become pending.
    pub async fn cleanup_rearm_failed(&mut self, limit: u32) -> Result<usize, StoreError> {
        self.repaired(REARM_FAILED, &params![limit]).await
    }

    /// Uploads that have not changed since `stale_before` end as `failed`
    /// (`upload_abandoned`). Their files become pending.
    pub async fn cleanup_abandon_uploads(
        &mut self,
        stale_before: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.repaired(ABANDON_UPLOADS, &params![limit, stale_before])
            .await
    }

    /// Removes placeholders of vector stores that nobody has created since
    /// `stale_before`.
    pub async fn cleanup_drop_placeholders(
        &mut self,
        stale_before: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.repaired(DROP_PLACEHOLDERS, &params![limit, stale_before])
            .await
    }

    async fn repaired(
        &mut self,
        (postgres, sqlite): (&'static str, &'static str),
        params: &[Param<'_>],
    ) -> Result<usize, StoreError> {
        let sql = match self.dialect() {
            Dialect::Postgres => postgres,
            Dialect::Sqlite => sqlite,
        };
        let repaired = self.query(sql, params, only_column::<Uuid>).await?;
        Ok(repaired.len())
    }
}

/// A statement for each database: `$found` are the rows, `$locks` their lock.
macro_rules! repair {
    ($change:literal, $found:literal, $locks:literal, $still:literal) => {
        (
            concat!($change, $found, $locks, ")", $still, " RETURNING id"),
            concat!($change, $found, ")", $still, " RETURNING id"),
        )
    };
}

const REARM_FAILED: (&str, &str) = repair!(
    "UPDATE attachments SET cleanup_status = 'pending', \
     cleanup_updated_at = statement_timestamp() WHERE id IN (",
    "SELECT a.id FROM attachments a WHERE a.status = 'failed' AND a.cleanup_status IS NULL \
     AND a.provider_file_id IS NOT NULL LIMIT $1",
    " FOR UPDATE SKIP LOCKED",
    " AND cleanup_status IS NULL"
);

const ABANDON_UPLOADS: (&str, &str) = repair!(
    "UPDATE attachments SET status = 'failed', error_code = 'upload_abandoned', \
     updated_at = statement_timestamp(), \
     cleanup_updated_at = CASE WHEN cleanup_status IS NULL AND provider_file_id IS NOT NULL \
     THEN statement_timestamp() ELSE cleanup_updated_at END, \
     cleanup_status = CASE WHEN cleanup_status IS NULL AND provider_file_id IS NOT NULL \
     THEN 'pending' ELSE cleanup_status END WHERE id IN (",
    "SELECT a.id FROM attachments a WHERE a.status IN ('pending', 'uploaded') \
     AND a.updated_at <= $2 LIMIT $1",
    " FOR UPDATE SKIP LOCKED",
    " AND status IN ('pending', 'uploaded') AND updated_at <= $2"
);

const DROP_PLACEHOLDERS: (&str, &str) = repair!(
    "DELETE FROM chat_vector_stores WHERE id IN (",
    "SELECT s.id FROM chat_vector_stores s WHERE s.vector_store_id IS NULL \
     AND s.created_at <= $2 LIMIT $1",
    " FOR UPDATE SKIP LOCKED",
    " AND vector_store_id IS NULL"
);

/// Statements whose plans a test reads: of PostgreSQL, and of `SQLite`.
#[cfg(test)]
pub(crate) const PLANNED: [(&str, (&str, &str)); 3] = [
    ("failed", REARM_FAILED),
    ("uploads", ABANDON_UPLOADS),
    ("placeholders", DROP_PLACEHOLDERS),
];
