//! Node programs. Each is installed into its own directory in `target`, in the versions that a lock file pins.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use minichat_cluster::packages::Package;

use crate::{process, workspace};

const MANIFEST: &str = "package.json";
const LOCK: &str = "package-lock.json";

/// A program, and the directory with the files that pin its version and the versions of its dependencies.
pub(crate) struct NodeTool {
    /// Where it is installed, in `target/tools`.
    pub(crate) directory: &'static str,
    pub(crate) program: &'static str,
    /// Relative to the workspace.
    pub(crate) source: &'static str,
}

impl NodeTool {
    /// The program, installed unless the same versions are there already.
    pub(crate) fn ensure(&self) -> anyhow::Result<PathBuf> {
        let source = workspace::root().join(self.source);
        let lock = fs::read_to_string(source.join(LOCK))
            .with_context(|| format!("cannot read {}", source.join(LOCK).display()))?;
        let directory = workspace::target().join("tools").join(self.directory);
        let program = directory.join("node_modules/.bin").join(self.program);
        // Written last, so that an installation that was cut short is done again.
        let installed = directory.join("installed.json");
        if fs::read_to_string(&installed).is_ok_and(|found| found == lock) && program.exists() {
            return Ok(program);
        }
        println!("installing {} into {}", self.directory, directory.display());
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
}
