//! The output of one provider event: pieces of text and possibly the end, or
//! only a sign of life. The text is in one buffer, which every event reuses.
//! The mask is applied to all of it, so no output contains the credential.

use std::ops::Range;

use minichat_core::stream::ToolEvent;
use minichat_core::turn::{IncompleteReason, Usage};

use super::json;
use super::reported_error::ReportedError;
use super::text::whole;
use crate::event::{Completion, DeltaKind, ProviderEvent, ResponseId, Terminal, first_chars};
use crate::failure::Failure;
use crate::mask::{Mask, TextMask};

/// Bytes of the longest character in UTF-8.
const LONGEST_CHAR: usize = 4;

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the stream"
)]
pub(super) struct Output {
    text: String,
    /// Kind and end of each piece. A piece begins where the previous one ends.
    pieces: Vec<(DeltaKind, usize)>,
    taken: usize,
    /// Whether the next piece starts a new delta.
    separated: bool,
    progress: bool,
    /// The text that earlier events gave was reasoning.
    reclassified: bool,
    tool: Option<ToolEvent>,
    terminal: Option<Terminal>,
    finished: bool,
    /// Whether any piece, or a call of a tool, was ever given.
    has_given: bool,
    /// Bytes of text that may still be given.
    room: usize,
    /// A piece exceeded the limit.
    is_too_long: bool,
    mask: Mask,
    text_mask: TextMask,
    /// The kind of the text that the mask holds back.
    masked_kind: DeltaKind,
}

/// One item taken from the output. Text is given as a range of the buffer.
#[derive(Debug)]
pub(crate) enum Step {
    Delta(DeltaKind, Range<usize>),
    Tool(ToolEvent),
    TextWasReasoning,
    Progress,
    Terminal(Terminal),
}

impl Step {
    /// Whether it is a piece of the answer.
    pub(crate) const fn is_delta(&self) -> bool {
        matches!(self, Self::Delta(..))
    }
}

impl Output {
    /// An output that gives at most `max_bytes` of text and reasoning.
    pub(super) fn new(mask: Mask, max_bytes: usize) -> Self {
        Self {
            text: String::new(),
            pieces: Vec::new(),
            taken: 0,
            separated: false,
            progress: false,
            reclassified: false,
            tool: None,
            terminal: None,
            finished: false,
            has_given: false,
            room: max_bytes,
            is_too_long: false,
            text_mask: TextMask::new(mask.clone()),
            mask,
            masked_kind: DeltaKind::Text,
        }
    }

    /// Makes room for the next event; `false` after a terminal event.
    pub(super) fn begin(&mut self) -> bool {
        if self.finished {
            return false;
        }
        self.text.clear();
        self.pieces.clear();
        self.taken = 0;
        self.progress = true;
        true
    }

    /// Adds a piece of text; an empty piece is ignored. A tail that may be the
    /// beginning of the credential waits for the next piece.
    pub(super) fn delta(&mut self, kind: DeltaKind, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.masked_kind != kind {
            self.release();
            self.masked_kind = kind;
        }
        let mut text_mask = std::mem::take(&mut self.text_mask);
        self.push(kind, &text_mask.apply(text));
        self.text_mask = text_mask;
    }

    /// A call of a tool begins or ends. Text that the mask holds back may follow it.
    pub(super) fn tool(&mut self, event: ToolEvent) {
        self.tool = Some(event);
        self.progress = false;
        self.has_given = true;
    }

    /// The next piece belongs to another delta of the provider than the
    /// previous one.
    pub(super) fn separate(&mut self) {
        self.separated = true;
    }

    /// Gives the text that the mask held back.
    fn release(&mut self) {
        let held = self.text_mask.finish();
        self.push(self.masked_kind, &held);
    }

