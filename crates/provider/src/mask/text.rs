//! Masks the credential in an answer, whose text comes in pieces and may cut it
//! anywhere. Every token passes here, so each of its bytes is read once.

use std::borrow::Cow;
use std::ops::Range;

use minichat_config::Secret;
use minichat_core::scrub::CREDENTIAL;

use super::Mask;

/// The forms, sorted by length, that are long enough to be masked in an answer,
/// where a short one could be a word of the language.
pub(super) fn masked_in_answers(forms: &[String]) -> &[String] {
    let count = forms.partition_point(|form| form.len() >= Secret::SHORTEST_MASKED);
    &forms[..count]
}

#[derive(Default)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(super) const fn insert(&mut self, byte: u8) {
        self.0[(byte >> 6) as usize] |= 1 << (byte & 63);
    }

    const fn contains(&self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] & (1 << (byte & 63)) != 0
    }
}

/// Masks a text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct TextMask {
    mask: Mask,
    /// The end of the text so far, which may be the beginning of a form.
    held: String,
}

impl TextMask {
    pub(crate) fn new(mask: Mask) -> Self {
        Self {
            mask,
            held: String::new(),
        }
    }

    /// What may be shown after the next piece.
    pub(crate) fn apply<'t>(&mut self, piece: &'t str) -> Cow<'t, str> {
        let text = if self.held.is_empty() {
            Cow::Borrowed(piece)
        } else {
            self.held.push_str(piece);
            Cow::Owned(std::mem::take(&mut self.held))
        };
        let found = self.mask.find(&text);
        text[found.undecided..].clone_into(&mut self.held);
        found.masked(text)
    }

    /// What was held back, when no further piece comes.
    pub(crate) fn finish(&mut self) -> String {
        let text = Cow::Owned(std::mem::take(&mut self.held));
        let mut found = self.mask.find(&text);
        found.undecided = text.len();
        found.masked(text).into_owned()
    }
}

/// What a text holds of the credential.
struct Found {
    /// Where forms stand, in order and apart; an end of the text that is
    /// undecided may hold some of them.
    forms: Vec<Range<usize>>,
    /// Where a form begins that may go on in the next piece; else the end.
    undecided: usize,
}

impl Mask {
    fn find(&self, text: &str) -> Found {
        let forms = masked_in_answers(&self.0.forms);
        let bytes = text.as_bytes();
        let mut found = Found {
            forms: Vec::new(),
            undecided: text.len(),
        };
        for (start, &byte) in bytes.iter().enumerate() {
            if !self.0.first_bytes.contains(byte) {
                continue;
            }
            let rest = &bytes[start..];
            if let Some(form) = forms.iter().find(|form| rest.starts_with(form.as_bytes())) {
                found.add(start..start + form.len());
            } else if found.undecided == text.len()
                && forms.iter().any(|form| form.as_bytes().starts_with(rest))
            {
                found.undecided = found.start_of_form_at(start);
            }
        }
        found
    }
}

impl Found {
    /// Forms that overlap are masked as one.
    fn add(&mut self, form: Range<usize>) {
        match self.forms.last_mut() {
            Some(last) if form.start < last.end => last.end = last.end.max(form.end),
            _ => self.forms.push(form),
        }
    }

    /// Where the form around `at` begins; `at` itself outside of all forms.
    fn start_of_form_at(&self, at: usize) -> usize {
        let last = self.forms.last().filter(|last| at < last.end);
        last.map_or(at, |last| last.start)
    }

    /// The decided part of `text` without the credential.
    fn masked(self, text: Cow<'_, str>) -> Cow<'_, str> {
        let decided = self.forms.into_iter();
        let mut decided = decided.take_while(|form| form.start < self.undecided);
        let Some(mut form) = decided.next() else {
            return match text {
                Cow::Borrowed(text) => Cow::Borrowed(&text[..self.undecided]),
                Cow::Owned(mut text) => {
                    text.truncate(self.undecided);
                    Cow::Owned(text)
                }
            };
        };
        let mut masked = String::with_capacity(text.len());
        let mut copied = 0;
        loop {
            masked.push_str(&text[copied..form.start]);
            masked.push_str(CREDENTIAL);
            copied = form.end;
            match decided.next() {
                Some(next) => form = next,
                None => break,
            }
        }
        masked.push_str(&text[copied..self.undecided]);
        Cow::Owned(masked)
    }
}
