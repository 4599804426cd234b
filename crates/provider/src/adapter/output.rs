//! What one provider event gives: pieces of text, then perhaps the end; or only
//! a sign of life. The text lies in one buffer that is reused for every event.

use std::ops::Range;

use crate::event::{Completion, DeltaKind, ProviderEvent, Terminal};
use crate::failure::Failure;
use minichat_core::turn::IncompleteReason;

#[derive(Debug, Default)]
pub(super) struct Output {
    text: String,
    /// Kind and end of each piece; a piece begins where the one before ends.
    pieces: Vec<(DeltaKind, usize)>,
    taken: usize,
    progress: bool,
    terminal: Option<Terminal>,
    finished: bool,
}

/// One thing taken from the output; text is named by its place.
#[derive(Debug)]
pub(crate) enum Step {
    Delta(DeltaKind, Range<usize>),
    Progress,
    Terminal(Terminal),
}

impl Output {
    /// Makes room for the next event; `false` after a terminal one.
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

    /// Adds a piece of text; an empty one is nothing.
    pub(super) fn delta(&mut self, kind: DeltaKind, text: &str) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        let end = self.text.len();
        match self.pieces.last_mut() {
            Some((last_kind, last_end)) if *last_kind == kind => *last_end = end,
            _ => self.pieces.push((kind, end)),
        }
        self.progress = false;
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        self.end(Terminal::Completed(completion));
    }

    pub(super) fn incomplete(&mut self, reason: IncompleteReason, completion: Completion) {
        self.end(Terminal::Incomplete { reason, completion });
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.end(Terminal::Failed(failure));
    }

    fn end(&mut self, terminal: Terminal) {
        self.progress = false;
        self.finished = true;
        self.terminal = Some(terminal);
    }

    pub(super) fn take(&mut self) -> Option<Step> {
        if let Some(&(kind, end)) = self.pieces.get(self.taken) {
            let start = match self.taken.checked_sub(1) {
                Some(before) => self.pieces[before].1,
                None => 0,
            };
            self.taken += 1;
            return Some(Step::Delta(kind, start..end));
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
            Step::Progress => ProviderEvent::Progress,
            Step::Terminal(terminal) => ProviderEvent::Terminal(terminal),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }
}
