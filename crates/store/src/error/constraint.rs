//! The uniqueness rules of the schema, by name.

/// A uniqueness rule of the schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Constraint {
    /// `(chat_id, request_id)` of `chat_turns`, deleted rows included.
    TurnRequest,
    /// One running turn per chat.
    OneRunningTurn,
    /// `(chat_id, request_id, role)` of undeleted messages.
    MessageRole,
    QuotaCell,
    ThreadSummary,
    VectorStore,
    Reaction,
    PolicySnapshot,
    OutboxDedupe,
    /// A primary key, or a rule that no caller needs to distinguish.
    Other,
}

/// Each constraint with its name on PostgreSQL and its columns as `SQLite`
/// lists them.
const CONSTRAINTS: [(Constraint, &str, &str); 9] = [
    (
        Constraint::TurnRequest,
        "chat_turns_request",
        "chat_turns.chat_id, chat_turns.request_id",
    ),
    (
        Constraint::OneRunningTurn,
        "chat_turns_one_running",
        "chat_turns.chat_id",
    ),
    (
        Constraint::MessageRole,
        "messages_role",
        "messages.chat_id, messages.request_id, messages.role",
    ),
    (
        Constraint::QuotaCell,
        "quota_usage_cell",
        "quota_usage.tenant_id, quota_usage.user_id, quota_usage.period_type, \
         quota_usage.period_start, quota_usage.bucket",
    ),
    (
        Constraint::ThreadSummary,
        "thread_summaries_chat",
        "thread_summaries.chat_id",
    ),
    (
        Constraint::VectorStore,
        "chat_vector_stores_chat",
        "chat_vector_stores.tenant_id, chat_vector_stores.chat_id",
    ),
    (
        Constraint::Reaction,
        "message_reactions_user",
        "message_reactions.message_id, message_reactions.user_id",
    ),
    (
        Constraint::PolicySnapshot,
        "policy_snapshots_pkey",
        "policy_snapshots.tenant_id, policy_snapshots.policy_version",
    ),
    (
        Constraint::OutboxDedupe,
        "outbox_messages_dedupe",
        "outbox_messages.queue, outbox_messages.dedupe_key",
    ),
];

impl Constraint {
    pub(super) fn from_postgres(name: &str) -> Self {
        CONSTRAINTS
            .iter()
            .find(|(_, postgres, _)| *postgres == name)
            .map_or(Self::Other, |(constraint, _, _)| *constraint)
    }

    pub(super) fn from_sqlite(columns: &str) -> Self {
        CONSTRAINTS
            .iter()
            .find(|(_, _, sqlite)| *sqlite == columns)
            .map_or(Self::Other, |(constraint, _, _)| *constraint)
    }
}
