//! The validated settings.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use minichat_core::{TenantId, UserId};

use crate::issuer::Issuer;
use crate::outbound::Outbound;
use crate::secret::Secret;

/// Everything one process is configured with.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessConfig {
    /// `url_prefix`: first part of every path after the root prefix; normalised:
    /// empty, or begins with `/` and does not end with one (API-1).
    pub url_prefix: String,
    /// `server.*`
    pub server: Server,
    /// `metrics.*`
    pub metrics: Metrics,
    /// `database.*`
    pub database: Database,
    /// `streaming.*`
    pub streaming: Streaming,
    /// `auth.*`
    pub auth: Auth,
    /// `source.*`; a process that serves needs one.
    pub source: Option<TenantSource>,
    /// `provider_http.*`
    pub provider_http: ProviderHttp,
    /// `outbound.*`
    pub outbound: Outbound,
    /// `logging.*`
    pub logging: Logging,
    /// `tracing.*`
    pub tracing: Tracing,
    /// `drain.*`
    pub drain: Drain,
    /// `orphan_watchdog.*`
    pub orphan_watchdog: OrphanWatchdog,
}

impl ProcessConfig {
    /// `{root_prefix}{url_prefix}`: the base path of the API without `/v1`.
    pub fn base_path(&self) -> String {
        format!("{}{}", self.server.root_prefix, self.url_prefix)
    }
}

/// The application listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where the application listens.
    pub bind_addr: SocketAddr,
    /// Path before `url_prefix`, normalised in the same way (API-1).
    pub root_prefix: String,
    /// Largest request body in bytes.
    pub body_limit_bytes: usize,
    /// Whether the OpenAPI document and its viewer are served (API-27).
    pub docs_enabled: bool,
    /// Time limit from request head to response head (API-26).
    pub request_deadline: Duration,
    /// Admission limits (D20).
    pub rate_limit: RateLimit,
    /// What web pages of other origins may do; `None`: nothing.
    pub cors: Option<Cors>,
}

/// Cross-origin requests of browsers (API-28).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// As browsers write them: scheme, host and port where it is unusual.
    pub origins: Allowed,
    /// In capitals.
    pub methods: Vec<String>,
    /// In lower case; `authorization` is allowed besides.
    pub headers: Allowed,
    /// Whether cookies come along; never with any origin.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight.
    pub max_age: Duration,
}

/// Allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// `*`
    Any,
    /// These.
    Only(Vec<String>),
}

/// Admission limits (API-25, D20); 0 = off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per second that a bucket of one caller and route refills.
    pub per_second: u32,
    /// Requests such a bucket holds.
    pub burst: u32,
    /// Requests of the whole process whose response head is not yet sent.
    pub in_flight: u32,
}

/// The admin listener and its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where health, metrics and `/configz` are served.
    pub bind_addr: SocketAddr,
    /// Prefix of every metric name, never empty (PLAT-51).
    pub prefix: String,
    /// Distinct values of one open label before they become `other`.
    pub max_label_values: usize,
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Which and where.
    pub url: DatabaseUrl,
    /// Connections at most (readers on `SQLite`, whose writer is one).
    pub max_conns: usize,
    /// URL of PostgreSQL itself, if `url` leads to a pooler in transaction mode.
    pub listen_url: Option<Secret>,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long PostgreSQL works on one statement.
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock.
    pub lock_timeout: Duration,
    /// How long a read or a transaction takes at most.
    pub job_timeout: Duration,
    /// Whether serving brings an older schema of PostgreSQL up to date (K8S-43).
    pub auto_migrate: bool,
}

/// `sqlite://PATH` or `postgres://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// The file, created when absent.
    Sqlite(PathBuf),
    /// The whole URL, which may hold a password.
    Postgres(Secret),
}

/// Streams to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// Events between provider and client, 16 to 64 (PLAT-115).
    pub sse_channel_capacity: usize,
    /// Time without an event after which a ping is sent.
    pub sse_ping_interval: Duration,
}

/// How callers are authenticated (PLAT-130).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// By bearer tokens (PLAT-131) of this issuer, or of the tenant's own issuers.
    Oidc(Option<Issuer>),
    /// Every caller is one fixed user; `auth.allow_dev` was given (PLAT-134).
    Dev(Dev),
    /// By headers of a trusted proxy (PLAT-133).
    TrustedHeaders(TrustedHeaders),
}

