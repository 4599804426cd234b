//! Text that only the last events of a stream contain. The Responses API
//! repeats each text up to five times: as deltas, then whole at the end of the
//! text, of its part, of its item and of the response. Some servers leave the
//! deltas out. Text that an earlier event gave is not given again (TURN-20).

/// Which event contains the text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    /// `response.output_text.done`, `response.refusal.done`
    Text,
    /// `response.content_part.done`
    Part,
    /// `response.output_item.done`
    Item,
    /// The event that ends the stream.
    Response,
}

/// Compares the text of the last events with the text that was given before.
#[derive(Debug, Default)]
pub(super) struct FinalText {
    given: String,
    levels: [Progress; 4],
}

/// How much of the given text the events of one level have confirmed.
#[derive(Debug, Default)]
struct Progress {
    confirmed: usize,
    /// The place of the last event. An event that comes twice counts once.
    last: Option<String>,
    /// An event contradicted the text that was given. The next event of this
    /// level cannot be compared, whatever its place is.
    contradicts: bool,
}

impl FinalText {
    /// `text` was given.
    pub(super) fn give(&mut self, text: &str) {
        self.given.push_str(text);
    }

    /// The part of `text` that was not given yet; it counts as given now.
    /// `place` distinguishes texts of one level. Without a place, the text is
    /// used only if nothing else was given.
    pub(super) fn rest<'t>(
        &mut self,
        level: Level,
        place: Option<String>,
        text: &'t str,
    ) -> &'t str {
        let Self { given, levels } = self;
        let progress = &mut levels[level as usize];
        let is_repeated = place.is_some() && progress.last == place;
        let is_placed = place.is_some() || matches!(level, Level::Response);
        progress.last = place;
        if progress.contradicts || is_repeated {
            return "";
        }
        let unconfirmed = &given[progress.confirmed..];
        if unconfirmed.starts_with(text) {
            progress.confirmed += text.len();
            return "";
        }
        match text.strip_prefix(unconfirmed) {
            Some(rest) if is_placed || given.is_empty() => {
                given.push_str(rest);
                progress.confirmed = given.len();
                rest
            }
            _ => {
                progress.contradicts = true;
                ""
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn what_deltas_gave_is_given_once() {
        let mut text = FinalText::default();
        text.give("Hello");
        text.give(" world");
        assert_eq!(text.rest(Level::Text, Some(place("0")), "Hello world"), "");
        text.give("!");
        assert_eq!(text.rest(Level::Text, Some(place("1")), "!"), "");
        assert_eq!(text.rest(Level::Part, Some(place("0")), "Hello world"), "");
        assert_eq!(text.rest(Level::Part, Some(place("1")), "!"), "");
        assert_eq!(text.rest(Level::Item, Some(place("0")), "Hello world!"), "");
        assert_eq!(text.rest(Level::Response, None, "Hello world!"), "");
    }

    #[test]
    fn what_only_a_last_event_says_is_given_once() {
        for levels in [
            &[Level::Text, Level::Part, Level::Item, Level::Response][..],
            &[Level::Part, Level::Response],
            &[Level::Item, Level::Response],
            &[Level::Response],
        ] {
            let mut text = FinalText::default();
            let given: String = levels
                .iter()
                .map(|&level| text.rest(level, Some(place("0")), "Hi"))
                .collect();
            assert_eq!(given, "Hi", "{levels:?}");
        }
    }

    #[test]
    fn the_end_of_a_text_that_broke_off_is_given() {
        let mut text = FinalText::default();
        text.give("Hel");
        assert_eq!(text.rest(Level::Response, None, "Hello"), "lo");
    }

    #[test]
    fn a_second_text_without_deltas_is_given() {
        let mut text = FinalText::default();
        text.give("one ");
        assert_eq!(text.rest(Level::Text, Some(place("0")), "one "), "");
        assert_eq!(text.rest(Level::Text, Some(place("1")), "two"), "two");
        assert_eq!(text.rest(Level::Response, None, "one two"), "");
    }

    #[test]
    fn an_event_that_comes_twice_or_contradicts_gives_nothing() {
        let mut text = FinalText::default();
        text.give("Hi");
        assert_eq!(text.rest(Level::Text, Some(place("0")), "Hi"), "");
        assert_eq!(text.rest(Level::Text, Some(place("0")), "Hi"), "");
        assert_eq!(text.rest(Level::Part, None, "Hi"), "");
        assert_eq!(text.rest(Level::Part, None, "Hi"), "");
        assert_eq!(text.rest(Level::Item, Some(place("0")), "Ho"), "");
        assert_eq!(text.rest(Level::Item, Some(place("1")), "more"), "");
        assert_eq!(text.rest(Level::Response, None, "Hello"), "");
    }
}
