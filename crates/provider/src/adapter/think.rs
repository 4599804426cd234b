//! Splits text with `<think>…</think>` into answer and reasoning (TURN-21,
//! PLAT-110). The tags are removed, even if they are cut over several deltas.
//! An unclosed block is reasoning to its end. A `</think>` without an opening
//! tag ends reasoning that began with the answer, because some servers put the
//! opening tag into the prompt.

use super::output::Output;
use crate::event::DeltaKind;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Maximum number of bytes of text that wait for more.
const MOST_UNDECIDED: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Splitter {
    inside: bool,
    has_seen_tag: bool,
    /// The beginning of a tag at the end of the text. It is held back until the
    /// next delta shows whether it is the tag.
    held: String,
    /// Text before the first tag. It waits while more of the answer has already
    /// arrived, because a closing tag would make it reasoning.
    undecided: String,
    /// The end of each delta in `undecided`, so that the deltas stay separate.
    ends: Vec<usize>,
    /// Whether text before the first tag was given as text.
    has_given: bool,
}

impl Splitter {
    /// Splits the next delta.
    pub(super) fn split(&mut self, delta: &str, output: &mut Output) {
        let mut held = std::mem::take(&mut self.held);
        let mut text = if held.is_empty() {
            delta
        } else {
            held.push_str(delta);
            held.as_str()
        };
        while let Some((at, tag)) = self.next_tag(text) {
            self.give(&text[..at], output);
            text = &text[at + tag.len()..];
            self.pass(tag, output);
        }
        let tags = self.tags();
        let len = tags.iter().map(|tag| longest_tag_start(text, tag)).max();
        let (shown, held) = text.split_at(text.len() - len.unwrap_or(0));
        self.give(shown, output);
        held.clone_into(&mut self.held);
        if self.ends.last().copied().unwrap_or(0) < self.undecided.len() {
            self.ends.push(self.undecided.len());
        }
        if self.undecided.len() > MOST_UNDECIDED {
            self.settle(output);
        }
    }

    /// Gives the beginning of a tag that was never completed.
    pub(super) fn finish(&mut self, output: &mut Output) {
        self.settle(output);
        let held = std::mem::take(&mut self.held);
        output.delta(self.kind(), &held);
    }

    /// Whether text is held back.
    pub(super) fn is_waiting(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Gives the text that was held back, as text.
    pub(super) fn settle(&mut self, output: &mut Output) {
        self.has_given |= self.is_waiting();
        self.decide(DeltaKind::Text, output);
    }

    fn decide(&mut self, kind: DeltaKind, output: &mut Output) {
        let text = std::mem::take(&mut self.undecided);
        let mut start = 0;
        for end in self.ends.drain(..).chain([text.len()]) {
            output.separate();
            output.delta(kind, &text[start..end]);
            start = end;
        }
    }

    fn give(&mut self, text: &str, output: &mut Output) {
        if self.has_seen_tag {
            output.delta(self.kind(), text);
        } else {
            self.undecided.push_str(text);
        }
    }

    fn next_tag(&self, text: &str) -> Option<(usize, &'static str)> {
        let found = |tag: &'static str| {
            memchr::memmem::find(text.as_bytes(), tag.as_bytes()).map(|at| (at, tag))
        };
        self.tags().iter().filter_map(|tag| found(tag)).min()
    }

    fn pass(&mut self, tag: &str, output: &mut Output) {
        let opens = tag == OPEN;
        if opens {
            self.settle(output);
        } else if !self.inside {
            if self.has_given {
                output.text_was_reasoning();
            }
            self.decide(DeltaKind::Reasoning, output);
        }
        self.inside = opens;
        self.has_seen_tag = true;
    }

    const fn kind(&self) -> DeltaKind {
        if self.inside {
            DeltaKind::Reasoning
        } else {
            DeltaKind::Text
        }
    }

