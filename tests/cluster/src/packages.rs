//! Programs from packages of the distribution.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command;

/// A program and its Debian package.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// A name on the path, or an absolute path.
    program: &'static str,
    name: &'static str,
}

impl Package {
    /// `program` is searched on the path, unless it is an absolute path.
    pub const fn new(program: &'static str, name: &'static str) -> Self {
        Self { program, name }
    }

    /// Finds the program on the path or in the directories of `elsewhere`. If it is missing, installs the package, as
    /// root on Debian.
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
        // Debian puts servers there; a user's path does not contain them.
        let always = ["/usr/sbin".into(), "/sbin".into()];
        // Joining a directory with an absolute path gives the absolute path.
        elsewhere
            .into_iter()
            .chain(env::split_paths(&path))
            .chain(always)
            .map(|directory| directory.join(self.program))
            .find(|program| program.is_file())
    }
}

/// Installs the missing packages, as root on Debian.
pub fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Names of the packages that have to be installed.
pub(crate) fn missing(packages: &[Package]) -> Vec<&'static str> {
    let missing = packages
        .iter()
        .filter(|package| package.find(Vec::new()).is_none());
    missing.map(|package| package.name).collect()
}

/// Installs Debian `packages`. Only root on Debian can.
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
