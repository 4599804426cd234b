//! The property-based client that the OpenAPI document is tried with: a Python program, installed into `target`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use minichat_cluster::packages::{self, Package};

use crate::{process, workspace};

/// The test binary of `minichat-tests` that needs it.
pub(crate) const SUITE: &str = "openapi";
/// Names the program to the suite.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_SCHEMATHESIS";

/// Pins the program and all it needs.
const REQUIREMENTS: &str = "tests/schemathesis/requirements.txt";

/// The program, installed unless the same versions are there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    let requirements = workspace::root().join(REQUIREMENTS);
    let versions = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let directory = workspace::target().join("tools/schemathesis");
    // Its programs name the directory that they were installed into.
    let wanted = format!("# {}\n{versions}", directory.display());
    let program = directory.join("bin/schemathesis");
    // Written last, so that an installation that was cut short is done again.
    let installed = directory.join("requirements.txt");
    if fs::read_to_string(&installed).is_ok_and(|found| found == wanted) && program.exists() {
        return Ok(program);
    }
    println!("installing schemathesis into {}", directory.display());
    make_environment(&directory)?;
    let mut pip = Command::new(directory.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.arg("--requirement").arg(&requirements);
    process::run("pip install", pip.stdin(Stdio::null()))?;
    fs::write(&installed, wanted)?;
    Ok(program)
}

fn make_environment(directory: &Path) -> anyhow::Result<()> {
    let python = Package::new("python3", "python3").ensure(Vec::new)?;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    let make = || {
        let mut venv = Command::new(&python);
        venv.args(["-m", "venv"]).arg(directory);
        process::run("python3 -m venv", venv.stdin(Stdio::null()))
    };
    // Debian keeps a part of it in a package of its own.
    make().or_else(|_| {
        packages::install(&["python3-venv"])?;
        make()
    })
}
