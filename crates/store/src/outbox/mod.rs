//! The transactional outbox (PLAT-30 to PLAT-38): a change and the message that
//! reports it are committed together or not at all. Each message is delivered at
//! least once, those of one tenant in their order.
//!
//! [`leases`] say who delivers, [`backlog`] what; [`deliveries`] are how it ended.

pub(crate) mod backlog;
mod dead_letters;
mod deliveries;
mod leases;
pub(crate) mod of_person;
mod renamed;
mod usage_event;
mod vacuum;
mod waiting;

use minichat_core::{TenantId, Timestamp};
use uuid::Uuid;

pub(crate) use backlog::event_key;
pub(crate) use leases::micros;
#[cfg(test)]
pub(crate) use waiting::{NEXT_WAITING_SQL, TAKE_WAITING_SQL, WAITING_SQL};

use crate::postgres::Commits;
use crate::value::{Param, Row, params};
use crate::{StoreError, Tx};

pub use backlog::{DueTenant, PendingMessage, Share};
pub use dead_letters::{DeadLetter, DeadLetterBacklog, DeadLetterFilter, DeadLetterStatus};
pub use deliveries::{Delivery, Holder, ParkedTenant};
pub use leases::{OutboxQueue, QueueMismatch};
pub use usage_event::UsageEvent;
pub use vacuum::Vacuumed;
pub use waiting::{Buried, WaitingShare};

/// A message to enqueue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutboxMessage<'a> {
    pub queue: &'a str,
    pub tenant_id: TenantId,
    /// Messages with the same key keep their order (PLAT-39).
    pub key: Uuid,
    /// `outbox.num_partitions`, at least 1.
    pub partitions: u32,
    /// A second message with the same key in the same queue is dropped
    /// (PLAT-37). Begins with the 32 hex digits of the tenant id.
    pub dedupe_key: Option<&'a str>,
    /// JSON.
    pub payload: &'a str,
    pub created_at: Timestamp,
}

/// `key mod partitions` (PLAT-31, QUOTA-94).
pub fn partition_of(key: Uuid, partitions: u32) -> u32 {
    let partition = key.as_u128() % u128::from(partitions.max(1));
    u32::try_from(partition).unwrap_or_default()
}

impl OutboxMessage<'_> {
    /// `key mod partitions` (PLAT-31).
    pub fn partition(&self) -> u32 {
        partition_of(self.key, self.partitions)
    }

    pub(crate) fn check_dedupe_key(&self) -> Result<(), StoreError> {
        let Some(key) = self.dedupe_key else {
            return Ok(());
        };
        let tenant = self.tenant_id.0.as_simple().to_string();
        let rest = key.strip_prefix(&tenant);
        if rest.is_some_and(|rest| rest.starts_with('/')) {
            Ok(())
        } else {
            Err(StoreError::DedupeKey)
        }
    }
}

impl Tx {
    /// Enqueues a message in this transaction (PLAT-30). A dedupe key of
    /// another tenant is [`StoreError::DedupeKey`], which aborts the job.
    pub fn outbox_enqueue(&mut self, message: &OutboxMessage<'_>) -> Result<(), StoreError> {
        message.check_dedupe_key()?;
        self.execute_later(
            "INSERT INTO outbox_messages (queue, partition, tenant_id, dedupe_key, \
             payload_type, payload, created_at) \
             VALUES ($1, $2, $3, $4, 'application/json', $5, $6) \
             ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL DO NOTHING",
            params![
                message.queue,
                message.partition(),
                message.tenant_id,
                message.dedupe_key,
                message.payload,
                message.created_at,
            ],
        )
    }

    /// Whether a message of the tenant with this key was enqueued and is still there,
    /// delivered or not.
    pub async fn outbox_has(
        &mut self,
        queue: &str,
        tenant: TenantId,
        dedupe_key: &str,
    ) -> Result<bool, StoreError> {
        let found = self
            .query_opt(
                "SELECT 1 FROM outbox_messages WHERE queue = $1 AND tenant_id = $2 \
                 AND dedupe_key = $3",
                &params![queue, tenant, dedupe_key],
                |_| Ok(()),
            )
            .await?;
        Ok(found.is_some())
    }

    /// Runs a statement that is all of its transaction: on PostgreSQL in one round
    /// trip, unless a pooler stands before it.
    async fn alone<T>(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        map: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        if self.has_single_statements() {
            self.single(sql, params, map, Commits::Flushed).await
        } else {
            self.query(sql, params, map).await
        }
    }
}
