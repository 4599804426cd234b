//! The command line of Kubernetes, as a person would use it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

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
        let output = self.output(arguments, input)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), message.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies an object on the server's side, or a `List` of objects.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let manifest = serde_json::to_string(object)?;
        self.run_with_input(&["apply", "--server-side", "--filename=-"], &manifest)?;
        Ok(())
    }

    /// Whether the server calls itself ready.
    pub fn is_server_ready(&self) -> bool {
        let asked = self.output(&["get", "--raw=/readyz", "--request-timeout=2s"], "");
        asked.is_ok_and(|output| output.status.success())
    }

    /// A command for what the other methods cannot do, such as following a log.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    fn output(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A kubectl that does not read its input says why on its own output.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }
}
