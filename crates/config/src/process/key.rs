//! The table of keys: name, type, bounds, default and meaning of each. The
//! loader, the environment and `docs/configuration.md` read it.

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Name with dots, such as `server.bind_addr`.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// Default as it would be written; empty = none.
    pub default: &'static str,
    /// Meaning, one sentence of Markdown.
    pub help: &'static str,
}

/// Type and bounds of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// A text that is never printed; `${VAR}` is replaced by the variable.
    Secret,
    /// IP address and port.
    Address,
    /// Whole number within bounds, both included.
    Integer(u64, u64),
    /// Number within bounds, both included.
    Number(f64, f64),
    /// `true` or `false`.
    Bool,
    /// One of the words.
    Choice(&'static [&'static str]),
    /// A UUID.
    Uuid,
    /// A list of networks.
    Networks,
    /// A list of texts.
    Texts,
}

impl Key {
    /// The environment variable that sets the key.
    pub(super) fn variable(&self) -> String {
        let mut name = String::from("MINICHAT_");
        name.extend(self.name.chars().map(|c| {
            if c == '.' {
                '_'
            } else {
                c.to_ascii_uppercase()
            }
        }));
        name
    }
}

/// The key called `name`.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        help,
    }
}

const DAY: u64 = 86_400;
const MILLION: u64 = 1_000_000;

