//! Bodies of requests.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;

use crate::request::StartedFlag;

/// Why a body ended before it was complete: a limit passed, or its source broke
/// off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of a request.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// In one piece. The flag records when the connection took it.
    Whole(Option<Bytes>, StartedFlag),
    /// In pieces.
    Arriving(ArrivingBody),
}

impl RequestBody {
    pub(super) fn whole(bytes: Bytes, started: StartedFlag) -> Self {
        Self::Whole(Some(bytes), started)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes, started) => {
                let bytes = bytes.take();
                if bytes.is_some() {
                    started.set();
                }
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Arriving(body) => body
                .poll_piece(cx)
                .map(|piece| piece.map(|it| it.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.is_none(),
            Self::Arriving(body) => body.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Arriving(_) => SizeHint::default(),
        }
    }
}

/// The source of a body failed; [`Sent`] has the reason.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the request broke off")
    }
}

impl Error for Broken {}

/// How far a body has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// The connection wants the next piece, which has not arrived yet.
    Wanted,
    /// The connection has pieces that the peer has not taken yet.
    Given,
    /// The connection has all pieces.
    Ended,
}

/// A body that is sent while it arrives: its source is asked for more only when
/// the connection has room, which is less than half a megabyte.
pub(crate) struct ArrivingBody {
    /// Comes first.
    before: Option<Bytes>,
    source: Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>,
    /// Comes last.
    after: Bytes,
    progress: watch::Sender<Progress>,
    failure: Arc<Mutex<Option<BodyError>>>,
}

/// What the sender of an [`ArrivingBody`] learns of it.
pub(super) struct Sent {
    pub(super) progress: watch::Receiver<Progress>,
    failure: Arc<Mutex<Option<BodyError>>>,
}

impl ArrivingBody {
    /// `before`, then all of `source`, then `after`, which must not be empty.
    pub(crate) fn new<S>(before: Bytes, source: S, after: Bytes) -> Self
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    {
        Self {
            before: Some(before),
            source: Box::pin(source),
            after,
            progress: watch::Sender::new(Progress::Given),
            failure: Arc::default(),
        }
    }

    pub(super) fn sent(&self) -> Sent {
        Sent {
            progress: self.progress.subscribe(),
            failure: Arc::clone(&self.failure),
        }
    }

    fn is_ended(&self) -> bool {
        *self.progress.borrow() == Progress::Ended
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.is_ended() {
            return Poll::Ready(None);
        }
        if let Some(before) = self.before.take() {
            return Poll::Ready(Some(Ok(before)));
        }
        let (progress, piece) = match self.source.as_mut().poll_next(cx) {
            Poll::Pending => (Progress::Wanted, Poll::Pending),
            Poll::Ready(Some(Ok(piece))) => (Progress::Given, Poll::Ready(Some(Ok(piece)))),
            Poll::Ready(None) => (
                Progress::Ended,
                Poll::Ready(Some(Ok(std::mem::take(&mut self.after)))),
            ),
            Poll::Ready(Some(Err(error))) => {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                *failure = Some(error);
                return Poll::Ready(Some(Err(Broken)));
            }
        };
        self.tell(progress);
        piece
    }

    /// Each piece is told, because the peer has time for each. That one is still
    /// wanted is not told again: whoever is told polls the connection, which asks
    /// for the piece.
    fn tell(&self, progress: Progress) {
        self.progress.send_if_modified(|known| {
            let is_new = progress != Progress::Wanted || *known != progress;
            *known = progress;
            is_new
        });
    }
}

impl fmt::Debug for ArrivingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrivingBody")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl Sent {
    /// Why the source failed, if it did.
    pub(super) fn failure(&self) -> Option<BodyError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    pub(super) fn is_ended(&self) -> bool {
        *self.progress.borrow() == Progress::Ended
    }
}
