//! The events of a provider's stream, independent of its protocol.

use minichat_core::stream::{CitationSource, Span, ToolEvent};
use minichat_core::turn::{IncompleteReason, Usage};

use crate::failure::Failure;

/// One event of a stream. Its text is borrowed from the stream's buffer until
/// the next event is requested.
#[derive(Debug)]
pub enum ProviderEvent<'a> {
    /// A piece of the answer, never empty.
    Delta {
        /// Visible text or reasoning.
        kind: DeltaKind,
        /// The piece itself.
        text: &'a str,
    },
    /// A call of a tool that the provider runs begins or ends (CONT-105).
    Tool(ToolEvent),
    /// All text given as [`DeltaKind::Text`] so far was reasoning. It is not
    /// part of the answer and must not be stored (TURN-21).
    TextWasReasoning,
    /// The provider sent something that is not part of the answer. It shows
    /// that the turn is alive (TURN-19).
    Progress,
    /// The end. Nothing follows.
    Terminal(Terminal),
}

/// Whether a piece of text belongs to the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeltaKind {
    /// Part of the answer: shown and stored.
    Text,
    /// Reasoning: shown, never stored (TURN-21).
    Reasoning,
}

/// How a stream ended (PLAT-113, PLAT-114).
#[derive(Debug, PartialEq, Eq)]
pub enum Terminal {
    /// The provider finished its answer.
    Completed(Completion),
    /// The provider stopped early. This counts as success (TURN-30).
    Incomplete {
        /// Why it stopped.
        reason: IncompleteReason,
        /// What it reported.
        completion: Completion,
    },
    /// The provider failed, or the connection broke.
    Failed(Failure),
}

impl Terminal {
    /// The failure of an answer that is too long, with the usage that was
    /// reported.
    pub(crate) fn too_long(self) -> Failure {
        let (usage, response_id) = match self {
            Self::Completed(it) | Self::Incomplete { completion: it, .. } => {
                (it.usage, it.response_id)
            }
            Self::Failed(failure) => return failure,
        };
        Failure {
            usage,
            response_id,
            ..Failure::too_long()
        }
    }
}

/// What a provider reports at the end of its answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// `None` when no usage was reported (D26).
    pub usage: Option<Usage>,
    /// The provider's id of the answer; never shown to clients (CONT-39).
    pub response_id: Option<ResponseId>,
    /// The sources of a whole answer, in its order (CONT-108).
    pub citations: Vec<Citation>,
}

/// A source, as the provider names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Citation {
    /// Where it is.
    pub source: CitationSource,
    /// Its title, may be empty.
    pub title: String,
    /// Its address, of a web page only.
    pub url: Option<String>,
    /// The provider's id of the file; never shown to clients (CONT-39).
    pub file_id: Option<String>,
    /// What the source is cited for, may be empty.
    pub snippet: String,
    /// The characters of the answer that cite it.
    pub span: Option<Span>,
}

/// A provider's id of an answer, cut to the length of the columns that store it
/// (D42).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseId(Box<str>);

impl ResponseId {
    /// Longest id in characters.
    pub const MAX_CHARS: usize = 128;

    /// The first characters of `id`; `None` when it is empty.
    pub(crate) fn new(id: &str) -> Option<Self> {
        let id = first_chars(id, Self::MAX_CHARS);
        (!id.is_empty()).then(|| Self(id.into()))
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first `count` characters of `text`.
pub(crate) fn first_chars(text: &str, count: usize) -> &str {
    match text.char_indices().nth(count) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
