//! Whose turn it is to deliver: the partitions of queues, and their leases
//! (PLAT-31, PLAT-33).
//!
//! A lease is held for one pass over a partition. `SQLite` has one process, which
//! knows its own passes, so that nothing is written there.

use std::fmt::Write as _;
use std::time::Duration;

use crate::tx::{Dialect, only_column};
use crate::value::{Param, Row, params};
use crate::{StoreError, Tx};

/// A queue, as the configuration names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxQueue {
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// Whether its messages have an order, so that the number of partitions must stay
    /// while messages wait. Those of deletions have none (CONT-164).
    pub is_ordered: bool,
    /// A pattern of `LIKE` that each payload of the queue matches, and none of another
    /// queue.
    pub payloads: &'static str,
}

/// Why the messages of a database do not fit the configured queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueueMismatch {
    /// Messages wait in a queue that has no name in the configuration.
    Unknown { queue: String },
    /// Messages wait in a queue that had another number of partitions.
    Partitions { queue: String, found: u32 },
}

impl QueueMismatch {
    /// Where the messages wait.
    pub fn queue(&self) -> &str {
        let (Self::Unknown { queue } | Self::Partitions { queue, .. }) = self;
        queue
    }
}

/// The number of partitions of queues whose messages are older than their rows in
/// `outbox_partitions`.
const FIRST_PARTITIONS: u32 = 4;

impl Tx {
    /// Makes the rows of all partitions of `queues`, or says why the messages that
    /// wait could not be delivered in order, or at all (PLAT-31).
    pub async fn outbox_register(
        &mut self,
        queues: &[OutboxQueue],
    ) -> Result<Option<QueueMismatch>, StoreError> {
        for queue in self.outbox_waiting_queues().await? {
            if !queues.iter().any(|it| it.name == queue) {
                return Ok(Some(QueueMismatch::Unknown { queue }));
            }
        }
        for queue in queues {
            if let Some(found) = self.outbox_register_queue(queue).await? {
                return Ok(Some(QueueMismatch::Partitions {
                    queue: queue.name.clone(),
                    found,
                }));
            }
        }
        Ok(None)
    }

    /// Queues with messages that wait.
    async fn outbox_waiting_queues(&mut self) -> Result<Vec<String>, StoreError> {
        self.query(
            "WITH RECURSIVE waiting(queue) AS (\
             SELECT (SELECT queue FROM outbox_messages WHERE done_at IS NULL \
             ORDER BY queue LIMIT 1) UNION ALL \
             SELECT (SELECT m.queue FROM outbox_messages m WHERE m.done_at IS NULL \
             AND m.queue > w.queue ORDER BY m.queue LIMIT 1) \
             FROM waiting w WHERE w.queue IS NOT NULL) \
             SELECT queue FROM waiting WHERE queue IS NOT NULL",
            &[],
            only_column,
        )
        .await
    }

    /// Returns the number of partitions that the queue has, if it must stay.
    async fn outbox_register_queue(
        &mut self,
        queue: &OutboxQueue,
    ) -> Result<Option<u32>, StoreError> {
        let name = queue.name.as_str();
        let (found, waiting) = self
            .query_opt(
                "SELECT (SELECT COUNT(*) FROM outbox_partitions WHERE queue = $1), \
                 (SELECT MAX(1) FROM outbox_messages WHERE queue = $1 AND done_at IS NULL)",
                &params![name],
                |row| Ok((row.take::<u32>()?, row.take::<Option<i64>>()?.is_some())),
            )
            .await?
            .unwrap_or_default();
        let had = if found == 0 { FIRST_PARTITIONS } else { found };
        if waiting && queue.is_ordered && had != queue.partitions {
            return Ok(Some(had));
        }
        self.execute_later(
            "DELETE FROM outbox_partitions WHERE queue = $1 AND partition >= $2",
            params![name, queue.partitions],
        )?;
        for partition in 0..queue.partitions {
            self.execute_later(
                "INSERT INTO outbox_partitions (queue, partition) VALUES ($1, $2) \
                 ON CONFLICT (queue, partition) DO NOTHING",
                params![name, partition],
            )?;
        }
        Ok(None)
    }

    /// Leases those of `wanted` that nobody else holds to `token`, for `lease`. A
    /// lost lease is free after that time.
    pub async fn outbox_claim(
        &mut self,
        wanted: &[(String, u32)],
        token: &str,
        lease: Duration,
    ) -> Result<Vec<(String, u32)>, StoreError> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(wanted.to_vec());
        }
        let mut names = String::from(",");
        for (queue, partition) in wanted {
            // Writing to a String does not fail.
            let _ = write!(names, "{queue}/{partition},");
        }
        self.alone(
            CLAIM_SQL,
            &params![names.as_str(), token, micros(lease)],
            partition_row,
        )
        .await
    }

    /// Ends the lease of `token`, if it still holds it.
    pub fn outbox_release(
        &mut self,
        queue: &str,
        partition: u32,
        token: &str,
    ) -> Result<(), StoreError> {
        match self.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => self.execute_later(
                concat!(
                    "UPDATE outbox_partitions SET locked_by = NULL, locked_until = NULL \
                     WHERE queue = $1 AND partition = $2 AND locked_by = $3 AND ",
                    asynchronous!()
                ),
                params![queue, partition, token],
            ),
        }
    }

    /// Ends everything that the tokens of `instance`, which begin with it, hold:
    /// leases, and deliveries that were parked while they ran, which are due.
    pub fn outbox_release_all(&mut self, instance: &str) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE outbox_parked SET next_attempt_at = statement_timestamp(), \
             locked_by = NULL WHERE strpos(locked_by, $1) = 1",
            params![instance],
        )?;
        self.execute_later(
            "UPDATE outbox_partitions SET locked_by = NULL, locked_until = NULL \
             WHERE strpos(locked_by, $1) = 1",
            params![instance],
        )
    }

    /// Forgets the deliveries that were running when the last owner of a file
    /// ended, so that they are due.
    pub fn outbox_recover(&mut self) -> Result<(), StoreError> {
        self.execute_later(
            "UPDATE outbox_parked SET next_attempt_at = statement_timestamp(), \
             locked_by = NULL WHERE locked_by IS NOT NULL",
            [],
        )
    }
}

/// Lets a transaction of PostgreSQL be answered before it is on the disk. Losing it
/// repeats a delivery. To be one condition of a statement that changes something.
macro_rules! asynchronous {
    () => {
        "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'"
    };
}
pub(super) use asynchronous;

const CLAIM_SQL: &str = concat!(
    "WITH free AS MATERIALIZED (SELECT queue, partition FROM outbox_partitions \
     WHERE strpos($1, ',' || queue || '/' || partition || ',') > 0 \
     AND (locked_until IS NULL OR locked_until <= statement_timestamp()) \
     FOR UPDATE SKIP LOCKED) \
     UPDATE outbox_partitions p SET locked_by = $2, \
     locked_until = statement_timestamp() + $3 FROM free \
     WHERE p.queue = free.queue AND p.partition = free.partition AND ",
    asynchronous!(),
    " RETURNING p.queue, p.partition"
);

fn partition_row(row: &Row<'_>) -> Result<(String, u32), StoreError> {
    Ok((row.take()?, row.take()?))
}

pub(crate) fn micros(duration: Duration) -> Param<'static> {
    Param::Micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}
