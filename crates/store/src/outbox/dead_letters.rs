//! Messages that a sink refused (PLAT-35). People decide what becomes of them.

use minichat_core::{TenantId, Timestamp};

use super::event_key;
use crate::tx::only_column;
use crate::value::{FromValue, Row, Value, params};
use crate::{StoreError, Tx};

/// A message that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    pub id: i64,
    pub queue: String,
    /// The message's number in its queue.
    pub message_id: i64,
    pub tenant_id: TenantId,
    /// By what receivers recognize the event.
    pub key: String,
    pub payload_bytes: u64,
    pub attempts: u32,
    pub last_error: Option<String>,
    pub status: DeadLetterStatus,
    pub created_at: Timestamp,
    pub failed_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetterStatus {
    /// Somebody has to decide.
    Pending,
    /// It is in its queue again.
    Reprocessing,
    /// It was delivered after all.
    Resolved,
    Discarded,
}

impl DeadLetterStatus {
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Reprocessing,
        Self::Resolved,
        Self::Discarded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Reprocessing => "reprocessing",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// Which dead letters to list. `None`: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeadLetterFilter {
    pub queue: Option<String>,
    pub tenant_id: Option<TenantId>,
    pub status: Option<DeadLetterStatus>,
    /// Only those after this id.
    pub after: i64,
    /// Maximum number of rows.
    pub limit: u32,
}

/// The dead letters of one queue that are pending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterBacklog {
    pub queue: String,
    pub count: u64,
    pub oldest: Timestamp,
}

/// A message that was taken out of its queue, to become a dead letter.
pub(super) struct TakenMessage {
    pub(super) id: i64,
    partition: u32,
    dedupe_key: Option<String>,
    payload_type: String,
    payload: String,
    created_at: Timestamp,
}

impl Tx {
    /// Dead letters in the order of their ids.
    pub async fn outbox_dead_letters(
        &mut self,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.query(
            concat!(
                "SELECT ",
                dead_letter_columns!(),
                " FROM outbox_dead_letters WHERE (CAST($1 AS TEXT) IS NULL OR queue = $1) \
                 AND (CAST($2 AS TEXT) IS NULL OR CAST(tenant_id AS TEXT) = $2) \
                 AND (CAST($3 AS TEXT) IS NULL OR status = $3) AND id > $4 \
                 ORDER BY id LIMIT $5"
            ),
            &params![
                filter.queue.as_deref(),
                filter.tenant_id.map(|id| id.to_string()).as_deref(),
                filter.status.map(DeadLetterStatus::as_str),
                filter.after,
                filter.limit,
            ],
            dead_letter_row,
        )
        .await
    }

    pub async fn outbox_dead_letter(&mut self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        self.query_opt(
            concat!(
                "SELECT ",
                dead_letter_columns!(),
                " FROM outbox_dead_letters WHERE id = $1"
            ),
            &params![id],
            dead_letter_row,
        )
        .await
    }

    /// The payload of a dead letter, JSON.
    pub async fn outbox_dead_letter_payload(
        &mut self,
        id: i64,
    ) -> Result<Option<String>, StoreError> {
        self.query_opt(
            "SELECT payload FROM outbox_dead_letters WHERE id = $1",
            &params![id],
            only_column,
        )
        .await
    }

    /// How many dead letters are pending, by queue; queues without any are left
    /// out.
    pub async fn outbox_dead_letter_backlog(
        &mut self,
    ) -> Result<Vec<DeadLetterBacklog>, StoreError> {
        self.query(
            "SELECT queue, COUNT(*), MIN(failed_at) FROM outbox_dead_letters \
             WHERE status = 'pending' GROUP BY queue",
            &[],
            |row| {
                Ok(DeadLetterBacklog {
                    queue: row.take()?,
                    count: row.take()?,
                    oldest: row.take()?,
                })
            },
        )
        .await
    }

