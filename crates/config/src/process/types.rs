//! The validated settings.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use minichat_core::{TenantId, UserId};

use super::outbox::Outbox;
use crate::issuer::Issuer;
use crate::outbound::Outbound;
use crate::secret::Secret;

/// The settings of one process.
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
    /// `outbox.*`
    pub outbox: Outbox,
    /// `rag.*`
    pub uploads: Uploads,
    /// `thread_summary_worker.*`
    pub thread_summary_worker: ThreadSummaryWorker,
    /// `cleanup_worker.*`
    pub cleanup_worker: CleanupWorker,
    /// `retention.*`
    pub retention: Retention,
    /// `thumbnail.*`
    pub thumbnails: Thumbnails,
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
    /// What encrypts its connections (PLAT-168).
    pub tls: Option<TlsFiles>,
    /// Path before `url_prefix`, normalised in the same way (API-1).
    pub root_prefix: String,
    /// Maximum size of a request body in bytes.
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

/// A certificate with its chain and its private key, each a file in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Cross-origin requests of browsers (API-28).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// In the form that browsers send: scheme, host, and the port unless it is
    /// the scheme's default.
    pub origins: Allowed,
    /// In capital letters.
    pub methods: Vec<String>,
    /// In lower case. `authorization` is always allowed too.
    pub headers: Allowed,
    /// Whether browsers may send cookies. Cannot be combined with any origin.
    pub credentials: bool,
    /// How long a browser may cache the answer to a preflight.
    pub max_age: Duration,
}

/// Allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// `*`
    Any,
    /// These values only.
    Only(Vec<String>),
}

/// Admission limits (API-25, D20); 0 turns one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens per second that refill the bucket of one caller and route.
    pub per_second: u32,
    /// Capacity of such a bucket, in requests.
    pub burst: u32,
    /// Maximum number of requests in the whole process whose response head is
    /// not sent yet.
    pub in_flight: u32,
}

/// The admin listener and its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where health, metrics and `/configz` are served.
    pub bind_addr: SocketAddr,
    /// Prefix of every metric name, never empty (PLAT-51).
    pub prefix: String,
    /// Maximum number of distinct values of an open label. Further values count
    /// as `other`.
    pub max_label_values: usize,
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The kind of database and its location.
    pub url: DatabaseUrl,
    /// Maximum number of connections. On `SQLite`, of readers; there is one
    /// writer.
    pub max_conns: usize,
    /// URL of the PostgreSQL server itself, if `url` leads through a pooler in
    /// transaction mode.
    pub listen_url: Option<Secret>,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long PostgreSQL may work on one statement.
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock.
    pub lock_timeout: Duration,
    /// Maximum duration of a read or a transaction.
    pub job_timeout: Duration,
    /// Whether `serve` migrates an older PostgreSQL schema (K8S-43).
    pub auto_migrate: bool,
}

/// `sqlite://PATH` or `postgres://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// The file. It is created if it does not exist.
    Sqlite(PathBuf),
    /// The whole URL. It may contain a password.
    Postgres(Secret),
}

/// Streams to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// Capacity of the channel between provider and client in events, 16 to 64
    /// (PLAT-115).
    pub sse_channel_capacity: usize,
    /// Silence after which a ping is sent.
    pub sse_ping_interval: Duration,
}

/// How callers are authenticated (PLAT-130).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// By bearer tokens of this issuer or of the tenant's own issuers
    /// (PLAT-131).
    Oidc(Option<Issuer>),
    /// Every caller is one fixed user (PLAT-134). Requires `auth.allow_dev`.
    Dev(Dev),
    /// By headers that a trusted proxy sets (PLAT-133).
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

/// Which senders of identity headers are trusted. A request needs a trusted
/// peer or the shared secret.
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
    /// A directory of rendered tenants, such as a sidecar writes.
    Directory(PathBuf),
    /// The rendered Secrets of a pool, watched in the cluster.
    Kubernetes {
        /// Value of the label `minichat.dev/pool`.
        pool: String,
        /// `None`: the process's own namespace.
        namespace: Option<String>,
        /// `None`: found from the environment.
        kubeconfig: Option<PathBuf>,
    },
}

/// Calls to providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderHttp {
    /// Whether providers without TLS are allowed.
    pub allow_http: bool,
    /// Maximum size of one event of a provider's stream in bytes.
    pub max_event_bytes: usize,
    /// Maximum size of a provider's answer (text and reasoning) in bytes.
    pub max_answer_bytes: usize,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A filter such as `info` or `info,minichat_dataplane=debug`.
    pub level: String,
    /// Format of a line.
    pub format: LogFormat,
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// Traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Whether spans are exported.
    pub enabled: bool,
    /// OTLP over HTTP, such as `http://127.0.0.1:4318`. Always set if
    /// `enabled`.
    pub otlp_endpoint: Option<String>,
    /// Share of the traces begun in this process that are kept, 0 to 1.
    pub sample_ratio: f64,
}

