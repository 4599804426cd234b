//! Child processes. This program waits for them, and ends them by process id when it is interrupted or fails.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(20);
/// How long a child may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM only set a flag, so that children and temporary directories are cleaned up.
pub(crate) fn watch_for_interrupts() -> anyhow::Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether a signal has asked this program to end.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// A child process that does not outlive this value.
pub(crate) struct Running {
    child: Child,
    name: String,
    stop_signal: Signal,
}

impl Running {
    /// Starts `command`. When the value is dropped, the child gets SIGTERM and is waited for.
    pub(crate) fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            stop_signal: Signal::TERM,
        })
    }

    /// Ends it with `signal` instead of SIGTERM.
    pub(crate) fn stopped_by(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the end of the process; an interrupt is an error.
    pub(crate) fn wait(mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if is_interrupted() {
                bail!("interrupted");
            }
            thread::sleep(POLL);
        }
    }

    /// Fails when the process has ended.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Waits until `is_true` returns true. Fails if the process ends first, on an interrupt, or after `within`.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        mut is_true: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_true() {
            self.check_alive()?;
            if is_interrupted() {
                bail!("interrupted");
            }
            if started.elapsed() > within {
                bail!(
                    "gave up after {1} s of waiting until {0} {what}",
                    self.name,
                    within.as_secs()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signalled = pid.is_some_and(|pid| kill_process(pid, self.stop_signal).is_ok());
        let started = Instant::now();
        while signalled && started.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
        }
        // An error here means that the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Runs `command` to its end and fails unless it succeeds.
pub(crate) fn run(name: &str, command: &mut Command) -> anyhow::Result<()> {
    let status = Running::start(name, command)?.wait()?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs `command` to its end, whatever it is, and returns what it printed. The file `log` keeps it, and what it printed
/// on its standard error is in the file beside it that ends in `.err`.
pub(crate) fn output(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Output> {
    let errors = log.with_extension("err");
    command
        .stdin(Stdio::null())
        .stdout(File::create(log)?)
        .stderr(File::create(errors)?);
    let status = Running::start(name, command)?.wait()?;
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    Ok(Output { status, text })
}

/// The end of a process, and what it printed.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) text: String,
}
