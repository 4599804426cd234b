//! Processes that survive their starter. They are found by pid files.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};

use crate::wait;

/// How long the kernel may take to end a process after SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Number of log lines that an error contains.
const LAST_LINES: usize = 12;

/// The processes of one instance, each with a pid file and a log.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    directory: PathBuf,
}

impl Processes {
    /// The processes of the instance in `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            directory: directory.join("processes"),
        }
    }

    /// Starts `command` in its own process group, so that an interrupt at the terminal does not reach it.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        if self.is_running(name) {
            bail!("{name} runs already");
        }
        fs::create_dir_all(&self.directory)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(name))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        let identity = Identity::of(child.id());
        fs::write(self.pid_file(name), identity.to_string())?;
        Ok(())
    }

    /// Whether the process of that name is alive.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.identity(name)
            .is_some_and(|identity| identity.is_alive())
    }

    /// Fails with the end of its log if the process has ended.
    pub(crate) fn check(&self, name: &str) -> anyhow::Result<()> {
        if self.is_running(name) {
            return Ok(());
        }
        bail!("{name} has ended; its log ends with\n{}", self.tail(name))
    }

    /// Waits for `is_so` while the process of that name is alive.
    pub(crate) fn wait_until(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let waited = wait::until(&format!("{name} {what}"), within, || {
            self.check(name)?;
            Ok(is_so())
        });
        waited.with_context(|| format!("the log of {name} ends with\n{}", self.tail(name)))
    }

    /// Ends the process: signals it, waits up to `patience`, then kills it. Does nothing if there is none.
    pub(crate) fn stop(&self, name: &str, patience: Duration) -> anyhow::Result<()> {
        let Some(identity) = self.identity(name) else {
            return Ok(());
        };
        for (signal, within) in [(Signal::TERM, patience), (Signal::KILL, KILLED_WITHIN)] {
            if !identity.signal(signal) {
                break;
            }
            let ended = wait::until(name, within, || Ok(!identity.is_alive()));
            if ended.is_ok() {
                break;
            }
        }
        if identity.is_alive() {
            bail!("{name} (process {}) cannot be ended", identity.pid);
        }
        remove(&self.pid_file(name))
    }

    /// Names of all processes that were started and not stopped.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_suffix(".pid").map(str::to_owned))
            .collect()
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        Identity::parse(&fs::read_to_string(self.pid_file(name)).ok()?)
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pid"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn tail(&self, name: &str) -> String {
        let log = fs::read(self.log(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A process id and, where the system provides it, the start time, because ids are reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: u32,
    began: Option<u64>,
}

impl Identity {
    /// The identity of the process with that id.
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            pid,
            began: stat(pid).map(|(_, began)| began),
        }
    }

    /// Parses what [`ToString`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let began = words.next().and_then(|word| word.parse().ok());
        Some(Self { pid, began })
    }

    /// Whether this process still runs. A process that has ended and was not waited for does not count.
    pub(crate) fn is_alive(&self) -> bool {
        let Some(pid) = self.raw() else { return false };
        // Waits for the process if it is a child of this one. Otherwise this fails, which does not matter.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        match (stat(self.pid), self.began) {
            (Some((state, began)), Some(expected)) => began == expected && state != 'Z',
            (None, Some(_)) => false,
            (_, None) => test_kill_process(pid).is_ok(),
        }
    }

    /// Sends a signal; `false` if the process does not exist any more.
    fn signal(&self, signal: Signal) -> bool {
        self.is_alive()
            && self
                .raw()
                .is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    fn raw(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.began {
            Some(began) => write!(f, "{} {began}", self.pid),
            None => write!(f, "{}", self.pid),
        }
    }
}

/// State and start time (in ticks since the boot) of a process, if the system has `/proc`.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, even spaces and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let began = fields.nth(18)?.parse().ok()?;
    Some((state, began))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_process_is_found_by_its_pid_file_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let first = Processes::of(directory.path());
        first
            .start("sleeper", Command::new("sleep").arg("600"))
            .unwrap();
        let second = Processes::of(directory.path());
        assert_eq!(second.names(), ["sleeper"]);
        assert!(second.is_running("sleeper"));
        second.stop("sleeper", PATIENCE).unwrap();
        assert!(!first.is_running("sleeper"));
        assert!(second.names().is_empty());
    }

    #[test]
    fn a_process_that_does_not_listen_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let processes = Processes::of(directory.path());
        let ready = directory.path().join("ready");
        let script = format!(
            "trap '' TERM; touch {}; while :; do sleep 1; done",
            ready.display()
        );
        processes
            .start("deaf", Command::new("sh").arg("-c").arg(script))
            .unwrap();
        wait::until("ready", PATIENCE, || Ok(ready.exists())).unwrap();
        processes.stop("deaf", Duration::from_millis(50)).unwrap();
        assert!(!processes.is_running("deaf"));
    }

    #[test]
    fn a_pid_that_another_process_has_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let processes = Processes::of(directory.path());
        fs::create_dir_all(&processes.directory).unwrap();
        let me = std::process::id();
        fs::write(processes.pid_file("reused"), format!("{me} 1")).unwrap();
        assert!(!processes.is_running("reused"));
        processes.stop("reused", PATIENCE).unwrap();
        assert!(processes.names().is_empty());
    }

    #[test]
    fn the_end_of_a_process_is_reported_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let processes = Processes::of(directory.path());
        processes
            .start(
                "brief",
                Command::new("sh").args(["-c", "echo no such file"]),
            )
            .unwrap();
        let error = processes
            .wait_until("brief", "serves", PATIENCE, || false)
            .unwrap_err();
        assert!(format!("{error:#}").contains("no such file"), "{error:#}");
    }
}
