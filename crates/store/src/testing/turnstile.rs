//! A turnstile at which every transaction waits twice: before it begins, and
//! before its caller learns how it ended. Whoever holds the turnstile decides
//! which of those that wait goes on, and so the order of everything that
//! happens between two transactions; and which answers are lost.

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
    /// Nothing of it has happened.
    Begin,
    /// It is over; its caller does not know yet.
    Answer,
}

/// What a caller gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Answer,
    /// As if the connection had been cut.
    Silence,
}

/// What one that waited learns: its fate, and where its answer will wait.
type Passed = (Fate, u64);

/// One that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Grows with the arrival; of an answer, with the release of its transaction.
    pub number: u64,
    pub access: Access,
    pub moment: Moment,
}

/// Cheap to clone; all clones are one turnstile.
#[derive(Clone, Default, Debug)]
pub struct Turnstile(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, (Access, Moment, oneshot::Sender<Passed>)>,
    inside: usize,
}

impl Turnstile {
    /// Those that wait, in the order of their arrival.
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

    /// How many transactions are under way.
    pub fn inside(&self) -> usize {
        self.lock().inside
    }

    /// Lets one go on. Nothing happens if it does not wait any more. The number
    /// that the answer to a transaction will have, if that is what goes on: of
    /// several that share a commit, the first to be answered is not known.
    pub fn release(&self, number: u64) -> Option<u64> {
        self.let_go(number, Fate::Answer)
    }

    /// Lets one go on that waits for its answer, and loses the answer: whatever
    /// the transaction came to, its caller is told
    /// [`StoreError::Unanswered`].
    pub fn lose(&self, number: u64) {
        self.let_go(number, Fate::Silence);
    }

    fn let_go(&self, number: u64, fate: Fate) -> Option<u64> {
        let mut state = self.lock();
        let (_, moment, go) = state.waiting.remove(&number)?;
        let answer = state.next;
        if go.send((fate, answer)).is_err() || moment == Moment::Answer {
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

    async fn wait(&self, access: Access, moment: Moment, number: Option<u64>) -> Passed {
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
        // The sender lives in the turnstile until it is used.
        let passed = gone.await.unwrap_or((Fate::Answer, 0));
        place.has_passed = true;
        passed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code runs under the lock that could leave the state broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, given up by whoever does not wait any more.
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

/// A transaction that is under way.
#[derive(Debug)]
pub struct Passage {
    turnstile: Turnstile,
    access: Access,
    /// The number of its answer.
    answer: u64,
}

impl Passage {
    /// What the caller is told of `answer`.
    pub(crate) async fn leave<T, E: From<StoreError>>(self, answer: Result<T, E>) -> Result<T, E> {
        let (turnstile, access) = (self.turnstile.clone(), self.access);
        let number = self.answer;
        drop(self);
        match turnstile.wait(access, Moment::Answer, Some(number)).await {
            (Fate::Answer, _) => answer,
            (Fate::Silence, _) => Err(StoreError::Unanswered.into()),
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = self.turnstile.lock();
        state.inside = state.inside.saturating_sub(1);
    }
}
