//! Records the answers of `/readyz` during a run, to compare them with the
//! answers to requests.

use std::time::{Duration, Instant};

use minichat_tests::client::Api;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long `/readyz` reuses a failed check.
const REPEATED: Duration = Duration::from_millis(100);
/// Pause between two calls.
const APART: Duration = Duration::from_millis(110);
const PATIENCE: Duration = Duration::from_secs(10);

/// One answer of `/readyz`.
#[derive(Clone, Copy, Debug)]
struct Answer {
    sent: Instant,
    answered: Instant,
    is_ready: bool,
}

/// The answers in order.
#[derive(Default, Debug)]
pub(crate) struct Readiness(Vec<Answer>);

pub(crate) struct Observer {
    stop: watch::Sender<bool>,
    task: JoinHandle<Readiness>,
}

impl Observer {
    pub(crate) fn start(admin: Api) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(observe(admin, stopped));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> anyhow::Result<Readiness> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

async fn observe(admin: Api, stopped: watch::Receiver<bool>) -> Readiness {
    let mut readiness = Readiness::default();
    while !*stopped.borrow() {
        let sent = Instant::now();
        let is_ready = is_ready(&admin).await;
        let answered = Instant::now();
        readiness.0.push(Answer {
            sent,
            answered,
            is_ready,
        });
        tokio::time::sleep(APART).await;
    }
    readiness
}

/// Whether `/readyz` answers 200. Any other result is false.
pub(crate) async fn is_ready(admin: &Api) -> bool {
    let answer = tokio::time::timeout(PATIENCE, admin.get_absolute("/readyz")).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}

impl Readiness {
    /// The answer of `/readyz` from before `began` until after `answered`; `None` if
    /// it changed. The last answer that counts was checked after `answered`, not
    /// reused.
    pub(crate) fn during(&self, began: Instant, answered: Instant) -> Option<bool> {
        let before = self.0.partition_point(|it| it.answered <= began);
        let after = self.0.partition_point(|it| it.sent < answered + REPEATED);
        let meanwhile = self.0.get(before.checked_sub(1)?..=after)?;
        let is_ready = meanwhile.first()?.is_ready;
        let is_same = meanwhile.iter().all(|it| it.is_ready == is_ready);
        is_same.then_some(is_ready)
    }

    /// From the first answer that was not ready to the first that was ready again.
    pub(crate) fn away(&self) -> Option<(Instant, Instant)> {
        let first = self.0.iter().find(|it| !it.is_ready)?;
        let last = self.0.iter().rposition(|it| !it.is_ready)?;
        let again = self.0.get(last + 1).or(self.0.last())?;
        Some((first.answered, again.answered))
    }
}
