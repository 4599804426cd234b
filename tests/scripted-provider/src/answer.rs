//! The body of an answer: steps that run one after another.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::pace::{Pace, monotonic_nanos};
use super::short::Short;
use super::stats::AnswerGuard;
use super::writer::Usage;

/// One step of an answer.
#[derive(Debug)]
pub(super) enum Step {
    /// A piece of text, as an event.
    Chunk(Bytes),
    /// Any other bytes.
    Bytes(Bytes),
    Wait(Duration),
    /// Waits for a release.
    Hold,
    /// Lets the connection send the bytes so far.
    Flush,
    /// Cuts the connection.
    Cut,
    /// Waits forever.
    Hang,
    /// Sends a comment at this interval, forever.
    Comments(Duration),
}

/// The body of every answer. If it is dropped before its end, it counts as
/// aborted.
pub(super) struct Answer {
    source: Source,
    guard: AnswerGuard,
}

enum Source {
    Steps(Steps),
    Paced(Paced),
}

/// The result of polling a source.
enum Given {
    Chunk(Bytes),
    Bytes(Bytes),
    Cut,
    End,
}

impl Answer {
    pub(super) fn steps(steps: Vec<Step>, releases: Arc<Semaphore>, guard: AnswerGuard) -> Self {
        let steps = Steps {
            remaining: steps.into(),
            waiting: None,
            releases,
        };
        Self {
            source: Source::Steps(steps),
            guard,
        }
    }

    /// A complete body that is known in advance.
    pub(super) fn whole(bytes: Bytes, guard: AnswerGuard) -> Self {
        Self::steps(vec![Step::Bytes(bytes)], Arc::new(Semaphore::new(0)), guard)
    }

    pub(super) fn paced(pace: Pace, writer: &Short, guard: AnswerGuard) -> Self {
        Self {
            source: Source::Paced(Paced::new(pace, writer)),
            guard,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let given = match &mut self.source {
            Source::Steps(steps) => steps.poll_next(cx),
            Source::Paced(paced) => paced.poll_next(cx),
        };
        given.map(|given| match given {
            Given::Chunk(bytes) => {
                self.guard.chunk();
                Some(Ok(Frame::data(bytes)))
            }
            Given::Bytes(bytes) => Some(Ok(Frame::data(bytes))),
            Given::Cut => {
                self.guard.finish();
                Some(Err(io::Error::other("cut by the scenario")))
            }
            Given::End => {
                self.guard.finish();
                None
            }
        })
    }
}

struct Steps {
    remaining: VecDeque<Step>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    releases: Arc<Semaphore>,
}

impl Steps {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Given> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.remaining.pop_front() {
                None => return Poll::Ready(Given::End),
                Some(Step::Chunk(bytes)) => return Poll::Ready(Given::Chunk(bytes)),
                Some(Step::Bytes(bytes)) => return Poll::Ready(Given::Bytes(bytes)),
                Some(Step::Cut) => return Poll::Ready(Given::Cut),
                Some(Step::Wait(pause)) => self.waiting = Some(Box::pin(sleep(pause))),
                Some(Step::Flush) => self.waiting = Some(Box::pin(tokio::task::yield_now())),
                Some(Step::Hang) => self.waiting = Some(Box::pin(std::future::pending())),
                Some(Step::Hold) => {
                    let releases = Arc::clone(&self.releases);
                    self.waiting = Some(Box::pin(take_release(releases)));
                }
                Some(Step::Comments(pause)) => {
                    self.waiting = Some(Box::pin(sleep(pause)));
                    self.remaining
                        .push_back(Step::Bytes(Bytes::from_static(b": still here\n\n")));
                    self.remaining.push_back(Step::Comments(pause));
                }
            }
        }
    }
}

/// Waits for one release and consumes it.
pub(super) async fn take_release(releases: Arc<Semaphore>) {
    if let Ok(permit) = releases.acquire_owned().await {
        permit.forget();
    }
}

/// Pieces of text at a pace, in the short order, whose events all have the same
/// bytes around the text. Needs one timer and, without timestamps, no
/// allocation.
struct Paced {
    pace: Pace,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    next: u32,
    /// The bytes that open the stream, until they are sent.
    opening: Option<Bytes>,
    /// An event with an empty text, cut where the text belongs.
    before_text: Bytes,
    after_text: Bytes,
    unstamped: Bytes,
    ending: Option<Bytes>,
}

/// Marks the place of the text in a template event. Needs no JSON escapes.
const PLACEHOLDER: &str = "PLACEHOLDER";

impl Paced {
    fn new(pace: Pace, writer: &Short) -> Self {
        let template = writer.delta(PLACEHOLDER);
        let at = template
            .windows(PLACEHOLDER.len())
            .position(|window| window == PLACEHOLDER.as_bytes())
            .unwrap_or_default();
        let usage = Usage {
            input: 50,
            cached: 0,
            output: u64::from(pace.chunks),
            reasoning: 0,
        };
        let began = Instant::now();
        Self {
            began,
            timer: Box::pin(sleep_until(began + pace.first)),
            next: 0,
            opening: writer.created(),
            before_text: template.slice(..at),
            after_text: template.slice(at + PLACEHOLDER.len()..),
            unstamped: writer.delta("token "),
            ending: Some(writer.completed(usage)),
            pace,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Given> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Given::Bytes(opening));
        }
        if self.next == self.pace.chunks {
            return Poll::Ready(self.ending.take().map_or(Given::End, Given::Bytes));
        }
        let due = self.began + self.pace.due(self.next);
        if due > Instant::now() {
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
        }
        self.next += 1;
        Poll::Ready(Given::Chunk(self.chunk()))
    }

    fn chunk(&self) -> Bytes {
        if !self.pace.is_stamped {
            return self.unstamped.clone();
        }
        let mut bytes =
            BytesMut::with_capacity(self.before_text.len() + self.after_text.len() + 24);
        bytes.extend_from_slice(&self.before_text);
        // Writing to memory cannot fail.
        let _: Result<(), std::fmt::Error> = write!(bytes, "@{} ", monotonic_nanos());
        bytes.extend_from_slice(&self.after_text);
        bytes.freeze()
    }
}