/// The search for turns whose process crashed (TURN-56).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanWatchdog {
    /// Whether the watchdog runs (TURN-64).
    pub enabled: bool,
    /// Time between two scans.
    pub scan_interval: Duration,
    /// A turn whose last progress is at least this old is orphaned.
    pub timeout: Duration,
    /// A process whose last heartbeat is at least this old is dead (TURN-69).
    pub process_timeout: Duration,
}

/// Limits of uploads (CONT-55). Tenants and models may have smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploads {
    /// Maximum size of a document in bytes.
    pub max_document_bytes: u64,
    /// Maximum size of an image in bytes.
    pub max_image_bytes: u64,
    /// Maximum number of documents of a chat.
    pub max_documents_per_chat: u32,
    /// Maximum size of all files of a chat in bytes.
    pub max_total_bytes_per_chat: u64,
    /// Maximum number of uploads at a time, 1 to 256 (CONT-57).
    pub max_concurrent: usize,
    /// Whether CSV files are accepted, as plain text (CONT-54).
    pub allow_csv: bool,
    /// Whether the first bytes of a file must agree with its type (CONT-54).
    pub check_content: bool,
}

/// Limits of thumbnails (CONT-66).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thumbnails {
    /// Maximum width in pixels.
    pub width: u32,
    /// Maximum height in pixels.
    pub height: u32,
    /// Maximum size of a thumbnail in bytes.
    pub max_bytes: usize,
    /// Maximum number of pixels of an image that gets one.
    pub max_pixels: u64,
    /// Maximum size of its file, and of its pixels at 4 bytes each, in bytes.
    pub max_decode_bytes: u64,
}

/// Summaries of the older messages of long chats (CONT-130).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadSummaryWorker {
    /// Whether summaries are made at all.
    pub enabled: bool,
    /// Per cent of the input budget from which a chat without a summary gets one, 1
    /// to 99 (CONT-131). A tenant's own takes precedence.
    pub compression_threshold_pct: u32,
    /// Instructions; empty = those built in. A tenant's own take precedence.
    pub system_prompt: String,
    /// Characters of one message in the prompt; 0 = all (CONT-135).
    pub message_content_limit: usize,
}

/// The clean-up of provider files and vector stores after deletions (CONT-160).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupWorker {
    /// Whether anything is cleaned up (CONT-170).
    pub enabled: bool,
    /// Time between two passes, and between two counted attempts on one file
    /// (CONT-168).
    pub poll_interval: Duration,
    /// Age of the last change from which an upload is abandoned (CONT-174).
    pub stale_timeout: Duration,
    /// Maximum number of chats that are claimed together.
    pub batch_size: u32,
    /// Counted failures after which a file is given up.
    pub max_attempts: u32,
    /// How long one call of a provider may take.
    pub call_timeout: Duration,
}

/// How long what was deleted is kept (PLAT-21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Age of a chat's deletion from which the clean-up removes it from the database;
    /// `None`: never.
    pub purge_grace: Option<Duration>,
}

/// The settings of the clean-up as a job (CONT-170). It calls providers of the same
/// tenants as a process that serves, with the same configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanupConfig {
    /// All settings but `auth.*`, of which nothing is checked: a job has no callers.
    pub process: ProcessConfig,
    /// `job.*`
    pub job: Job,
}

/// The settings of a job. It needs only the database (TURN-59).
#[derive(Debug, Clone, PartialEq)]
pub struct JobConfig {
    /// `database.*`
    pub database: Database,
    /// `logging.*`
    pub logging: Logging,
    /// `orphan_watchdog.*`
    pub orphan_watchdog: OrphanWatchdog,
    /// `outbox.*`
    pub outbox: Outbox,
    /// `job.*`
    pub job: Job,
}

/// Settings that only jobs have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// File for the counts (K8S-44); `None`: the container's termination
    /// message.
    pub report_file: Option<PathBuf>,
    /// Name of the Lease that the job holds while it runs (TURN-61).
    pub lease: Option<String>,
}

/// The timetable after SIGTERM (D29).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// How long requests are still accepted.
    pub min: Duration,
    /// How long open streams may continue.
    pub max: Duration,
}

/// A network such as `10.0.0.0/8` or `fd00::/8`. An address without a prefix
/// length is a network of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix_bits: u8,
}

impl IpNetwork {
    /// The network of the first `prefix_bits` bits of `address`; `None` if the
    /// address has fewer bits.
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

    /// Whether all its addresses are loopback addresses.
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

/// The text does not name a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a network such as `10.0.0.0/8` or an address")]
pub struct IpNetworkError;
