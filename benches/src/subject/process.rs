//! Child processes of the benchmark. Their output goes to a log file, and they are ended by process id.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::interrupt;

const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A running server. When dropped, it is killed and waited for.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with both outputs in `directory/name.log`.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    /// Process id, for `/proc`.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something accepts connections on `address`.
    pub(super) fn wait_until_listening(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.wait_until("accepts connections", || {
            TcpStream::connect(address).is_ok()
        })
    }

    /// Waits until `is_true` returns true. Fails if the process ends first, or after half a minute.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        mut is_true: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_true() {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status} before it {what}\n{}",
                    self.name,
                    self.last_words()
                );
            }
            if started.elapsed() > READY_WITHIN {
                bail!(
                    "{} has not got so far that it {what}\n{}",
                    self.name,
                    self.last_words()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An unused address on loopback.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}
