//! Which events are about a person: for his export (API-114), and for his erasure
//! (PLAT-22). In every condition, `$1` is the queue, `$2` the tenant and `$3` the
//! [`pattern`].

use minichat_core::UserId;

/// Finds the events of a person: `user_id` and `actor_user_id` say whose they are.
/// Text inside an event cannot match, because its quotes are escaped.
pub(crate) fn pattern(user: UserId) -> String {
    format!("%user_id\":\"{user}\"%")
}

/// Of messages: those that wait for a sink. The partitions lead to the tenant in the index.
macro_rules! waiting {
    () => {
        "queue = $1 AND partition IN (SELECT partition \
         FROM outbox_partitions WHERE queue = $1) AND tenant_id = $2 AND done_at IS NULL \
         AND payload LIKE $3"
    };
}
pub(crate) use waiting;

/// Of messages: those that were delivered and wait for their removal.
macro_rules! delivered {
    () => {
        "queue = $1 AND tenant_id = $2 AND done_at IS NOT NULL \
         AND payload LIKE $3"
    };
}
pub(crate) use delivered;

/// Of dead letters.
macro_rules! refused {
    () => {
        "queue = $1 AND tenant_id = $2 AND payload LIKE $3"
    };
}
pub(crate) use refused;
