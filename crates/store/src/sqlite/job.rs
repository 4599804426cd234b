//! Jobs, and what they answer. An answer is worth nothing before the
//! transaction in which it was made has ended: so a job that has run is a
//! [`Success`] or a [`Failure`], whose answer is told only to who shows how that
//! transaction ended, and which otherwise becomes a job again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::transaction::{Committed, RolledBack};
use crate::{StoreError, Tx};

/// Work for a database thread.
pub(super) trait Job: Send {
    /// Takes the job from its caller, who from then on waits for the end of the
    /// transaction; false if nobody waits any more.
    fn claim(&self) -> bool;

    fn run(self: Box<Self>, tx: &mut Tx) -> Tried;

    /// Tells the caller that the store failed, and that nothing was changed.
    fn fail(self: Box<Self>, error: StoreError);
}

/// A job that has run; nobody has been told.
pub(super) enum Tried {
    Succeeded(Success),
    Refused(Failure),
}

/// It changed what it wanted.
pub(super) struct Success(Box<dyn Answered>);

/// It failed by itself. What it changed must be rolled back.
pub(super) struct Failure(Box<dyn Answered>);

trait Answered: Send {
    fn tell(self: Box<Self>);

    /// Forgets the answer.
    fn again(self: Box<Self>) -> Box<dyn Job>;
}

impl Tried {
    pub(super) fn again(self) -> Box<dyn Job> {
        match self {
            Self::Succeeded(Success(answered)) | Self::Refused(Failure(answered)) => {
                answered.again()
            }
        }
    }

    pub(super) fn tell(self, committed: &Committed) {
        match self {
            Self::Succeeded(success) => success.tell(committed),
            Self::Refused(Failure(answered)) => answered.tell(),
        }
    }

    /// Tells what a snapshot for reading has led to: it shows nothing but what
    /// is committed, and nothing of it will be.
    pub(super) fn tell_read(self, _ended: &RolledBack) {
        match self {
            Self::Succeeded(Success(answered)) | Self::Refused(Failure(answered)) => {
                answered.tell();
            }
        }
    }
}

impl Success {
    pub(super) fn tell(self, _committed: &Committed) {
        self.0.tell();
    }

    pub(super) fn again(self) -> Box<dyn Job> {
        self.0.again()
    }
}

impl Failure {
    /// For a job that was alone in its transaction, and so has seen nothing but
    /// what is committed.
    pub(super) fn tell_alone(self, _undone: &RolledBack) {
        self.0.tell();
    }

    pub(super) fn again(self) -> Box<dyn Job> {
        self.0.again()
    }
}

/// A job with its caller.
struct Submitted<F, T, E> {
    job: F,
    claimed: Claim,
    reply: oneshot::Sender<Result<T, E>>,
}

struct AnsweredJob<F, T, E> {
    submitted: Submitted<F, T, E>,
    answer: Result<T, E>,
}

/// Who decides about a job: the first to claim it, be it a database thread or a
/// caller that gives up.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The job of `job`, its claim, and where its answer comes.
pub(super) fn submitted<T, E, F>(job: F) -> (Box<dyn Job>, Claim, oneshot::Receiver<Result<T, E>>)
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let claimed = Claim::default();
    let submitted = Submitted {
        job,
        claimed: claimed.clone(),
        reply,
    };
    (Box::new(submitted), claimed, answer)
}

impl<T, E, F> Job for Submitted<F, T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    fn claim(&self) -> bool {
        !self.reply.is_closed() && self.claimed.take()
    }

    fn run(mut self: Box<Self>, tx: &mut Tx) -> Tried {
        let job = &mut self.job;
        // The transaction of a job that panicked is rolled back, so nobody
        // sees what it left behind.
        let polled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(tx).now_or_never()));
        let answer = match polled {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(StoreError::JobSuspended.into()),
            Err(_) => Err(StoreError::JobPanicked.into()),
        };
        let succeeded = answer.is_ok();
        let answered = Box::new(AnsweredJob {
            submitted: *self,
            answer,
        });
        if succeeded {
            Tried::Succeeded(Success(answered))
        } else {
            Tried::Refused(Failure(answered))
        }
    }

    fn fail(self: Box<Self>, error: StoreError) {
        // The caller may have gone; then nobody is told.
        drop(self.reply.send(Err(error.into())));
    }
}

impl<T, E, F> Answered for AnsweredJob<F, T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    fn tell(self: Box<Self>) {
        // The caller may have gone; then nobody is told.
        drop(self.submitted.reply.send(self.answer));
    }

    fn again(self: Box<Self>) -> Box<dyn Job> {
        Box::new(self.submitted)
    }
}
