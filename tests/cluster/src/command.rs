//! Programs that run to their end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs `program` and returns its output; if it fails, the error contains its
/// stderr.
pub(crate) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    output(Command::new(program).args(arguments), "")
}

/// The same with text on its standard input.
pub(crate) fn run_with_input(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> anyhow::Result<String> {
    output(Command::new(program).args(arguments), input)
}

/// Runs `command` and returns its output; if it fails, the error contains its
/// stderr.
pub(crate) fn output(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input reports the reason itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}", message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
