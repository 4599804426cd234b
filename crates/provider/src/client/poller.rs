//! Polls a task's futures once per socket event.
//! The driver of a connection and the body of its answer live in one task. Each
//! wakes the other when it has moved data, so without a filter the task would
//! be polled twice for every piece of an answer. A [`Poller`] notes the wakes
//! that arrive during a poll and polls again itself.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// No poll is in progress: a wake goes to the task.
const WAITING: u8 = 0;
/// A poll is in progress: a wake is noted.
const POLLING: u8 = 1;
/// A poll is in progress, and a wake arrived.
const WOKEN: u8 = 2;

/// Maximum number of rounds per poll. A future that is woken in each of them
/// may be waiting for the task to yield: a socket does so when its reader has
/// used up its share of the runtime.
const MAX_ROUNDS: usize = 8;

/// Polls futures that live in one task.
#[derive(Debug)]
pub(super) struct Poller {
    shared: Arc<Shared>,
    waker: Waker,
    /// A copy of `shared.task`, to compare without the lock.
    registered: Option<Waker>,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    /// The waker to use while no poll is in progress.
    task: Mutex<Option<Waker>>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = &*task {
                task.wake_by_ref();
            }
        }
    }
}

impl Default for Poller {
    fn default() -> Self {
        let shared = Arc::<Shared>::default();
        Self {
            waker: Arc::clone(&shared).into(),
            shared,
            registered: None,
        }
    }
}

impl Poller {
    /// Calls `poll` until it is ready, or until it is pending and no wake
    /// arrived during the call. The next wake then reaches the task of `cx`.
    /// After [`MAX_ROUNDS`] rounds, the rest waits until the task is polled
    /// again.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.register(cx);
        for _ in 0..MAX_ROUNDS {
            self.shared.state.store(POLLING, Ordering::Release);
            if let Poll::Ready(value) = poll(&mut Context::from_waker(&self.waker)) {
                return Poll::Ready(value);
            }
            let still = self.shared.state.compare_exchange(
                POLLING,
                WAITING,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if still.is_ok() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn register(&mut self, cx: &Context<'_>) {
        let registered = self.registered.as_ref();
        if registered.is_some_and(|it| it.will_wake(cx.waker())) {
            return;
        }
        let waker = Some(cx.waker().clone());
        let mut task = self
            .shared
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        task.clone_from(&waker);
        drop(task);
        self.registered = waker;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts the wakes it receives.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_while_polling_is_another_round_and_no_wake_of_the_task() {
        let counter = Arc::<Counter>::default();
        let waker = Arc::clone(&counter).into();
        let mut poller = Poller::default();
        let mut rounds = 0;
        let outcome = poller.poll(&mut Context::from_waker(&waker), |cx| {
            rounds += 1;
            if rounds < 3 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(outcome.is_pending());
        assert_eq!((rounds, counter.0.load(Ordering::Relaxed)), (3, 0));
    }

    #[test]
    fn what_wakes_in_every_round_is_left_to_the_next_turn_of_the_task() {
        let counter = Arc::<Counter>::default();
        let waker = Arc::clone(&counter).into();
        let mut poller = Poller::default();
        for turn in 1..4 {
            let mut rounds = 0;
            let outcome = poller.poll(&mut Context::from_waker(&waker), |cx| {
                rounds += 1;
                assert!(rounds < 100, "the poll does not end");
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            assert!(outcome.is_pending());
            assert_eq!(counter.0.load(Ordering::Relaxed), turn);
        }
    }

    #[test]
    fn every_wake_after_a_pending_poll_reaches_the_task_once() {
        let counter = Arc::<Counter>::default();
        let waker = Arc::clone(&counter).into();
        let mut poller = Poller::default();
        for expected in 1..4 {
            let mut inner = None;
            let outcome = poller.poll(&mut Context::from_waker(&waker), |cx| {
                inner = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            assert!(outcome.is_pending());
            inner.iter().for_each(Waker::wake_by_ref);
            inner.iter().for_each(Waker::wake_by_ref);
            assert_eq!(counter.0.load(Ordering::Relaxed), expected);
        }
    }

    /// Sends wakes at every moment of a poll.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        const EVENTS: usize = 20_000;
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for number in 0..EVENTS {
                sender.send(number).await.unwrap();
            }
        });
        let mut poller = Poller::default();
        for number in 0..EVENTS {
            let event = poll_fn(|cx| poller.poll(cx, |cx| receiver.poll_recv(cx))).await;
            assert_eq!(event, Some(number));
        }
    }
}
