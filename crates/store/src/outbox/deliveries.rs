//! How a delivery ended (PLAT-33, PLAT-34).
//!
//! What is written of a delivery holds only while its process may deliver: while it
//! has the lease of the partition, or, once the delivery is parked, while the parked
//! row has its token. On `SQLite`, whose leases are in the memory of its process,
//! only the token is checked.

use std::fmt::Write as _;
use std::time::Duration;

use minichat_core::{TenantId, Timestamp};

use super::backlog::joined;
use super::dead_letters::taken_row;
use super::leases::{asynchronous, micros};
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// The tenant of one partition whose messages are delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    pub queue: String,
    pub partition: u32,
    pub tenant_id: TenantId,
    pub holder: Holder,
    /// Whether the tenant has a row in `outbox_parked`.
    pub is_parked: bool,
}

/// Why a process may write how a delivery ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// It has the lease of the partition, with this token.
    OfPartition(String),
    /// The delivery is parked while it runs, with this token.
    OfTenant(String),
}

/// A tenant whose sink fails or is slow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParkedTenant {
    pub queue: String,
    pub tenant_id: TenantId,
    pub attempts: u32,
    pub failing_since: Timestamp,
    /// `None`: a delivery is slow, and none has failed since the last success.
    pub last_error: Option<String>,
}

impl Tx {
    /// Marks messages as delivered; those of `dead_letters` are resolved. Returns
    /// how many messages were marked: none if the process was no longer the holder.
    pub async fn outbox_acknowledge(
        &mut self,
        delivery: &Delivery,
        ids: &[i64],
        dead_letters: &[i64],
    ) -> Result<usize, StoreError> {
        let Delivery {
            queue,
            partition,
            tenant_id,
            holder,
            is_parked,
        } = delivery;
        let (sql, token) = match (holder, self.dialect()) {
            (Holder::OfTenant(token), _) => (ACK_OF_TENANT_SQL, token),
            (Holder::OfPartition(token), Dialect::Postgres) => (ACK_OF_PARTITION_SQL, token),
            (Holder::OfPartition(token), Dialect::Sqlite) => (ACK_OF_FILE_SQL, token),
        };
        let list = listed(ids);
        let params = params![
            queue.as_str(),
            *partition,
            *tenant_id,
            ids.iter().min().copied(),
            ids.iter().max().copied(),
            list.as_str(),
            token.as_str(),
        ];
        if !is_parked && dead_letters.is_empty() {
            let marked = self.alone(sql, &params, only_column::<i64>).await?;
            return Ok(marked.len());
        }
        let marked = self.query(sql, &params, only_column::<i64>).await?;
        if marked.is_empty() {
            return Ok(0);
        }
        for id in dead_letters {
            self.execute_later(
                "UPDATE outbox_dead_letters SET status = 'resolved' \
                 WHERE id = $1 AND tenant_id = $2 AND status = 'reprocessing'",
                params![*id, *tenant_id],
            )?;
        }
        self.outbox_unpark(delivery)?;
        Ok(marked.len())
    }

    /// Marks messages of tenants without a sink as delivered, at most `limit`, in
    /// all partitions of `queue`. Returns how many.
    pub async fn outbox_acknowledge_all(
        &mut self,
        queue: &str,
        tenants: &[TenantId],
        limit: u32,
    ) -> Result<usize, StoreError> {
        let list = joined(tenants);
        let params = params![queue, list.as_str(), limit];
        let marked = match self.dialect() {
            Dialect::Postgres => ACK_ALL_POSTGRES_SQL,
            Dialect::Sqlite => ACK_ALL_SQLITE_SQL,
        };
        let marked = self.query(marked, &params, only_column::<i64>).await?.len();
        self.execute_later(
            "UPDATE outbox_dead_letters SET status = 'resolved' WHERE queue = $1 \
             AND status = 'reprocessing' AND strpos($2, CAST(tenant_id AS TEXT)) > 0 \
             AND NOT EXISTS (SELECT 1 FROM outbox_messages m WHERE m.queue = $1 \
             AND m.dedupe_key = outbox_dead_letters.dedupe_key AND m.done_at IS NULL)",
            params![queue, list.as_str()],
        )?;
        self.execute_later(
            "DELETE FROM outbox_parked WHERE queue = $1 \
             AND strpos($2, CAST(tenant_id AS TEXT)) > 0 \
             AND next_attempt_at <= statement_timestamp()",
            params![queue, list.as_str()],
        )?;
        Ok(marked)
    }

    /// Parks a tenant whose delivery failed, until `wait` is over. Returns the
    /// attempts so far; `None` if the process was no longer the holder.
    pub async fn outbox_park(
        &mut self,
        delivery: &Delivery,
        wait: Duration,
        error: &str,
    ) -> Result<Option<u32>, StoreError> {
        match &delivery.holder {
            Holder::OfPartition(token) => {
                self.outbox_park_as(delivery, token, wait, Some(error), None)
                    .await
            }
            Holder::OfTenant(token) => {
                let params = params![
                    delivery.queue.as_str(),
                    delivery.partition,
                    delivery.tenant_id,
                    micros(wait),
                    error,
                    token.as_str(),
                ];
                let parked = self.alone(PARK_AGAIN_SQL, &params, only_column).await?;
                Ok(parked.into_iter().next())
            }
        }
    }