    /// Makes a dead letter of a message of `queue`; one that was tried again is
    /// pending again.
    pub(super) async fn outbox_make_letter(
        &mut self,
        queue: &str,
        tenant: TenantId,
        message: &TakenMessage,
        attempts: u32,
        reason: &str,
    ) -> Result<(), StoreError> {
        let key = event_key(message.dedupe_key.as_deref(), tenant, message.id);
        let again: Option<i64> = self
            .query_opt(
                "UPDATE outbox_dead_letters SET status = 'pending', message_id = $3, \
                 attempts = $4, last_error = $5, failed_at = statement_timestamp() \
                 WHERE queue = $1 AND status = 'reprocessing' AND dedupe_key = $2 RETURNING id",
                &params![queue, key.as_str(), message.id, attempts, reason],
                only_column,
            )
            .await?;
        if again.is_some() {
            return Ok(());
        }
        self.execute_later(
            "INSERT INTO outbox_dead_letters (queue, partition, message_id, tenant_id, \
             dedupe_key, payload_type, payload, attempts, last_error, created_at, failed_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, statement_timestamp())",
            params![
                queue,
                message.partition,
                message.id,
                tenant,
                key.as_str(),
                message.payload_type.as_str(),
                message.payload.as_str(),
                attempts,
                reason,
                message.created_at,
            ],
        )
    }

    /// Puts a pending dead letter at the end of its queue. Receivers recognize it
    /// by the same key. Returns whether it was pending.
    pub async fn outbox_requeue(&mut self, id: i64) -> Result<bool, StoreError> {
        let Some((tenant, queue, partition)) = self
            .query_opt(
                "UPDATE outbox_dead_letters SET status = 'reprocessing' \
                 WHERE id = $1 AND status = 'pending' RETURNING tenant_id, queue, partition",
                &params![id],
                |row| {
                    Ok((
                        row.take::<TenantId>()?,
                        row.take::<String>()?,
                        row.take::<u32>()?,
                    ))
                },
            )
            .await?
        else {
            return Ok(false);
        };
        // The number of partitions may be another one by now.
        let partitions: Option<u32> = self
            .query_opt(
                "SELECT COUNT(*) FROM outbox_partitions WHERE queue = $1",
                &params![queue.as_str()],
                only_column,
            )
            .await?;
        let partition = match partitions {
            None | Some(0) => partition,
            Some(n) => super::partition_of(tenant.0, n),
        };
        self.execute_later(
            "INSERT INTO outbox_messages (queue, partition, tenant_id, dedupe_key, \
             payload_type, payload, created_at) \
             SELECT queue, $2, tenant_id, dedupe_key, payload_type, payload, \
             statement_timestamp() FROM outbox_dead_letters WHERE id = $1",
            params![id, partition],
        )?;
        Ok(true)
    }

    /// Gives a pending dead letter up. Returns whether it was pending.
    pub async fn outbox_discard(&mut self, id: i64) -> Result<bool, StoreError> {
        let discarded: Option<i64> = self
            .query_opt(
                "UPDATE outbox_dead_letters SET status = 'discarded' \
                 WHERE id = $1 AND status = 'pending' RETURNING id",
                &params![id],
                only_column,
            )
            .await?;
        Ok(discarded.is_some())
    }
}

macro_rules! dead_letter_columns {
    () => {
        "id, queue, message_id, tenant_id, COALESCE(dedupe_key, ''), octet_length(payload), \
         attempts, \
         last_error, status, created_at, failed_at"
    };
}
use dead_letter_columns;

fn dead_letter_row(row: &Row<'_>) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: row.take()?,
        queue: row.take()?,
        message_id: row.take()?,
        tenant_id: row.take()?,
        key: row.take()?,
        payload_bytes: row.take()?,
        attempts: row.take()?,
        last_error: row.take()?,
        status: row.take()?,
        created_at: row.take()?,
        failed_at: row.take()?,
    })
}

pub(super) fn taken_row(row: &Row<'_>) -> Result<TakenMessage, StoreError> {
    Ok(TakenMessage {
        id: row.take()?,
        partition: row.take()?,
        dedupe_key: row.take()?,
        payload_type: row.take()?,
        payload: row.take()?,
        created_at: row.take()?,
    })
}

impl FromValue for DeadLetterStatus {
    const EXPECTED: &'static str = "a status of dead letters";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}
