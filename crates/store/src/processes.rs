//! The processes that serve a database which several may share, and whether they
//! live (TURN-68, TURN-69). All instants are of the database's clock.

use std::time::Duration;

use minichat_core::{ProcessId, Timestamp};

use crate::outbox::micros;
use crate::value::{Param, params};
use crate::{OrphanRule, StoreError, Tx};

/// When a process is dead: its last heartbeat, if it has one, is not later than
/// `since`, and another process, the witness, has been steady from then on, with its
/// last heartbeat after `witnessed_after`. Without a witness nobody is dead: then it
/// is the database that was away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silence {
    pub since: Timestamp,
    pub witnessed_after: Timestamp,
}

impl Silence {
    pub(crate) fn params_of(rule: Option<OrphanRule>) -> [Param<'static>; 2] {
        let silence = rule.and_then(|rule| rule.silence);
        params![
            silence.map(|it| it.since),
            silence.map(|it| it.witnessed_after)
        ]
    }
}

/// Whether the process of a turn is dead by the [`Silence`] in two parameters, of
/// which null judges nobody. A turn without a process never is.
macro_rules! process_is_dead {
    ($since:literal, $witnessed_after:literal) => {
        concat!(
            "(process_id IS NOT NULL AND EXISTS (SELECT 1 FROM processes w \
             WHERE w.steady_since <= ",
            $since,
            " AND w.heartbeat_at > ",
            $witnessed_after,
            ") AND NOT EXISTS (SELECT 1 FROM processes p \
             WHERE p.id = process_id AND p.heartbeat_at > ",
            $since,
            "))"
        )
    };
}
pub(crate) use process_is_dead;

impl Tx {
    /// The first heartbeat of `process`, or its next one. It is steady from the first
    /// one on, or from the last one that came more than `gap` after the one before.
    pub fn process_beat(&mut self, process: ProcessId, gap: Duration) -> Result<(), StoreError> {
        self.execute_later(
            "INSERT INTO processes (id, started_at, heartbeat_at, steady_since) VALUES \
             ($1, statement_timestamp(), statement_timestamp(), statement_timestamp()) \
             ON CONFLICT (id) DO UPDATE SET heartbeat_at = statement_timestamp(), \
             steady_since = CASE WHEN statement_timestamp() \
             BETWEEN processes.heartbeat_at AND processes.heartbeat_at + $2 \
             THEN processes.steady_since ELSE statement_timestamp() END",
            [process.into(), micros(gap)],
        )
    }

    /// Removes a process that ends.
    pub fn process_remove(&mut self, process: ProcessId) -> Result<(), StoreError> {
        self.execute_later("DELETE FROM processes WHERE id = $1", params![process])
    }

    /// Removes the processes whose last heartbeat is more than `age` ago. Nothing else
    /// needs their rows.
    pub fn processes_prune(&mut self, age: Duration) -> Result<(), StoreError> {
        self.execute_later(
            "DELETE FROM processes WHERE heartbeat_at < statement_timestamp() - $1",
            [micros(age)],
        )
    }
}
