//! Messages that wait, by tenant. Those of a tenant that no process serves any more
//! wait for ever, unless somebody decides about them (PLAT-31).

use minichat_core::{TenantId, Timestamp};

use super::dead_letters::taken_row;
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
}

impl Tx {
    /// What waits, by queue and tenant. Reads every message that waits.
    pub async fn outbox_waiting(&mut self) -> Result<Vec<WaitingTenant>, StoreError> {
        self.query(
            "SELECT queue, tenant_id, COUNT(*), MIN(created_at) FROM outbox_messages \
             WHERE done_at IS NULL GROUP BY queue, tenant_id ORDER BY queue, tenant_id",
            &[],
            waiting_row,
        )
        .await
    }

    /// Makes dead letters of at most `limit` messages of a tenant that wait in
    /// `queue`, in their order. A delivery that runs meanwhile is not stopped. Returns
    /// how many there were.
    pub async fn outbox_bury(
        &mut self,
        queue: &str,
        tenant: TenantId,
        limit: u32,
        reason: &str,
    ) -> Result<usize, StoreError> {
        let params = params![queue, tenant, limit];
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
        Ok(taken.len())
    }
}

const TAKE_WAITING_SQL: &str = "DELETE FROM outbox_messages WHERE id IN \
     (SELECT id FROM outbox_messages WHERE queue = $1 AND tenant_id = $2 \
     AND done_at IS NULL ORDER BY id LIMIT $3) AND done_at IS NULL \
     RETURNING id, partition, dedupe_key, payload_type, payload, created_at";

fn waiting_row(row: &Row<'_>) -> Result<WaitingTenant, StoreError> {
    Ok(WaitingTenant {
        queue: row.take()?,
        tenant_id: row.take()?,
        messages: row.take()?,
        oldest: row.take()?,
    })
}
