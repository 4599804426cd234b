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
    /// Builds the program when it is missing.
    pub fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            program: Program::Kubectl.ensure()?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// What it prints; its own words when it fails.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with_input(arguments, "")
    }

    /// The same with something to read, such as a manifest for `apply --filename=-`.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        command::output(self.command().args(arguments), input)
    }

    /// Applies an object on the server's side, or a `List` of objects.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let manifest = serde_json::to_string(object)?;
        self.run_with_input(&["apply", "--server-side", "--filename=-"], &manifest)?;
        Ok(())
    }

    /// Whether the server calls itself ready.
    pub fn is_server_ready(&self) -> bool {
        self.run(&["get", "--raw=/readyz", "--request-timeout=2s"])
            .is_ok()
    }

    /// A command for what the other methods cannot do, such as following a log.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }
}
