//! Dead letters of queues that have another name by now. A queue may be renamed when
//! nothing waits in it (PLAT-31), and its dead letters follow it.

use super::OutboxQueue;
use crate::tx::only_column;
use crate::value::params;
use crate::{StoreError, Tx};

impl Tx {
    /// Moves at most `limit` dead letters from each queue that is none of `queues` to
    /// each of these, by what their payloads are. Returns how many there were. Those
    /// that are of none stay where they are.
    pub async fn outbox_follow_names(
        &mut self,
        queues: &[OutboxQueue],
        limit: u32,
    ) -> Result<usize, StoreError> {
        let mut moved = 0;
        for former in self.outbox_letter_queues().await? {
            if queues.iter().any(|it| it.name == former) {
                continue;
            }
            for queue in queues {
                let params = params![queue.name.as_str(), former.as_str(), queue.payloads, limit];
                let letters: Vec<i64> = self.query(MOVE_SQL, &params, only_column).await?;
                moved += letters.len();
            }
        }
        Ok(moved)
    }

    /// The queues of dead letters, whatever their status.
    async fn outbox_letter_queues(&mut self) -> Result<Vec<String>, StoreError> {
        self.query(
            "WITH RECURSIVE named(queue) AS (\
             SELECT (SELECT MIN(queue) FROM outbox_dead_letters) UNION ALL \
             SELECT (SELECT MIN(d.queue) FROM outbox_dead_letters d WHERE d.queue > n.queue) \
             FROM named n WHERE n.queue IS NOT NULL) \
             SELECT queue FROM named WHERE queue IS NOT NULL",
            &[],
            only_column,
        )
        .await
    }
}

const MOVE_SQL: &str = "UPDATE outbox_dead_letters SET queue = $1 WHERE id IN \
     (SELECT id FROM outbox_dead_letters WHERE queue = $2 AND payload LIKE $3 \
     ORDER BY id LIMIT $4) RETURNING id";
