//! Programs that come from the distribution.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::command;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    /// Looked for on the path, or the whole path of a file.
    program: &'static str,
    name: &'static str,
}

impl Package {
    pub(crate) const fn new(program: &'static str, name: &'static str) -> Self {
        Self { program, name }
    }

    fn is_installed(&self) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        // Joined with a whole path, a directory does not matter.
        directories
            .map(|directory| directory.join(self.program))
            .any(|program| program.is_file())
    }
}

/// Installs what is missing, on a Debian.
pub(crate) fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.is_installed())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "install these packages (Debian's names): {}",
            missing.join(" ")
        );
    }
    eprintln!("installing {}", missing.join(" "));
    apt_get(&["update"])?;
    apt_get(
        &[
            &["install", "--yes", "--no-install-recommends"],
            missing.as_slice(),
        ]
        .concat(),
    )
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
