//! A sequence of watches, each resumed where the previous one ended (K8S-21).

use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::PoolSecrets;

/// The API server ends a watch after this many seconds. Without changes a watch
/// is silent, so only its regular end shows that it was alive.
const WATCH_SECONDS: u32 = 20;
/// If a watch has not ended by then, its connection is dead (K8S-21: noticed
/// within 30 s).
const DEAD: Duration = Duration::from_secs(26);
/// Time limit of one list.
const LIST: Duration = Duration::from_secs(30);
/// A watch that ends sooner counts as a failure.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// Shortest and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A change of the pool's Secrets.
#[derive(Debug)]
pub(super) enum SecretChange {
    /// The complete list.
    Whole(Vec<Secret>),
    Set(Box<Secret>),
    Gone(Box<Secret>),
}

/// Follows the Secrets of one pool.
pub(super) struct Watch {
    pool: PoolSecrets,
    changes: mpsc::Sender<SecretChange>,
    /// Where the next watch begins; `None` if everything must be listed.
    version: Option<String>,
    /// Number of failures since the last success.
    failures: u32,
}

/// Why a watch or a list ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "the API server no longer has the version at which the last watch ended; everything is listed again"
    )]
    Expired,
    #[error("the API server has not answered for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the watch ended at once")]
    Short,
    #[error("{0:#}")]
    Refused(anyhow::Error),
    #[error("the receiver of the changes has ended")]
    ReceiverDropped,
}

impl Watch {
    pub(super) fn new(pool: PoolSecrets, changes: mpsc::Sender<SecretChange>) -> Self {
        Self {
            pool,
            changes,
            version: None,
            failures: 0,
        }
    }

    /// Runs until the receiver is dropped.
    pub(super) async fn follow(mut self) {
        loop {
            match self.once().await {
                Ok(()) => {}
                Err(Failure::ReceiverDropped) => return,
                Err(failure) => {
                    self.report(&failure);
                    if matches!(failure, Failure::Expired) {
                        self.version = None;
                    }
                    sleep(backoff(self.failures)).await;
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
    }

    /// Lists if necessary, and watches once.
    async fn once(&mut self) -> Result<(), Failure> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let began = Instant::now();
        let received = self.watch(&version, began + DEAD).await?;
        if !received && began.elapsed() < TOO_SHORT {
            return Err(Failure::Short);
        }
        self.answered();
        Ok(())
    }

    async fn list(&mut self) -> Result<String, Failure> {
        let parameters = ListParams::default().labels(&self.pool.selector);
        let listed = timeout(LIST, self.pool.secrets.list(&parameters)).await;
        let listed = listed.map_err(|_| Failure::Silent(LIST))??;
        let version = listed.metadata.resource_version.unwrap_or_default();
        tracing::info!(
            pool = self.pool.name,
            tenants = listed.items.len(),
            "the pool's tenants are read"
        );
        self.send(SecretChange::Whole(listed.items)).await?;
        self.version = Some(version.clone());
        self.answered();
        Ok(version)
    }

    /// Forwards events until the watch ends. Returns whether there was any.
    async fn watch(&mut self, version: &str, dead: Instant) -> Result<bool, Failure> {
        let parameters = WatchParams::default()
            .labels(&self.pool.selector)
            .timeout(WATCH_SECONDS);
        let silent = |_| Failure::Silent(DEAD);
        let secrets = self.pool.secrets.clone();
        let events = timeout_at(dead, secrets.watch(&parameters, version)).await;
        let events = events.map_err(silent)??;
        pin_mut!(events);
        let mut received = false;
        while let Some(event) = timeout_at(dead, events.next()).await.map_err(silent)? {
            self.handle(event?).await?;
            received = true;
        }
        Ok(received)
    }

    async fn handle(&mut self, event: WatchEvent<Secret>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                let version = secret.metadata.resource_version.clone();
                self.send(SecretChange::Set(Box::new(secret))).await?;
                self.version = version;
            }
            WatchEvent::Deleted(secret) => {
                let version = secret.metadata.resource_version.clone();
                self.send(SecretChange::Gone(Box::new(secret))).await?;
                self.version = version;
            }
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        }
        self.answered();
        Ok(())
    }

    async fn send(&self, change: SecretChange) -> Result<(), Failure> {
        self.changes
            .send(change)
            .await
            .map_err(|_| Failure::ReceiverDropped)
    }

    fn report(&self, failure: &Failure) {
        let pool = &self.pool.name;
        match failure {
            Failure::Expired | Failure::Short => tracing::info!(pool, "{failure}"),
            // Once per outage; the following failures are the same.
            _ if self.failures > 0 => {
                tracing::debug!(pool, error = %failure, "the pool still cannot be watched");
            }
            _ => {
                tracing::warn!(pool, error = %failure, "the pool cannot be watched; the running configurations stay");
            }
        }
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.failures) > 1 {
            tracing::info!(pool = self.pool.name, "the pool is watched again");
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) => {
                Self::Refused(anyhow::anyhow!("{} ({})", status.message, status.code))
            }
            // The error may quote the response, which is a Secret.
            kube::Error::SerdeError(_) => Self::Refused(anyhow::anyhow!(
                "the answer holds something else than Secrets"
            )),
            error => Self::Refused(error.into()),
        }
    }
}

/// Doubles after each failure. Up to a quarter is subtracted at random, so that
/// pods do not reconnect at the same time.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let wait = first.saturating_mul(1 << failures.min(16)).min(longest);
    let share = u32::from(Uuid::new_v4().as_bytes()[0]);
    wait.saturating_sub(wait / 4 * share / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let mut longest = Duration::ZERO;
        for failures in 0..40 {
            let wait = backoff(failures);
            let full = BACKOFF.0 * 2_u32.pow(failures.min(10));
            let full = full.min(BACKOFF.1);
            assert!(wait <= full && wait >= full * 3 / 4, "{failures}: {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest > BACKOFF.1 / 2);
    }
}