    /// Parks a tenant whose delivery still runs, as that of `token`: nobody else
    /// delivers to it before `wait` is over.
    pub async fn outbox_park_running(
        &mut self,
        delivery: &Delivery,
        token: &str,
        wait: Duration,
    ) -> Result<Option<u32>, StoreError> {
        let (Holder::OfPartition(holder) | Holder::OfTenant(holder)) = &delivery.holder;
        self.outbox_park_as(delivery, holder, wait, None, Some(token))
            .await
    }

    /// The delivery of `token` still runs: nobody else delivers to the tenant before
    /// `wait` is over. Returns whether the process is still the holder.
    pub async fn outbox_renew(
        &mut self,
        delivery: &Delivery,
        token: &str,
        wait: Duration,
    ) -> Result<bool, StoreError> {
        let params = params![
            delivery.queue.as_str(),
            delivery.partition,
            delivery.tenant_id,
            micros(wait),
            token,
        ];
        let renewed = self.alone(RENEW_SQL, &params, only_column::<u32>).await?;
        Ok(!renewed.is_empty())
    }

    async fn outbox_park_as(
        &mut self,
        delivery: &Delivery,
        holder: &str,
        wait: Duration,
        error: Option<&str>,
        token: Option<&str>,
    ) -> Result<Option<u32>, StoreError> {
        let sql = match self.dialect() {
            Dialect::Postgres => PARK_OF_PARTITION_SQL,
            Dialect::Sqlite => PARK_OF_FILE_SQL,
        };
        let params = params![
            delivery.queue.as_str(),
            delivery.partition,
            delivery.tenant_id,
            micros(wait),
            error,
            token,
            holder,
        ];
        let parked = self.alone(sql, &params, only_column).await?;
        Ok(parked.into_iter().next())
    }

    /// Moves messages to the dead letters (PLAT-35); one that is tried again goes
    /// back there. Returns whether it did: not if the process was no longer the
    /// holder.
    pub async fn outbox_reject(
        &mut self,
        delivery: &Delivery,
        messages: &[i64],
        attempts: u32,
        reason: &str,
    ) -> Result<bool, StoreError> {
        for message in messages {
            let is_holder = self.outbox_reject_one(delivery, *message, attempts, reason);
            if !is_holder.await? {
                return Ok(false);
            }
        }
        // The row of a parked delivery is its lease, so it goes last.
        self.outbox_unpark(delivery)?;
        Ok(true)
    }

    async fn outbox_reject_one(
        &mut self,
        delivery: &Delivery,
        message: i64,
        attempts: u32,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let Delivery {
            queue,
            partition,
            tenant_id,
            holder,
            is_parked: _,
        } = delivery;
        let (sql, token) = match (holder, self.dialect()) {
            (Holder::OfTenant(token), _) => (TAKE_OF_TENANT_SQL, token),
            (Holder::OfPartition(token), Dialect::Postgres) => (TAKE_OF_PARTITION_SQL, token),
            (Holder::OfPartition(token), Dialect::Sqlite) => (TAKE_OF_FILE_SQL, token),
        };
        let params = params![
            queue.as_str(),
            *partition,
            *tenant_id,
            message,
            token.as_str()
        ];
        let Some(row) = self.query_opt(sql, &params, taken_row).await? else {
            return Ok(false);
        };
        self.outbox_make_letter(queue, *tenant_id, &row, attempts, reason)
            .await?;
        Ok(true)
    }

    /// A success or a refusal ends what a tenant was parked for.
    fn outbox_unpark(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM outbox_parked WHERE queue = $1 AND partition = $2 AND tenant_id = $3",
            params![
                delivery.queue.as_str(),
                delivery.partition,
                delivery.tenant_id
            ],
        )
    }

    /// The tenants whose sinks fail or are slow, of all queues.
    pub async fn outbox_parked(&mut self) -> Result<Vec<ParkedTenant>, StoreError> {
        self.query(
            "SELECT queue, tenant_id, attempts, failing_since, last_error FROM outbox_parked",
            &[],
            parked_row,
        )
        .await
    }
}

/// The lease of partition `$2` has this token.
macro_rules! holds_partition {
    ($token:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM outbox_partitions p WHERE p.queue = $1 \
             AND p.partition = $2 AND p.locked_by = ",
            $token,
            ")"
        )
    };
}

/// The parked delivery of tenant `$3` has this token.
macro_rules! holds_tenant {
    ($token:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM outbox_parked k WHERE k.queue = $1 AND k.partition = $2 \
             AND k.tenant_id = $3 AND k.locked_by = ",
            $token,
            ")"
        )
    };
}

