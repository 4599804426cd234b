//! The order of events in a stream (TURN-24, API-133):
//!
//! ```text
//! stream_started ping* (delta | tool)* citations? (done | error)
//! ```

/// The kind of an event, without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EventKind {
    StreamStarted,
    Ping,
    Delta,
    Tool,
    Citations,
    Done,
    Error,
}

impl EventKind {
    pub const ALL: [Self; 7] = [
        Self::StreamStarted,
        Self::Ping,
        Self::Delta,
        Self::Tool,
        Self::Citations,
        Self::Done,
        Self::Error,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StreamStarted => "stream_started",
            Self::Ping => "ping",
            Self::Delta => "delta",
            Self::Tool => "tool",
            Self::Citations => "citations",
            Self::Done => "done",
            Self::Error => "error",
        }
    }

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Error)
    }
}

/// How far a stream has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    Idle,
    Started,
    Pinging,
    Streaming,
    Citations,
    Terminal,
}

/// Accepts events in the order of the grammar and refuses the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grammar {
    phase: Phase,
}

impl Default for Grammar {
    fn default() -> Self {
        Self::new()
    }
}

impl Grammar {
    pub const fn new() -> Self {
        Self { phase: Phase::Idle }
    }

    pub const fn phase(self) -> Phase {
        self.phase
    }

    /// Whether the terminal event has been accepted; nothing follows it.
    pub const fn is_terminal(self) -> bool {
        matches!(self.phase, Phase::Terminal)
    }

    /// Whether to send `ping` during silence, instead of a comment (TURN-25).
    pub const fn may_ping(self) -> bool {
        matches!(self.phase, Phase::Started | Phase::Pinging)
    }

    /// Advances if `kind` is allowed here. Otherwise the state stays as it is, and
    /// the caller must drop the event.
    #[must_use]
    pub fn accept(&mut self, kind: EventKind) -> bool {
        let next = match kind {
            EventKind::StreamStarted => Phase::Started,
            EventKind::Ping => Phase::Pinging,
            EventKind::Delta | EventKind::Tool => Phase::Streaming,
            EventKind::Citations => Phase::Citations,
            EventKind::Done | EventKind::Error => Phase::Terminal,
        };
        let fits = match kind {
            EventKind::StreamStarted => self.phase == Phase::Idle,
            EventKind::Ping | EventKind::Delta | EventKind::Tool => {
                self.phase > Phase::Idle && self.phase <= next
            }
            EventKind::Citations | EventKind::Done | EventKind::Error => {
                self.phase > Phase::Idle && self.phase < next
            }
        };
        if fits {
            self.phase = next;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The grammar as its definition reads, independent of phases.
    fn legal(events: &[EventKind]) -> bool {
        use EventKind::{Citations, Delta, Done, Error, Ping, StreamStarted, Tool};
        let mut rest = events.iter().copied().peekable();
        if rest.next() != Some(StreamStarted) {
            return events.is_empty();
        }
        while rest.next_if_eq(&Ping).is_some() {}
        while rest.next_if(|kind| matches!(kind, Delta | Tool)).is_some() {}
        rest.next_if_eq(&Citations);
        rest.next_if(|kind| matches!(kind, Done | Error));
        rest.next().is_none()
    }

    fn kinds() -> impl Strategy<Value = Vec<EventKind>> {
        prop::collection::vec(prop::sample::select(EventKind::ALL.to_vec()), 0..12)
    }

    proptest! {
        /// TURN-24, API-133
        #[test]
        fn what_is_accepted_is_a_prefix_of_the_grammar(events in kinds()) {
            let mut grammar = Grammar::new();
            let mut accepted = Vec::new();
            for kind in events {
                let mut extended = accepted.clone();
                extended.push(kind);
                prop_assert_eq!(grammar.accept(kind), legal(&extended), "{:?}", extended);
                if legal(&extended) {
                    accepted = extended;
                }
                prop_assert_eq!(
                    grammar.is_terminal(),
                    accepted.last().is_some_and(|kind| kind.is_terminal())
                );
            }
        }
    }

    /// TURN-25
    #[test]
    fn pings_end_with_the_first_delta() {
        let mut grammar = Grammar::new();
        assert!(!grammar.may_ping());
        assert!(grammar.accept(EventKind::StreamStarted));
        assert!(grammar.may_ping());
        assert!(grammar.accept(EventKind::Ping));
        assert!(grammar.accept(EventKind::Ping));
        assert!(grammar.may_ping());
        assert!(grammar.accept(EventKind::Delta));
        assert!(!grammar.may_ping());
        assert!(!grammar.accept(EventKind::Ping));
        assert_eq!(grammar.phase(), Phase::Streaming);
    }

    /// TURN-24
    #[test]
    fn nothing_follows_the_terminal() {
        for terminal in [EventKind::Done, EventKind::Error] {
            let mut grammar = Grammar::new();
            assert!(grammar.accept(EventKind::StreamStarted));
            assert!(grammar.accept(terminal));
            assert!(EventKind::ALL.into_iter().all(|kind| !grammar.accept(kind)));
        }
    }
}
