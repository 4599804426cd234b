//! The events of a person who is erased: audit events lose him and what was written,
//! usage events get the id of the erasure in the place of his.

use super::{Erasure, WithoutPerson};
use crate::outbox::of_person::{audit, delivered, pattern, refused, usage, waiting};
use crate::tx::{Dialect, only_column};
use crate::value::{Row, params};
use crate::{StoreError, Tx};

impl Tx {
    /// Takes the person and what was written out of at most `limit` audit events that
    /// wait for a sink or that a sink refused. Returns how many there were.
    pub async fn erasure_empty_events(
        &mut self,
        erasure: &Erasure,
        limit: u32,
        without_person: WithoutPerson,
    ) -> Result<u64, StoreError> {
        let pattern = pattern(erasure.user_id);
        let params = params![erasure.tenant_id, pattern.as_str(), limit];
        let mut changed = 0;
        let pages = match self.dialect() {
            Dialect::Sqlite => audit_pages!(""),
            Dialect::Postgres => audit_pages!(" FOR UPDATE"),
        };
        for (select, update) in pages.into_iter().zip(UPDATE_AUDIT_SQL) {
            for (id, payload) in self.query(select, &params, event_row).await? {
                let payload = without_person(&payload, erasure);
                self.execute_later(update, params![id, payload.as_str()])?;
                changed += 1;
            }
        }
        if changed > 0 {
            self.execute_later(
                "UPDATE erasures SET events = events + $2 WHERE id = $1",
                params![erasure.id, changed],
            )?;
        }
        Ok(changed)
    }

    /// Moves usage events, and removes audit events that were delivered. A dead letter
    /// may be put back into its queue meanwhile, so queues come twice; then the
    /// letters are locked. `None`: an audit event that waits names the person.
    pub(super) async fn erasure_move_events(
        &mut self,
        erasure: &Erasure,
    ) -> Result<Option<u64>, StoreError> {
        let pattern = pattern(erasure.user_id);
        let tenant = erasure.tenant_id;
        let (person, id) = (erasure.user_id.to_string(), erasure.id.to_string());
        let of_usage = params![tenant, pattern.as_str(), person.as_str(), id.as_str()];
        let mut moved = 0;
        for sql in [
            MOVE_WAITING_SQL,
            MOVE_DELIVERED_SQL,
            MOVE_REFUSED_SQL,
            MOVE_WAITING_SQL,
        ] {
            let events: Vec<i64> = self.query(sql, &of_usage, only_column).await?;
            moved += events.len() as u64;
        }
        self.execute_later(DELETE_DELIVERED_SQL, params![tenant, pattern.as_str()])?;
        let left = params![tenant, pattern.as_str(), 1_u32];
        for sql in audit_pages!("") {
            if !self.query(sql, &left, event_row).await?.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(moved))
    }
}

/// A page of the audit events that wait, and one of those that a sink refused.
macro_rules! audit_pages {
    ($lock:literal) => {
        [
            concat!(
                "SELECT id, payload FROM outbox_messages WHERE ",
                waiting!(),
                audit!(),
                " ORDER BY id LIMIT $3",
                $lock
            ),
            concat!(
                "SELECT id, payload FROM outbox_dead_letters WHERE ",
                refused!(),
                audit!(),
                " ORDER BY id LIMIT $3",
                $lock
            ),
        ]
    };
}
use audit_pages;

/// Writes the audit events of [`audit_pages`] anew.
const UPDATE_AUDIT_SQL: [&str; 2] = [
    "UPDATE outbox_messages SET payload = $2 WHERE id = $1",
    "UPDATE outbox_dead_letters SET payload = $2 WHERE id = $1",
];

const MOVE_WAITING_SQL: &str = concat!(
    "UPDATE outbox_messages SET payload = REPLACE(payload, $3, $4) WHERE ",
    waiting!(),
    usage!(),
    " RETURNING id"
);
const MOVE_DELIVERED_SQL: &str = concat!(
    "UPDATE outbox_messages SET payload = REPLACE(payload, $3, $4) WHERE ",
    delivered!(),
    usage!(),
    " RETURNING id"
);
const MOVE_REFUSED_SQL: &str = concat!(
    "UPDATE outbox_dead_letters SET payload = REPLACE(payload, $3, $4) WHERE ",
    refused!(),
    usage!(),
    " RETURNING id"
);
const DELETE_DELIVERED_SQL: &str =
    concat!("DELETE FROM outbox_messages WHERE ", delivered!(), audit!());

fn event_row(row: &Row<'_>) -> Result<(i64, String), StoreError> {
    Ok((row.take()?, row.take()?))
}
