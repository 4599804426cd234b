//! PostgreSQL's own programs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Runs `command` in a shell that finds the programs of the newest version.
pub async fn shell(command: &str) -> anyhow::Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PATH", path()?);
    let output = shell.kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "{command}: {output:?}");
    Ok(())
}

/// `PATH` with the programs of the newest version.
pub fn path() -> anyhow::Result<OsString> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    let newest = newest.map(|version| PathBuf::from(format!("{VERSIONS}/{version}/bin")));
    let path = env::var_os("PATH").context("no PATH")?;
    let directories = newest.into_iter().chain(env::split_paths(&path));
    Ok(env::join_paths(directories)?)
}
