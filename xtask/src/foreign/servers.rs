//! Starts the scripted provider, the proxy in front of it, and the data plane that calls the proxy.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::cases::{MODELS, PROTOCOLS, model_id};
use super::client::Client;
use crate::process::{self, Running};
use crate::workspace;

/// The proxy imports modules for a while before it listens.
const READY_WITHIN: Duration = Duration::from_mins(3);
/// The API key of the proxy, which is not a secret.
const KEY: &str = "key-of-the-foreign-proxy";

/// The scripted provider. It ends when dropped.
pub(super) struct Provider {
    port: u16,
    _running: Running,
}

/// The scripted provider, the proxy and the data plane. When dropped, they end, the data plane first.
pub(super) struct Servers {
    _running: [Running; 2],
    _provider: Provider,
    client: Client,
}

/// Builds the scripted provider and, if wanted, the data plane.
pub(super) fn build(with_dataplane: bool) -> anyhow::Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["build", "--workspace", "--locked"])
        .args(["--bin", "minichat-scripted-provider"]);
    if with_dataplane {
        command.args(["--bin", "minichat-dataplane"]);
    }
    process::run("cargo build", &mut command)
}

/// Where the files of a run are kept.
pub(super) fn place() -> PathBuf {
    workspace::target().join("foreign")
}

/// The new, empty directory `name` of this run.
pub(super) fn directory(name: &str) -> anyhow::Result<PathBuf> {
    let directory = place().join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

impl Provider {
    /// Starts it; `whose` names the file with what it prints.
    pub(super) fn start(whose: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(place())?;
        let [port] = free_ports()?;
        let mut command = program("minichat-scripted-provider");
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        let log = place().join(format!("provider-of-{whose}.log"));
        let running = start("scripted-provider", command, &log, || listens(port))?;
        Ok(Self {
            port,
            _running: running,
        })
    }

    /// Where both of its protocols are.
    pub(super) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Servers {
    pub(super) fn start(litellm: &Path) -> anyhow::Result<Self> {
        let directory = directory("litellm")?;
        fs::create_dir_all(directory.join("manifests"))?;
        let [proxy, port, admin] = free_ports()?;
        let provider = Provider::start("litellm")?;
        let write = |name: &str, text: String| fs::write(directory.join(name), text);
        write("litellm.yaml", proxy_config(&provider).to_string())?;
        write(
            "config.yaml",
            process_config(&directory, port, admin).to_string(),
        )?;
        write("manifests/tenant.yaml", manifests(proxy))?;
        let command = proxy_command(litellm, &directory, proxy);
        let log = directory.join("litellm.log");
        let proxy = start("litellm", command, &log, || listens(proxy))?;
        let client = Client::new(port, admin);
        let log = directory.join("dataplane.log");
        let dataplane = start("dataplane", dataplane_command(&directory), &log, || {
            client.is_ready()
        })?;
        Ok(Self {
            _running: [dataplane, proxy],
            _provider: provider,
            client,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

/// Starts `command` with its output in the file `log`, and waits until it is ready.
fn start(
    name: &str,
    mut command: Command,
    log: &Path,
    is_ready: impl FnMut() -> bool,
) -> anyhow::Result<Running> {
    let file = File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut running = Running::start(name, &mut command)?;
    running
        .wait_until("is ready", READY_WITHIN, is_ready)
        .with_context(|| format!("see {}", log.display()))?;
    Ok(running)
}

fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // All listeners stay open until the last port is found, so that the ports differ.
    let held: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn program(name: &str) -> Command {
    Command::new(workspace::target().join("debug").join(name))
}

fn proxy_command(litellm: &Path, directory: &Path, port: u16) -> Command {
    let mut command = Command::new(litellm);
    command
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--config",
        ])
        .arg(directory.join("litellm.yaml"))
        .current_dir(directory)
        // Otherwise the proxy downloads prices of models when it starts.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    command
}

fn dataplane_command(directory: &Path) -> Command {
    let mut command = program("minichat-dataplane");
    command
        .arg("serve")
        .arg("--config")
        .arg(directory.join("config.yaml"))
        .arg("--manifests")
        .arg(directory.join("manifests"));
    command
}

/// JSON text is valid YAML.
fn proxy_config(provider: &Provider) -> Value {
    let canned = |name: &str, answer: &str| {
        json!({
            "model_name": name,
            "litellm_params": {"model": "openai/gpt-4o", "api_key": "x", "mock_response": answer},
        })
    };
    let through = |name: &str, model: &str| {
        json!({
            "model_name": name,
            "litellm_params": {
                "model": model, "api_key": "x", "api_base": provider.base_url(),
            },
        })
    };
    json!({
        "model_list": [
            canned("canned", "Hello from litellm, this is an answer with some words."),
            canned("rate", "litellm.RateLimitError"),
            canned("fault", "litellm.InternalServerError"),
            canned("context", "litellm.ContextWindowExceededError"),
            through("through", "openai/through"),
            through("vllm", "hosted_vllm/through"),
        ],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"drop_params": true, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": true},
    })
}

fn process_config(directory: &Path, port: u16, admin: u16) -> Value {
    json!({
        "server": {"bind_addr": format!("127.0.0.1:{port}")},
        "metrics": {"bind_addr": format!("127.0.0.1:{admin}")},
        "database": {"url": format!("sqlite://{}/minichat.db", directory.display())},
        "auth": {"mode": "dev", "allow_dev": true},
        "provider_http": {"allow_http": true},
    })
}

fn manifests(proxy: u16) -> String {
    let providers = PROTOCOLS.map(|(protocol, kind)| {
        json!({
            "name": protocol.replace(' ', "-").to_lowercase(),
            "kind": kind,
            "baseUrl": format!("http://127.0.0.1:{proxy}"),
            "auth": {"prefix": "Bearer ", "secretKeyRef": {"name": "proxy", "key": "api-key"}},
        })
    });
    let models: Vec<Value> = PROTOCOLS
        .iter()
        .flat_map(|(protocol, _)| MODELS.map(|model| catalog_entry(protocol, model)))
        .collect();
    let tenant = json!({
        "apiVersion": "minichat.dev/v1alpha1",
        "kind": "ChatTenant",
        "metadata": {"name": "foreign", "namespace": "default"},
        "spec": {"providers": providers, "models": models},
    });
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "proxy",
            "namespace": "default",
            "labels": {"minichat.dev/credentials": "true"},
        },
        "stringData": {"api-key": KEY},
    });
    format!("{tenant}\n---\n{secret}\n")
}

fn catalog_entry(protocol: &str, model: &str) -> Value {
    json!({
        "id": model_id(protocol, model),
        "providerModelId": model,
        "displayName": model,
        "providerRef": protocol.replace(' ', "-").to_lowercase(),
        "tier": "Standard",
        "contextWindow": 128_000,
        "maxOutputTokens": 1000,
        "maxInputTokens": 120_000,
        "inputTokensCreditMultiplierMicro": 1_000_000,
        "outputTokensCreditMultiplierMicro": 1_000_000,
    })
}
