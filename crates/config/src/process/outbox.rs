//! The settings of the outbox (PLAT-31, PLAT-34, PLAT-39).

use std::time::Duration;

/// Longest lease of a partition.
const MAX_PASS_LEASE: Duration = Duration::from_secs(5);

/// What an event is about; each kind has its queue (PLAT-39).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboxKind {
    /// Usage events (QUOTA-86).
    Usage,
    /// Audit events (PLAT-81).
    Audit,
    /// Deleted chats (CONT-163).
    ChatCleanup,
    /// Deleted attachments of chats that are left (CONT-162).
    AttachmentCleanup,
    /// Chats whose older messages are to be summarized (CONT-133).
    ThreadSummary,
}

impl OutboxKind {
    /// The kinds that this release enqueues.
    pub const ENQUEUED: [Self; 5] = [
        Self::Usage,
        Self::Audit,
        Self::ChatCleanup,
        Self::AttachmentCleanup,
        Self::ThreadSummary,
    ];
    /// The kinds that the dispatcher delivers: events to sinks, and the summaries to
    /// make to this process itself.
    pub const DELIVERED: [Self; 3] = [Self::Usage, Self::Audit, Self::ThreadSummary];

    /// Whether its messages tell the clean-up of deletions. They have no order, and
    /// whoever cleans up reads them (CONT-164).
    pub const fn is_of_cleanup(self) -> bool {
        matches!(self, Self::ChatCleanup | Self::AttachmentCleanup)
    }

    /// Name of the kind in labels, logs and commands.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Audit => "audit",
            Self::ChatCleanup => "chat_cleanup",
            Self::AttachmentCleanup => "attachment_cleanup",
            Self::ThreadSummary => "thread_summary",
        }
    }
}

/// `outbox.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Names of the queues, all different, in the order of
    /// [`OutboxKind::ENQUEUED`].
    pub queues: [String; 5],
    /// Partitions of each queue, a power of two.
    pub num_partitions: u32,
    /// Time for which a process holds a partition.
    pub lease: Duration,
    /// The part of the lease for writing the result; less than it.
    pub ack_headroom: Duration,
    /// First wait after a failed delivery.
    pub backoff_base: Duration,
    /// Longest wait; not less than the first.
    pub backoff_max: Duration,
    /// Failed deliveries after which a message is a dead letter, of usage events, of
    /// audit events and of summaries to make; 0 = never.
    pub max_attempts: [u32; 3],
}

impl Outbox {
    /// The queue of a kind.
    pub fn queue(&self, kind: OutboxKind) -> &str {
        let [
            usage,
            audit,
            chat_cleanup,
            attachment_cleanup,
            thread_summary,
        ] = &self.queues;
        match kind {
            OutboxKind::Usage => usage,
            OutboxKind::Audit => audit,
            OutboxKind::ChatCleanup => chat_cleanup,
            OutboxKind::AttachmentCleanup => attachment_cleanup,
            OutboxKind::ThreadSummary => thread_summary,
        }
    }

    /// The kind whose queue is called `queue`.
    pub fn kind(&self, queue: &str) -> Option<OutboxKind> {
        OutboxKind::ENQUEUED
            .into_iter()
            .find(|kind| self.queue(*kind) == queue)
    }

    /// Failed deliveries after which an event of the kind is a dead letter; 0 =
    /// never.
    pub const fn max_attempts(&self, kind: OutboxKind) -> u32 {
        let [usage, audit, thread_summary] = self.max_attempts;
        match kind {
            OutboxKind::Usage => usage,
            OutboxKind::Audit => audit,
            OutboxKind::ThreadSummary => thread_summary,
            OutboxKind::ChatCleanup | OutboxKind::AttachmentCleanup => 0,
        }
    }

    /// The lease of a partition, which is held for one pass. A pass waits for no slow
    /// sink, so a short lease is enough, and another process soon takes over from one
    /// that was killed.
    pub fn pass_lease(&self) -> Duration {
        self.lease.min(MAX_PASS_LEASE)
    }

    /// How long one delivery may take (PLAT-33).
    pub fn handler_limit(&self) -> Duration {
        self.lease.saturating_sub(self.ack_headroom)
    }
}
