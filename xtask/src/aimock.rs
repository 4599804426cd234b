//! Installs aimock, a third-party Node program that imitates providers, into `target`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use minichat_cluster::packages::Package;

use crate::{process, workspace};

/// The test binary of `minichat-tests` that needs aimock.
pub(crate) const SUITE: &str = "aimock";
/// The environment variable through which the suite learns the path of the program.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_AIMOCK";

/// The directory with the files that pin the version.
const SOURCE: &str = "tests/aimock";
const MANIFEST: &str = "package.json";
const LOCK: &str = "package-lock.json";

/// The program, installed unless the same version is there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    let source = workspace::root().join(SOURCE);
    let lock = fs::read_to_string(source.join(LOCK))
        .with_context(|| format!("cannot read {}", source.join(LOCK).display()))?;
    let directory = workspace::target().join("tools/aimock");
    let program = directory.join("node_modules/.bin/llmock");
    // Written last, so that an installation that was cut short is done again.
    let installed = directory.join("installed.json");
    if fs::read_to_string(&installed).is_ok_and(|found| found == lock) && program.exists() {
        return Ok(program);
    }
    println!("installing aimock into {}", directory.display());
    let npm = Package::new("npm", "npm").ensure(Vec::new)?;
    fs::create_dir_all(&directory)?;
    for file in [MANIFEST, LOCK] {
        fs::copy(source.join(file), directory.join(file))?;
    }
    let mut install = Command::new(npm);
    install
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&directory)
        .stdin(Stdio::null());
    process::run("npm ci", &mut install)?;
    fs::write(&installed, lock)?;
    Ok(program)
}