/// The one caller of mode `dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dev {
    /// `None`: the first tenant of the manifests (D51).
    pub tenant_id: Option<TenantId>,
    /// The user.
    pub user_id: UserId,
}

/// Which peers may set identity headers. A peer needs one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedHeaders {
    /// Networks whose peers are trusted.
    pub trusted_peers: Vec<IpNetwork>,
    /// The header and the value that a trusted peer sends.
    pub shared_secret: Option<SharedSecret>,
}

/// A header that proves the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSecret {
    /// Header name in lower case.
    pub header: String,
    /// Value to compare in constant time.
    pub value: Secret,
}

/// Where tenants come from (K8S-21).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantSource {
    /// A directory of manifests (K8S-4).
    Manifests(PathBuf),
    /// A directory of rendered tenants, as a sidecar has them.
    Directory(PathBuf),
    /// The rendered Secrets of a pool, watched in the cluster.
    Kubernetes {
        /// Value of the label `minichat.dev/pool`.
        pool: String,
        /// `None`: the process's own.
        namespace: Option<String>,
        /// `None`: from the environment.
        kubeconfig: Option<PathBuf>,
    },
}

/// Calls to providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderHttp {
    /// Whether providers without TLS are allowed.
    pub allow_http: bool,
    /// Largest event of a provider's stream in bytes.
    pub max_event_bytes: usize,
    /// Largest answer of a provider in bytes of text and reasoning.
    pub max_answer_bytes: usize,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A filter such as `info` or `info,minichat_dataplane=debug`.
    pub level: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Whether spans are exported.
    pub enabled: bool,
    /// OTLP over HTTP, such as `http://127.0.0.1:4318`; present when enabled.
    pub otlp_endpoint: Option<String>,
    /// Share of traces begun here that are kept, 0 to 1.
    pub sample_ratio: f64,
}

/// The search for turns whose process has crashed (TURN-56).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanWatchdog {
    /// Whether the watchdog runs (TURN-64).
    pub enabled: bool,
    /// Time between two scans.
    pub scan_interval: Duration,
    /// A turn whose last progress is at least this old is orphaned.
    pub timeout: Duration,
}

/// The settings of a job, which needs the database and no more (TURN-59).
#[derive(Debug, Clone, PartialEq)]
pub struct JobConfig {
    /// `database.*`
    pub database: Database,
    /// `logging.*`
    pub logging: Logging,
    /// `orphan_watchdog.*`
    pub orphan_watchdog: OrphanWatchdog,
    /// `job.*`
    pub job: Job,
}

/// Settings that only jobs have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// File for the counts (K8S-44); `None`: the container's termination message.
    pub report_file: Option<PathBuf>,
    /// Name of the Lease that the job holds while it works (TURN-61).
    pub lease: Option<String>,
}

/// What happens after SIGTERM (D29).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// How long requests are still served.
    pub min: Duration,
    /// How long open streams may go on.
    pub max: Duration,
}

/// A network such as `10.0.0.0/8` or `fd00::/8`; an address alone is a network
/// of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix_bits: u8,
}

impl IpNetwork {
    /// The network of the first `prefix_bits` bits of `address`; `None` when an
    /// address has fewer.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix_bits <= longest).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// Whether `peer` is in the network. An IPv4-mapped IPv6 address counts as its
    /// IPv4 address.
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.address, peer.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(peer)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                let differing = network.to_bits() ^ peer.to_bits();
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(peer)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                let differing = network.to_bits() ^ peer.to_bits();
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl IpNetwork {
    /// Whether the networks have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let narrower = |outer: &Self, inner: &Self| {
            outer.prefix_bits <= inner.prefix_bits && outer.contains(inner.address)
        };
        narrower(self, other) || narrower(other, self)
    }

    /// Whether all of its addresses are loopback ones.
    pub fn is_loopback(&self) -> bool {
        let least = if self.address.is_ipv4() { 8 } else { 128 };
        self.address.is_loopback() && self.prefix_bits >= least
    }
}

impl std::str::FromStr for IpNetwork {
    type Err = IpNetworkError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (address, bits) = s.split_once('/').map_or((s, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| IpNetworkError)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits
            .map_or(Ok(longest), str::parse)
            .map_err(|_| IpNetworkError)?;
        Self::new(address, bits).ok_or(IpNetworkError)
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The text is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a network such as `10.0.0.0/8` or an address")]
pub struct IpNetworkError;
