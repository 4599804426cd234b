//! The servers of the quickstart, in a new directory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::api::Api;
use super::{Options, Provider};
use crate::process::{self, Running};
use crate::workspace;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The running data plane and, unless the real API is used, the scripted provider. When dropped, both end.
pub(super) struct Servers {
    running: Vec<Running>,
    directory: PathBuf,
}

/// Builds both binaries with the features that the whole workspace has, so that tests and quickstart share what
/// they compile.
pub(super) fn build() -> anyhow::Result<()> {
    let binaries = [
        "--bin",
        "minichat-dataplane",
        "--bin",
        "minichat-scripted-provider",
    ];
    let mut command = workspace::cargo();
    command
        .args(["build", "--workspace", "--locked"])
        .args(binaries);
    process::run("cargo build", &mut command)
}

impl Servers {
    /// Empties the directory of the last quickstart, writes configuration and manifests, starts the servers and
    /// waits until the data plane takes traffic.
    pub(super) fn start(options: &Options, provider: &Provider) -> anyhow::Result<Self> {
        for (port, flag) in [
            (options.port, "--port"),
            (options.admin_port, "--admin-port"),
        ] {
            check_free(port, flag)?;
        }
        let directory = workspace::target().join("quickstart");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let mut servers = Self {
            running: Vec::new(),
            directory,
        };
        if matches!(provider, Provider::Scripted) {
            check_free(options.provider_port, "--provider-port")?;
            servers.start_provider(options.provider_port)?;
        }
        servers.start_dataplane(options, provider)?;
        Ok(servers)
    }

    /// The directory with configuration, manifests, database and logs.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Fails when one of the servers has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.running.iter_mut().try_for_each(Running::check_alive)
    }

    fn start_provider(&mut self, port: u16) -> anyhow::Result<()> {
        let mut command =
            Command::new(workspace::target().join("debug/minichat-scripted-provider"));
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        let ready = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        self.start_server("scripted-provider", command, ready)
    }

    fn start_dataplane(&mut self, options: &Options, provider: &Provider) -> anyhow::Result<()> {
        let manifests = self.directory.join("manifests");
        write_manifests(&manifests, options, provider)?;
        let config = self.directory.join("config.yaml");
        fs::write(&config, configuration(options, &self.directory))?;
        let mut command = Command::new(workspace::target().join("debug/minichat-dataplane"));
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .arg("--manifests")
            .arg(manifests);
        let api = Api::new(options.port, options.admin_port);
        self.start_server("dataplane", command, || api.is_ready())
    }

    fn start_server(
        &mut self,
        name: &str,
        mut command: Command,
        ready: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let path = self.directory.join(format!("{name}.log"));
        let log = File::create(&path)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut running = Running::start(name, &mut command)?;
        let started = running.wait_until("is ready", READY_WITHIN, ready);
        self.running.push(running);
        started.with_context(|| format!("{}:\n{}", path.display(), last_lines(&path)))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // The data plane ends first, because it has connections to the provider.
        while self.running.pop().is_some() {}
    }
}

fn check_free(port: u16, flag: &str) -> anyhow::Result<()> {
    if TcpListener::bind(("127.0.0.1", port)).is_err() {
        bail!(
            "port {port} is in use: is another quickstart running? Choose another port with {flag}"
        );
    }
    Ok(())
}

fn configuration(options: &Options, directory: &Path) -> String {
    format!(
        "# Written by `cargo xtask quickstart`; docs/configuration.md explains every key.
server:
  bind_addr: 127.0.0.1:{port}
metrics:
  bind_addr: 127.0.0.1:{admin_port}
database:
  url: sqlite://{directory}/minichat.db
auth:
  mode: dev
  allow_dev: true
provider_http:
  allow_http: true
",
        port = options.port,
        admin_port = options.admin_port,
        directory = directory.display(),
    )
}

/// Copies the examples and inserts the port of the provider or the key of the real API.
fn write_manifests(directory: &Path, options: &Options, provider: &Provider) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let example = match provider {
        Provider::Scripted => "scripted.yaml",
        Provider::OpenAi { .. } => "openai.yaml",
    };
    let source = workspace::root().join("crds/examples").join(example);
    let text =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let text = match provider {
        Provider::Scripted => text.replace(
            "127.0.0.1:18080",
            &format!("127.0.0.1:{}", options.provider_port),
        ),
        Provider::OpenAi { key } => text.replace("${OPENAI_API_KEY}", key),
    };
    fs::write(directory.join(example), text)?;
    Ok(())
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
