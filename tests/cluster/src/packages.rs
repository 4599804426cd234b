//! Programs that come from the distribution.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Looked for on the path, or the whole path of a file.
    program: &'static str,
    name: &'static str,
}

impl Package {
    /// `program` is looked for on the path, unless it is the whole path of a file.
    pub const fn new(program: &'static str, name: &'static str) -> Self {
        Self { program, name }
    }

    /// Finds the program on the path or in the directories of `elsewhere`; installs the package when it is missing and
    /// this is root on a Debian.
    pub fn ensure(self, elsewhere: impl Fn() -> Vec<PathBuf>) -> anyhow::Result<PathBuf> {
        if let Some(found) = self.find(elsewhere()) {
            return Ok(found);
        }
        install(&[self.name])?;
        self.find(elsewhere()).with_context(|| {
            format!(
                "{} is installed, but {} is missing",
                self.name, self.program
            )
        })
    }

    fn find(self, elsewhere: Vec<PathBuf>) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian keeps servers there, which the path of a user does not name.
        let always = ["/usr/sbin".into(), "/sbin".into()];
        // Joined with a whole path, a directory does not matter.
        elsewhere
            .into_iter()
            .chain(env::split_paths(&path))
            .chain(always)
            .map(|directory| directory.join(self.program))
            .find(|program| program.is_file())
    }
}

/// Installs what is missing, as root on a Debian.
pub fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Names of those that have to be installed.
pub(crate) fn missing(packages: &[Package]) -> Vec<&'static str> {
    let missing = packages
        .iter()
        .filter(|package| package.find(Vec::new()).is_none());
    missing.map(|package| package.name).collect()
}

/// Installs Debian's `packages`, which only root on a Debian can.
pub fn install(packages: &[&str]) -> anyhow::Result<()> {
    let names = packages.join(" ");
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("install these packages (Debian's names): {names}");
    }
    eprintln!("installing {names}");
    apt_get(&["update"])?;
    let arguments = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&arguments, packages].concat())
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("/usr/bin/apt-get");
    command
        .args([
            "-q",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::output(&mut command, "")?;
    Ok(())
}
