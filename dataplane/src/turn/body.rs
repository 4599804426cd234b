//! The body of a streamed response: a live [`Relay`], which notices a
//! disconnect, or a recorded turn.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::relay::Relay;

/// The body of a streamed response: a live turn or a recorded one.
pub struct SseBody(Source);

enum Source {
    Live(Box<Relay>),
    Recorded(Option<Bytes>),
}

impl SseBody {
    pub(super) fn live(relay: Relay) -> Self {
        Self(Source::Live(Box::new(relay)))
    }

    /// Complete frames, written at once (API-67).
    pub(super) fn recorded(frames: Vec<u8>) -> Self {
        Self(Source::Recorded(Some(frames.into())))
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Source::Live(relay) => Pin::new(&mut **relay).poll_frame(cx),
            Source::Recorded(frames) => Poll::Ready(frames.take().map(|all| Ok(Frame::data(all)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Live(relay) => relay.is_end_stream(),
            Source::Recorded(frames) => frames.is_none(),
        }
    }

    /// Deliberately unknown: a stream has no `Content-Length` (API-130).
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
