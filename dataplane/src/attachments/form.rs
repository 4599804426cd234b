//! The form of an upload: finds the part with the file, and hands the file over as it
//! arrives (API-101).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use minichat_core::attachment::multipart::{self, Event, Multipart, PartHead};

use super::incoming::{BodyFault, Incoming};

/// Name of the part with the file.
const FILE: &str = "file";

/// A form that is read as it arrives.
pub(super) struct Form {
    incoming: Incoming,
    reader: Multipart,
}

/// Why a form could not be read to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FormFault {
    #[error(transparent)]
    Body(BodyFault),
    #[error("the form {0}")]
    Form(multipart::Fault),
    /// The file is larger than it may be.
    #[error("the file is larger than it may be")]
    LargeFile,
}

/// What comes next in a form.
enum Piece {
    Part(PartHead),
    Data(Bytes),
    PartEnd,
    End,
}

impl Form {
    pub(super) fn new(incoming: Incoming, boundary: &str) -> Self {
        Self {
            incoming,
            reader: Multipart::new(boundary),
        }
    }

    /// The head of the first part with the name of the file; `None` if there is none.
    pub(super) async fn find_file(&mut self) -> Result<Option<PartHead>, FormFault> {
        loop {
            match poll_fn(|cx| self.poll_piece(cx)).await? {
                Piece::Part(head) if head.name.as_deref() == Some(FILE) => return Ok(Some(head)),
                Piece::Part(_) | Piece::Data(_) | Piece::PartEnd => {}
                Piece::End => return Ok(None),
            }
        }
    }

    /// The file, if the last piece was its head.
    pub(super) fn into_file(self) -> FilePart {
        FilePart {
            form: self,
            read: VecDeque::new(),
            is_complete: false,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, FormFault>> {
        loop {
            let piece = match self.reader.read().map_err(FormFault::Form)? {
                Event::More => None,
                Event::Part(head) => Some(Piece::Part(head)),
                Event::Data(data) => Some(Piece::Data(Bytes::copy_from_slice(data))),
                Event::PartEnd => Some(Piece::PartEnd),
                Event::End => Some(Piece::End),
            };
            if let Some(piece) = piece {
                return Poll::Ready(Ok(piece));
            }
            match ready!(self.incoming.poll_next(cx)) {
                Some(bytes) => self.reader.feed(&bytes.map_err(FormFault::Body)?),
                None => self.reader.complete(),
            }
        }
    }

    /// Reads what is behind the file and ignores it.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FormFault>> {
        while let Some(bytes) = ready!(self.incoming.poll_next(cx)) {
            bytes.map_err(FormFault::Body)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The part with the file.
pub(super) struct FilePart {
    form: Form,
    /// What was read in advance.
    read: VecDeque<Bytes>,
    /// Whether `read` is the rest of the file.
    is_complete: bool,
}

impl FilePart {
    /// The beginning of the file: at least `size` bytes, or all of it.
    pub(super) async fn peek(&mut self, size: usize) -> Result<Vec<u8>, FormFault> {
        let mut length = 0;
        while length < size && !self.is_complete {
            match poll_fn(|cx| self.form.poll_piece(cx)).await? {
                Piece::Data(data) => {
                    length += data.len();
                    self.read.push_back(data);
                }
                Piece::Part(_) | Piece::PartEnd | Piece::End => self.is_complete = true,
            }
        }
        let bytes = self.read.iter().flatten();
        Ok(bytes.take(size).copied().collect())
    }

    /// The file as a stream, which ends with an error behind `limit` bytes. `passed`
    /// tells what became of it.
    pub(super) fn into_stream(self, limit: u64, passed: Arc<Passed>) -> FileStream {
        FileStream {
            part: self,
            limit,
            passed,
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, FormFault>> {
        if let Some(data) = self.read.pop_front() {
            return Poll::Ready(Ok(Some(data)));
        }
        if !self.is_complete {
            match ready!(self.form.poll_piece(cx))? {
                Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                Piece::Part(_) | Piece::PartEnd | Piece::End => self.is_complete = true,
            }
        }
        ready!(self.form.poll_rest(cx))?;
        Poll::Ready(Ok(None))
    }
}

/// What of a file has passed its stream.
#[derive(Debug)]
pub(super) struct Passed {
    bytes: AtomicU64,
    fault: OnceLock<FormFault>,
    /// A copy of the bytes so far.
    kept: Mutex<Option<Vec<u8>>>,
    /// Bytes of the largest file of which a copy is kept.
    max_kept: u64,
}

impl Passed {
    /// Keeps a copy of the file if it has at most `max_kept` bytes. It will probably
    /// have `expected` bytes: room for them is made at once, because a copy that grows
    /// takes up to three times as much. Memory that is not written to costs nothing.
    pub(super) fn keeping(max_kept: u64, expected: u64) -> Self {
        let room = usize::try_from(expected.min(max_kept)).unwrap_or_default();
        Self {
            bytes: AtomicU64::default(),
            fault: OnceLock::new(),
            kept: Mutex::new((max_kept > 0).then(|| Vec::with_capacity(room))),
            max_kept,
        }
    }

    /// The copy of the file, once.
    pub(super) fn take_kept(&self) -> Option<Vec<u8>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Why the stream ended early.
    pub(super) fn fault(&self) -> Option<FormFault> {
        self.fault.get().copied()
    }

    fn add(&self, data: &[u8]) {
        let before = self.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if before + data.len() as u64 > self.max_kept {
            *kept = None;
        }
        if let Some(kept) = &mut *kept {
            kept.extend_from_slice(data);
        }
    }
}

/// The bytes of a file. Behind the file it reads the rest of the form before it ends.
pub(super) struct FileStream {
    part: FilePart,
    limit: u64,
    passed: Arc<Passed>,
}

impl Stream for FileStream {
    type Item = Result<Bytes, FormFault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let data = match ready!(self.part.poll_data(cx)) {
            Ok(None) => return Poll::Ready(None),
            Ok(Some(data)) => Ok(data),
            Err(fault) => Err(fault),
        };
        let left = self.limit.saturating_sub(self.passed.bytes());
        let data = data.and_then(|data| {
            if data.len() as u64 > left {
                return Err(FormFault::LargeFile);
            }
            self.passed.add(&data);
            Ok(data)
        });
        if let Err(fault) = data {
            // The first one counts.
            let _ = self.passed.fault.set(fault);
        }
        Poll::Ready(Some(data))
    }
}
