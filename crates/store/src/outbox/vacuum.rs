//! Removes what was delivered, and adds usage events up before they go.

use std::collections::HashMap;
use std::time::Duration;

use minichat_core::{Date, TenantId, UserId};

use super::UsageEvent;
use super::leases::micros;
use crate::tx::Dialect;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// One batch of a vacuum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vacuumed {
    pub deleted: usize,
    /// The last message that was deleted; the next batch begins after it.
    pub last: i64,
}

impl Tx {
    /// Deletes at most `limit` messages after `after` that were delivered more than
    /// `age` ago. Usage events are added to `usage_rollups`, so that each is in
    /// exactly one table. `None`: there are none left.
    pub async fn outbox_vacuum(
        &mut self,
        after: i64,
        age: Duration,
        limit: u32,
    ) -> Result<Option<Vacuumed>, StoreError> {
        let sql = match self.dialect() {
            Dialect::Postgres => VACUUM_POSTGRES_SQL,
            Dialect::Sqlite => VACUUM_SQLITE_SQL,
        };
        let params = params![after, micros(age), limit];
        let deleted = self.query(sql, &params, delivered_row).await?;
        let Some(last) = deleted.iter().map(|it| it.id).max() else {
            return Ok(None);
        };
        for (key, sum) in sums(&deleted) {
            self.usage_rollup_add(&key, &sum)?;
        }
        Ok(Some(Vacuumed {
            deleted: deleted.len(),
            last,
        }))
    }

    /// Deletes dead letters that were delivered after all, `age` after they
    /// failed.
    pub fn outbox_vacuum_dead_letters(&mut self, age: Duration) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM outbox_dead_letters WHERE status = 'resolved' \
             AND failed_at <= statement_timestamp() - $1",
            [micros(age)],
        )
    }

    fn usage_rollup_add(&mut self, key: &Key, sum: &Sum) -> Result<(), StoreError> {
        self.execute_later(
            "INSERT INTO usage_rollups (tenant_id, user_id, model, day, events, credits_micro, \
             input_tokens, output_tokens, web_search_calls, code_interpreter_calls) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (tenant_id, user_id, model, day) DO UPDATE SET \
             events = usage_rollups.events + excluded.events, \
             credits_micro = usage_rollups.credits_micro + excluded.credits_micro, \
             input_tokens = usage_rollups.input_tokens + excluded.input_tokens, \
             output_tokens = usage_rollups.output_tokens + excluded.output_tokens, \
             web_search_calls = usage_rollups.web_search_calls + excluded.web_search_calls, \
             code_interpreter_calls = usage_rollups.code_interpreter_calls \
             + excluded.code_interpreter_calls",
            params![
                key.tenant_id,
                key.user_id,
                key.model.as_str(),
                key.day,
                sum.events,
                sum.credits_micro,
                sum.input_tokens,
                sum.output_tokens,
                sum.web_search_calls,
                sum.code_interpreter_calls,
            ],
        )
    }
}

macro_rules! vacuum {
    ($skip:literal) => {
        concat!(
            "WITH batch AS MATERIALIZED (SELECT id FROM outbox_messages \
             WHERE id > $1 AND done_at <= statement_timestamp() - $2 ORDER BY id LIMIT $3",
            $skip,
            ") DELETE FROM outbox_messages WHERE id IN (SELECT id FROM batch) \
             RETURNING id, tenant_id, payload"
        )
    };
}

const VACUUM_POSTGRES_SQL: &str = vacuum!(" FOR UPDATE SKIP LOCKED");
const VACUUM_SQLITE_SQL: &str = vacuum!("");

/// A message that was delivered.
struct Delivered {
    id: i64,
    tenant_id: TenantId,
    payload: String,
}

fn delivered_row(row: &Row<'_>) -> Result<Delivered, StoreError> {
    Ok(Delivered {
        id: row.take()?,
        tenant_id: row.take()?,
        payload: row.take()?,
    })
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    tenant_id: TenantId,
    user_id: UserId,
    model: String,
    day: Date,
}

#[derive(Default)]
struct Sum {
    events: u64,
    credits_micro: u64,
    input_tokens: u64,
    output_tokens: u64,
    web_search_calls: u64,
    code_interpreter_calls: u64,
}

/// The sums of usage events by user, model and day.
fn sums(delivered: &[Delivered]) -> HashMap<Key, Sum> {
    let mut sums = HashMap::<Key, Sum>::new();
    for message in delivered {
        let event = match UsageEvent::read(&message.payload) {
            Ok(Some(event)) if event.is_of_system() => continue,
            Ok(Some(event)) => event,
            Ok(None) => continue,
            // The parser's message may quote the event.
            Err(_) => {
                tracing::error!(message.id, "an event that was delivered cannot be read");
                continue;
            }
        };
        let tokens = event.tokens();
        let key = Key {
            tenant_id: message.tenant_id,
            user_id: event.user(),
            day: event.day(),
            model: event.effective_model,
        };
        let sum = sums.entry(key).or_default();
        sum.events += 1;
        sum.credits_micro += event.committed_credits_micro;
        sum.input_tokens += tokens.input_tokens;
        sum.output_tokens += tokens.output_tokens;
        sum.web_search_calls += event.web_search_calls;
        sum.code_interpreter_calls += event.code_interpreter_calls;
    }
    sums
}
