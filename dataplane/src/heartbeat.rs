//! Heartbeats: a process that shares its database says that it lives, so that the
//! watchdog need not wait for `orphan_watchdog.timeout_secs` to end the turns of one
//! that died (TURN-68, TURN-69).
//!
//! A heartbeat is a hint for the watchdog and gives no right. Whether a turn ends
//! here or there is decided by its compare-and-set alone (TURN-42): a process that is
//! taken for dead although it lives has lost its turns and cannot finish them. So
//! nothing stops a process whose heartbeats fail. While the database is away nobody
//! is judged, and the turns wait for it.
//!
//! On `SQLite` there are no heartbeats: a file has one process, and its successor
//! ends what it left (TURN-63).

use std::time::Duration;

use minichat_core::ProcessId;
use minichat_store::{Store, StoreError};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The longest time between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(5);

/// The longest time between a heartbeat that failed and the next one.
const RETRY: Duration = Duration::from_secs(1);

/// How long a process that ends waits for the removal of its row.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long the row of a process that died is kept, for whoever asks when it was.
const KEPT: Duration = Duration::from_hours(24);

/// The heartbeats of this process.
pub(crate) struct Heartbeat {
    store: Store,
    id: ProcessId,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Stores the first heartbeat before it returns, so that no turn names a process
    /// without one. `None`: no other process uses this database.
    pub(crate) async fn start(
        store: &Store,
        process_timeout: Duration,
    ) -> Result<Option<Self>, StoreError> {
        if store.is_sqlite() {
            return Ok(None);
        }
        let id = ProcessId::random();
        prune(store).await?;
        let beats = Beats {
            store: store.clone(),
            id,
            interval: interval(process_timeout),
            gap: gap(process_timeout),
        };
        beats.beat().await?;
        Ok(Some(Self {
            store: store.clone(),
            id,
            task: tokio::spawn(beats.go_on()),
        }))
    }

    /// What the turns of this process name.
    pub(crate) const fn id(&self) -> ProcessId {
        self.id
    }

    /// Says that this process has ended. Turns that it could not finalize are
    /// orphans from now on.
    pub(crate) async fn stop(self) {
        let Self { store, id, task } = self;
        task.abort();
        // Being aborted is what it reports.
        let _ = task.await;
        let removed = store.write(move |tx| Box::pin(async move { tx.process_remove(id) }));
        if let Err(error) = within(GOODBYE, removed).await {
            tracing::warn!(%error, "the row of this process is not removed; it will look dead");
        }
    }
}

/// The longest pause between heartbeats after which a process still counts as steady.
/// It is shorter than the silence of a dead process by several heartbeats: when the
/// database goes away, every process ceases to be a witness before any looks dead.
pub(crate) fn gap(process_timeout: Duration) -> Duration {
    process_timeout / 2
}

fn interval(process_timeout: Duration) -> Duration {
    INTERVAL.min(process_timeout / 6)
}

async fn prune(store: &Store) -> Result<(), StoreError> {
    let pruned = store.write(|tx| Box::pin(async move { tx.processes_prune(KEPT) }));
    pruned.await
}

async fn within(
    limit: Duration,
    write: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    timeout(limit, write)
        .await
        .unwrap_or(Err(StoreError::Deadline))
}

struct Beats {
    store: Store,
    id: ProcessId,
    interval: Duration,
    gap: Duration,
}

impl Beats {
    async fn go_on(self) {
        let mut has_failed = false;
        loop {
            let soon = RETRY.min(self.interval);
            sleep(if has_failed { soon } else { self.interval }).await;
            // A server that vanished may keep one for as long as a job may take.
            let beat = within(2 * self.interval, self.beat()).await;
            match &beat {
                Err(error) if !has_failed => {
                    tracing::warn!(process.id = %self.id, %error, "the heartbeats of this process cannot be stored");
                }
                Ok(()) if has_failed => {
                    tracing::info!(process.id = %self.id, "the heartbeats of this process are stored again");
                }
                Ok(()) | Err(_) => {}
            }
            has_failed = beat.is_err();
        }
    }

    async fn beat(&self) -> Result<(), StoreError> {
        let (id, gap) = (self.id, self.gap);
        let beat = self
            .store
            .write(move |tx| Box::pin(async move { tx.process_beat(id, gap) }));
        beat.await
    }
}
