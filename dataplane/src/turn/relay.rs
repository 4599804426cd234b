//! The relay: the response body of one live turn.
//!
//! It takes events from the pipeline task through a bounded channel, admits
//! those that fit the grammar (TURN-24), and writes what is ready in one
//! frame. Dropping it is how a disconnect is noticed (TURN-47).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use minichat_core::stream::event::KEEP_ALIVE_COMMENT;
use minichat_core::stream::{Grammar, StreamErrorCode, StreamEvent};
use minichat_metrics::{Metrics, Stage};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// A frame is handed on once it holds this many bytes, however much is ready.
const FRAME_BYTES: usize = 32 * 1024;

/// Silence after the first content is broken by a comment line (API-141).
const COMMENT_INTERVAL: Duration = Duration::from_secs(30);

/// What pipeline task and relay know of each other beyond the channel.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The provider's terminal event was read: a client that leaves from now
    /// on cancels nothing (TURN-42).
    pub(super) provider_ended: AtomicBool,
    /// When the first delta was read from the provider.
    pub(super) first_delta_at: OnceLock<Instant>,
    /// When the client was found to be gone.
    pub(super) left_at: OnceLock<Instant>,
}

/// The labels of a stream's metrics.
#[derive(Clone)]
pub(crate) struct Labels {
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) provider: Arc<str>,
    pub(crate) model: Arc<str>,
}

pub(super) struct Relay {
    events: mpsc::Receiver<StreamEvent<'static>>,
    grammar: Grammar,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    labels: Labels,
    seen_delta: bool,
    silence: Silence,
}

impl Relay {
    /// A relay whose first frame is `started`.
    pub(super) fn new(
        events: mpsc::Receiver<StreamEvent<'static>>,
        started: &StreamEvent<'_>,
        shared: Arc<Shared>,
        labels: Labels,
        ping_interval: Duration,
    ) -> Self {
        let mut relay = Self {
            events,
            grammar: Grammar::default(),
            buffer: Vec::with_capacity(256),
            shared,
            labels,
            seen_delta: false,
            silence: Silence::new(ping_interval),
        };
        relay.write(started);
        relay
    }

    fn write(&mut self, event: &StreamEvent<'_>) {
        if !self.grammar.admit(event.kind()) {
            tracing::warn!(
                event = event.kind().as_str(),
                "dropped an event that does not fit the stream's grammar"
            );
            return;
        }
        event.encode(&mut self.buffer);
        if !self.seen_delta && matches!(event, StreamEvent::Delta { .. }) {
            self.seen_delta = true;
            if let Some(read_at) = self.shared.first_delta_at.get() {
                let Labels {
                    metrics,
                    provider,
                    model,
                } = &self.labels;
                metrics.ttft_overhead_ms(provider, model, read_at.elapsed());
            }
        }
    }

    /// Moves what is ready into the buffer. Ends the stream truthfully when the
    /// pipeline is gone without a terminal event (API-152).
    fn drain(&mut self, cx: &mut Context<'_>) {
        while !self.grammar.is_terminal() && self.buffer.len() < FRAME_BYTES {
            match self.events.poll_recv(cx) {
                Poll::Ready(Some(event)) => self.write(&event),
                Poll::Ready(None) => self.write(&interrupted()),
                Poll::Pending => break,
            }
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.drain(cx);
        if !self.buffer.is_empty() {
            self.silence.restart();
            let frame = std::mem::replace(&mut self.buffer, Vec::with_capacity(256));
            return Poll::Ready(Some(Ok(Frame::data(frame.into()))));
        }
        if self.grammar.is_terminal() {
            return Poll::Ready(None);
        }
        let pings = self.grammar.may_ping();
        if self.silence.poll(cx, pings).is_pending() {
            return Poll::Pending;
        }
        let frame = if pings {
            let mut frame = Vec::new();
            StreamEvent::Ping.encode(&mut frame);
            Bytes::from(frame)
        } else {
            Bytes::from_static(KEEP_ALIVE_COMMENT)
        };
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.grammar.is_terminal() && self.buffer.is_empty()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        // The set-once value is the earliest; a second drop cannot happen.
        let _ = self.shared.left_at.set(Instant::now());
        let stage = if self.shared.provider_ended.load(Ordering::Acquire) {
            Stage::AfterDone
        } else if self.seen_delta {
            Stage::MidStream
        } else {
            Stage::BeforeFirstToken
        };
        self.labels.metrics.stream_disconnected(stage);
    }
}

/// Watches for silence with one timer that is re-armed only when it fires, so
/// that an event costs no timer operation.
struct Silence {
    ping_interval: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(ping_interval: Duration) -> Self {
        let since = Instant::now();
        Self {
            ping_interval,
            since,
            timer: Box::pin(tokio::time::sleep_until(since + ping_interval)),
        }
    }

    fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when the phase's interval passed without a frame.
    fn poll(&mut self, cx: &mut Context<'_>, pings: bool) -> Poll<()> {
        let interval = if pings {
            self.ping_interval
        } else {
            COMMENT_INTERVAL
        };
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.since + interval;
            let now = Instant::now();
            if due <= now {
                self.since = now;
                self.timer.as_mut().reset(now + interval);
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

fn interrupted() -> StreamEvent<'static> {
    StreamEvent::Error {
        code: StreamErrorCode::StreamInterrupted,
        message: "The stream ended before its outcome was known. Ask for the turn's status.".into(),
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
