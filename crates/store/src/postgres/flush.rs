//! Commits that reach the disk together.
//!
//! A transaction that waits for its own flush holds its locks meanwhile, so that
//! transactions which lock the same rows flush one after the other. A commit that
//! does not wait frees its locks at once; nobody is answered before it is flushed
//! too. All such commits of a process wait for one *flush*: a small transaction
//! that commits as the server is set up to, to disk and to its standbys. The log
//! is one sequence, so this covers all that was committed before.
//!
//! A commit needs a flush that begins after it, on a session that proves that the
//! server has not crashed in between: one of the same server, connected before the
//! commit was sent ([`Origin::vouches_for`]). A crash ends every session. Without
//! this, a server that restarts quickly could flush an empty log and be believed.
//! So the first commit hands over its own session, and others join while they may.
//! If the flush fails, the commits that waited for it are in doubt.

use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::PostgresTx;
use super::pool::Origin;
use crate::StoreError;

/// A transaction that writes to the log, and has an id: a commit of any other
/// does not wait for the disk. Nothing reads the message.
pub(crate) const FLUSH: &str = "SELECT CAST(pg_logical_emit_message(true, 'minichat', '') AS TEXT)";

/// A flush that takes longer is not waited for by further commits: its connection may
/// be dead.
const JOINED_FOR: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<(), Arc<StoreError>>>;

/// The flushes of a process. Clones share them.
#[derive(Clone)]
pub(super) struct Flushes {
    runtime: Handle,
    /// How long a server may take.
    limit: Duration,
    /// Those who wait for the next flush, as long as a session is flushing.
    group: Arc<Mutex<Option<Group>>>,
}

struct Group {
    /// Of the session that flushes.
    origin: Origin,
    /// When the flush that runs began.
    began: Instant,
    waiting: Vec<Answer>,
}

impl Flushes {
    pub(super) fn new(runtime: Handle, limit: Duration) -> Self {
        Self {
            runtime,
            limit,
            group: Arc::default(),
        }
    }

    /// Returns as soon as what `tx` has committed by a statement sent at `since` is
    /// flushed; otherwise the commit is in doubt.
    pub(super) async fn flushed(&self, tx: PostgresTx, since: Instant) -> Result<(), StoreError> {
        let deadline = tx.deadline();
        let cause = match timeout_at(deadline, self.join(tx, since)).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(cause))) => cause,
            Ok(Err(_)) => Arc::new(StoreError::Closed),
            Err(_) => Arc::new(StoreError::Deadline),
        };
        Err(StoreError::InDoubt(cause))
    }

    fn join(
        &self,
        tx: PostgresTx,
        since: Instant,
    ) -> oneshot::Receiver<Result<(), Arc<StoreError>>> {
        let (answer, answered) = oneshot::channel();
        let mut group = self.lock();
        match &mut *group {
            Some(group)
                if group.began.elapsed() < JOINED_FOR
                    && group.origin.vouches_for(tx.origin(), since) =>
            {
                group.waiting.push(answer);
            }
            Some(_) => {
                self.runtime.spawn(alone(tx, self.limit, answer));
            }
            None => {
                *group = Some(Group {
                    origin: tx.origin(),
                    began: Instant::now(),
                    waiting: vec![answer],
                });
                self.runtime.spawn(self.clone().lead(tx));
            }
        }
        answered
    }

    /// Flushes with the session of `tx` as long as somebody waits.
    async fn lead(self, mut tx: PostgresTx) {
        while let Some(mut waiting) = self.next() {
            let flushed = flush(&mut tx, self.limit).await;
            let has_failed = flushed.is_err();
            if has_failed {
                let late = self.lock().take();
                waiting.extend(late.into_iter().flat_map(|group| group.waiting));
            }
            for answer in waiting {
                // Whoever does not wait any more needs no answer.
                let _ = answer.send(flushed.clone());
            }
            if has_failed {
                return;
            }
        }
    }

    /// Those whom a flush that begins now covers. If there are none, the group is
    /// over.
    fn next(&self) -> Option<Vec<Answer>> {
        let mut group = self.lock();
        let current = group.as_mut()?;
        current.began = Instant::now();
        let waiting = mem::take(&mut current.waiting);
        if waiting.is_empty() {
            *group = None;
            return None;
        }
        Some(waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Group>> {
        // No code runs under the lock that could leave the state broken.
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn alone(mut tx: PostgresTx, limit: Duration, answer: Answer) {
    let _ = answer.send(flush(&mut tx, limit).await);
}

async fn flush(tx: &mut PostgresTx, limit: Duration) -> Result<(), Arc<StoreError>> {
    let flushed = AssertUnwindSafe(tx.flush(limit)).catch_unwind().await;
    let flushed = flushed.unwrap_or(Err(StoreError::JobPanicked));
    flushed.map_err(Arc::new)
}
