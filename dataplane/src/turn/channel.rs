//! The channel from a turn's task to its relay. The sender encodes each event
//! directly into the bytes of the next frame. So events that gather while the
//! client's connection is busy cost one write, and a delta is neither copied
//! nor queued by itself. Events that violate the grammar are dropped (TURN-24).
//! The number of events in a frame and their bytes are limited: if the client
//! stops reading, the task stops reading the provider. The last event always
//! has room, so that a turn that has ended does not wait for its reader.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use minichat_core::stream::{Grammar, StreamErrorCode, StreamEvent};
use tokio::time::Instant;

/// Initial capacity of a frame in bytes; most events need less.
const FRAME_CAPACITY: usize = 256;

/// Number of bytes from which a frame is full. A longer event has its own
/// frame, or ends one.
const FULL_BYTES: usize = 64 * 1024;

/// The relay is gone, so there is no reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Closed;

/// The task's end of the channel. If it is dropped before a terminal event, the
/// stream ends as interrupted (API-152).
#[derive(Debug)]
pub(super) struct Sender(Arc<Channel>);

/// The relay's end of the channel.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    state: Mutex<State>,
    /// Maximum number of events in a frame.
    capacity: usize,
}

#[derive(Debug)]
struct State {
    frame: Frame,
    events: usize,
    grammar: Grammar,
    /// When the first delta was read; set until it is written.
    first_delta_at: Option<Instant>,
    /// The provider's terminal event was read. A client that disconnects later
    /// cancels nothing (TURN-42).
    provider_ended: bool,
    sender_gone: bool,
    receiver_gone: bool,
    /// The wakers of a reader that waits for an event, and of a writer that
    /// waits for room.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The bytes that the relay writes at once.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// When the turn's first delta was read from the provider, if this frame
    /// contains it.
    pub(super) first_delta_at: Option<Instant>,
    pub(super) has_delta: bool,
    pub(super) is_last: bool,
}

/// A channel whose first event is `started`.
pub(super) fn channel(capacity: usize, started: &StreamEvent<'_>) -> (Sender, Receiver) {
    let mut state = State {
        frame: Frame::default(),
        events: 0,
        grammar: Grammar::default(),
        first_delta_at: None,
        provider_ended: false,
        sender_gone: false,
        receiver_gone: false,
        reader: None,
        writer: None,
    };
    state.write(started);
    let channel = Arc::new(Channel {
        state: Mutex::new(state),
        capacity,
    });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, event: &StreamEvent<'_>) {
        if !self.grammar.accept(event.kind()) {
            tracing::warn!(
                event = event.kind().as_str(),
                "dropped an event that does not fit the stream's grammar"
            );
            return;
        }
        if self.frame.bytes.is_empty() {
            self.frame.bytes.reserve(FRAME_CAPACITY);
        }
        event.encode(&mut self.frame.bytes);
        if matches!(event, StreamEvent::Delta { .. }) {
            self.frame.has_delta = true;
            if let Some(read_at) = self.first_delta_at.take() {
                self.frame.first_delta_at = Some(read_at);
            }
        }
        self.frame.is_last |= self.grammar.is_terminal();
        self.events += 1;
    }

    fn is_full(&self, capacity: usize) -> bool {
        self.events >= capacity || self.frame.bytes.len() >= FULL_BYTES
    }

    fn take(&mut self) -> Frame {
        self.events = 0;
        std::mem::take(&mut self.frame)
    }
}

impl Sender {
    /// Sends `event`. Waits for room, unless it is the last event. Cancel-safe:
    /// a dropped future has sent nothing.
    pub(super) async fn send(&self, event: &StreamEvent<'_>) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_send(cx, event)).await
    }

    fn poll_send(&self, cx: &mut Context<'_>, event: &StreamEvent<'_>) -> Poll<Result<(), Closed>> {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return Poll::Ready(Err(Closed));
        }
        if state.is_full(self.0.capacity) && !event.kind().is_terminal() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.write(event);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Poll::Ready(Ok(()))
    }

    /// Records when the first delta was read, which is sent next.
    pub(super) fn first_delta(&self, read_at: Instant) {
        self.0.lock().first_delta_at = Some(read_at);
    }

    /// Records that the provider's terminal event was read.
    pub(super) fn provider_ended(&self) {
        self.0.lock().provider_ended = true;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sender_gone = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }
}

