//! The events of tools and of citations (API-143, API-144).

use serde::Serialize;

use crate::ids::AttachmentId;
use crate::tool::HostedTool;

/// A call of a tool begins or ends (API-143).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ToolEvent {
    pub phase: ToolPhase,
    pub name: HostedTool,
    /// Empty at the beginning of a call.
    pub details: ToolDetails,
}

impl ToolEvent {
    /// The beginning of a call.
    pub fn start(name: HostedTool) -> Self {
        Self {
            phase: ToolPhase::Start,
            name,
            details: ToolDetails::default(),
        }
    }

    /// The end of a call.
    pub const fn done(name: HostedTool, details: ToolDetails) -> Self {
        Self {
            phase: ToolPhase::Done,
            name,
            details,
        }
    }
}

/// Which end of a call an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolPhase {
    Start,
    Done,
}

/// The result of a call, as far as clients see it (CONT-105).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ToolDetails {
    /// Results of a file search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_searched: Option<usize>,
    /// What the code printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// A source of the answer (API-144).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Citation {
    pub source: CitationSource,
    pub title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment_id: Option<AttachmentId>,
    pub snippet: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

/// Where a source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CitationSource {
    File,
    Web,
}

/// A range of Unicode characters of the answer; `end` is exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}
