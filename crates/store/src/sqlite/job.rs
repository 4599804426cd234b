//! Jobs and their answers. An answer is valid only after its transaction has
//! ended. So a job that has run becomes a [`Success`] or a [`Failure`]. Its
//! answer is sent to the caller only with a proof of how the transaction ended;
//! otherwise it becomes a job again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;
use tracing::Span;

use super::transaction::{Committed, RolledBack};
use crate::{StoreError, Tx};

/// Work for a database thread.
pub(super) trait Job: Send {
    /// Takes the job from its caller, who from then on waits for the end of the
    /// transaction. `false` if the caller has given up.
    fn claim(&self) -> bool;

    fn run(self: Box<Self>, tx: &mut Tx) -> Tried;

    /// Answers that the store failed and nothing was changed.
    fn fail(self: Box<Self>, error: StoreError);
}

/// A job that has run. Its caller has no answer yet.
pub(super) enum Tried {
    Succeeded(Success),
    Refused(Failure),
}

/// The job succeeded.
pub(super) struct Success(Box<dyn Answered>);

/// The job returned an error. Its changes must be rolled back.
pub(super) struct Failure(Box<dyn Answered>);

trait Answered: Send {
    fn reply(self: Box<Self>);

    /// Discards the answer.
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

    pub(super) fn reply(self, committed: &Committed) {
        match self {
            Self::Succeeded(success) => success.reply(committed),
            Self::Refused(Failure(answered)) => answered.reply(),
        }
    }

    /// Answers a job that read a snapshot. It saw only committed data and
    /// changed nothing.
    pub(super) fn reply_after_read(self, _ended: &RolledBack) {
        match self {
            Self::Succeeded(Success(answered)) | Self::Refused(Failure(answered)) => {
                answered.reply();
            }
        }
    }
}

impl Success {
    pub(super) fn reply(self, _committed: &Committed) {
        self.0.reply();
    }

    pub(super) fn again(self) -> Box<dyn Job> {
        self.0.again()
    }
}

impl Failure {
    /// Answers a job that was alone in its transaction, so that it saw only
    /// committed data.
    pub(super) fn reply_after_rollback(self, _undone: &RolledBack) {
        self.0.reply();
    }

    pub(super) fn again(self) -> Box<dyn Job> {
        self.0.again()
    }
}

/// A job together with its caller.
struct Submitted<F, T, E> {
    job: F,
    claimed: Claim,
    reply: oneshot::Sender<Result<T, E>>,
    /// The caller's, in which what happens on a database thread is logged.
    span: Span,
}

struct AnsweredJob<F, T, E> {
    submitted: Submitted<F, T, E>,
    answer: Result<T, E>,
}

/// Decides between a database thread that starts a job and a caller that gives
/// up: the first to claim it wins.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Makes a job of `job`. Returns it with its claim and the receiver of its
/// answer.
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
        span: Span::current(),
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
        let span = self.span.clone();
        let _entered = span.enter();
        let job = &mut self.job;
        // The transaction of a job that panicked is rolled back, so that its
        // changes are never seen.
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
        let error = self.span.in_scope(|| error.into());
        // If the caller is gone, the answer is dropped.
        drop(self.reply.send(Err(error)));
    }
}

impl<T, E, F> Answered for AnsweredJob<F, T, E>
where
    F: for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    fn reply(self: Box<Self>) {
        // If the caller is gone, the answer is dropped.
        drop(self.submitted.reply.send(self.answer));
    }

    fn again(self: Box<Self>) -> Box<dyn Job> {
        Box::new(self.submitted)
    }
}
