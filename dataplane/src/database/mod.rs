//! The process's view of its database: the settings, and whether it serves.

mod probe;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use minichat_config::process::{Database, DatabaseUrl};
use minichat_core::SystemClock;
use minichat_store::{DatabaseSettings, Store};
use rustix::fs::statvfs;

pub use probe::Probe;

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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

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
}
