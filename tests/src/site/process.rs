//! Processes under test. Each logs to a file, which the message of a failed test contains.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::child::{Memory, field};
use crate::client::Api;
use crate::exposition::Scrape;
use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api as Leases, Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// How long a process may take to serve.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running process. It is killed when dropped.
pub(super) struct Logged {
    child: Child,
    log: PathBuf,
}

/// A running operator.
pub struct Operator {
    pub admin: Api,
    process: Logged,
    held: Held,
}

/// The Lease that an operator may hold.
pub(super) struct Held {
    pub(super) leases: Leases<Lease>,
    pub(super) name: String,
    /// Of the operator.
    pub(super) identity: String,
}

impl Held {
    /// Releases it for the next operator. The holder is known to be dead, which the others would find out only after 15
    /// seconds.
    async fn free(&self) -> anyhow::Result<()> {
        let lease = self.leases.get_opt(&self.name).await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        if holder.as_deref() == Some(&self.identity) {
            let free = Patch::Merge(json!({"spec": {"holderIdentity": null}}));
            let parameters = PatchParams::default();
            self.leases.patch(&self.name, &parameters, &free).await?;
        }
        Ok(())
    }
}

impl Logged {
    /// Starts `command` without the environment of the tests.
    pub(super) fn start(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, log })
    }

    /// The address that the process logs as `name`.
    pub(super) async fn address(&mut self, name: &str) -> anyhow::Result<SocketAddr> {
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(&self.log)?;
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = lines
                .filter_map(|line| field(&line, name)?.as_str()?.parse().ok())
                .next_back();
            if let Some(address) = found {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended with {status}: {text}");
            }
            if started.elapsed() > PATIENCE {
                bail!("the process does not serve: {text}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything that was logged.
    pub(super) fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Waits for the end.
    pub(super) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.context("the process does not end")??)
    }

    /// SIGKILL; returns when the process is gone.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().context("the process has ended")?;
        let id = Pid::from_raw(i32::try_from(id)?).context("no process id")?;
        Ok(kill_process(id, signal)?)
    }
}

impl Operator {
    /// Starts an operator with the variables that the chart gives its pod.
    pub(super) async fn start(
        program: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
        kubeconfig: &Path,
        log: PathBuf,
        held: Held,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("run")
            .env_clear()
            .envs(variables)
            .env("MINICHAT_OPERATOR_ADMIN_ADDR", "127.0.0.1:0")
            .env("KUBECONFIG", kubeconfig);
        let mut process = Logged::start(&mut command, log)?;
        let admin = Api::new(process.address("admin_addr").await?);
        Ok(Self {
            admin,
            process,
            held,
        })
    }

    /// Its identity, in its Lease and in events.
    pub fn identity(&self) -> &str {
        &self.held.identity
    }

    pub fn log(&self) -> anyhow::Result<String> {
        self.process.log()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.ended().await
    }

    /// Its memory.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let id = self.process.child.id().context("the process has ended")?;
        Memory::of(id)
    }

    /// SIGKILL. Releases the Lease, so that the next operator does not wait for it to expire.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.process.kill().await?;
        self.held.free().await
    }

    /// Status and missing parts in the answer of `/readyz`.
    pub async fn readiness(&self) -> anyhow::Result<(u16, String)> {
        let answer = self.admin.get_absolute("/readyz").await?;
        Ok((
            answer.status.as_u16(),
            answer.json()?["reasons"].to_string(),
        ))
    }

    pub async fn scrape(&self) -> anyhow::Result<Scrape> {
        let answer = self.admin.get_absolute("/metrics").await?;
        Scrape::parse(std::str::from_utf8(&answer.body)?)
    }
}
