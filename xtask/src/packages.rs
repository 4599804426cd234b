//! Programs that come from the distribution.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::process;

/// Finds `program` on the path or in the directories of `elsewhere`; installs Debian's `package` when it is missing
/// and this is root on a Debian.
pub(crate) fn ensure(
    program: &str,
    package: &str,
    elsewhere: impl Fn() -> Vec<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let find = || find_in(program, elsewhere().into_iter().chain(path_directories()));
    if let Some(found) = find() {
        return Ok(found);
    }
    install(package).with_context(|| format!("{program} is missing"))?;
    match find() {
        Some(found) => Ok(found),
        None => bail!("{package} is installed, but {program} is still missing"),
    }
}

/// Installs Debian's `package`, which only root on a Debian can.
pub(crate) fn install(package: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("install the package {package} (Debian's name)");
    }
    println!("installing {package}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("/usr/bin/apt-get");
        command
            .args([
                "-q",
                "-o",
                "Dpkg::Use-Pty=0",
                "-o",
                "DPkg::Lock::Timeout=300",
            ])
            .args(arguments);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        process::run("apt-get", &mut command)
    };
    apt(&["update"])?;
    apt(&["install", "--yes", "--no-install-recommends", package])
}

fn find_in(program: &str, directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn path_directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    // Debian keeps servers there, which the path of a user does not name.
    directories.push(PathBuf::from("/usr/sbin"));
    directories
}
