//! Running turns whose process may be gone, with everything their settlement
//! needs besides the stored policy (TURN-56, TURN-58). The watchdog decides how
//! old an orphan is, and how long a dead process is silent.

use minichat_core::{ChatId, Date, RequestId, TenantId, Timestamp, TurnId, UserId};

use crate::processes::process_is_dead;
use crate::value::{Param, Row, params};
use crate::{Silence, StoreError, Tx};

/// When a running turn is an orphan (TURN-57): if one of the two holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrphanRule {
    /// Its last progress is not later than this.
    pub stale_at: Timestamp,
    /// Its process is dead (TURN-69); `None`: no process is judged.
    pub silence: Option<Silence>,
}

/// Which running turns to list, of all tenants. The turn with the oldest
/// progress comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrphanQuery {
    /// Only orphans by this rule; `None` = all.
    pub rule: Option<OrphanRule>,
    /// Only turns after this one in the order of the list.
    pub after: Option<OrphanKey>,
    /// Maximum number of rows.
    pub limit: u32,
}

/// A turn's place in the order of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrphanKey {
    pub last_progress_at: Timestamp,
    pub turn_id: TurnId,
}

/// A running turn, as its row describes it. `None` means that the value was
/// never written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    pub key: OrphanKey,
    pub tenant_id: TenantId,
    pub chat_id: ChatId,
    pub request_id: RequestId,
    /// `user` or `system`.
    pub requester_type: String,
    pub requester_user_id: Option<UserId>,
    /// The chat's current model (TURN-60).
    pub selected_model: String,
    pub provider_name: Option<String>,
    pub effective_model: Option<String>,
    pub policy_version_applied: Option<u64>,
    /// The day of the reserve's daily cell (QUOTA-54).
    pub reserve_day: Option<Date>,
    pub started_at: Timestamp,
}

impl Tx {
    /// The running turns of `query`, without locks. The finalization of each
    /// checks the condition again (TURN-60).
    pub async fn orphan_list(&mut self, query: &OrphanQuery) -> Result<Vec<Orphan>, StoreError> {
        let OrphanQuery { rule, after, limit } = *query;
        let [since, witnessed_after] = Silence::params_of(rule);
        self.query(
            concat!(
                "SELECT t.last_progress_at, t.id, t.tenant_id, t.chat_id, t.request_id, \
             t.requester_type, t.requester_user_id, c.model, t.provider_name, \
             t.effective_model, t.policy_version_applied, t.reserve_day, t.started_at \
             FROM chat_turns t JOIN chats c ON c.id = t.chat_id AND c.tenant_id = t.tenant_id \
             WHERE t.state = 'running' AND t.deleted_at IS NULL \
             AND (CAST($1 AS TIMESTAMPTZ) IS NULL OR t.last_progress_at <= $1 OR ",
                process_is_dead!("$5", "$6"),
                ") \
             AND (CAST($2 AS TIMESTAMPTZ) IS NULL OR (t.last_progress_at, t.id) > ($2, $3)) \
             ORDER BY t.last_progress_at, t.id LIMIT $4"
            ),
            &params![
                rule.map(|rule| rule.stale_at),
                after.map(|key| key.last_progress_at),
                after.map(|key| key.turn_id),
                Param::from(u64::from(limit)),
                since,
                witnessed_after,
            ],
            orphan_row,
        )
        .await
    }
}

fn orphan_row(row: &Row<'_>) -> Result<Orphan, StoreError> {
    Ok(Orphan {
        key: OrphanKey {
            last_progress_at: row.take()?,
            turn_id: row.take()?,
        },
        tenant_id: row.take()?,
        chat_id: row.take()?,
        request_id: row.take()?,
        requester_type: row.take()?,
        requester_user_id: row.take()?,
        selected_model: row.take()?,
        provider_name: row.take()?,
        effective_model: row.take()?,
        policy_version_applied: row.take()?,
        reserve_day: row.take()?,
        started_at: row.take()?,
    })
}
