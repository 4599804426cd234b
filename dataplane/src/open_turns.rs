//! The open turns of this process, and how a turn learns that it must end
//! before its provider does.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use minichat_core::TurnId;
use minichat_telemetry::Signal;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why a turn was ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancel {
    /// The client has disconnected.
    Disconnect,
    /// A stop was requested (D3).
    Stop,
    /// The process ends, and the turn's time is over.
    Drain,
}

/// Ends one turn early. The first cause counts and is kept. One task at a time
/// may wait for it.
/// A turn checks it at every piece of its answer, so a check costs one load,
/// and the waiter registers only once.
#[derive(Debug, Default)]
pub struct Interrupt {
    cause: OnceLock<(Cancel, Instant)>,
    waiter: AtomicWaker,
}

impl Interrupt {
    pub fn fire(&self, cancel: Cancel) {
        if self.cause.set((cancel, Instant::now())).is_ok() {
            self.waiter.wake();
        }
    }

    /// The cause and the time at which it was set.
    pub fn fired(&self) -> Option<(Cancel, Instant)> {
        self.cause.get().copied()
    }

    /// Returns once a cause is set; at once if one is set already.
    pub async fn wait(&self) -> Cancel {
        let mut registered = None;
        poll_fn(|cx| self.poll_wait(cx, &mut registered)).await
    }

    fn poll_wait(
        &self,
        cx: &mut Context<'_>,
        registered: &mut Option<std::task::Waker>,
    ) -> Poll<Cancel> {
        if let Some((cancel, _)) = self.fired() {
            return Poll::Ready(cancel);
        }
        if registered
            .as_ref()
            .is_none_or(|it| !it.will_wake(cx.waker()))
        {
            self.waiter.register(cx.waker());
            *registered = Some(cx.waker().clone());
            // The cause may have been set before the registration.
            if let Some((cancel, _)) = self.fired() {
                return Poll::Ready(cancel);
            }
        }
        Poll::Pending
    }
}

/// The open turns of this process. It does not exit before they are finalized
/// (TURN-51), and it can end them (D3, K8S-50).
#[derive(Clone, Debug, Default)]
pub struct OpenTurns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    emptied: Notify,
    abandoned: Signal,
}

#[derive(Debug, Default)]
struct Open {
    turns: HashMap<TurnId, OpenTurn>,
    /// Turns that are entered from now on are over before they begin.
    aborted: bool,
}

#[derive(Debug)]
struct OpenTurn {
    interrupt: Arc<Interrupt>,
    /// When its task has ended it at the latest, unless the task hangs.
    ends_by: Instant,
}

impl OpenTurns {
    /// Counts one more until the guard is dropped. Its task ends it within
    /// `limit`.
    pub fn enter(&self, turn: TurnId, limit: Duration) -> OpenTurnGuard {
        let interrupt = Arc::<Interrupt>::default();
        let mut open = self.lock();
        let entry = OpenTurn {
            interrupt: Arc::clone(&interrupt),
            ends_by: Instant::now() + limit,
        };
        open.turns.insert(turn, entry);
        if open.aborted {
            interrupt.fire(Cancel::Drain);
        }
        drop(open);
        OpenTurnGuard {
            open: self.clone(),
            turn,
            interrupt,
        }
    }

    /// Stops `turn` if it is open here. Returns whether it is.
    pub fn stop(&self, turn: TurnId) -> bool {
        let open = self.lock();
        let found = open.turns.get(&turn).map(|it| Arc::clone(&it.interrupt));
        drop(open);
        if let Some(interrupt) = &found {
            interrupt.fire(Cancel::Stop);
        }
        found.is_some()
    }

    /// Whether `turn` is open here, and its task has not taken longer than it may.
    pub fn is_live(&self, turn: TurnId) -> bool {
        let open = self.lock();
        let found = open.turns.get(&turn);
        found.is_some_and(|it| Instant::now() < it.ends_by)
    }

    /// Ends every open turn, and every turn that is entered later (K8S-50).
    pub fn abort(&self) {
        let mut open = self.lock();
        open.aborted = true;
        let turns = open.turns.values().map(|it| Arc::clone(&it.interrupt));
        let turns: Vec<_> = turns.collect();
        drop(open);
        for interrupt in turns {
            interrupt.fire(Cancel::Drain);
        }
    }

    /// Ends all waits for the database to finalize a turn, because the process
    /// exits.
    pub fn abandon(&self) {
        self.0.abandoned.fire();
    }

    /// Returns once the turns are abandoned.
    pub async fn abandoned(&self) {
        self.0.abandoned.fired().await;
    }

    /// Waits until no turn is open.
    pub async fn idle(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.0.emptied.notified());
            emptied.as_mut().enable();
            if self.lock().turns.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open turn.
#[derive(Debug)]
pub struct OpenTurnGuard {
    open: OpenTurns,
    turn: TurnId,
    interrupt: Arc<Interrupt>,
}

impl OpenTurnGuard {
    /// Signals that the turn must end.
    pub fn interrupt(&self) -> Arc<Interrupt> {
        Arc::clone(&self.interrupt)
    }
}

impl Drop for OpenTurnGuard {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.turns.remove(&self.turn);
        if open.turns.is_empty() {
            drop(open);
            self.open.0.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_turn_can_be_stopped_while_it_is_open() {
        let turns = OpenTurns::default();
        let turn = TurnId::random();
        assert!(!turns.stop(turn) && !turns.is_live(turn));
        let open = turns.enter(turn, LIMIT);
        assert!(turns.is_live(turn));
        let interrupt = open.interrupt();
        assert!(interrupt.fired().is_none());
        assert!(turns.stop(turn));
        assert_eq!(interrupt.wait().await, Cancel::Stop);
        let first = interrupt.fired();
        assert!(turns.stop(turn));
        turns.abort();
        assert_eq!(interrupt.fired(), first);
        drop(open);
        assert!(!turns.stop(turn));
        turns.idle().await;
    }

    /// K8S-50
    #[tokio::test]
    async fn a_turn_that_comes_after_the_cut_is_over_at_once() {
        let turns = OpenTurns::default();
        let early = turns.enter(TurnId::random(), LIMIT);
        turns.abort();
        let late = turns.enter(TurnId::random(), LIMIT);
        assert_eq!(early.interrupt().wait().await, Cancel::Drain);
        assert_eq!(late.interrupt().wait().await, Cancel::Drain);
    }

    /// Sets a cause at the moment when the waiter registers.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_interrupt_is_lost() {
        for _ in 0..2_000 {
            let interrupt = Arc::<Interrupt>::default();
            let waiting = tokio::spawn({
                let interrupt = Arc::clone(&interrupt);
                async move { interrupt.wait().await }
            });
            interrupt.fire(Cancel::Disconnect);
            assert_eq!(waiting.await.unwrap(), Cancel::Disconnect);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_last_turn_that_ends_ends_the_wait() {
        for _ in 0..500 {
            let turns = OpenTurns::default();
            let open = turns.enter(TurnId::random(), LIMIT);
            let idle = tokio::spawn({
                let turns = turns.clone();
                async move { turns.idle().await }
            });
            drop(open);
            idle.await.unwrap();
        }
    }
}
