//! Settings of the process: flags and environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use minichat_config::AllowPrivate;
use minichat_crds::RenderSettings;
use minichat_crds::chat_tenant::DEFAULT_POOL;
use minichat_telemetry::LogFormat;

use crate::writer::MANAGER;

/// Flags of `minichat-operator run`.
#[derive(Args, Debug, Clone)]
pub struct Settings {
    /// Namespace of the pool and of its rendered Secrets; the operator's own by default.
    #[arg(long, env = "MINICHAT_OPERATOR_NAMESPACE")]
    pub namespace: Option<String>,
    /// Name of the pool: `spec.pool` of the tenants that are served, and the label
    /// `minichat.dev/pool` of their rendered Secrets.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_POOL",
        default_value = DEFAULT_POOL,
        value_parser = pool
    )]
    pub pool: String,
    /// The `ConfigMap` of the release that owns the rendered Secrets and the `CronJobs`, so that they are
    /// deleted with it.
    #[arg(long, env = "MINICHAT_OPERATOR_MANAGED_CONFIG_MAP")]
    pub managed_config_map: Option<String>,
    /// Directory with the manifests of the `CronJobs` that the operator makes, `watchdog.yaml` and
    /// `cleanup.yaml`: that `ConfigMap`, mounted. A file that is not there means that the job is not
    /// wanted. Without this flag, the operator makes no `CronJobs` and deletes none.
    #[arg(long, env = "MINICHAT_OPERATOR_MANAGED_DIR")]
    pub managed_dir: Option<PathBuf>,
    /// Label selector of the pool's pods.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_POD_SELECTOR",
        default_value = "app.kubernetes.io/name=minichat,app.kubernetes.io/component=pool"
    )]
    pub pod_selector: String,
    /// Label selector of the pods of the watchdog's Jobs, whose reports are added to the metrics.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_JOB_SELECTOR",
        default_value = "app.kubernetes.io/name=minichat,app.kubernetes.io/component=watchdog"
    )]
    pub job_selector: String,
    /// Label selector of the pods of the clean-up's Jobs, whose reports are added to the metrics.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_CLEANUP_SELECTOR",
        default_value = "app.kubernetes.io/name=minichat,app.kubernetes.io/component=cleanup"
    )]
    pub cleanup_selector: String,
    /// What ends turns that a crashed process left running. The condition `JobsHealthy` of tenants
    /// reports whether it works; without this flag, they have no such condition.
    #[arg(long, env = "MINICHAT_OPERATOR_WATCHDOG", value_enum)]
    pub watchdog: Option<Watchdog>,
    /// After so many seconds in which no Job of the watchdog has ended, a run counts as missed.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_WATCHDOG_MISSED_AFTER_SECS",
        default_value_t = 300
    )]
    pub watchdog_missed_after_secs: u32,
    /// Admin port of pods that have no container port called `admin`.
    #[arg(long, env = "MINICHAT_OPERATOR_POD_ADMIN_PORT", default_value_t = 9090)]
    pub pod_admin_port: u16,
    /// Address that serves `/healthz`, `/readyz` and `/metrics`.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_ADMIN_ADDR",
        default_value = "0.0.0.0:9090"
    )]
    pub admin_addr: SocketAddr,
    /// Namespaces whose tenants are served, separated by commas; all by default.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,
    /// Allow providers, issuers and sinks without TLS.
    #[arg(long, env = "MINICHAT_OPERATOR_ALLOW_HTTP")]
    pub allow_http: bool,
    /// `outbound.allow_private` of the pool: networks and host names, separated by commas.
    /// Providers, issuers and sinks may have loopback and private addresses only among these.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_OUTBOUND_ALLOW_PRIVATE",
        default_value = ""
    )]
    pub outbound_allow_private: AllowPrivate,
    /// `orphan_watchdog.timeout_secs` of the pool; providers may be silent for 60 seconds less.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_ORPHAN_TIMEOUT_SECS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(90..=3600)
    )]
    pub orphan_timeout_secs: u64,
    /// `auth.issuer` of the pool: the issuer of the users in quotas of tenants that list no issuer
    /// of their own.
    #[arg(long, env = "MINICHAT_OPERATOR_ISSUER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub issuer: Option<String>,
    /// Ignored: an operator always works only while it holds its Lease.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_election: Option<bool>,
    /// After so many seconds everything is listed and reconciled again, although nothing has
    /// changed.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_RECONCILE_EVERY_SECS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub reconcile_every_secs: u64,
    /// Identity of this process in the Lease and in events: the name of its pod.
    #[arg(long, env = "MINICHAT_OPERATOR_IDENTITY")]
    pub identity: Option<String>,
    /// First part of every metric's name.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_METRICS_PREFIX",
        default_value = "mini_chat"
    )]
    pub metrics_prefix: String,
    /// How many distinct providers, and models, of job reports get a series of their own in metrics.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_METRICS_MAX_LABEL_VALUES",
        default_value_t = 200
    )]
    pub metrics_max_label_values: usize,
    /// Level of the log, such as `info` or `info,minichat_operator=debug`.
    #[arg(long, env = "MINICHAT_OPERATOR_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the log.
    #[arg(
        long,
        env = "MINICHAT_OPERATOR_LOG_FORMAT",
        value_enum,
        default_value = "json"
    )]
    pub log_format: Format,
}

/// What ends turns that a crashed process left running (TURN-59).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Watchdog {
    /// The pool's process itself, on SQLite.
    InProcess,
    /// Jobs of a `CronJob`.
    Jobs,
    /// Nothing: the `CronJob` is suspended.
    Suspended,
    /// Nothing: `orphan_watchdog.enabled` is false.
    Disabled,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Json => Self::Json,
            Format::Text => Self::Text,
        }
    }
}

impl Settings {
    /// Namespaces to watch; `None` stands for all at once.
    pub(crate) fn scopes(&self) -> Vec<Option<String>> {
        let named: Vec<_> = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim())
            .filter(|name| !name.is_empty())
            .map(|name| Some(name.to_owned()))
            .collect();
        if named.is_empty() { vec![None] } else { named }
    }

    /// Settings of the pool that rendering depends on.
    pub(crate) fn render(&self) -> RenderSettings {
        RenderSettings {
            allow_http: self.allow_http,
            allow_private: Some(self.outbound_allow_private.clone()),
            orphan_timeout: Duration::from_secs(self.orphan_timeout_secs),
            issuer: self.issuer.as_deref().map(Arc::from),
        }
    }

    /// How often everything is reconciled.
    pub(crate) fn reconcile_every(&self) -> Duration {
        Duration::from_secs(self.reconcile_every_secs)
    }

    /// Name of the Lease whose holder works, of the pool's operators in the namespace.
    pub(crate) fn lease(&self) -> String {
        format!("{MANAGER}-{}", self.pool)
    }

    /// Identity of this process.
    pub(crate) fn identity(&self) -> String {
        let hostname = || std::env::var("HOSTNAME").ok();
        self.identity
            .clone()
            .or_else(hostname)
            .unwrap_or_else(|| format!("minichat-operator-{}", uuid::Uuid::new_v4()))
    }
}

/// The name of a pool is the value of a label and of `spec.pool`.
fn pool(text: &str) -> Result<String, String> {
    let is_name = minichat_crds::validation::is_subdomain(text) && !text.contains('.');
    if is_name && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err("write at most 63 lower-case letters, digits and -, such as default".to_owned())
    }
}