impl Receiver {
    /// The events since the last frame; `None` after the terminal event.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = self.0.lock();
        if state.sender_gone && !state.grammar.is_terminal() {
            state.write(&interrupted());
        }
        if state.events == 0 {
            if state.grammar.is_terminal() {
                return Poll::Ready(None);
            }
            register(&mut state.reader, cx);
            return Poll::Pending;
        }
        let frame = state.take();
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Poll::Ready(Some(frame))
    }

    /// Whether silence is broken by `ping` and not by a comment (TURN-25).
    pub(super) fn may_ping(&self) -> bool {
        self.0.lock().grammar.may_ping()
    }

    /// A frame with a `ping`, unless an event was sent in the meantime.
    pub(super) fn ping(&mut self) -> Option<Frame> {
        let mut state = self.0.lock();
        if state.events > 0 || !state.grammar.may_ping() {
            return None;
        }
        state.write(&StreamEvent::Ping);
        Some(state.take())
    }

    /// Whether the provider's terminal event was read.
    pub(super) fn has_provider_ended(&self) -> bool {
        self.0.lock().provider_ended
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if slot.as_ref().is_none_or(|it| !it.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn interrupted() -> StreamEvent<'static> {
    StreamEvent::Error {
        code: StreamErrorCode::StreamInterrupted,
        message: "The stream ended before its outcome was known. Ask for the turn's status.".into(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use minichat_core::stream::{DeltaKind, StreamStarted};
    use minichat_core::{MessageId, RequestId};
    use std::future::poll_fn;

    use super::*;

    fn open(capacity: usize) -> (Sender, Receiver) {
        let started = StreamEvent::StreamStarted(StreamStarted {
            request_id: RequestId::random(),
            message_id: MessageId::random(),
            is_new_turn: true,
            thread_summary_applied: None,
        });
        channel(capacity, &started)
    }

    fn delta(text: &str) -> StreamEvent<'_> {
        StreamEvent::Delta {
            kind: DeltaKind::Text,
            text: text.into(),
        }
    }

    fn error() -> StreamEvent<'static> {
        StreamEvent::Error {
            code: StreamErrorCode::Cancelled,
            message: "stopped".into(),
        }
    }

    async fn read(receiver: &mut Receiver) -> Option<String> {
        let frame = poll_fn(|cx| receiver.poll_frame(cx)).await?;
        Some(String::from_utf8(frame.bytes).unwrap())
    }

    #[tokio::test]
    async fn what_gathers_becomes_one_frame() {
        let (sender, mut receiver) = open(8);
        sender.send(&delta("a")).await.unwrap();
        sender.send(&delta("b")).await.unwrap();
        let frame = read(&mut receiver).await.unwrap();
        assert_eq!(frame.matches("event: delta").count(), 2, "{frame}");
        assert!(frame.starts_with("event: stream_started"), "{frame}");
    }

    #[tokio::test]
    async fn a_full_frame_stops_the_sender_until_it_is_taken() {
        let (sender, mut receiver) = open(2);
        sender.send(&delta("a")).await.unwrap();
        assert!(sender.send(&delta("b")).now_or_never().is_none());
        assert!(read(&mut receiver).await.unwrap().contains("\"a\""));
        sender.send(&delta("b")).await.unwrap();
        assert!(read(&mut receiver).await.unwrap().contains("\"b\""));
    }

    /// Even with few events, a client that does not read costs no more memory.
    #[tokio::test]
    async fn a_frame_is_full_by_its_bytes_too() {
        let (sender, mut receiver) = open(64);
        let long = "x".repeat(FULL_BYTES / 2);
        sender.send(&delta(&long)).await.unwrap();
        sender.send(&delta(&long)).await.unwrap();
        assert!(sender.send(&delta("more")).now_or_never().is_none());
        assert!(!read(&mut receiver).await.unwrap().contains("more"));
        // There is always room for one event.
        let longer = "y".repeat(2 * FULL_BYTES);
        sender
            .send(&delta(&longer))
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(sender.send(&delta("more")).now_or_never().is_none());
        sender.send(&error()).now_or_never().unwrap().unwrap();
        assert!(read(&mut receiver).await.unwrap().contains(&longer));
    }

    /// D44: a turn reports its end without waiting for a reader.
    #[tokio::test]
    async fn the_last_event_has_room_in_a_full_frame() {
        let (sender, mut receiver) = open(1);
        assert!(sender.send(&delta("a")).now_or_never().is_none());
        sender.send(&error()).now_or_never().unwrap().unwrap();
        drop(sender);
        let frame = read(&mut receiver).await.unwrap();
        assert!(frame.contains("\"cancelled\""), "{frame}");
        assert_eq!(read(&mut receiver).await, None);
    }

    /// TURN-24
    #[tokio::test]
    async fn nothing_follows_the_terminal_event() {
        let (sender, mut receiver) = open(8);
        sender.send(&error()).await.unwrap();
        sender.send(&delta("late")).await.unwrap();
        assert!(!read(&mut receiver).await.unwrap().contains("late"));
        assert_eq!(read(&mut receiver).await, None);
    }

    /// API-152
    #[tokio::test]
    async fn a_sender_that_vanishes_interrupts_the_stream() {
        let (sender, mut receiver) = open(8);
        drop(sender);
        assert!(
            read(&mut receiver)
                .await
                .unwrap()
                .contains("stream_interrupted")
        );
        assert_eq!(read(&mut receiver).await, None);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_told_also_while_waiting_for_room() {
        let (sender, receiver) = open(1);
        let waiting = tokio::spawn(async move { sender.send(&delta("a")).await });
        tokio::task::yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_event_is_lost_between_two_threads() {
        for capacity in [1, 2, 64] {
            let (sender, mut receiver) = open(capacity);
            let sending = tokio::spawn(async move {
                for number in 0..2_000 {
                    sender.send(&delta(&format!("<{number}>"))).await.unwrap();
                }
                sender.send(&error()).await.unwrap();
            });
            let mut all = String::new();
            while let Some(frame) = read(&mut receiver).await {
                all.push_str(&frame);
            }
            sending.await.unwrap();
            let mut rest = all.as_str();
            for number in 0..2_000 {
                let piece = format!("<{number}>");
                let at = rest.find(&piece).unwrap();
                rest = &rest[at + piece.len()..];
            }
            assert!(rest.contains("event: error"));
        }
    }
}
