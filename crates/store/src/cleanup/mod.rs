//! The clean-up of provider files and vector stores after deletions (CONT-160 to
//! CONT-175). The unit of work is a chat: a deleted one with everything that it has
//! at the provider, or a living one with the files of its deleted attachments.
//!
//! An attachment is *pending* while its file must be deleted. It is *due* unless a
//! failed attempt is too recent (CONT-168), or its upload may still bring a file. A
//! deleted chat without pending attachments is due as long as it has a row in
//! `chat_vector_stores`.
//!
//! [`due`] finds what is due, [`claims`] says who works on a chat, [`files`] and
//! [`stores`] how it ended, [`drift`] and [`deleted_chats`] repair what no deletion has
//! marked, [`hints`] are the messages of deletions.

mod claims;
mod deleted_chats;
mod drift;
mod due;
mod files;
mod hints;
mod stores;

use minichat_core::{AttachmentId, Timestamp};
use uuid::Uuid;

pub use claims::{CleanupClaim, CleanupCursor};
#[cfg(test)]
pub(crate) use deleted_chats::PLANNED as PLANNED_DELETED;
pub use deleted_chats::{DeletedChats, DeletedPage};
#[cfg(test)]
pub(crate) use drift::PLANNED as PLANNED_DRIFT;
pub use due::{DueChat, DueKind, DuePart, DuePlace};
#[cfg(test)]
pub(crate) use due::{PLANNED as PLANNED_DUE, PLANNED_LABELS};
pub use files::FailedDeletion;
pub use hints::{CleanupHint, HintedChat};

/// The instants by which a pass decides what is due. It takes them once, so that it
/// tries nothing twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupTimes {
    /// What may be tried only after this instant is not due.
    pub now: Timestamp,
    /// Uploads and placeholders of vector stores that have not changed since this
    /// instant are abandoned.
    pub stale_before: Timestamp,
}

/// The next thing to do in a claimed chat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CleanupStep {
    /// Nothing is due, or the claim is lost, and another process may work on the chat.
    Nothing,
    /// An attachment is pending.
    File(PendingFile),
    /// No attachment of the deleted chat is pending.
    Store(LeftStore),
}

/// An attachment whose file must be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingFile {
    pub id: AttachmentId,
    /// The last attempt. Also the place in the order of the chat's attachments.
    pub since: Timestamp,
    /// `None`: there is no file.
    pub provider_file_id: Option<String>,
    /// Label of the provider that has it.
    pub storage_backend: String,
    /// Until when it was left alone, if an attempt has failed.
    pub due_at: Option<Timestamp>,
    /// The vector store of a living chat that has the file. The store of a deleted
    /// chat is deleted as a whole.
    pub vector_store_id: Option<String>,
}

/// The vector store of a deleted chat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftStore {
    /// Of the row.
    pub id: Uuid,
    /// `None`: it was never created.
    pub vector_store_id: Option<String>,
    /// Label of the provider that has it.
    pub provider: String,
    /// The last attempt, if one has failed.
    pub tried_at: Option<Timestamp>,
    /// Until when it was left alone.
    pub due_at: Timestamp,
}

/// What became of an attachment after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedAttempt {
    /// Another process has changed the row: the attempt is not counted.
    Elsewhere,
    /// It will be tried again.
    Pending,
    /// It was the last attempt.
    Failed,
}

/// What became of the row of a vector store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DroppedStore {
    /// Another process deleted the row, or an attachment is pending again.
    Kept,
    Dropped {
        /// Whether a file of the chat could not be deleted.
        has_failed_files: bool,
    },
}

/// Numbers of attachments by `cleanup_status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleanupBacklog {
    pub pending: u64,
    pub failed: u64,
}

/// From when on the file of a pending attachment `a` may be deleted; an index has it.
macro_rules! due_at {
    () => {
        "COALESCE(a.cleanup_due_at, a.cleanup_updated_at, a.created_at)"
    };
}
use due_at;

/// The condition on an attachment `a` of a chat `c` to be due: `$now` and
/// `$stale` are the instants of [`CleanupTimes`]. A row is never touched that a
/// living chat still uses, whatever its `cleanup_status` is.
macro_rules! is_due {
    ($now:literal, $stale:literal) => {
        concat!(
            "a.cleanup_status = 'pending' AND ",
            due_at!(),
            " <= ",
            $now,
            " AND (a.status <> 'pending' OR a.provider_file_id IS NOT NULL \
             OR a.updated_at <= ",
            $stale,
            ") AND (c.deleted_at IS NOT NULL OR a.deleted_at IS NOT NULL \
             OR a.status = 'failed')"
        )
    };
}
use is_due;
