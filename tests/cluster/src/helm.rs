//! Helm, as a person would use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::programs::Program;

/// `helm` for one kubeconfig.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Builds the program if it is missing.
    pub fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            program: Program::Helm.ensure()?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// Its output; if it fails, the error contains its stderr. For example `["upgrade", "--install", RELEASE, CHART,
    /// "--namespace", …, "--wait", "--timeout", "60s"]`.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command::output(command.args(arguments), "")
    }
}
