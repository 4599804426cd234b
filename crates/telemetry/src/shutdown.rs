//! Termination of a process: its signals, and the steps in which it stops.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::Notify;

/// A switch that is turned on once and stays on. Any task can wait for it.
///
/// A task that does other work meanwhile polls the wait often. A poll costs one atomic
/// load, because a waiter registers only once.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<Switch>);

#[derive(Debug, Default)]
struct Switch {
    is_on: AtomicBool,
    went_on: Notify,
}

impl Signal {
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns the switch on.
    pub fn fire(&self) {
        self.0.is_on.store(true, Ordering::Release);
        self.0.went_on.notify_waiters();
    }

    pub fn is_fired(&self) -> bool {
        self.0.is_on.load(Ordering::Acquire)
    }

    /// Returns once the switch is on; at once if it already is.
    pub async fn fired(&self) {
        // From here on it receives `fire`, even before it is polled.
        let mut went_on = pin!(self.0.went_on.notified());
        let mut waiter: Option<Waker> = None;
        poll_fn(|cx| {
            if self.is_fired() {
                return Poll::Ready(());
            }
            if waiter.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            waiter = Some(cx.waker().clone());
            went_on.as_mut().poll(cx)
        })
        .await;
    }
}

/// The end of a process in three steps (D29, K8S-50).
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// The process is no longer ready. It still serves requests, and each answer asks
    /// the client to close its connection.
    pub draining: Signal,
    /// No new connections are accepted. Open connections stay open, because a request
    /// may be under way; handlers can refuse it.
    pub refusing: Signal,
    /// Answers that have begun are finished; everything else ends.
    pub stopping: Signal,
}

/// The requests to terminate: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Terminations {
    terminate: UnixSignal,
    interrupt: UnixSignal,
}

impl Terminations {
    /// Handles the two signals, which would otherwise kill the process. Errors come from
    /// the operating system.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next request. The first one begins the drain, the second
    /// one cuts it short (K8S-50).
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_a_fired_signal_returns_at_once() {
        let signal = Signal::new();
        assert!(!signal.is_fired());
        signal.fire();
        signal.fired().await;
        assert!(signal.is_fired());
    }

    #[tokio::test]
    async fn every_clone_sees_the_signal() {
        let signal = Signal::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let signal = signal.clone();
                tokio::spawn(async move { signal.fired().await })
            })
            .collect();
        signal.fire();
        for waiter in waiters {
            waiter.await.unwrap();
        }
    }
    /// Provokes a switch that goes on while a waiter begins to wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_waiter_misses_the_moment() {
        for _ in 0..2_000 {
            let signal = Signal::new();
            let waiting = tokio::spawn({
                let signal = signal.clone();
                async move { signal.fired().await }
            });
            signal.fire();
            waiting.await.unwrap();
        }
    }

    /// K8S-50
    #[tokio::test]
    async fn both_signals_are_heard_one_after_the_other() {
        let mut terminations = Terminations::listen().unwrap();
        for signal in ["-TERM", "-INT"] {
            let own_id = std::process::id().to_string();
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args([signal, &own_id]).status().unwrap().success());
            terminations.next().await;
        }
    }
}
