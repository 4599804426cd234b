//! A turnstile at which every transaction waits twice: before it begins, and
//! before its caller gets the answer. The test that holds the turnstile chooses
//! which of the waiting ones continues. So it controls the order of all
//! transactions, and which answers are lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::StoreError;

/// What a transaction may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
}

/// Where a transaction waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It has not begun.
    Begin,
    /// It has ended; its caller has no answer yet.
    Answer,
}

/// What the caller gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivery {
    Answer,
    /// An error, as if the connection had been cut.
    Lost,
}

/// What a released waiter gets: what to deliver, and the number at which its
/// answer will wait.
type Released = (Delivery, u64);

/// A transaction that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Numbers grow in the order of arrival. An answer's number is assigned
    /// when its transaction is released.
    pub number: u64,
    pub access: Access,
    pub moment: Moment,
}

/// Cheap to clone; all clones share one turnstile.
#[derive(Clone, Default, Debug)]
pub struct Turnstile(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, (Access, Moment, oneshot::Sender<Released>)>,
    inside: usize,
}

impl Turnstile {
    /// The waiting transactions, in the order of their arrival.
    pub fn waiting(&self) -> Vec<Waiter> {
        let state = self.lock();
        let waiting = state.waiting.iter();
        waiting
            .map(|(&number, &(access, moment, _))| Waiter {
                number,
                access,
                moment,
            })
            .collect()
    }

    /// Number of transactions in progress.
    pub fn inside(&self) -> usize {
        self.lock().inside
    }

    /// Releases a waiter. Nothing happens if it does not wait any more. If the
    /// waiter is a transaction, returns the number that its answer will have.
    /// If several transactions share a commit, the first to be answered is not
    /// known.
    pub fn release(&self, number: u64) -> Option<u64> {
        self.release_with(number, Delivery::Answer)
    }

    /// Releases a waiter that waits for its answer, and drops the answer:
    /// whatever the result of the transaction, its caller gets
    /// [`StoreError::Unanswered`].
    pub fn lose(&self, number: u64) {
        self.release_with(number, Delivery::Lost);
    }

    fn release_with(&self, number: u64, delivery: Delivery) -> Option<u64> {
        let mut state = self.lock();
        let (_, moment, go) = state.waiting.remove(&number)?;
        let answer = state.next;
        if go.send((delivery, answer)).is_err() || moment == Moment::Answer {
            return None;
        }
        state.next += 1;
        state.inside += 1;
        Some(answer)
    }

    pub(crate) async fn enter(&self, access: Access) -> Passage {
        let (_, answer) = self.wait(access, Moment::Begin, None).await;
        Passage {
            turnstile: self.clone(),
            access,
            answer,
        }
    }

    async fn wait(&self, access: Access, moment: Moment, number: Option<u64>) -> Released {
        let (go, gone) = oneshot::channel();
        let mut place = {
            let mut state = self.lock();
            let number = number.unwrap_or(state.next);
            state.next = state.next.max(number + 1);
            state.waiting.insert(number, (access, moment, go));
            Place {
                turnstile: self,
                number,
                moment,
                has_passed: false,
            }
        };
        // The sender stays in the turnstile until it is used.
        let passed = gone.await.unwrap_or((Delivery::Answer, 0));
        place.has_passed = true;
        passed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code runs under the lock that could leave the state broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. A waiter that is dropped gives it up.
struct Place<'a> {
    turnstile: &'a Turnstile,
    number: u64,
    moment: Moment,
    has_passed: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.has_passed {
            return;
        }
        let mut state = self.turnstile.lock();
        let was_released = state.waiting.remove(&self.number).is_none();
        if was_released && self.moment == Moment::Begin {
            state.inside = state.inside.saturating_sub(1);
        }
    }
}

/// A transaction in progress.
#[derive(Debug)]
pub struct Passage {
    turnstile: Turnstile,
    access: Access,
    /// The number of its answer.
    answer: u64,
}

impl Passage {
    /// What the caller gets instead of `answer`.
    pub(crate) async fn leave<T, E: From<StoreError>>(self, answer: Result<T, E>) -> Result<T, E> {
        let (turnstile, access) = (self.turnstile.clone(), self.access);
        let number = self.answer;
        drop(self);
        match turnstile.wait(access, Moment::Answer, Some(number)).await {
            (Delivery::Answer, _) => answer,
            (Delivery::Lost, _) => Err(StoreError::Unanswered.into()),
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = self.turnstile.lock();
        state.inside = state.inside.saturating_sub(1);
    }
}
