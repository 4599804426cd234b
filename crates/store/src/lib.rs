//! Everything durable: one concrete [`Store`] over `SQLite` and PostgreSQL.
//! A *job* is a closure that receives one transaction. [`Store::write`] runs it
//! in a read-write transaction and commits if it returns `Ok`. [`Store::read`]
//! runs it against a snapshot. Each resource has a file that adds methods to
//! [`Tx`], named `resource_verb`, with the tenant first. Handlers, jobs and
//! tests write no SQL of their own.
//! One SQL text serves both databases. They differ in few places: column types
//! in the migrations, the form of values in `value`, and row locks.

mod admission;
mod attachments;
mod books;
mod chats;
mod cleanup;
mod erasures;
mod error;
mod export;
mod filter;
mod health;
mod listed_attachments;
mod message_attachments;
mod messages;
mod migrate;
mod mutations;
mod one_statement;
mod orphans;
mod outbox;
mod page;
mod policy_snapshots;
mod postgres;
mod processes;
mod purge;
mod quota;
mod reactions;
mod settings;
mod snapshot;
mod sqlite;
mod store;
mod tenants;
mod thread_summaries;
mod tool_files;
mod turns;
mod tx;
mod value;
mod vector_stores;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use admission::{AdmissionFacts, AdmissionQuery, RecentMessage};
pub use attachments::{
    Attachment, AttachmentDeletion, AttachmentInsert, AttachmentKey, AttachmentStatus, ChatLimits,
    DeletedAttachment, NewAttachment, Thumbnail,
};
pub use books::{BookPeriod, BookedCell, BookedTurns, UsageRollup};
pub use chats::{Chat, NewChat};
pub use cleanup::{
    CleanupBacklog, CleanupClaim, CleanupCursor, CleanupHint, CleanupStep, CleanupTimes,
    DeletedChats, DeletedPage, DroppedStore, DueChat, DueKind, DuePart, DuePlace, FailedAttempt,
    FailedDeletion, HintedChat, LeftStore, PendingFile,
};
pub use erasures::{Erased, Erasure, ErasureRest, WithoutPerson};
pub use error::{Constraint, Refused, StoreError};
pub use export::{EventSource, ExportTable, ExportedRow};
pub use filter::{Comparison, Filter, Place};
pub use futures_util::future::BoxFuture;
pub use listed_attachments::{AttachmentSummary, ListedThumbnail};
pub use message_attachments::{MessageKey, UsableAttachment};
pub use messages::{Message, NewMessage, Reaction, Role};
pub use mutations::{DeletedTurn, MutationQuery, MutationTarget, TargetTurn};
pub use one_statement::{AdmissionSnapshot, ConditionalReserve, Finalization, SummaryRequest};
pub use orphans::{Orphan, OrphanKey, OrphanQuery, OrphanRule};
pub use outbox::{
    Buried, DeadLetter, DeadLetterBacklog, DeadLetterFilter, DeadLetterStatus, Delivery, DueTenant,
    Holder, OutboxMessage, OutboxQueue, ParkedTenant, PendingMessage, QueueMismatch, Share,
    UsageEvent, Vacuumed, WaitingShare, partition_of,
};
pub use page::{Direction, Key, Order, Page, PageRequest, Sort};
pub use policy_snapshots::PolicySnapshot;
pub use postgres::StopRequests;
pub use processes::Silence;
pub use purge::{PurgeStep, PurgeableChat};
pub use quota::{QuotaCell, QuotaCells, QuotaDay, SettlementBooking, SettlementFault};
pub use reactions::NewReaction;
pub use settings::DatabaseSettings;
pub use snapshot::{Snapshot, SnapshotError};
pub use sqlite::{CopyError, DatabaseFile};
pub use store::Store;
pub use tenants::ServedTenant;
pub use thread_summaries::{
    ChatToSummarize, MessageToSummarize, NewSummary, SummaryRange, ThreadSummary,
};
pub use tool_files::{CitableFile, FileAtProvider, ToolFiles};
pub use turns::{FinishedTurn, NewTurn, Turn, TurnFinish, TurnSettlement};
pub use tx::Tx;
pub use vector_stores::{ChatVectorStore, VectorStorePlace, VectorStoreReserve};
