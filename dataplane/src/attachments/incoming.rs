//! The body of an upload as it arrives from the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long the rest of a body is read after its upload was refused. Most clients send
/// all of it before they read the answer, and lose the answer if they cannot.
const READ_ON: Duration = Duration::from_secs(10);

/// Reads a body up to a limit, at the speed of whoever polls it. When it is dropped, the
/// rest is read and discarded for [`READ_ON`].
pub(super) struct Incoming {
    /// `None` when there is nothing more to read.
    body: Option<BodyDataStream>,
    /// Bytes that may still come.
    left: u64,
    /// Longest time without a byte while one is waited for.
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

/// Why a body ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BodyFault {
    #[error("the body is larger than it may be")]
    TooLarge,
    #[error("the client sent nothing for too long")]
    Stalled,
    #[error("the connection to the client ended")]
    Broken,
}

impl Incoming {
    pub(super) fn new(body: Body, patience: Duration) -> Self {
        Self {
            body: Some(body.into_data_stream()),
            left: u64::MAX,
            patience,
            waiting: None,
        }
    }

    /// The same, of at most `limit` bytes.
    pub(super) fn limited(mut self, limit: u64) -> Self {
        self.left = limit;
        self
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyFault>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Poll::Ready(next) = body.poll_next_unpin(cx) else {
            return self
                .poll_patience(cx)
                .map(|()| Some(Err(BodyFault::Stalled)));
        };
        self.waiting = None;
        let Some(Ok(bytes)) = next else {
            self.body = None;
            return Poll::Ready(next.map(|_| Err(BodyFault::Broken)));
        };
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(BodyFault::TooLarge))),
        }
        Poll::Ready(Some(Ok(bytes)))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(rest) = self.body.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(READ_ON, discard(rest)));
        }
    }
}

async fn discard(mut body: BodyDataStream) {
    while let Some(Ok(_)) = body.next().await {}
}
