//! How far an erasure is, as the person and the administrator are told (API-113).

use minichat_store::{Erased, ErasureRest};
use schemars::JsonSchema;
use serde::Serialize;

use super::Progress;

/// How far an erasure is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Erasure")]
pub(crate) struct ErasureReport {
    status: ErasureStatus,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<WaitingFor>,
    /// What it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<ErasedCounts>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ErasureStatus {
    InProgress,
    Finished,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErasureWaitingFor")]
struct WaitingFor {
    /// Chats that still have content.
    chats: u64,
    /// Answers that are still being written.
    running_turns: u64,
    /// Files to delete at the provider.
    files: u64,
    /// Files that the provider refuses to delete; they need an administrator.
    failed_files: u64,
    /// Vector stores to delete at the provider.
    vector_stores: u64,
}

#[derive(Serialize, JsonSchema)]
struct ErasedCounts {
    chats: u64,
    messages: u64,
    files: u64,
    /// Turns that are kept without the person, as the books need them.
    turns: u64,
    /// Rows of quotas that are kept without the person.
    quota_rows: u64,
    /// Events that are kept without the person and what he wrote.
    events: u64,
}

impl From<Progress> for ErasureReport {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Finished(erased) => Self {
                status: ErasureStatus::Finished,
                waiting_for: None,
                erased: Some(erased.into()),
            },
            Progress::Waiting(rest) => Self {
                status: ErasureStatus::InProgress,
                waiting_for: Some(rest.into()),
                erased: None,
            },
        }
    }
}

impl From<ErasureRest> for WaitingFor {
    fn from(rest: ErasureRest) -> Self {
        let ErasureRest {
            chats,
            running_turns,
            files,
            failed_files,
            vector_stores,
        } = rest;
        Self {
            chats,
            running_turns,
            files,
            failed_files,
            vector_stores,
        }
    }
}

impl From<Erased> for ErasedCounts {
    fn from(erased: Erased) -> Self {
        let Erased {
            chats,
            messages,
            files,
            turns,
            quota_rows,
            events,
        } = erased;
        Self {
            chats,
            messages,
            files,
            turns,
            quota_rows,
            events,
        }
    }
}
