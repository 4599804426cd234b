//! Messages that wait, by tenant. Those of a tenant that no process serves any more
//! wait for ever, unless somebody decides about them (PLAT-31).

use minichat_core::{TenantId, Timestamp};
use uuid::Uuid;

use super::dead_letters::taken_row;
use crate::tx::only_column;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// Messages of a tenant that wait in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingShare {
    pub queue: String,
    pub partition: u32,
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
    /// Counts `limit` messages that wait, or all that are left after the share `after`,
    /// the last one of the page before. The last share of a page may go on in the next.
    pub async fn outbox_waiting(
        &mut self,
        after: Option<&WaitingShare>,
        limit: u32,
    ) -> Result<Vec<WaitingShare>, StoreError> {
        let beginning = ("", -1, TenantId(Uuid::nil()), 0);
        let (queue, partition, tenant, last) = after.map_or(beginning, |it| {
            let partition = i64::from(it.partition);
            (it.queue.as_str(), partition, it.tenant_id, it.last)
        });
        let params = params![queue, partition, tenant, last, limit];
        self.query(WAITING_SQL, &params, share_row).await
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

    /// Makes dead letters of at most `limit` messages of `share`, in their order. A
    /// delivery that runs meanwhile is not stopped, and may take some or all of them.
    pub async fn outbox_bury(
        &mut self,
        share: &WaitingShare,
        limit: u32,
        reason: &str,
    ) -> Result<Buried, StoreError> {
        let WaitingShare {
            queue,
            partition,
            tenant_id,
            messages: _,
            oldest: _,
            last,
        } = share;
        let (queue, partition, tenant) = (queue.as_str(), *partition, *tenant_id);
        let params = params![queue, partition, tenant, *last, limit];
        let mut taken = self.query(TAKE_WAITING_SQL, &params, taken_row).await?;
        taken.sort_by_key(|it| it.id);
        for message in &taken {
            self.outbox_make_letter(queue, tenant, message, 0, reason)
                .await?;
        }
        self.execute_later(
            "DELETE FROM outbox_parked WHERE queue = $1 AND partition = $2 AND tenant_id = $3 \
             AND NOT EXISTS (SELECT 1 FROM outbox_messages m WHERE m.queue = $1 \
             AND m.partition = $2 AND m.tenant_id = $3 AND m.done_at IS NULL)",
            params![queue, partition, tenant],
        )?;
        let left: Option<i64> = self
            .query_opt(
                "SELECT id FROM outbox_messages WHERE queue = $1 AND partition = $2 \
                 AND tenant_id = $3 AND id <= $4 AND done_at IS NULL LIMIT 1",
                &params![queue, partition, tenant, *last],
                only_column,
            )
            .await?;
        Ok(Buried {
            letters: taken.len(),
            is_more: left.is_some(),
        })
    }
}

/// A page costs as many entries of the index as it counts.
pub(crate) const WAITING_SQL: &str = "SELECT queue, partition, tenant_id, COUNT(*), \
     MIN(created_at), MAX(id) FROM (SELECT queue, partition, tenant_id, id, created_at \
     FROM outbox_messages WHERE done_at IS NULL \
     AND (queue, partition, tenant_id, id) > ($1, $2, $3, $4) \
     ORDER BY queue, partition, tenant_id, id LIMIT $5) page \
     GROUP BY queue, partition, tenant_id ORDER BY queue, partition, tenant_id";

pub(crate) const NEXT_WAITING_SQL: &str = "SELECT partition, tenant_id FROM outbox_messages \
     WHERE queue = $1 AND done_at IS NULL AND (partition, tenant_id) > ($2, $3) \
     ORDER BY partition, tenant_id LIMIT 1";

pub(crate) const TAKE_WAITING_SQL: &str = "DELETE FROM outbox_messages WHERE id IN \
     (SELECT id FROM outbox_messages WHERE queue = $1 AND partition = $2 AND tenant_id = $3 \
     AND id <= $4 AND done_at IS NULL ORDER BY id LIMIT $5) AND done_at IS NULL \
     RETURNING id, partition, dedupe_key, payload_type, payload, created_at";

fn share_row(row: &Row<'_>) -> Result<WaitingShare, StoreError> {
    Ok(WaitingShare {
        queue: row.take()?,
        partition: row.take()?,
        tenant_id: row.take()?,
        messages: row.take()?,
        oldest: row.take()?,
        last: row.take()?,
    })
}