/// Every key, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    key(
        "url_prefix",
        Kind::Text,
        "/mini-chat",
        "Path of the API below `server.root_prefix`; `/v1` follows it.",
    ),
    key(
        "server.bind_addr",
        Kind::Address,
        "0.0.0.0:8087",
        "Where the API listens.",
    ),
    key(
        "server.root_prefix",
        Kind::Text,
        "",
        "Path before `url_prefix`, such as `/cf`.",
    ),
    key(
        "server.docs_enabled",
        Kind::Bool,
        "",
        "Whether `/openapi.json` and the page `/docs` are served below `server.root_prefix`, to anybody; without it only in mode `dev`.",
    ),
    key(
        "server.body_limit_bytes",
        Kind::Integer(1024, 1 << 30),
        "16777216",
        "Largest request body in bytes.",
    ),
    key(
        "server.request_deadline_secs",
        Kind::Integer(1, 3600),
        "30",
        "Seconds from request head to response head; a stream that has begun is not cut.",
    ),
    key(
        "server.rate_limit.per_second",
        Kind::Integer(0, MILLION),
        "50",
        "Requests per second and (tenant, user, method, route); 0 = no limit.",
    ),
    key(
        "server.rate_limit.burst",
        Kind::Integer(0, MILLION),
        "100",
        "Requests at once per (tenant, user, method, route); 0 = no limit.",
    ),
    key(
        "server.rate_limit.in_flight",
        Kind::Integer(0, MILLION),
        "4096",
        "Requests of the process that wait for their response head; 0 = no limit.",
    ),
    key(
        "server.cors.enabled",
        Kind::Bool,
        "false",
        "Whether pages of other origins may call the API from a browser.",
    ),
    key(
        "server.cors.allowed_origins",
        Kind::Texts,
        "*",
        "Origins that may, such as `https://chat.example.com`; `*` = every one.",
    ),
    key(
        "server.cors.allowed_methods",
        Kind::Texts,
        "GET,POST,PUT,PATCH,DELETE,OPTIONS",
        "Methods that their requests may have.",
    ),
    key(
        "server.cors.allowed_headers",
        Kind::Texts,
        "*",
        "Headers that their requests may have, besides `Authorization`, which always may; `*` = every one.",
    ),
    key(
        "server.cors.allow_credentials",
        Kind::Bool,
        "false",
        "Whether browsers send cookies and client certificates along; needs named origins.",
    ),
    key(
        "server.cors.max_age_secs",
        Kind::Integer(0, DAY),
        "600",
        "Seconds that a browser may remember what is allowed.",
    ),
    key(
        "metrics.bind_addr",
        Kind::Address,
        "0.0.0.0:9090",
        "Where health, `/metrics` and `/configz` listen; differs from `server.bind_addr`.",
    ),
    key(
        "metrics.prefix",
        Kind::Text,
        "mini_chat",
        "First part of every metric name; empty = `mini_chat`.",
    ),
    key(
        "metrics.max_label_values",
        Kind::Integer(1, MILLION),
        "200",
        "Distinct values of one label before further ones become `other`.",
    ),
    key(
        "database.url",
        Kind::Secret,
        "sqlite://minichat.db",
        "`sqlite://PATH` (a third slash makes the path absolute) or `postgres://USER:PASSWORD@HOST/DATABASE`.",
    ),
    key(
        "database.max_conns",
        Kind::Integer(1, 1000),
        "10",
        "Connections at most; on SQLite readers, besides one writer.",
    ),
    key(
        "database.listen_url",
        Kind::Secret,
        "",
        "`postgres://…` of the server itself, where `database.url` leads through a pooler in transaction mode, such as PgBouncer: it hears on it what other processes want stopped.",
    ),
    key(
        "database.acquire_timeout_secs",
        Kind::Integer(1, 3600),
        "30",
        "Seconds a request waits for a connection, within `database.job_timeout_secs`.",
    ),
    key(
        "database.connect_timeout_secs",
        Kind::Integer(1, 60),
        "5",
        "Seconds PostgreSQL may take to accept a connection.",
    ),
    key(
        "database.statement_timeout_secs",
        Kind::Integer(1, 3600),
        "10",
        "Seconds PostgreSQL works on one statement.",
    ),
    key(
        "database.lock_timeout_secs",
        Kind::Integer(1, 3600),
        "5",
        "Seconds a statement waits for a lock of another; on SQLite for that of another process, such as a backup.",
    ),
    key(
        "database.job_timeout_secs",
        Kind::Integer(2, 3600),
        "15",
        "Seconds that a read or a transaction takes at most, with its wait for a connection; then the request is answered with 503. More than `database.statement_timeout_secs`, less than `server.request_deadline_secs`.",
    ),
    key(
        "database.auto_migrate",
        Kind::Bool,
        "true",
        "Whether `serve` brings an older schema of PostgreSQL up to date; without it `migrate` must have run. SQLite is always brought up to date.",
    ),
    key(
        "streaming.sse_channel_capacity",
        Kind::Integer(16, 64),
        "32",
        "Events held between provider and client; a slow client slows the provider.",
    ),
    key(
        "streaming.sse_ping_interval_seconds",
        Kind::Integer(5, 60),
        "15",
        "Seconds of silence before a ping.",
    ),
    key(
        "auth.mode",
        Kind::Choice(&["oidc", "trusted_headers", "dev"]),
        "oidc",
        "Who the caller is: whom a bearer token names, what a trusted proxy says in `X-Tenant-Id`, `X-User-Id` and `X-Scopes`, or one fixed user. Tenants with issuers of their own are opened by these alone.",
    ),
    key(
        "auth.issuer",
        Kind::Text,
        "",
        "Mode `oidc`: the claim `iss` of tokens, a URL whose discovery document names the keys. Required where `auth.mode` is left out; without it only tenants with issuers of their own can be used.",
    ),
    key(
        "auth.audience",
        Kind::Text,
        "",
        "What the claim `aud` must hold; required with `auth.issuer`.",
    ),
    key(
        "auth.jwks_uri",
        Kind::Text,
        "",
        "Where the issuer's keys are, instead of where its discovery document says.",
    ),
    key(
        "auth.tenant_claim",
        Kind::Text,
        "tenant_id",
        "The claim with the tenant's id.",
    ),
    key(
        "auth.user_claim",
        Kind::Text,
        "sub",
        "The claim with the user; what is no UUID becomes one, the same each time.",
    ),
    key(
        "auth.scopes_claim",
        Kind::Text,
        "scope",
        "The claim with the scopes, separated by spaces or a list; where it is `scope`, `scp` stands in for it.",
    ),
    key(
        "auth.allow_dev",
        Kind::Bool,
        "false",
        "Mode `dev` is refused without it.",
    ),
    key(
        "auth.dev_tenant_id",
        Kind::Uuid,
        "",
        "Tenant of every caller in mode `dev`; without it the first tenant, by id.",
    ),
    key(
        "auth.dev_user_id",
        Kind::Uuid,
        "00000000-0000-4000-8000-000000000001",
        "User of every caller in mode `dev`.",
    ),
    key(
        "auth.trusted_peers",
        Kind::Networks,
        "",
        "Networks whose peers are believed in mode `trusted_headers`, such as `10.0.0.0/8`.",
    ),
    key(
        "auth.shared_secret_header",
        Kind::Text,
        "",
        "Header that proves a trusted sender, instead of or besides `auth.trusted_peers`.",
    ),
    key(
        "auth.shared_secret",
        Kind::Secret,
        "",
        "Value of that header.",
    ),
    key(
        "source.manifests",
        Kind::Text,
        "",
        "Directory of `ChatTenant`, `ChatQuota` and `Secret` documents whose tenants are served. `serve` needs exactly one of `source.manifests`, `source.directory` and `source.pool`.",
    ),
    key(
        "source.directory",
        Kind::Text,
        "",
        "Directory of rendered tenants: a mounted Secret, or a folder or file for each.",
    ),
    key(
        "source.pool",
        Kind::Text,
        "",
        "Pool whose rendered tenants are watched in the cluster: Secrets with the label `minichat.dev/pool`.",
    ),
    key(
        "source.namespace",
        Kind::Text,
        "",
        "Namespace of those Secrets; without it that of the pod, or of the kubeconfig's context.",
    ),
    key(
        "source.kubeconfig",
        Kind::Text,
        "",
        "File that names the cluster of `source.pool`; without it `KUBECONFIG`, `~/.kube/config`, or the cluster that the pod runs in.",
    ),
    key(
        "provider_http.allow_http",
        Kind::Bool,
        "false",
        "Whether providers, and issuers of tokens, may be called without TLS.",
    ),
    key(
        "provider_http.max_event_bytes",
        Kind::Integer(64 * 1024, 256 * 1024 * 1024),
        "8388608",
        "Largest event of a provider's stream in bytes; a larger one ends the turn as failed. So much memory may one stream take.",
    ),
    key(
        "outbound.allow_private",
        Kind::Texts,
        "",
        "Loopback and private addresses that providers and issuers of tenants may have: networks such as `10.0.0.0/8`, and host names such as `models.internal` (it and all below it) or `.models.svc.cluster.local` (all below it), whose private addresses are then allowed. A name is as safe as whoever decides what it resolves to. Without the key all of them in mode `dev` and with `source.manifests`, else none. Link-local, metadata, multicast and reserved addresses and the process's own listeners are never called.",
    ),
    key(
        "outbound.ca_file",
        Kind::Text,
        "",
        "File of certificates in PEM that providers, issuers and proxies may prove themselves by, besides the public ones. A changed file is read again.",
    ),
    key(
        "outbound.proxy",
        Kind::Secret,
        "",
        "Proxy of all calls to providers and issuers, such as `http://USER:PASSWORD@proxy.example.com:3128`, by `CONNECT`. Without the key `HTTPS_PROXY` and `HTTP_PROXY` of the environment; empty = none. A proxy resolves names by itself, so it must refuse private addresses by its own rules.",
    ),
    key(
        "outbound.no_proxy",
        Kind::Texts,
        "",
        "What is called without a proxy: networks, host names with all below them, or `*`. Without the key `NO_PROXY` of the environment. Loopback never goes through a proxy.",
    ),
    key(
        "logging.level",
        Kind::Text,
        "info",
        "Least severity, such as `info` or `info,minichat_dataplane=debug`.",
    ),
    key(
        "logging.format",
        Kind::Choice(&["json", "text"]),
        "json",
        "One JSON object per line, or text for people.",
    ),
    key(
        "tracing.enabled",
        Kind::Bool,
        "false",
        "Whether spans are exported.",
    ),
    key(
        "tracing.otlp_endpoint",
        Kind::Text,
        "",
        "OTLP over HTTP, such as `http://127.0.0.1:4318`; required when enabled.",
    ),
    key(
        "tracing.sample_ratio",
        Kind::Number(0.0, 1.0),
        "1",
        "Share of traces begun here that are kept.",
    ),
    key(
        "drain.min_secs",
        Kind::Integer(0, 3600),
        "0",
        "Seconds after SIGTERM during which new requests are served.",
    ),
    key(
        "drain.max_secs",
        Kind::Integer(0, DAY),
        "20",
        "Seconds that open streams may then go on.",
    ),
    key(
        "orphan_watchdog.enabled",
        Kind::Bool,
        "true",
        "Whether turns that a dead process left running are looked for.",
    ),
    key(
        "orphan_watchdog.scan_interval_secs",
        Kind::Integer(1, DAY),
        "60",
        "Seconds between two searches.",
    ),
    key(
        "orphan_watchdog.timeout_secs",
        Kind::Integer(90, 3600),
        "300",
        "Seconds without progress after which a running turn is taken for left behind; a provider may be silent for 60 seconds less.",
    ),
    key(
        "job.report_file",
        Kind::Text,
        "",
        "File in which `watchdog` leaves what it counted, for whoever has metrics to add it to; without it `/dev/termination-log`, if that exists.",
    ),
    key(
        "job.lease",
        Kind::Text,
        "",
        "Lease that `watchdog` holds while it looks, in the namespace of its pod or of `KUBECONFIG`, so that one process at a time looks after a database; without it nobody is asked.",
    ),
];
