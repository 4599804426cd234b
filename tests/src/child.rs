//! The data plane as a separate process, which tests can end by signals.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::client::Api;
use crate::exposition::Scrape;
use crate::harness::{Env, variables, variables_without_source};

/// How long a process may take to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A serving process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// A caller without identity on the application listener.
    pub api: Api,
    /// A caller on the admin listener.
    pub admin: Api,
    pub app_addr: SocketAddr,
    child: Child,
    /// Kept open, so that the process can log.
    logs: Option<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    /// Starts `binary` on the database and the manifests of `env` and waits
    /// until it serves. `settings` are variables, one per line.
    pub async fn serve(binary: &str, env: &Env, settings: &str) -> anyhow::Result<Self> {
        Starting::new(binary, env, settings)?.served().await
    }

    /// Starts `binary` with these variables and waits until it serves.
    pub async fn start(
        binary: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        Starting::spawn(binary, variables)?.served().await
    }

    /// Starts `program` on a database and a directory of manifests, and waits
    /// until it serves.
    pub async fn serve_manifests(
        program: &str,
        database_url: &str,
        manifests: &Path,
    ) -> anyhow::Result<Self> {
        Self::start(program, variables(database_url, manifests, "")).await
    }

    pub async fn scrape(&self) -> anyhow::Result<Scrape> {
        let answer = self.admin.get_absolute("/metrics").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Scrape::parse(std::str::from_utf8(&answer.body)?)
    }

    /// Memory that the process has in use.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        Ok(Memory::of(self.id()?)?.resident)
    }

    /// The process id.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Writes its further log lines to `file`.
    pub fn write_logs(&mut self, mut file: std::fs::File) {
        if let Some(mut logs) = self.logs.take() {
            tokio::spawn(async move {
                while let Ok(Some(line)) = logs.next_line().await {
                    // A full disk of this machine must not end the process
                    // under test.
                    let _ = writeln!(file, "{line}");
                }
            });
        }
    }

    /// Waits until it logs a line with `text`.
    pub async fn says(&mut self, text: &str) -> anyhow::Result<String> {
        let logs = self.logs.as_mut().context("the logs are thrown away")?;
        line_with(logs, text).await
    }

    /// SIGTERM.
    pub fn terminate(&self) -> anyhow::Result<()> {
        terminate(&self.child)
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits for the end and reads the log.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        let reading = async {
            if let Some(mut logs) = self.logs.take() {
                while let Ok(Some(_)) = logs.next_line().await {}
            }
            self.child.wait().await
        };
        let status = tokio::time::timeout(PATIENCE, reading).await;
        Ok(status.context("the process does not end")??)
    }
}

/// A process that does not serve yet. It is killed when dropped.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    logs: Lines<BufReader<ChildStdout>>,
}

impl Starting {
    /// Starts `binary` on the database and the manifests of `env`. `settings`
    /// are variables, one per line.
    pub fn new(binary: &str, env: &Env, settings: &str) -> anyhow::Result<Self> {
        let variables = variables(&env.database.url(), &env.manifests(), settings);
        Self::spawn(binary, variables)
    }

    fn spawn(
        binary: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let mut child = command(binary)
            .arg("serve")
            .envs(variables)
            .env("MINICHAT_LOGGING_LEVEL", "info")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let logs = BufReader::new(stdout).lines();
        Ok(Self { child, logs })
    }

    /// Waits until it logs a line with `text`.
    pub async fn says(&mut self, text: &str) -> anyhow::Result<String> {
        line_with(&mut self.logs, text).await
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminated(mut self) -> anyhow::Result<ExitStatus> {
        terminate(&self.child)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Ok(status.context("the process does not end")??)
    }

    /// Waits until it serves.
    pub async fn served(mut self) -> anyhow::Result<Process> {
        let mut latest = String::new();
        let addresses = addresses(&mut self.logs, &mut latest);
        let (app_addr, admin_addr) = tokio::time::timeout(PATIENCE, addresses)
            .await
            .with_context(|| format!("the process does not serve: {latest}"))??;
        Ok(Process {
            api: Api::new(app_addr),
            admin: Api::new(admin_addr),
            app_addr,
            child: self.child,
            logs: Some(self.logs),
        })
    }
}

async fn line_with(logs: &mut Lines<BufReader<ChildStdout>>, text: &str) -> anyhow::Result<String> {
    let reading = async {
        while let Some(line) = logs.next_line().await? {
            if line.contains(text) {
                return Ok(line);
            }
        }
        anyhow::bail!("the process ended before it said {text:?}")
    };
    let said = tokio::time::timeout(PATIENCE, reading).await;
    said.with_context(|| format!("the process does not say {text:?}"))?
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Current memory.
    pub resident: u64,
    /// Peak memory.
    pub peak: u64,
}

impl Memory {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            let kib: u64 = kib.with_context(|| format!("no {name}"))?.trim().parse()?;
            Ok(kib * 1024)
        };
        Ok(Self {
            resident: bytes("VmRSS:")?,
            peak: bytes("VmHWM:")?,
        })
    }
}

