//! Installs llmsim, a third-party Rust program that imitates providers. It is a program and no dependency of a crate:
//! as one, it would switch on features of our own dependencies, such as `ws` of axum, in every build of tests.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::{process, workspace};

/// The test binary of `minichat-tests` that needs llmsim.
pub(crate) const SUITE: &str = "llmsim";
/// The environment variable through which the suite learns the path of the program.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_LLMSIM";

/// Its lock file pins the versions of its dependencies.
const VERSION: &str = "0.6.0";

/// The program, installed unless the same version is there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    let directory = workspace::target().join("tools/llmsim");
    let program = directory.join("bin/llmsim");
    // Written last, so that an installation that was cut short is done again.
    let installed = directory.join("version.txt");
    if fs::read_to_string(&installed).is_ok_and(|found| found == VERSION) && program.exists() {
        return Ok(program);
    }
    println!("installing llmsim into {}", directory.display());
    let build = directory.join("build");
    let mut install = workspace::cargo();
    install
        .args(["install", "llmsim", "--locked", "--debug", "--force"])
        .args(["--version", VERSION])
        .arg("--root")
        .arg(&directory)
        .env("CARGO_TARGET_DIR", &build)
        // Otherwise half of what it builds is for debuggers.
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .stdin(Stdio::null());
    process::run("cargo install", &mut install)?;
    fs::remove_dir_all(&build)?;
    fs::write(&installed, VERSION)?;
    Ok(program)
}
