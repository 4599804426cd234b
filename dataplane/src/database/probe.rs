//! Whether the database serves (PLAT-161).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minichat_store::{Store, StoreError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a successful check is reused without asking.
const FRESH: Duration = Duration::from_secs(1);
/// How long a failed check is reused. It is short, so that recovery is noticed
/// soon.
const FRESH_FAILURE: Duration = Duration::from_millis(100);
/// How long a check waits for the database.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits if an earlier answer may serve: less than clients wait, who often
/// leave after a second.
const SOON: Duration = Duration::from_millis(500);
/// How long the success of a slow probe may serve later checks: longer than it is from
/// one check to the next.
const SERVES_LATE: Duration = Duration::from_secs(15);
/// A probe that takes longer may be stuck in a session whose server has vanished.
const STUCK: Duration = Duration::from_secs(6);

/// Finds out by a small write whether requests can be served. A read-only
/// database, or one whose disk is full, is not ready.
pub struct Probe {
    store: Store,
    checks: Checks,
}

impl Probe {
    pub fn of(store: Store) -> Self {
        Self {
            store,
            checks: Checks::default(),
        }
    }

    /// Records that a request was answered with 503, so that the next
    /// [`check`](Self::check) asks the database.
    pub(crate) fn doubt(&self) {
        self.checks.is_doubted.store(true, Ordering::Release);
    }

    /// Whether the database serves. A success is reused for a second, unless a
    /// request failed since. If the database takes longer to answer than a check waits,
    /// the check gets the answer to the one before.
    pub(crate) async fn check(&self) -> Finding {
        let store = self.store.clone();
        let probe = move || {
            let store = store.clone();
            async move { store.probe().await }
        };
        self.checks.check(probe).await
    }
}

/// The result of a check: why the database cannot serve.
type Finding = Result<(), Arc<str>>;

#[derive(Default)]
struct Checks {
    state: Mutex<State>,
    is_doubted: AtomicBool,
}

#[derive(Default)]
struct State {
    last: Option<Answer>,
    /// At most one. It goes on when the check that began it is answered: if each check
    /// began its own, none would wait long enough for a session while many do.
    under_way: JoinSet<Answer>,
}

/// What a probe found.
#[derive(Clone)]
struct Answer {
    finding: Finding,
    at: Instant,
    /// Whether its check may have been over before.
    is_slow: bool,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let limit = if self.finding.is_ok() {
            FRESH
        } else {
            FRESH_FAILURE
        };
        self.at.elapsed() < limit
    }

    /// Whether it serves if the next probe is not over soon.
    fn serves_late(&self) -> bool {
        self.is_slow && self.finding.is_ok() && self.at.elapsed() < SERVES_LATE
    }
}

impl Checks {
    /// Answers within [`PATIENCE`]. Without a fresh answer it waits for the probe under
    /// way, or else for one that it begins.
    async fn check<P, F>(&self, probe: P) -> Finding
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let began = Instant::now();
        let silent = || found(Err(StoreError::Deadline));
        let Ok(mut state) = timeout_at(began + PATIENCE, self.state.lock()).await else {
            return silent();
        };
        if let Some(over) = state.under_way.try_join_next() {
            state.last = over.ok();
        }
        if self.is_doubted.swap(false, Ordering::AcqRel) {
            state.last.take_if(|last| last.finding.is_ok());
        }
        if let Some(last) = state.last.as_ref().filter(|last| last.is_fresh()) {
            return last.finding.clone();
        }
        if state.under_way.is_empty() {
            state.under_way.spawn(answer(probe));
        }
        let earlier = state.last.clone().filter(Answer::serves_late);
        let limit = earlier.as_ref().map_or(PATIENCE, |_| SOON);
        let over = timeout_at(began + limit, state.under_way.join_next()).await;
        let answer = over.ok().flatten().and_then(Result::ok);
        if answer.is_some() {
            state.last.clone_from(&answer);
        }
        let answer = answer.or(earlier);
        answer.map_or_else(silent, |answer| answer.finding)
    }
}

/// What the probe says, or another one on another session if it may be stuck.
async fn answer<P, F>(probe: P) -> Answer
where
    P: Fn() -> F,
    F: Future<Output = Result<(), StoreError>>,
{
    let began = Instant::now();
    let second = async {
        sleep(STUCK).await;
        probe().await
    };
    let answer = tokio::select! {
        answer = probe() => answer,
        answer = second => answer,
    };
    Answer {
        finding: found(answer),
        at: Instant::now(),
        is_slow: began.elapsed() > SOON,
    }
}

