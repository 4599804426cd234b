//! W3C trace context, version 00: the `traceparent` header.

use std::fmt;

use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

const SAMPLED: u8 = 0b1;

/// One span's place in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    parent_span_id: Option<u64>,
    sampled: bool,
}

impl TraceContext {
    /// The first span of a new trace; `keep` decides by the trace id whether
    /// the trace is kept.
    pub(super) fn root(keep: impl FnOnce(u128) -> bool) -> Self {
        let trace_id = random_trace_id();
        Self {
            trace_id,
            span_id: random_span_id(),
            parent_span_id: None,
            sampled: keep(trace_id),
        }
    }

    /// A span below the one that a `traceparent` header names; `None` if the
    /// header is malformed, which calls for a new trace.
    pub fn continued(traceparent: &str) -> Option<Self> {
        parse(traceparent).map(Self::child)
    }

    /// A span in the trace `trace_id`, 32 lower-case hex digits, for work after
    /// the span that began it; `None` if they are malformed. Whether the trace
    /// is kept is not known.
    pub fn in_trace(trace_id: &str) -> Option<Self> {
        let trace_id = hex(trace_id, 32).filter(|it| *it != 0)?;
        Some(Self {
            trace_id,
            span_id: random_span_id(),
            parent_span_id: None,
            sampled: false,
        })
    }

    /// A span below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: random_span_id(),
            parent_span_id: Some(self.span_id),
            ..self
        }
    }

    /// 32 lower-case hex digits, in logs, problem documents and audit events.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// 16 lower-case hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// Whether the process that started the trace keeps it.
    pub const fn sampled(self) -> bool {
        self.sampled
    }

    pub(super) const fn trace_id_bits(self) -> u128 {
        self.trace_id
    }

    pub(super) const fn span_id_bits(self) -> u64 {
        self.span_id
    }

    pub(super) const fn parent_span_id(self) -> Option<u64> {
        self.parent_span_id
    }

    /// The value of the `traceparent` header that makes a callee's spans
    /// children of this span.
    pub fn traceparent(self) -> String {
        self.to_string()
    }
}

/// The form of the `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.sampled { SAMPLED } else { 0 };
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

/// All bits must be random, because the lower half decides whether the trace is kept.
/// A UUID has fixed bits and would not do.
fn random_trace_id() -> u128 {
    u128::from_be_bytes(RandomIdGenerator::default().new_trace_id().to_bytes())
}

fn random_span_id() -> u64 {
    u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes())
}

/// The span that the header names. Later versions may append more parts; the
/// invalid ids of zeros are refused.
fn parse(traceparent: &str) -> Option<TraceContext> {
    let mut parts = traceparent.trim().split('-');
    let version = hex(parts.next()?, 2)?;
    let trace_id = hex(parts.next()?, 32)?;
    let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
    let flags = hex(parts.next()?, 2)?;
    let well_formed = match version {
        0 => parts.next().is_none(),
        0xff => false,
        _ => true,
    };
    (well_formed && trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id,
        span_id,
        parent_span_id: None,
        sampled: flags & u128::from(SAMPLED) != 0,
    })
}

/// Exactly `digits` lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(lower_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// PLAT-166
    #[test]
    fn later_work_has_a_span_of_its_own_in_the_trace() {
        let trace = TraceContext::root(|_| true);
        let [one, other] = [(); 2].map(|()| TraceContext::in_trace(&trace.trace_id()).unwrap());
        assert_eq!(one.trace_id(), trace.trace_id());
        assert_ne!(one.span_id(), other.span_id());
        assert_eq!(parse(&one.traceparent()), Some(one));
        for malformed in ["", "0", &"0".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
            assert_eq!(TraceContext::in_trace(malformed), None, "{malformed}");
        }
    }

    /// PLAT-166
    #[test]
    fn a_traceparent_is_continued_by_a_child() {
        let span = TraceContext::continued(EXAMPLE).unwrap();
        assert_eq!(span.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.parent_span_id, Some(0x00f0_67aa_0ba9_02b7));
        assert_ne!(span.span_id(), "00f067aa0ba902b7");
        assert!(span.sampled());
    }

    /// W3C trace context, 3.2.2 and 4.3
    #[test]
    fn malformed_headers_are_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::continued(text), None, "{text}");
        }
    }

    /// W3C trace context, 4.3: a later version is read as far as it is known.
    #[test]
    fn a_later_version_is_continued() {
        let later = EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-will-be-like";
        assert!(TraceContext::continued(&later).is_some());
    }

    proptest! {
        #[test]
        fn own_header_round_trips(sampled: bool) {
            let span = TraceContext::root(|_| sampled);
            let read = parse(&span.traceparent());
            prop_assert_eq!(read, Some(span));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = TraceContext::continued(&text);
        }
    }
}
