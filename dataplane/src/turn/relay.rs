//! The relay: the response body of one live turn.
//! It forwards the events of the turn's task and breaks long silence. When the
//! client disconnects, it is dropped, and so the disconnect is noticed
//! (TURN-47). A client that has closed its sending half may still be reading;
//! the relay sends it a comment to find out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use minichat_core::stream::event::KEEP_ALIVE_COMMENT;
use minichat_metrics::{Metrics, Stage};
use minichat_telemetry::HalfClose;
use tokio::time::{Instant, Sleep};

use super::channel::{self, Receiver};
use crate::open_turns::{Cancel, Interrupt};

/// After the first content, silence of this length is broken by a comment line
/// (API-141).
const COMMENT_INTERVAL: Duration = Duration::from_secs(30);

/// The labels of a stream's metrics.
#[derive(Clone)]
pub(crate) struct Labels {
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) provider: Arc<str>,
    pub(crate) model: Arc<str>,
}

pub(super) struct Relay {
    events: Receiver,
    interrupt: Arc<Interrupt>,
    labels: Labels,
    seen_delta: bool,
    /// The terminal event was forwarded.
    ended: bool,
    silence: Silence,
    half_close: HalfClose,
    /// Something was written since the client closed its sending half.
    has_probed: bool,
}

impl Relay {
    /// A relay that fires `interrupt` when its client disconnects.
    pub(super) fn new(
        events: Receiver,
        interrupt: Arc<Interrupt>,
        labels: Labels,
        ping_interval: Duration,
        half_close: HalfClose,
    ) -> Self {
        Self {
            events,
            interrupt,
            labels,
            seen_delta: false,
            ended: false,
            silence: Silence::new(ping_interval),
            half_close,
            has_probed: false,
        }
    }

    fn comment(&mut self) -> Frame<Bytes> {
        self.silence.restart();
        Frame::data(Bytes::from_static(KEEP_ALIVE_COMMENT))
    }

    fn hand_on(&mut self, frame: channel::Frame) -> Frame<Bytes> {
        self.silence.restart();
        self.seen_delta |= frame.has_delta;
        self.ended |= frame.is_last;
        if let Some(read_at) = frame.first_delta_at {
            let Labels {
                metrics,
                provider,
                model,
            } = &self.labels;
            metrics.ttft_overhead_ms(provider, model, read_at.elapsed());
        }
        Frame::data(frame.bytes.into())
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Poll::Ready(frame) = self.events.poll_frame(cx) {
                return Poll::Ready(frame.map(|frame| Ok(self.hand_on(frame))));
            }
            if !self.has_probed && self.half_close.is_seen() {
                self.has_probed = true;
                return Poll::Ready(Some(Ok(self.comment())));
            }
            if self.silence.is_awaited(cx) {
                return Poll::Pending;
            }
            let pings = self.events.may_ping();
            if self.silence.poll(cx, pings).is_pending() {
                return Poll::Pending;
            }
            if !pings {
                return Poll::Ready(Some(Ok(self.comment())));
            }
            if let Some(frame) = self.events.ping() {
                return Poll::Ready(Some(Ok(self.hand_on(frame))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let stage = if self.events.has_provider_ended() {
            Stage::AfterDone
        } else if self.seen_delta {
            Stage::MidStream
        } else {
            Stage::BeforeFirstToken
        };
        self.labels.metrics.stream_disconnected(stage);
        self.interrupt.fire(Cancel::Disconnect);
    }
}

/// Watches for silence with one timer. It is re-armed only when it fires, so
/// that an event costs no timer operation.
struct Silence {
    ping_interval: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// The waker that the timer wakes.
    waiter: Option<Waker>,
}

impl Silence {
    fn new(ping_interval: Duration) -> Self {
        let since = Instant::now();
        Self {
            ping_interval,
            since,
            timer: Box::pin(tokio::time::sleep_until(since + ping_interval)),
            waiter: None,
        }
    }

    fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Whether the timer runs and will wake `cx`, so that nothing has to be
    /// done.
    fn is_awaited(&self, cx: &Context<'_>) -> bool {
        let waiter = self.waiter.as_ref();
        waiter.is_some_and(|it| it.will_wake(cx.waker())) && Instant::now() < self.timer.deadline()
    }

    /// Ready if the phase's interval has passed without a frame.
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
        self.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
