//! Python programs. Each is installed into its own environment in `target`, in the versions that a file pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use minichat_cluster::packages::{self, Package};

use crate::{process, workspace};

/// A program, and the file that pins its version and the versions of its dependencies.
pub(crate) struct PythonTool {
    /// Of its environment, in `target/tools`.
    pub(crate) directory: &'static str,
    pub(crate) program: &'static str,
    /// Relative to the workspace.
    pub(crate) requirements: &'static str,
}

impl PythonTool {
    /// The program, installed unless the same versions are there already.
    pub(crate) fn ensure(&self) -> anyhow::Result<PathBuf> {
        let requirements = workspace::root().join(self.requirements);
        let versions = fs::read_to_string(&requirements)
            .with_context(|| format!("cannot read {}", requirements.display()))?;
        let directory = workspace::target().join("tools").join(self.directory);
        // The scripts of an environment contain its path, so another path needs a new installation.
        let wanted = format!("# {}\n{versions}", directory.display());
        let program = directory.join("bin").join(self.program);
        // Written last, so that an installation that was cut short is done again.
        let installed = directory.join("requirements.txt");
        if fs::read_to_string(&installed).is_ok_and(|found| found == wanted) && program.exists() {
            return Ok(program);
        }
        println!("installing {} into {}", self.directory, directory.display());
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
    // On Debian, a separate package contains a part of `venv`.
    make().or_else(|_| {
        packages::install(&["python3-venv"])?;
        make()
    })
}
