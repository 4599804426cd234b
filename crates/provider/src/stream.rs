//! The events of one call.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use minichat_config::tenant::ProviderKind;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::adapter::{Step, Translator};
use crate::client::{ConnectionPool, Exchange};
use crate::event::ProviderEvent;
use crate::failure::{Failure, TimeoutStage};
use crate::mask::Mask;
use crate::sse;

/// The answer to one call. Dropping it closes the connection at once, unless
/// the terminal event was read. In that case the rest of the body is read in
/// the background, so that the connection can serve another call (PLAT-105).
pub struct ProviderStream {
    /// `None` once the stream has ended.
    exchange: Option<Exchange>,
    parser: sse::Parser,
    translator: Translator,
    limits: Limits,
    /// Bytes since the last piece of the answer.
    idle_bytes: usize,
    pool: Arc<ConnectionPool>,
}

/// How many of the largest events may pass without a piece of the answer. At its
/// end some protocols repeat the whole text in four events.
const IDLE_EVENTS: usize = 8;

impl ProviderStream {
    pub(crate) fn new(
        kind: ProviderKind,
        mask: Mask,
        exchange: Exchange,
        limits: Limits,
        pool: Arc<ConnectionPool>,
    ) -> Self {
        Self {
            exchange: Some(exchange),
            parser: sse::Parser::with_limit(limits.sizes.event),
            translator: Translator::bounded(kind, mask, limits.sizes.answer),
            limits,
            idle_bytes: 0,
            pool,
        }
    }

    /// The next event; `None` after [`ProviderEvent::Terminal`]. Cancel-safe:
    /// a dropped future loses no event.
    pub async fn next(&mut self) -> Option<ProviderEvent<'_>> {
        let step = poll_fn(|cx| self.poll_step_or_timeout(cx)).await?;
        Some(self.translator.event(step))
    }

    /// When the total time of the call (`totalSeconds`) is over. A caller that
    /// waits for anything other than [`next`](Self::next) must check this
    /// itself.
    pub fn total_at(&self) -> Instant {
        self.limits.total_at
    }

    /// An event that has already arrived, without waiting. After each
    /// [`next`](Self::next), call it until it returns `None` and write all
    /// events at once, so that a burst costs one write. A fast provider can
    /// keep this going forever, so limit the number of events.
    pub fn try_next(&mut self) -> Option<ProviderEvent<'_>> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_step(&mut cx) {
            Poll::Ready(Some(step)) => Some(self.translator.event(step)),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    fn poll_step_or_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        if let Poll::Ready(step) = self.poll_step(cx) {
            return Poll::Ready(step);
        }
        match self.limits.poll_expired(cx) {
            Poll::Ready((stage, expired_at)) => {
                self.exchange = None;
                self.translator.fail(Failure::timed_out(stage, expired_at));
                Poll::Ready(self.translator.take_step())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next step of the data that was received or can be read now.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        loop {
            if let Some(step) = self.translator.take_step() {
                self.limits.restart_idle();
                if step.is_delta() {
                    self.idle_bytes = 0;
                }
                return Poll::Ready(Some(step));
            }
            let is_idle = self.is_idle_for_ever();
            let Some(exchange) = &mut self.exchange else {
                return Poll::Ready(None);
            };
            match self.parser.next_event() {
                Ok(Some(event)) => {
                    self.translator.feed(event);
                    self.release_when_finished();
                    continue;
                }
                Ok(None) if is_idle => {
                    let cause =
                        "8 times provider_http.max_event_bytes came without a piece of the answer";
                    self.fail(Failure::unreadable(&cause));
                    continue;
                }
                Ok(None) => {}
                Err(sse::TooLarge) => {
                    let cause = "an event exceeds provider_http.max_event_bytes";
                    self.fail(Failure::unreadable(&cause));
                    continue;
                }
            }
            match exchange.poll_bytes(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.idle_bytes = self.idle_bytes.saturating_add(bytes.len());
                    self.parser.push(&bytes);
                }
                Poll::Ready(Some(Err(error))) => self.fail(Failure::broken(&error)),
                Poll::Ready(None) => {
                    self.translator.end_of_body();
                    self.release_when_finished();
                }
                Poll::Pending if self.translator.settle() => self.release_when_finished(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the provider goes on without saying anything: it is cut off before
    /// its time is over.
    fn is_idle_for_ever(&self) -> bool {
        self.idle_bytes > self.limits.sizes.event.saturating_mul(IDLE_EVENTS)
    }

    fn fail(&mut self, failure: Failure) {
        self.exchange = None;
        self.translator.fail(failure);
    }

    fn release_when_finished(&mut self) {
        if self.translator.is_finished()
            && let Some(exchange) = self.exchange.take()
            && !self.translator.is_too_long()
        {
            self.pool.put_after_drain(exchange, usize::MAX);
        }
    }
}

impl std::fmt::Debug for ProviderStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderStream")
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}

/// Maximum size of an event, and of an answer (text and reasoning), in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) event: usize,
    pub(crate) answer: usize,
}

/// The time limits while an answer is read (D28). Idle time counts from the
/// moment the reader starts to wait, so that a slow reader does not make the
/// provider look silent.
pub(crate) struct Limits {
    sizes: Sizes,
    idle: Duration,
    total_at: Instant,
    waiting_since: Option<Instant>,
    /// Created at the first wait. It is moved only when it fires, so that an
    /// event costs no timer work.
    timer: Option<Pin<Box<Sleep>>>,
    /// The waker that the timer wakes.
    waiter: Option<Waker>,
}

impl Limits {
    pub(crate) fn new(sizes: Sizes, idle: Duration, total_at: Instant) -> Self {
        Self {
            sizes,
            idle,
            total_at,
            waiting_since: None,
            timer: None,
            waiter: None,
        }
    }

    fn restart_idle(&mut self) {
        self.waiting_since = None;
    }

    /// Ready when a limit has passed, with the limit and the time.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<(TimeoutStage, Instant)> {
        let now = Instant::now();
        let idle_at = *self.waiting_since.get_or_insert(now) + self.idle;
        let due = idle_at.min(self.total_at);
        if now >= due {
            let stage = if self.total_at <= idle_at {
                TimeoutStage::Total
            } else {
                TimeoutStage::Idle
            };
            return Poll::Ready((stage, due));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        let is_awaited = self
            .waiter
            .as_ref()
            .is_some_and(|it| it.will_wake(cx.waker()));
        if is_awaited && now < timer.deadline() {
            return Poll::Pending;
        }
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(due);
        }
        self.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}
