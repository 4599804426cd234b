//! `minichat-dataplane backup`: a copy of a `SQLite` database, made while `serve`
//! uses it. PostgreSQL has a program of its own for that, which is named.
//!
//! The copy is made in a directory of its own, whose name begins with a dot, and gets
//! its final name only when it is whole and on disk. A failed backup removes the
//! directory, with whatever `SQLite` has left beside the copy.

use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use minichat_config::postgres_url::without_password;
use minichat_config::process::{Database, DatabaseUrl, JobConfig};
use minichat_store::DatabaseFile;
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::database::{directory_of, free_bytes};

/// Bytes that a backup leaves free on the disk: it may be the disk of the database.
const ROOM_TO_LEAVE: u64 = 64 << 20;

/// How long an interrupted backup may take to remove its copy. One that writes to a
/// pipe may never notice, and has none with a name.
const CLEANING_UP: Duration = Duration::from_secs(5);

/// Where a backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file that does not exist yet.
    File(PathBuf),
    StandardOutput,
}

impl From<PathBuf> for Destination {
    /// `-` is standard output.
    fn from(path: PathBuf) -> Self {
        if path == Path::new("-") {
            Self::StandardOutput
        } else {
            Self::File(path)
        }
    }
}

/// A backup that can be made.
pub struct Backup {
    source: DatabaseFile,
    destination: Destination,
    /// Where the copy is made.
    directory: PathBuf,
}

impl Backup {
    /// Finds out what can be found out before anything is written.
    pub fn prepare(config: &JobConfig, destination: Destination) -> anyhow::Result<Self> {
        let Database {
            url, listen_url, ..
        } = &config.database;
        let database = match (url, listen_url) {
            (DatabaseUrl::Sqlite(path), _) => path,
            // pg_dump needs a session, which a pooler may not give it.
            (DatabaseUrl::Postgres(url), server) => {
                let url = server.as_ref().unwrap_or(url).expose();
                bail!("{}", pg_dump(url, &destination)?)
            }
        };
        let directory = match &destination {
            Destination::File(file) => check_destination(file)?,
            Destination::StandardOutput => {
                let terminal = io::stdout().is_terminal();
                ensure!(!terminal, "--to -: redirect standard output to a file");
                directory_of(database)
            }
        };
        let source = DatabaseFile::open(database, config.database.lock_timeout);
        let source = source.context("database.url")?;
        check_room(directory, source.size()?)?;
        Ok(Self {
            source,
            directory: directory.to_owned(),
            destination,
        })
    }

    /// Makes the backup, unless `stopped` comes first; says what was made.
    pub async fn run(self, stopped: impl Future<Output = ()>) -> anyhow::Result<String> {
        let interrupt = self.source.interrupter();
        let (tell, mut made) = oneshot::channel();
        // Nobody hears it any more when the wait below is over.
        thread::spawn(move || drop(tell.send(self.make())));
        tokio::select! {
            made = &mut made => return made?,
            () = stopped => interrupt(),
        }
        match timeout(CLEANING_UP, made).await {
            Ok(Ok(Ok(made))) => Ok(made),
            _ => bail!("interrupted; no backup was made"),
        }
    }

    fn make(self) -> anyhow::Result<String> {
        let workshop = self.workshop()?;
        let draft = NamedTempFile::new_in(&workshop)?;
        let copied = self.source.copy_into(draft.path());
        copied.context("the database cannot be copied")?;
        let bytes = draft.as_file().metadata()?.len();
        let schema_version = self.source.schema_version();
        let mut made = json!({"job": "backup", "bytes": bytes, "schema_version": schema_version});
        match self.destination {
            Destination::File(file) => {
                name(draft, &file, &self.directory)?;
                made["file"] = json!(file.display().to_string());
            }
            Destination::StandardOutput => write_out(draft, workshop)?,
        }
        Ok(made.to_string())
    }

    /// An empty directory, on the disk where the copy is to be.
    fn workshop(&self) -> anyhow::Result<TempDir> {
        let made = TempDir::with_prefix_in(".minichat-backup-", &self.directory);
        made.with_context(|| format!("nothing can be made in {}", self.directory.display()))
    }
}

/// The directory of a backup that does not exist yet.
fn check_destination(file: &Path) -> anyhow::Result<&Path> {
    let directory = directory_of(file);
    ensure!(
        directory.is_dir(),
        "--to: there is no directory {}",
        directory.display()
    );
    ensure!(file.file_name().is_some(), "--to: name a file");
    if file.symlink_metadata().is_ok() {
        bail!("{}", exists(file));
    }
    Ok(directory)
}

fn exists(file: &Path) -> String {
    let file = file.display();
    format!("--to: {file} exists already, and a backup replaces nothing; name another file")
}

fn check_room(directory: &Path, size: u64) -> anyhow::Result<()> {
    let free = free_bytes(directory)?;
    let needed = size.saturating_add(ROOM_TO_LEAVE);
    ensure!(
        free >= needed,
        "the copy needs up to {} MiB in {}, where {} MiB are free; {} MiB must stay free",
        size.div_ceil(1 << 20),
        directory.display(),
        free >> 20,
        ROOM_TO_LEAVE >> 20,
    );
    Ok(())
}

/// Gives a copy its name, unless something has it by now.
fn name(draft: NamedTempFile, file: &Path, directory: &Path) -> anyhow::Result<()> {
    draft.as_file().sync_all()?;
    draft.persist_noclobber(file).map_err(|refused| {
        if refused.error.kind() == io::ErrorKind::AlreadyExists {
            anyhow::anyhow!(exists(file))
        } else {
            anyhow::Error::new(refused.error).context(format!("--to: {}", file.display()))
        }
    })?;
    // The name is on disk once the directory is.
    Ok(File::open(directory)?.sync_all()?)
}

/// Writes a copy to standard output. It loses its name first, so that nothing is left
/// of it however this process ends.
fn write_out(draft: NamedTempFile, workshop: TempDir) -> anyhow::Result<()> {
    let (mut copy, name) = draft.into_parts();
    name.close()?;
    workshop.close()?;
    copy.rewind()?;
    let mut out = io::stdout().lock();
    io::copy(&mut copy, &mut out)
        .and_then(|_| out.flush())
        .context("the copy cannot be written to standard output")
}

/// What to run instead, as the last line of a message.
fn pg_dump(url: &str, destination: &Destination) -> anyhow::Result<String> {
    let (url, has_password) = without_password(url).context("database.url")?;
    let password = if has_password {
        " (with the password in the variable PGPASSWORD or in ~/.pgpass)"
    } else {
        ""
    };
    let url = shell_word(&url);
    let output = match destination {
        Destination::File(file) => {
            format!(" --file={}", shell_word(&file.display().to_string()))
        }
        Destination::StandardOutput => String::new(),
    };
    Ok(format!(
        "database.url names a PostgreSQL database, which pg_dump backs up, also while it is in \
         use; no backup was made. Run{password}:\n\
         pg_dump --format=custom{output} --dbname={url}"
    ))
}

/// `text` as one word of a shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_for_a_shell() {
        let command =
            |to| pg_dump("postgres://u@h/d", &Destination::from(PathBuf::from(to))).unwrap();
        let said = command("it's");
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(
            last,
            r"pg_dump --format=custom --file='it'\''s' --dbname='postgres://u@h/d'"
        );
        assert!(command("-").ends_with("pg_dump --format=custom --dbname='postgres://u@h/d'"));
    }
}
