//! The command line of Kubernetes, as a person would use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command;
use crate::programs::Program;

/// `kubectl` for one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Builds the program if it is missing.
    pub fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            program: Program::Kubectl.ensure()?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// Its output; if it fails, the error contains its stderr.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with_input(arguments, "")
    }

    /// The same with text on standard input, such as a manifest for `apply
    /// --filename=-`.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        command::output(self.command().args(arguments), input)
    }

    /// Applies an object, or a `List` of objects, with server-side apply.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let manifest = serde_json::to_string(object)?;
        self.run_with_input(&["apply", "--server-side", "--filename=-"], &manifest)?;
        Ok(())
    }

    /// Whether the server reports that it is ready.
    pub fn is_server_ready(&self) -> bool {
        self.run(&["get", "--raw=/readyz", "--request-timeout=2s"])
            .is_ok()
    }

    /// A command for everything else, such as following a log.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }
}