fn found(answer: Result<(), StoreError>) -> Finding {
    answer.map_err(|error| {
        tracing::warn!(%error, "the database cannot serve");
        format!("the database cannot serve: {}", error.reason()).into()
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::BoxFuture;
    use tokio::sync::oneshot;
    use tokio::time::{advance, sleep_until, timeout};

    use super::*;

    type Probed = Result<(), StoreError>;

    async fn refused() -> Result<(), StoreError> {
        Err(StoreError::AcquireTimeout)
    }

    /// A probe that ends when `answered` does.
    fn once(answered: oneshot::Receiver<()>) -> impl Fn() -> BoxFuture<'static, Probed> {
        let answered = std::sync::Mutex::new(Some(answered));
        move || {
            let answered = answered.lock().unwrap().take();
            Box::pin(async move {
                match answered {
                    Some(answered) => answered.await.map_err(|_| StoreError::Closed),
                    None => pending().await,
                }
            })
        }
    }

    /// PLAT-161: a check that is over before its probe loses nothing: the probe keeps its
    /// place among the jobs that wait for a session, and answers the next check.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_takes_longer_than_its_check_answers_the_next() {
        let checks = Checks::default();
        let (answer, answered) = oneshot::channel();
        let began = Instant::now();
        checks.check(once(answered)).await.unwrap_err();
        assert_eq!(began.elapsed(), PATIENCE);
        answer.send(()).unwrap();
        checks.check(refused).await.unwrap();
        checks.is_doubted.store(true, Ordering::Release);
        checks.check(refused).await.unwrap_err();
    }

    /// PLAT-161: what a probe found when no check waited for it is no news later.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_ended_between_two_checks_says_nothing_later() {
        let checks = Checks::default();
        let (answer, answered) = oneshot::channel();
        checks.check(once(answered)).await.unwrap_err();
        answer.send(()).unwrap();
        tokio::task::yield_now().await;
        advance(FRESH).await;
        checks.check(refused).await.unwrap_err();
    }

    /// PLAT-161: the answer to one check comes too late for its client, and serves the
    /// next one. It does not serve for long, nor after a request that failed.
    #[tokio::test(start_paused = true)]
    async fn a_database_slower_than_clients_wait_is_ready_and_a_dead_one_is_not() {
        let period = Duration::from_secs(10);
        let slow = || async {
            sleep(Duration::from_secs(2)).await;
            Ok(())
        };
        let checks = Checks::default();
        let is_ready = async |is_dead: bool| {
            let began = Instant::now();
            let patience = Duration::from_secs(1);
            let ready = if is_dead {
                timeout(patience, checks.check(pending)).await
            } else {
                timeout(patience, checks.check(slow)).await
            };
            sleep_until(began + period).await;
            matches!(ready, Ok(Ok(())))
        };
        assert!(!is_ready(false).await, "nothing is known yet");
        assert!(is_ready(false).await);
        assert!(is_ready(false).await);
        checks.is_doubted.store(true, Ordering::Release);
        assert!(!is_ready(false).await, "a request failed");
        assert!(is_ready(false).await);
        is_ready(true).await;
        assert!(!is_ready(true).await, "it is dead for ten seconds");
    }

    /// PLAT-161: a probe in a session whose server has vanished waits for its end, while
    /// other sessions serve.
    #[tokio::test(start_paused = true)]
    async fn a_stuck_probe_gets_a_second_one_beside_it() {
        let checks = Checks::default();
        let began = Instant::now();
        let probes = Arc::new(AtomicUsize::new(0));
        let first_is_stuck = || {
            let probes = Arc::clone(&probes);
            move || {
                let number = probes.fetch_add(1, Ordering::Relaxed);
                async move { if number == 0 { pending().await } else { Ok(()) } }
            }
        };
        let ready = async { while checks.check(first_is_stuck()).await.is_err() {} };
        timeout(STUCK * 2, ready).await.expect("no second probe");
        assert_eq!(began.elapsed().as_secs(), 6);
        assert_eq!(probes.load(Ordering::Relaxed), 2);
    }

    /// PLAT-161: the client of the check that knows of a failed request may leave.
    #[tokio::test(start_paused = true)]
    async fn a_doubt_outlives_the_check_that_asks() {
        let checks = Checks::default();
        checks.check(|| async { Ok(()) }).await.unwrap();
        checks.is_doubted.store(true, Ordering::Release);
        let left = timeout(FRESH_FAILURE, checks.check(pending)).await;
        left.unwrap_err();
        checks.check(refused).await.unwrap_err();
    }

    /// PLAT-161: a check that waits for another one is answered no later for that.
    #[tokio::test(start_paused = true)]
    async fn a_check_is_answered_in_time_while_another_one_waits() {
        let checks = Checks::default();
        let began = Instant::now();
        let moment = Duration::from_secs(1);
        let later = async {
            sleep(moment).await;
            checks.check(pending).await
        };
        let (one, other) = tokio::join!(checks.check(pending), later);
        one.unwrap_err();
        other.unwrap_err();
        assert_eq!(began.elapsed(), moment + PATIENCE);
    }
}