    /// The tags that are recognised now.
    const fn tags(&self) -> &'static [&'static str] {
        match (self.inside, self.has_seen_tag) {
            (true, _) => &[CLOSE],
            (false, true) => &[OPEN],
            (false, false) => &[OPEN, CLOSE],
        }
    }
}

/// Length of the longest proper prefix of `tag` with which `text` ends.
fn longest_tag_start(text: &str, tag: &str) -> usize {
    let tail = &text.as_bytes()[text.len().saturating_sub(tag.len() - 1)..];
    match memchr::memrchr(b'<', tail) {
        Some(at) if tag.as_bytes().starts_with(&tail[at..]) => tail.len() - at,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::output::Step;
    use crate::mask::Mask;

    /// Answer and reasoning of `deltas`.
    fn split<'a>(deltas: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let mut splitter = Splitter::default();
        let mut output = Output::new(Mask::default(), usize::MAX);
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut take = |output: &mut Output| {
            while let Some(step) = output.take() {
                match step {
                    Step::Delta(kind, range) => {
                        let text = match output.event(Step::Delta(kind, range)) {
                            crate::ProviderEvent::Delta { text, .. } => text.to_owned(),
                            _ => unreachable!(),
                        };
                        assert!(!text.is_empty());
                        match kind {
                            DeltaKind::Text => answer.push_str(&text),
                            DeltaKind::Reasoning => reasoning.push_str(&text),
                        }
                    }
                    Step::TextWasReasoning => reasoning.push_str(&std::mem::take(&mut answer)),
                    Step::Progress | Step::Tool(_) | Step::Terminal(_) => {}
                }
            }
        };
        for delta in deltas {
            output.begin();
            if delta == "wait" {
                splitter.settle(&mut output);
            } else {
                splitter.split(delta, &mut output);
            }
            take(&mut output);
        }
        output.begin();
        splitter.finish(&mut output);
        take(&mut output);
        (answer, reasoning)
    }

    /// The same result by a search over the whole text.
    fn model(mut text: &str) -> (String, String) {
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut inside = match (text.find(OPEN), text.find(CLOSE)) {
            (Some(open), Some(close)) => close < open,
            (open, close) => open.is_none() && close.is_some(),
        };
        loop {
            let tag = if inside { CLOSE } else { OPEN };
            let target = if inside { &mut reasoning } else { &mut answer };
            let Some((before, after)) = text.split_once(tag) else {
                target.push_str(text);
                return (answer, reasoning);
            };
            target.push_str(before);
            inside = !inside;
            text = after;
        }
    }

    /// TURN-21
    #[test]
    fn tags_vanish_and_reasoning_is_told_apart() {
        let rows = [
            (&["<think>why</think>because"][..], "because", "why"),
            (
                &["<th", "ink>wh", "y</", "think", ">because"],
                "because",
                "why",
            ),
            (&["a<think>b"], "a", "b"),
            (&["a<thi"], "a<thi", ""),
            (&["<<think>b</</think>c"], "<c", "b</"),
            (&["a<thi", "<think>b"], "a<thi", "b"),
            (&["1 < 2 and é<", "b"], "1 < 2 and é<b", ""),
            (&["why</think>because"], "because", "why"),
            (&["why", "wait", "</think>because"], "because", "why"),
            (
                &["wh", "wait", "y<", "wait", "/think>because"],
                "because",
                "why",
            ),
            (&["a", "wait", "<think>b", "wait", "</think>c"], "ac", "b"),
            (
                &["wh", "y</th", "ink>because</think>"],
                "because</think>",
                "why",
            ),
        ];
        for (deltas, answer, reasoning) in rows {
            let expected = (answer.to_owned(), reasoning.to_owned());
            assert_eq!(split(deltas.iter().copied()), expected, "{deltas:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_split_of_the_whole(
            deltas in proptest::collection::vec("(<|>|/|t|th|think|<think>|</think>|é|x){0,4}", 0..12),
        ) {
            let whole = deltas.concat();
            prop_assert_eq!(split(deltas.iter().map(String::as_str)), model(&whole));
        }
    }
}