/// SIGTERM.
pub fn terminate(child: &Child) -> anyhow::Result<()> {
    signal(child, Signal::TERM)
}

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let id = child.id().context("the process has ended")?;
    let id = Pid::from_raw(i32::try_from(id)?).context("no process id")?;
    Ok(kill_process(id, signal)?)
}

/// The output of `binary`, which must end instead of serving.
pub async fn refused_to_start(binary: &str, env: &Env, settings: &str) -> anyhow::Result<String> {
    let starting = command(binary)
        .arg("serve")
        .envs(variables(&env.database.url(), &env.manifests(), settings))
        .output();
    let output = tokio::time::timeout(PATIENCE, starting)
        .await
        .context("the process does not end")??;
    ensure!(!output.status.success(), "the process ended well");
    let printed = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8(printed)?)
}

/// The output of a job, and its exit status.
#[derive(Debug)]
pub struct JobRun {
    pub status: ExitStatus,
    /// The lines that are reports, not logs.
    pub reports: Vec<Value>,
    pub stderr: String,
}

/// Starts a job of `binary`. Its only setting is `database_url`.
pub fn job(binary: &str, arguments: &[&str], database_url: &str) -> anyhow::Result<Child> {
    spawn(
        binary,
        arguments,
        &[("MINICHAT_DATABASE_URL", database_url)],
    )
}

/// Starts `binary` with these variables and no others.
pub fn spawn(
    binary: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> anyhow::Result<Child> {
    Ok(command(binary)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Waits for a job.
pub async fn job_run(job: Child) -> anyhow::Result<JobRun> {
    let output = tokio::time::timeout(PATIENCE, job.wait_with_output())
        .await
        .context("the job does not end")??;
    let stdout = String::from_utf8(output.stdout)?;
    let lines = stdout.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().context(stdout.clone())?;
    let is_report = |line: &Value| line.get("job").is_some();
    Ok(JobRun {
        status: output.status,
        reports: lines.into_iter().filter(is_report).collect(),
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// Variables of a data plane whose pool is set by flags. `settings` are further
/// variables, one per line, which take precedence.
pub fn variables_of_a_pool(database_url: &str, settings: &str) -> Vec<(String, String)> {
    let settings = format!("MINICHAT_LOGGING_LEVEL=info\n{settings}");
    variables_without_source(database_url, &settings).collect()
}

fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear().kill_on_drop(true);
    command
}

/// Application and admin address, from the log line that contains them. The
/// last line read goes to `latest`.
async fn addresses(
    logs: &mut Lines<BufReader<ChildStdout>>,
    latest: &mut String,
) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    while let Some(line) = logs.next_line().await? {
        latest.clone_from(&line);
        let line: Value = serde_json::from_str(&line)?;
        let address = |name: &str| field(&line, name)?.as_str()?.parse().ok();
        if let (Some(app), Some(admin)) = (address("app_addr"), address("admin_addr")) {
            return Ok((app, admin));
        }
    }
    anyhow::bail!("the process ended before it served")
}

/// A field of a log line, at any depth.
pub fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = line.as_object()?;
    fields
        .get(name)
        .or_else(|| fields.values().find_map(|value| field(value, name)))
}

/// The Python with the libraries of a suite, which `variable` names.
pub fn python(variable: &str) -> anyhow::Result<PathBuf> {
    installed(variable, "a Python with the libraries")
}

/// The path of `what`, which `cargo xtask test` installs and `variable` names.
pub fn installed(variable: &str, what: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os(variable).filter(|value| !value.is_empty());
    let path = path.with_context(|| {
        format!("run this by `cargo xtask test`, or let {variable} name {what}")
    })?;
    Ok(path.into())
}
