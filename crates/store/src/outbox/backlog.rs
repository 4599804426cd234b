//! What waits to be delivered.
//!
//! Tenants are found in steps from one to the next, so that the messages of a
//! tenant that is not due are never walked over.

use std::fmt::Write as _;

use minichat_core::{TenantId, Timestamp};

use crate::tx::Dialect;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// A tenant with messages in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DueTenant {
    pub partition: u32,
    pub tenant_id: TenantId,
    /// Failed and slow deliveries since the last success.
    pub attempts: u32,
}

/// A message to deliver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingMessage {
    pub id: i64,
    pub tenant_id: TenantId,
    pub dedupe_key: Option<String>,
    /// JSON.
    pub payload: String,
    pub created_at: Timestamp,
    /// The dead letter that is tried again with this message.
    pub dead_letter: Option<i64>,
}

impl PendingMessage {
    /// By what receivers recognize the event: the dedupe key, or
    /// `{tenant}/{message id}`.
    pub fn key(&self) -> String {
        event_key(self.dedupe_key.as_deref(), self.tenant_id, self.id)
    }
}

pub(crate) fn event_key(dedupe_key: Option<&str>, tenant: TenantId, message: i64) -> String {
    match dedupe_key {
        Some(key) => key.to_owned(),
        None => format!("{}/{message}", tenant.0.as_simple()),
    }
}

/// How many messages of one tenant to list: at most `messages`, and none after
/// those that have `bytes` together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    pub messages: u32,
    pub bytes: u64,
}

impl Tx {
    /// Tenants of all partitions of `queue` whose next attempt is due.
    pub async fn outbox_due(&mut self, queue: &str) -> Result<Vec<DueTenant>, StoreError> {
        self.query(DUE_SQL, &params![queue, 0_u32, u32::MAX], due_row)
            .await
    }

    /// Tenants of one partition whose next attempt is due.
    pub async fn outbox_due_in(
        &mut self,
        queue: &str,
        partition: u32,
    ) -> Result<Vec<DueTenant>, StoreError> {
        self.query(DUE_SQL, &params![queue, partition, partition], due_row)
            .await
    }

    /// The first messages of each of `tenants`, in their order. They survive a crash
    /// of the server.
    pub async fn outbox_list(
        &mut self,
        queue: &str,
        partition: u32,
        tenants: &[TenantId],
        share: Share,
    ) -> Result<Vec<PendingMessage>, StoreError> {
        let Share { messages, bytes } = share;
        match self.dialect() {
            Dialect::Postgres => {
                let tenants = joined(tenants);
                let params = params![queue, partition, tenants.as_str(), messages, bytes];
                let all = self.query(LIST_OF_MANY_SQL, &params, message_row).await?;
                // An event tells others that a turn ended.
                if !all.is_empty() {
                    self.flush_seen().await?;
                }
                Ok(all)
            }
            Dialect::Sqlite => {
                let mut all = Vec::new();
                for tenant in tenants {
                    let params = params![queue, partition, *tenant, messages, bytes];
                    all.extend(self.query(LIST_SQL, &params, message_row).await?);
                }
                Ok(all)
            }
        }
    }

    /// When the oldest message of `queue` that waits was enqueued, apart from
    /// messages that are behind another of their tenant.
    pub async fn outbox_oldest(&mut self, queue: &str) -> Result<Option<Timestamp>, StoreError> {
        let oldest = self
            .query_opt(OLDEST_SQL, &params![queue, 0_u32, u32::MAX], |row| {
                row.take()
            })
            .await?;
        Ok(oldest.flatten())
    }
}

/// The tenants with messages in the partitions of queue `$1` from `$2` to `$3`.
macro_rules! backlog {
    () => {
        "WITH RECURSIVE backlog(partition, tenant_id) AS (\
         SELECT p.partition, (SELECT m.tenant_id FROM outbox_messages m \
         WHERE m.queue = $1 AND m.partition = p.partition AND m.done_at IS NULL \
         ORDER BY m.tenant_id LIMIT 1) \
         FROM outbox_partitions p WHERE p.queue = $1 AND p.partition BETWEEN $2 AND $3 \
         UNION ALL \
         SELECT b.partition, (SELECT m.tenant_id FROM outbox_messages m \
         WHERE m.queue = $1 AND m.partition = b.partition AND m.done_at IS NULL \
         AND m.tenant_id > b.tenant_id ORDER BY m.tenant_id LIMIT 1) \
         FROM backlog b WHERE b.tenant_id IS NOT NULL) "
    };
}

pub(crate) const DUE_SQL: &str = concat!(
    backlog!(),
    "SELECT b.partition, b.tenant_id, COALESCE(k.attempts, 0) FROM backlog b \
     LEFT JOIN outbox_parked k ON k.queue = $1 AND k.partition = b.partition \
     AND k.tenant_id = b.tenant_id WHERE b.tenant_id IS NOT NULL \
     AND (k.next_attempt_at IS NULL OR k.next_attempt_at <= statement_timestamp())"
);

const OLDEST_SQL: &str = concat!(
    backlog!(),
    "SELECT MIN((SELECT m.created_at FROM outbox_messages m \
     WHERE m.queue = $1 AND m.partition = b.partition AND m.tenant_id = b.tenant_id \
     AND m.done_at IS NULL ORDER BY m.id LIMIT 1)) FROM backlog b \
     WHERE b.tenant_id IS NOT NULL"
);

/// The first messages of one tenant.
macro_rules! first_messages {
    ($tenant:literal) => {
        concat!(
            "SELECT s.id, s.tenant_id, s.dedupe_key, s.payload, s.created_at, \
             (SELECT MAX(d.id) FROM outbox_dead_letters d WHERE d.queue = $1 \
             AND d.status = 'reprocessing' AND d.dedupe_key = s.dedupe_key) AS dead_letter \
             FROM (SELECT k.*, SUM(octet_length(k.payload)) OVER (ORDER BY k.id) \
             - octet_length(k.payload) AS before FROM (SELECT m.id, m.tenant_id, m.dedupe_key, \
             m.payload, m.created_at FROM outbox_messages m WHERE m.queue = $1 \
             AND m.partition = $2 AND m.tenant_id = ",
            $tenant,
            " AND m.done_at IS NULL ORDER BY m.id LIMIT $4) k) s WHERE s.before < $5"
        )
    };
}

const LIST_SQL: &str = concat!(first_messages!("$3"), " ORDER BY s.id");

const LIST_OF_MANY_SQL: &str = concat!(
    "SELECT f.* FROM unnest(CAST(string_to_array($3, ',') AS UUID[])) AS t(tenant_id) \
     CROSS JOIN LATERAL (",
    first_messages!("t.tenant_id"),
    ") f ORDER BY f.tenant_id, f.id"
);

/// A list, as PostgreSQL takes it apart.
pub(super) fn joined(tenants: &[TenantId]) -> String {
    let mut list = String::new();
    for tenant in tenants {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(list, "{comma}{tenant}");
    }
    list
}

fn due_row(row: &Row<'_>) -> Result<DueTenant, StoreError> {
    Ok(DueTenant {
        partition: row.take()?,
        tenant_id: row.take()?,
        attempts: row.take()?,
    })
}

fn message_row(row: &Row<'_>) -> Result<PendingMessage, StoreError> {
    Ok(PendingMessage {
        id: row.take()?,
        tenant_id: row.take()?,
        dedupe_key: row.take()?,
        payload: row.take()?,
        created_at: row.take()?,
        dead_letter: row.take()?,
    })
}
