//! One HTTP/1.1 connection, which its user drives.
//! The task that reads the answer also polls the future that moves the bytes.
//! So no second task is woken per chunk, and dropping the connection closes its
//! socket at once (TURN-48).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::connector::{ChosenBy, ConnectError, Connector};
use super::poller::Poller;
use super::pool::Place;
use super::transport::Transport;

pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<Transport>, RequestBody>,
    is_closed: bool,
    pub(super) place: Place,
}

impl Connection {
    /// Establishes a connection; no request is sent.
    pub(super) async fn establish(
        place: Place,
        chosen_by: ChosenBy,
        connector: &Connector,
    ) -> Result<Self, ConnectError> {
        let transport = connector.connect(&place.origin, chosen_by).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(transport))
            .await
            .map_err(io::Error::other)?;
        let mut connection = Self {
            sender,
            driver,
            is_closed: false,
            place,
        };
        connection.is_usable();
        Ok(connection)
    }

    /// Sends `request` and waits for the head of its answer.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let is_closed = &mut self.is_closed;
        poll_fn(|cx| {
            // If the connection is closed, the answer already has the reason.
            *is_closed = *is_closed || Pin::new(&mut *driver).poll(cx).is_ready();
            answer.as_mut().poll(cx)
        })
        .await
        .map_err(TrySendError::into_error)
    }

    /// Moves bytes between the socket and the bodies of the exchange.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.is_closed {
            self.is_closed = Pin::new(&mut self.driver).poll(cx).is_ready();
        }
    }

    /// Whether the connection is open and has no exchange in progress.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.is_closed && self.sender.is_ready()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("place", &self.place)
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

/// A connection whose answer is being read.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(super) connection: Connection,
    body: Incoming,
    poller: Poller,
}

impl Exchange {
    pub(super) fn new(connection: Connection, body: Incoming) -> Self {
        Self {
            connection,
            body,
            poller: Poller::default(),
        }
    }

    /// The next bytes of the answer; `None` at its end.
    pub(crate) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let Self {
            connection,
            body,
            poller,
        } = self;
        poller.poll(cx, |cx| {
            connection.drive(cx);
            poll_data(body, cx)
        })
    }

    /// Reads up to `limit` bytes of the answer, which may be too few for it to
    /// end. The result is whether nothing went wrong.
    pub(super) async fn read_start(&mut self, limit: usize, start: &mut Vec<u8>) -> bool {
        while start.len() < limit {
            match poll_fn(|cx| self.poll_bytes(cx)).await {
                Some(Ok(bytes)) => start.extend_from_slice(&bytes),
                Some(Err(_)) => return false,
                None => break,
            }
        }
        start.truncate(limit);
        true
    }

    /// Reads and discards the rest, at most `left` bytes. The result is whether
    /// the answer ended properly.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<bool> {
        loop {
            match self.poll_bytes(cx) {
                Poll::Ready(Some(Ok(bytes))) => match left.checked_sub(bytes.len()) {
                    Some(rest) => *left = rest,
                    None => return Poll::Ready(false),
                },
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn poll_data(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Poll::Ready(Some(Ok(bytes)));
                }
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
}
