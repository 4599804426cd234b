//! Which events are about a person: for his export (API-114), and for his erasure
//! (PLAT-22). In every condition, `$1` is the tenant and `$2` the [`pattern`].
//!
//! No condition names a queue, because that of an event may have another name by now.

use minichat_core::UserId;

/// Finds the events of a person: `user_id` and `actor_user_id` say whose they are.
/// Text inside an event cannot match, because its quotes are escaped.
pub(crate) fn pattern(user: UserId) -> String {
    format!("%user_id\":\"{user}\"%")
}

/// Of events of a person: usage events.
macro_rules! usage {
    () => {
        " AND payload LIKE '%\"event_type\":\"usage_snapshot\"%'"
    };
}
pub(crate) use usage;

/// Of events of a person: audit events, which are all others.
macro_rules! audit {
    () => {
        " AND payload NOT LIKE '%\"event_type\":\"usage_snapshot\"%'"
    };
}
pub(crate) use audit;

/// Of messages: those that wait for a sink. The partitions lead to the tenant in the index.
macro_rules! waiting {
    () => {
        "(queue, partition) IN (SELECT queue, partition \
         FROM outbox_partitions) AND tenant_id = $1 AND done_at IS NULL \
         AND payload LIKE $2"
    };
}
pub(crate) use waiting;

/// Of messages: those that were delivered and wait for their removal.
macro_rules! delivered {
    () => {
        "tenant_id = $1 AND done_at IS NOT NULL AND payload LIKE $2"
    };
}
pub(crate) use delivered;

/// Of dead letters.
macro_rules! refused {
    () => {
        "tenant_id = $1 AND payload LIKE $2"
    };
}
pub(crate) use refused;