/// The range skips what lies before; messages between that were committed after
/// the list are not in it.
macro_rules! acknowledge {
    ($holder:expr) => {
        concat!(
            "UPDATE outbox_messages SET done_at = statement_timestamp() \
             WHERE queue = $1 AND partition = $2 AND tenant_id = $3 AND done_at IS NULL \
             AND id BETWEEN $4 AND $5 AND strpos($6, ',' || CAST(id AS TEXT) || ',') > 0 AND ",
            $holder,
            " AND ",
            asynchronous!(),
            " RETURNING id"
        )
    };
}

const ACK_OF_PARTITION_SQL: &str = acknowledge!(holds_partition!("$7"));
const ACK_OF_TENANT_SQL: &str = acknowledge!(holds_tenant!("$7"));
const ACK_OF_FILE_SQL: &str = acknowledge!("$7 IS NOT NULL");

macro_rules! acknowledge_all {
    ($tenants:literal, $skip:literal) => {
        concat!(
            "WITH batch AS MATERIALIZED (SELECT m.id FROM ",
            $tenants,
            " JOIN outbox_partitions p ON p.queue = $1 JOIN outbox_messages m \
             ON m.queue = $1 AND m.partition = p.partition AND m.tenant_id = t.tenant_id \
             AND m.done_at IS NULL LIMIT $3",
            $skip,
            ") UPDATE outbox_messages SET done_at = statement_timestamp() \
             WHERE id IN (SELECT id FROM batch) AND done_at IS NULL AND ",
            asynchronous!(),
            " RETURNING id"
        )
    };
}

const ACK_ALL_POSTGRES_SQL: &str = acknowledge_all!(
    "unnest(CAST(string_to_array($2, ',') AS UUID[])) AS t(tenant_id)",
    " FOR UPDATE OF m SKIP LOCKED"
);
const ACK_ALL_SQLITE_SQL: &str = acknowledge_all!(
    "(SELECT value AS tenant_id FROM json_each('[\"' || replace($2, ',', '\",\"') || '\"]')) t",
    ""
);

macro_rules! park {
    ($holder:expr) => {
        concat!(
            "INSERT INTO outbox_parked (queue, partition, tenant_id, attempts, \
             next_attempt_at, failing_since, last_error, locked_by) \
             SELECT $1, $2, $3, 1, statement_timestamp() + $4, statement_timestamp(), $5, $6 \
             WHERE ",
            $holder,
            " AND ",
            asynchronous!(),
            " ON CONFLICT (queue, partition, tenant_id) DO UPDATE SET \
             attempts = outbox_parked.attempts + 1, next_attempt_at = excluded.next_attempt_at, \
             last_error = COALESCE(excluded.last_error, outbox_parked.last_error), \
             locked_by = excluded.locked_by RETURNING attempts"
        )
    };
}

const PARK_OF_PARTITION_SQL: &str = park!(holds_partition!("$7"));
const PARK_OF_FILE_SQL: &str = park!("$7 IS NOT NULL");

/// A delivery that was parked while it ran has been counted.
const PARK_AGAIN_SQL: &str = concat!(
    "UPDATE outbox_parked SET next_attempt_at = statement_timestamp() + $4, \
     last_error = $5, locked_by = NULL \
     WHERE queue = $1 AND partition = $2 AND tenant_id = $3 AND locked_by = $6 AND ",
    asynchronous!(),
    " RETURNING attempts"
);

const RENEW_SQL: &str = concat!(
    "UPDATE outbox_parked SET next_attempt_at = statement_timestamp() + $4 \
     WHERE queue = $1 AND partition = $2 AND tenant_id = $3 AND locked_by = $5 AND ",
    asynchronous!(),
    " RETURNING attempts"
);

macro_rules! take {
    ($holder:expr) => {
        concat!(
            "DELETE FROM outbox_messages WHERE id = $4 AND queue = $1 AND partition = $2 \
             AND tenant_id = $3 AND done_at IS NULL AND ",
            $holder,
            " RETURNING id, partition, dedupe_key, payload_type, payload, created_at"
        )
    };
}

const TAKE_OF_PARTITION_SQL: &str = take!(holds_partition!("$5"));
const TAKE_OF_TENANT_SQL: &str = take!(holds_tenant!("$5"));
const TAKE_OF_FILE_SQL: &str = take!("$5 IS NOT NULL");

fn parked_row(row: &Row<'_>) -> Result<ParkedTenant, StoreError> {
    Ok(ParkedTenant {
        queue: row.take()?,
        tenant_id: row.take()?,
        attempts: row.take()?,
        failing_since: row.take()?,
        last_error: row.take()?,
    })
}

/// `,1,2,3,`
fn listed(ids: &[i64]) -> String {
    let mut list = String::from(",");
    for id in ids {
        // Writing to a String does not fail.
        let _ = write!(list, "{id},");
    }
    list
}
