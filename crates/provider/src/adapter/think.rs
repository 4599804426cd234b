//! Splits text with `<think>…</think>` into answer and reasoning (TURN-21,
//! PLAT-110). Tags vanish, also when they are cut over several deltas; an
//! unclosed block is all reasoning.

use super::output::Output;
use crate::event::DeltaKind;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

#[derive(Debug, Default)]
pub(super) struct Splitter {
    inside: bool,
    /// How many bytes of the awaited tag the text so far ends with. They are
    /// held back until the next delta tells whether they are the tag.
    held: usize,
}

impl Splitter {
    /// Splits the next delta.
    pub(super) fn split(&mut self, mut text: &str, output: &mut Output) {
        while self.held > 0 && !text.is_empty() {
            text = self.resume(text, output);
        }
        while let Some(at) = memchr::memmem::find(text.as_bytes(), self.tag().as_bytes()) {
            output.delta(self.kind(), &text[..at]);
            text = &text[at + self.tag().len()..];
            self.inside = !self.inside;
        }
        if !text.is_empty() {
            self.held = longest_tag_start(text, self.tag());
            output.delta(self.kind(), &text[..text.len() - self.held]);
        }
    }

    /// Releases a tag that never became whole.
    pub(super) fn finish(&mut self, output: &mut Output) {
        output.delta(self.kind(), &self.tag()[..self.held]);
        self.held = 0;
    }

    /// Continues a held tag with `text`; gives what is left of `text`.
    fn resume<'t>(&mut self, text: &'t str, output: &mut Output) -> &'t str {
        let tag = self.tag();
        let rest = &tag[self.held..];
        let common = text
            .bytes()
            .zip(rest.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        if common == rest.len() {
            self.held = 0;
            self.inside = !self.inside;
            &text[common..]
        } else if common == text.len() {
            self.held += common;
            ""
        } else {
            // A tag holds `<` only at its start, so no shorter start of a tag
            // hides inside what is released.
            output.delta(self.kind(), &tag[..self.held + common]);
            self.held = 0;
            &text[common..]
        }
    }

    const fn kind(&self) -> DeltaKind {
        if self.inside {
            DeltaKind::Reasoning
        } else {
            DeltaKind::Text
        }
    }

    const fn tag(&self) -> &'static str {
        if self.inside { CLOSE } else { OPEN }
    }
}

/// Length of the longest proper start of `tag` that `text` ends with.
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

    /// Answer and reasoning of `deltas`.
    fn split<'a>(deltas: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let mut splitter = Splitter::default();
        let mut output = Output::default();
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut take = |output: &mut Output| {
            while let Some(step) = output.take() {
                if let Step::Delta(kind, range) = step {
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
            }
        };
        for delta in deltas {
            output.begin();
            splitter.split(delta, &mut output);
            take(&mut output);
        }
        output.begin();
        splitter.finish(&mut output);
        take(&mut output);
        (answer, reasoning)
    }

    /// The same by plain search over the whole text.
    fn model(mut text: &str) -> (String, String) {
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut inside = false;
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
