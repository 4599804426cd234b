//! The process's view of its database: the settings, and whether it serves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use minichat_config::process::{Database, DatabaseUrl};
use minichat_core::SystemClock;
use minichat_store::{DatabaseSettings, Store, StoreError};
use rustix::fs::statvfs;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long a successful check is reused.
const FRESH: Duration = Duration::from_secs(1);
/// How long a failed check is reused. It is short, so that recovery is noticed
/// soon.
const FRESH_FAILURE: Duration = Duration::from_millis(100);
/// How long a check waits for the database.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens the database. A job does not migrate an older schema unless `migrate`
/// is set.
pub(crate) async fn open(config: &Database, migrate: bool) -> anyhow::Result<Store> {
    let settings = DatabaseSettings {
        auto_migrate: migrate,
        ..settings(config)
    };
    Store::open(&settings, Arc::new(SystemClock))
        .await
        .context("the database cannot be opened")
}

/// The settings of the store for `config`.
pub(crate) fn settings(config: &Database) -> DatabaseSettings {
    let Database {
        url,
        listen_url,
        max_conns,
        acquire_timeout,
        connect_timeout,
        statement_timeout,
        lock_timeout,
        job_timeout,
        auto_migrate,
    } = config;
    DatabaseSettings {
        url: match url {
            DatabaseUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
            DatabaseUrl::Postgres(url) => url.expose().to_owned(),
        },
        listen_url: listen_url.as_ref().map(|url| url.expose().to_owned()),
        max_conns: *max_conns,
        acquire_timeout: *acquire_timeout,
        connect_timeout: *connect_timeout,
        statement_timeout: *statement_timeout,
        lock_timeout: *lock_timeout,
        job_timeout: *job_timeout,
        auto_migrate: *auto_migrate,
        file_patience: Duration::ZERO,
    }
}

/// The error when a database cannot be opened. SQLite reports a full disk as
/// `disk I/O error`, so the message includes the free space.
pub(crate) fn cannot_be_opened(url: &DatabaseUrl) -> String {
    let DatabaseUrl::Sqlite(file) = url else {
        return "database.url: the database cannot be opened".to_owned();
    };
    let text = format!("database.url: the file {} cannot be opened", file.display());
    match free_bytes(directory_of(file)) {
        Ok(free) => format!("{text}; its disk has {} MiB free", free >> 20),
        Err(_) => text,
    }
}

/// The directory in which `file` lies.
pub(crate) fn directory_of(file: &Path) -> &Path {
    let directory = file.parent().filter(|it| !it.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

/// What the disk of `directory` has left for this user.
pub(crate) fn free_bytes(directory: &Path) -> std::io::Result<u64> {
    let disk = statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

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
    /// request failed since.
    pub(crate) async fn check(&self) -> Finding {
        let store = self.store.clone();
        self.checks.check(async move { store.probe().await }).await
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
    last: Option<(Instant, Finding)>,
    /// At most one. It goes on when the check that began it is answered: if each check
    /// began its own, none would wait long enough for a session while many do.
    under_way: JoinSet<(Instant, Result<(), StoreError>)>,
}

impl Checks {
    /// Answers within [`PATIENCE`]. Without a recent finding it waits for the probe under
    /// way, or else for `probe`.
    async fn check<F>(&self, probe: F) -> Finding
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut state = self.state.lock().await;
        let is_doubted = self.is_doubted.swap(false, Ordering::AcqRel);
        if let Some(over) = state.under_way.try_join_next() {
            state.last = Some(found(over.ok()));
        }
        if let Some((at, finding)) = &state.last {
            let is_fresh = match finding {
                Ok(()) => at.elapsed() < FRESH && !is_doubted,
                Err(_) => at.elapsed() < FRESH_FAILURE,
            };
            if is_fresh {
                return finding.clone();
            }
        }
        if state.under_way.is_empty() {
            let timed = async move {
                let answer = probe.await;
                (Instant::now(), answer)
            };
            state.under_way.spawn(timed);
        }
        let over = timeout(PATIENCE, state.under_way.join_next()).await;
        let (at, finding) = found(over.ok().flatten().and_then(Result::ok));
        state.last = Some((at, finding.clone()));
        finding
    }
}

/// What the end of a probe says; without one, the database is silent.
fn found(over: Option<(Instant, Result<(), StoreError>)>) -> (Instant, Finding) {
    let silent = || (Instant::now(), Err(StoreError::Deadline));
    let (at, answer) = over.unwrap_or_else(silent);
    let finding = answer.map_err(|error| {
        tracing::warn!(%error, "the database cannot serve");
        format!("the database cannot serve: {}", error.reason()).into()
    });
    (at, finding)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    /// D43: `SQLite`'s own message does not mention that the disk is full.
    #[test]
    fn a_file_that_cannot_be_opened_is_named_with_the_room_of_its_disk() {
        let directory = TempDir::new().unwrap();
        let said = |file| cannot_be_opened(&DatabaseUrl::Sqlite(file));
        let said_there = said(directory.path().join("minichat.db"));
        let file = directory.path().join("minichat.db").display().to_string();
        assert!(said_there.contains(&file), "{said_there}");
        assert!(said_there.contains(" MiB free"), "{said_there}");
        let nowhere = said("/nowhere/minichat.db".into());
        assert!(
            nowhere.ends_with("minichat.db cannot be opened"),
            "{nowhere}"
        );
    }

    /// PLAT-161: a check that is over before its probe loses nothing: the probe keeps its
    /// place among the jobs that wait for a session, and answers the next check.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_takes_longer_than_its_check_answers_the_next() {
        let checks = Checks::default();
        let refused = || async { Err(StoreError::AcquireTimeout) };
        let (answer, answered) = oneshot::channel();
        let slow = async { answered.await.unwrap() };
        let began = Instant::now();
        checks.check(slow).await.unwrap_err();
        assert_eq!(began.elapsed(), PATIENCE);
        advance(FRESH_FAILURE).await;
        answer.send(Ok(())).unwrap();
        checks.check(refused()).await.unwrap();
        checks.is_doubted.store(true, Ordering::Release);
        checks.check(refused()).await.unwrap_err();
    }

    /// PLAT-161: what a probe found when no check waited for it is no news later.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_ended_between_two_checks_says_nothing_later() {
        let checks = Checks::default();
        let (answer, answered) = oneshot::channel();
        let slow = async { answered.await.unwrap() };
        checks.check(slow).await.unwrap_err();
        answer.send(Ok(())).unwrap();
        tokio::task::yield_now().await;
        advance(FRESH).await;
        let refused = async { Err(StoreError::AcquireTimeout) };
        checks.check(refused).await.unwrap_err();
    }
}
