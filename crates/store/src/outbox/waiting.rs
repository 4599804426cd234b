//! Messages that wait, by tenant. Those of a tenant that no process serves any more
//! wait for ever, unless somebody decides about them (PLAT-31).

use minichat_core::{TenantId, Timestamp};
use uuid::Uuid;

use super::dead_letters::taken_row;
use crate::tx::only_column;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// A tenant with messages that wait in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingTenant {
    pub queue: String,
    pub tenant_id: TenantId,
    pub messages: u64,
    /// When the oldest of them was enqueued.
    pub oldest: Timestamp,
    /// The greatest of their numbers.
    pub last: i64,
}

/// What became of one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buried {
    /// Dead letters that were made.
    pub letters: usize,
    /// Messages are left.
    pub is_more: bool,
}

impl Tx {
    /// What waits, by queue and tenant. Reads every message that waits.
    pub async fn outbox_waiting(&mut self) -> Result<Vec<WaitingTenant>, StoreError> {
        self.query(
            "SELECT queue, tenant_id, COUNT(*), MIN(created_at), MAX(id) FROM outbox_messages \
             WHERE done_at IS NULL GROUP BY queue, tenant_id ORDER BY queue, tenant_id",
            &[],
            waiting_row,
        )
        .await
    }

    /// Tenants with messages that wait in `queue`, by partition: at most `limit`,
    /// however much waits.
    pub async fn outbox_waiting_tenants(
        &mut self,
        queue: &str,
        limit: usize,
    ) -> Result<Vec<TenantId>, StoreError> {
        let mut tenants: Vec<TenantId> = Vec::new();
        let mut last = (-1_i64, TenantId(Uuid::nil()));
        for _ in 0..limit {
            let params = params![queue, last.0, last.1];
            let next = |row: &Row<'_>| Ok((row.take()?, row.take()?));
            let Some(found) = self.query_opt(NEXT_WAITING_SQL, &params, next).await? else {
                break;
            };
            last = found;
            // A queue that is keyed by chat has a tenant in several partitions.
            if !tenants.contains(&last.1) {
                tenants.push(last.1);
            }
        }
        Ok(tenants)
    }

    /// Makes dead letters of at most `limit` messages up to number `last` of a tenant
    /// that wait in `queue`, in their order. A delivery that runs meanwhile is not
    /// stopped, and may take some or all of them.
    pub async fn outbox_bury(
        &mut self,
        queue: &str,
        tenant: TenantId,
        last: i64,
        limit: u32,
        reason: &str,
    ) -> Result<Buried, StoreError> {
        let params = params![queue, tenant, last, limit];
        let mut taken = self.query(TAKE_WAITING_SQL, &params, taken_row).await?;
        taken.sort_by_key(|it| it.id);
        for message in &taken {
            self.outbox_make_letter(queue, tenant, message, 0, reason)
                .await?;
        }
        self.execute_later(
            "DELETE FROM outbox_parked WHERE queue = $1 AND tenant_id = $2 \
             AND NOT EXISTS (SELECT 1 FROM outbox_messages m WHERE m.queue = $1 \
             AND m.tenant_id = $2 AND m.done_at IS NULL)",
            params![queue, tenant],
        )?;
        let left: Option<i64> = self
            .query_opt(
                "SELECT id FROM outbox_messages WHERE queue = $1 AND tenant_id = $2 \
                 AND id <= $3 AND done_at IS NULL LIMIT 1",
                &params![queue, tenant, last],
                only_column,
            )
            .await?;
        Ok(Buried {
            letters: taken.len(),
            is_more: left.is_some(),
        })
    }
}

pub(crate) const NEXT_WAITING_SQL: &str = "SELECT partition, tenant_id FROM outbox_messages \
     WHERE queue = $1 AND done_at IS NULL AND (partition, tenant_id) > ($2, $3) \
     ORDER BY partition, tenant_id LIMIT 1";

const TAKE_WAITING_SQL: &str = "DELETE FROM outbox_messages WHERE id IN \
     (SELECT id FROM outbox_messages WHERE queue = $1 AND tenant_id = $2 \
     AND id <= $3 AND done_at IS NULL ORDER BY id LIMIT $4) AND done_at IS NULL \
     RETURNING id, partition, dedupe_key, payload_type, payload, created_at";

fn waiting_row(row: &Row<'_>) -> Result<WaitingTenant, StoreError> {
    Ok(WaitingTenant {
        queue: row.take()?,
        tenant_id: row.take()?,
        messages: row.take()?,
        oldest: row.take()?,
        last: row.take()?,
    })
}