    fn push(&mut self, kind: DeltaKind, text: &str) {
        if text.is_empty() {
            return;
        }
        let Some(room) = self.room.checked_sub(text.len()) else {
            self.room = 0;
            self.is_too_long = true;
            return;
        };
        self.room = room;
        self.text.push_str(text);
        let end = self.text.len();
        let separated = std::mem::take(&mut self.separated);
        match self.pieces.last_mut() {
            Some((last, last_end)) if *last == kind && !separated => *last_end = end,
            _ => self.pieces.push((kind, end)),
        }
        self.progress = false;
        self.has_given = true;
    }

    /// All text that was given so far was reasoning.
    pub(super) fn text_was_reasoning(&mut self) {
        self.release();
        for (kind, _) in &mut self.pieces {
            *kind = DeltaKind::Reasoning;
        }
        self.reclassified = true;
    }

    /// Whether any piece, or a call of a tool, was ever given.
    pub(super) fn has_given(&self) -> bool {
        self.has_given
    }

    /// The first characters of `text` without the credential, and whether that is not
    /// all of it. Of a long text, only so much is read.
    pub(super) fn masked(&self, text: &str, max_chars: usize) -> (String, bool) {
        let read = self.mask.cut(text, max_chars.saturating_mul(LONGEST_CHAR));
        let masked = self.mask.credential_in(read);
        let kept = first_chars(&masked, max_chars);
        let is_cut = read.len() < text.len() || kept.len() < masked.len();
        (kept.to_owned(), is_cut)
    }

    /// The id of an answer.
    pub(super) fn response_id(&self, id: Option<&str>) -> Option<ResponseId> {
        let id = whole(json::text(id?)?);
        ResponseId::new(&self.masked(&id, ResponseId::MAX_CHARS).0)
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        self.end(Terminal::Completed(completion));
    }

    pub(super) fn incomplete(&mut self, reason: IncompleteReason, completion: Completion) {
        self.end(Terminal::Incomplete { reason, completion });
    }

    /// Ends with a failure in minichat's own words.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.end(Terminal::Failed(failure));
    }

    /// Ends with a failure in the provider's words.
    pub(super) fn report(
        &mut self,
        error: &ReportedError,
        usage: Option<Usage>,
        response_id: Option<ResponseId>,
    ) {
        let failure = Failure {
            usage,
            response_id,
            // A status after a part of the answer does not mean that the call
            // was refused.
            reported_status: error.status.filter(|_| !self.has_given),
            ..Failure::reported(error, &self.mask)
        };
        self.fail(failure);
    }

    fn end(&mut self, terminal: Terminal) {
        self.release();
        self.progress = false;
        self.finished = true;
        self.terminal = Some(if self.is_too_long {
            Terminal::Failed(terminal.too_long())
        } else {
            terminal
        });
    }

    /// Ends an answer that exceeded the limit.
    pub(super) fn end_if_too_long(&mut self) {
        if self.is_too_long && !self.finished {
            self.fail(Failure::too_long());
        }
    }

    /// Whether the answer exceeded the limit.
    pub(super) const fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    pub(super) fn take(&mut self) -> Option<Step> {
        if std::mem::take(&mut self.reclassified) {
            return Some(Step::TextWasReasoning);
        }
        if let Some(&(kind, end)) = self.pieces.get(self.taken) {
            let start = match self.taken.checked_sub(1) {
                Some(before) => self.pieces[before].1,
                None => 0,
            };
            self.taken += 1;
            return Some(Step::Delta(kind, start..end));
        }
        if let Some(event) = self.tool.take() {
            return Some(Step::Tool(event));
        }
        if std::mem::take(&mut self.progress) {
            return Some(Step::Progress);
        }
        self.terminal.take().map(Step::Terminal)
    }

    pub(super) fn event(&self, step: Step) -> ProviderEvent<'_> {
        match step {
            Step::Delta(kind, range) => ProviderEvent::Delta {
                kind,
                text: &self.text[range],
            },
            Step::Tool(event) => ProviderEvent::Tool(event),
            Step::TextWasReasoning => ProviderEvent::TextWasReasoning,
            Step::Progress => ProviderEvent::Progress,
            Step::Terminal(terminal) => ProviderEvent::Terminal(terminal),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }
}
