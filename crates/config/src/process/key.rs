//! The table of keys: name, type, bounds, default and meaning of each. The
//! loader reads it, and the names of the environment variables and
//! `docs/configuration.md` are derived from it.

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
        "server.tls.cert_file",
        Kind::Text,
        "",
        "PEM file with the certificate of the API, followed by those of its authorities. With it, the API is served over TLS only. When the files change, new connections use the new pair; one that cannot be used is logged, and the one before stays in effect.",
    ),
    key(
        "server.tls.key_file",
        Kind::Text,
        "",
        "PEM file with the private key of `server.tls.cert_file`.",
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
        "Whether `/openapi.json` and the page `/docs` are served below `server.root_prefix`, without authentication. If unset, they are served only in mode `dev`.",
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
        "Seconds until the response head must be sent, counted from the request head. A stream that has begun is not cut.",
    ),
    key(
        "server.rate_limit.per_second",
        Kind::Integer(0, MILLION),
        "50",
        "Requests per second for each combination of tenant, user, method and route; 0 = no limit.",
    ),
    key(
        "server.rate_limit.burst",
        Kind::Integer(0, MILLION),
        "100",
        "Requests at once for each combination of tenant, user, method and route; 0 = no limit.",
    ),
    key(
        "server.rate_limit.in_flight",
        Kind::Integer(0, MILLION),
        "4096",
        "Requests in the process that wait for their response head; 0 = no limit.",
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
        "Allowed origins, such as `https://chat.example.com`; `*` = all.",
    ),
    key(
        "server.cors.allowed_methods",
        Kind::Texts,
        "GET,POST,PUT,PATCH,DELETE,OPTIONS",
        "Allowed request methods.",
    ),
    key(
        "server.cors.allowed_headers",
        Kind::Texts,
        "*",
        "Allowed request headers; `*` = all. `Authorization` is always allowed.",
    ),
    key(
        "server.cors.allow_credentials",
        Kind::Bool,
        "false",
        "Whether browsers may send cookies and client certificates. Requires origins by name, not `*`.",
    ),
    key(
        "server.cors.max_age_secs",
        Kind::Integer(0, DAY),
        "600",
        "Seconds for which a browser may cache the answer to a preflight request.",
    ),
    key(
        "metrics.bind_addr",
        Kind::Address,
        "0.0.0.0:9090",
        "Where the admin listener serves health, `/metrics` and `/configz`. Must differ from `server.bind_addr`.",
    ),
    key(
        "metrics.prefix",
        Kind::Text,
        "mini_chat",
        "Prefix of every metric name; empty = `mini_chat`.",
    ),
    key(
        "metrics.max_label_values",
        Kind::Integer(1, MILLION),
        "200",
        "Distinct values that one label may have; further values become `other`.",
    ),
    key(
        "database.url",
        Kind::Secret,
        "sqlite://minichat.db",
        "`sqlite://PATH` (a third slash makes the path absolute) or `postgres://USER:PASSWORD@HOST/DATABASE`. See [PostgreSQL](#postgresql) for TLS and other parameters.",
    ),
    key(
        "database.max_conns",
        Kind::Integer(1, 1000),
        "10",
        "Maximum number of connections. On SQLite, the number of readers; there is always one writer as well. On PostgreSQL, one more listens, and while the server does not answer within the statement timeout, as when it is frozen or a commit waits for a standby, connections that the process has given up may still be open there.",
    ),
    key(
        "database.listen_url",
        Kind::Secret,
        "",
        "`postgres://…` of PostgreSQL itself, if `database.url` leads to a pooler in transaction mode, such as PgBouncer. The process uses it for `LISTEN`, through which other processes tell it to stop a turn. A process does not start if this address leads to a pooler, too; `check-config` connects to nothing and cannot know it.",
    ),
    key(
        "database.acquire_timeout_secs",
        Kind::Integer(1, 3600),
        "30",
        "Seconds that a request waits for a connection. It waits for at most two thirds of the time that `database.job_timeout_secs` leaves it.",
    ),
    key(
        "database.connect_timeout_secs",
        Kind::Integer(1, 60),
        "5",
        "Seconds that PostgreSQL may take to accept a connection.",
    ),
    key(
        "database.statement_timeout_secs",
        Kind::Integer(1, 3600),
        "10",
        "Seconds that PostgreSQL may work on one statement.",
    ),
    key(
        "database.lock_timeout_secs",
        Kind::Integer(1, 3600),
        "5",
        "Seconds that a statement waits for a lock; on SQLite, for a lock of another process, such as a backup.",
    ),
    key(
        "database.job_timeout_secs",
        Kind::Integer(2, 3600),
        "15",
        "Seconds that a read or a transaction may take, including the wait for a connection. After that the request gets 503. On PostgreSQL it must be more than `database.statement_timeout_secs`; make it less than `server.request_deadline_secs`.",
    ),
    key(
        "database.auto_migrate",
        Kind::Bool,
        "true",
        "Whether `serve` migrates an older PostgreSQL schema. If `false`, run `migrate` first. SQLite is always migrated.",
    ),
    key(
        "streaming.sse_channel_capacity",
        Kind::Integer(16, 64),
        "32",
        "Events buffered between provider and client. When the buffer is full, minichat stops reading from the provider.",
    ),
    key(
        "streaming.sse_ping_interval_seconds",
        Kind::Integer(5, 60),
        "15",
        "Seconds without an event after which the stream sends a ping.",
    ),
    key(
        "auth.mode",
        Kind::Choice(&["oidc", "trusted_headers", "dev"]),
        "oidc",
        "How callers are authenticated. `oidc`: by a bearer token. `trusted_headers`: by `X-Tenant-Id`, `X-User-Id` and `X-Scopes`, which a trusted proxy sets. `dev`: every caller is one fixed user. A tenant with its own issuers accepts only their tokens.",
    ),
    key(
        "auth.issuer",
        Kind::Text,
        "",
        "Mode `oidc`: the claim `iss` of tokens, a URL whose discovery document names the keys. Required if `auth.mode` is not set. Without it, only tenants with their own issuers are usable.",
    ),
    key(
        "auth.audience",
        Kind::Text,
        "",
        "Value that the claim `aud` must contain; required with `auth.issuer`.",
    ),
    key(
        "auth.jwks_uri",
        Kind::Text,
        "",
        "URL of the issuer's keys, if it is not the one in the discovery document.",
    ),
    key(
        "auth.tenant_claim",
        Kind::Text,
        "tenant_id",
        "Claim with the tenant's id.",
    ),
    key(
        "auth.user_claim",
        Kind::Text,
        "sub",
        "Claim with the user. A value that is not a UUID is mapped to a UUID, always the same one.",
    ),
    key(
        "auth.scopes_claim",
        Kind::Text,
        "scope",
        "Claim with the scopes: a list, or text separated by spaces. If the name is `scope` and the claim is missing, `scp` is read.",
    ),
    key(
        "auth.allow_dev",
        Kind::Bool,
        "false",
        "Must be `true` for mode `dev`.",
    ),
    key(
        "auth.dev_tenant_id",
        Kind::Uuid,
        "",
        "Tenant of every caller in mode `dev` that sends no `X-Tenant-Id`. If unset, the first tenant of the manifests.",
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
        "Networks whose identity headers are trusted in mode `trusted_headers`, such as `10.0.0.0/8`.",
    ),
    key(
        "auth.shared_secret_header",
        Kind::Text,
        "",
        "Header in which a trusted proxy sends `auth.shared_secret`. A proxy needs this or an address in `auth.trusted_peers`.",
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
        "Directory of rendered tenants: a mounted Secret, or one folder or file per tenant.",
    ),
    key(
        "source.pool",
        Kind::Text,
        "",
        "Pool whose rendered tenants are watched in the cluster. They are Secrets with the label `minichat.dev/pool`.",
    ),
    key(
        "source.namespace",
        Kind::Text,
        "",
        "Namespace of these Secrets. If unset, the namespace of the pod or of the kubeconfig's context.",
    ),
    key(
        "source.kubeconfig",
        Kind::Text,
        "",
        "Kubeconfig file of the cluster of `source.pool`. If unset, `KUBECONFIG`, `~/.kube/config`, or the cluster in which the pod runs.",
    ),
    key(
        "provider_http.allow_http",
        Kind::Bool,
        "false",
        "Whether providers, token issuers and webhooks of sinks may be called without TLS.",
    ),
    key(
        "provider_http.max_event_bytes",
        Kind::Integer(64 * 1024, 256 * 1024 * 1024),
        "8388608",
        "Largest event of a provider's stream in bytes; a larger one fails the turn. Each stream may use this much memory to read one. Eight times as much without any text or reasoning, such as endless keep-alives, fails the turn too.",
    ),
    key(
        "provider_http.max_answer_bytes",
        Kind::Integer(64 * 1024, 256 * 1024 * 1024),
        "8388608",
        "Largest answer of a provider in bytes, text and reasoning together; a larger one fails the turn with `provider_error` and closes the connection to the provider. Each turn may hold and store this much text.",
    ),
    key(
        "outbound.allow_private",
        Kind::Texts,
        "",
        "Loopback and private addresses that providers, issuers and sinks of tenants may have. An entry is a network such as `10.0.0.0/8`, or a host name: `models.internal` allows the private addresses of this name and of all names below it, `.models.svc.cluster.local` those of all names below it. Anybody who controls the DNS of a listed name chooses which private address it allows. If unset, mode `dev` and `source.manifests` allow all, and everything else allows none. Link-local, metadata, multicast and reserved addresses and the process's own listeners are always refused.",
    ),
    key(
        "outbound.ca_file",
        Kind::Text,
        "",
        "PEM file with certificate authorities for providers, issuers, sinks and proxies, in addition to the public ones. The process reads the file again when it changes.",
    ),
    key(
        "outbound.proxy",
        Kind::Secret,
        "",
        "Proxy for all calls to providers, issuers and sinks, such as `http://USER:PASSWORD@proxy.example.com:3128`; it must support `CONNECT`. If unset, `HTTPS_PROXY` and `HTTP_PROXY` of the environment apply; empty = no proxy. The proxy resolves host names itself, so it must refuse private addresses by its own rules.",
    ),
    key(
        "outbound.no_proxy",
        Kind::Texts,
        "",
        "Destinations that are called without the proxy: networks, host names (including all names below them), or `*`. If unset, `NO_PROXY` of the environment applies. Loopback is always called directly.",
    ),
    key(
        "logging.level",
        Kind::Text,
        "info",
        "Lowest level that is logged, such as `info` or `info,minichat_dataplane=debug`.",
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
        "Whether traces are exported.",
    ),
    key(
        "tracing.otlp_endpoint",
        Kind::Text,
        "",
        "OTLP endpoint over HTTP, such as `http://127.0.0.1:4318`; required if tracing is enabled.",
    ),
    key(
        "tracing.sample_ratio",
        Kind::Number(0.0, 1.0),
        "1",
        "Share of the traces started by this process that are kept.",
    ),
    key(
        "drain.min_secs",
        Kind::Integer(0, 3600),
        "0",
        "Seconds after SIGTERM during which new requests are still served.",
    ),
    key(
        "drain.max_secs",
        Kind::Integer(0, DAY),
        "20",
        "Seconds after that during which open streams may continue.",
    ),
    key(
        "orphan_watchdog.enabled",
        Kind::Bool,
        "true",
        "Whether turns that a crashed process left running are searched for and ended.",
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
        "Seconds without progress after which a running turn counts as orphaned. A provider may be silent for at most 60 seconds less. It must be at least 60 more than twice `database.job_timeout_secs`.",
    ),
    key(
        "orphan_watchdog.process_timeout_secs",
        Kind::Integer(6, 3600),
        "30",
        "Seconds without a heartbeat after which a process on PostgreSQL counts as dead, and the search ends its running turns at once. A process stores a heartbeat every 5 seconds, or six times in this time if that is more often. A process that cannot reach the database for so long, while another one can, loses its running turns.",
    ),
    key(
        "rag.uploaded_file_max_size_kb",
        Kind::Integer(1, 1 << 20),
        "25600",
        "Largest document that can be uploaded, in KiB. A tenant and the chat's model may allow less.",
    ),
    key(
        "rag.uploaded_image_max_size_kb",
        Kind::Integer(1, 1 << 20),
        "5120",
        "Largest image that can be uploaded, in KiB. A tenant and the chat's model may allow less.",
    ),
    key(
        "rag.max_documents_per_chat",
        Kind::Integer(1, 100_000),
        "50",
        "Documents that a chat may hold. Images do not count.",
    ),
    key(
        "rag.max_total_upload_mb_per_chat",
        Kind::Integer(1, 1 << 20),
        "100",
        "Size of all files that a chat may hold, in MiB.",
    ),
    key(
        "rag.max_concurrent_uploads",
        Kind::Integer(1, 256),
        "10",
        "Uploads at a time in this process, of all tenants. Further ones get 503. A tenant may have less for itself and for each user.",
    ),
    key(
        "rag.allow_csv_upload",
        Kind::Bool,
        "true",
        "Whether CSV files can be uploaded. They are treated as plain text.",
    ),
    key(
        "rag.verify_magic",
        Kind::Bool,
        "true",
        "Whether a file is refused if its first bytes contradict its type, such as a PNG that is called a PDF, or a text with NUL bytes.",
    ),
    key(
        "thumbnail.width",
        Kind::Integer(1, 1024),
        "128",
        "Largest width of a thumbnail in pixels.",
    ),
    key(
        "thumbnail.height",
        Kind::Integer(1, 1024),
        "128",
        "Largest height of a thumbnail in pixels.",
    ),
    key(
        "thumbnail.max_bytes",
        Kind::Integer(1, 1 << 20),
        "131072",
        "Largest size of a thumbnail in bytes. An image whose thumbnail is larger has none.",
    ),
    key(
        "thumbnail.max_pixels",
        Kind::Integer(1, 1_000_000_000),
        "100000000",
        "Pixels of the largest image that gets a thumbnail.",
    ),
    key(
        "thumbnail.max_decode_bytes",
        Kind::Integer(1, 1 << 28),
        "33554432",
        "Largest size in bytes of an image that gets a thumbnail: of its file, and of its pixels at 4 bytes each. Making a thumbnail takes up to three times as much memory. One is made at a time.",
    ),
    key(
        "outbox.queue_name",
        Kind::Text,
        "mini-chat.usage_snapshot",
        "Queue of usage events. Letters, digits, `.`, `_` and `-`, at most 128. While messages wait in a queue, its name cannot be changed. All processes on one database need the same `outbox.*_name` and `outbox.num_partitions`.",
    ),
    key(
        "outbox.audit_queue_name",
        Kind::Text,
        "mini-chat.audit",
        "Queue of audit events.",
    ),
    key(
        "outbox.chat_cleanup_queue_name",
        Kind::Text,
        "mini-chat.chat_cleanup",
        "Queue of deleted chats.",
    ),
    key(
        "outbox.cleanup_queue_name",
        Kind::Text,
        "mini-chat.attachment_cleanup",
        "Queue of deleted files.",
    ),
    key(
        "outbox.thread_summary_queue_name",
        Kind::Text,
        "mini-chat.thread_summary",
        "Queue of chats to summarize.",
    ),
    key(
        "outbox.num_partitions",
        Kind::Integer(1, 64),
        "4",
        "Parts of each queue that processes deliver in parallel; a power of two. While messages wait in a queue, it cannot be changed.",
    ),
    key(
        "outbox.lease_secs",
        Kind::Integer(4, 3600),
        "60",
        "Seconds after which another process takes over what a crashed one was delivering.",
    ),
    key(
        "outbox.ack_headroom_secs",
        Kind::Integer(1, 60),
        "2",
        "Seconds of `outbox.lease_secs` that are left for writing the result. A delivery may take at most the rest.",
    ),
    key(
        "outbox.backoff_base_secs",
        Kind::Integer(1, 3600),
        "1",
        "Seconds that a tenant's events wait after a failed delivery. The wait doubles with each further failure; up to half of it is left out at random.",
    ),
    key(
        "outbox.backoff_max_secs",
        Kind::Integer(1, 3600),
        "60",
        "Longest wait in seconds.",
    ),
    key(
        "outbox.max_attempts.usage",
        Kind::Integer(0, MILLION),
        "0",
        "Failed deliveries after which a usage event becomes a dead letter; 0 = never.",
    ),
    key(
        "outbox.max_attempts.audit",
        Kind::Integer(0, MILLION),
        "0",
        "Failed deliveries after which an audit event becomes a dead letter; 0 = never.",
    ),
    key(
        "thread_summary_worker.enabled",
        Kind::Bool,
        "true",
        "Whether older messages of long chats are summarized. If `false`, no summary is made for any tenant; those that exist stay in use.",
    ),
    key(
        "thread_summary_worker.compression_threshold_pct",
        Kind::Integer(1, 99),
        "80",
        "Per cent of a model's input budget from which a chat without a summary gets one. A tenant can set its own.",
    ),
    key(
        "thread_summary_worker.summary_system_prompt",
        Kind::Text,
        "",
        "Instructions for the model that summarizes; empty = those built in. A tenant can set its own.",
    ),
    key(
        "thread_summary_worker.message_content_limit",
        Kind::Integer(0, MILLION),
        "4000",
        "Characters of one message that the summarizing model reads; 0 = all.",
    ),
    key(
        "thread_summary_worker.max_attempts",
        Kind::Integer(1, 1000),
        "3",
        "Attempts after which a summary that cannot be made becomes a dead letter.",
    ),
    key(
        "cleanup_worker.enabled",
        Kind::Bool,
        "true",
        "Whether files and vector stores of deleted chats and attachments are deleted at the providers. If `false`, deletions are kept for later.",
    ),
    key(
        "cleanup_worker.poll_interval_secs",
        Kind::Integer(1, DAY),
        "60",
        "Seconds between two passes of the clean-up on SQLite; on PostgreSQL the schedule of the job decides. What could not be deleted is left alone for this time at first, and then for longer after each failure, up to an hour.",
    ),
    key(
        "cleanup_worker.stale_in_progress_timeout_secs",
        Kind::Integer(1, DAY),
        "900",
        "Seconds without a change after which an upload that has not ended counts as abandoned.",
    ),
    key(
        "cleanup_worker.batch_size",
        Kind::Integer(1, 1000),
        "32",
        "Rows of one tenant that a pass of the clean-up reads at a time. Tenants take turns.",
    ),
    key(
        "cleanup_worker.max_attempts",
        Kind::Integer(1, 1000),
        "5",
        "Number of times that a provider may refuse to delete a file before it is given up. Only an answer about that file counts: not an outage, a timeout, a rate limit or a refused credential, for which files wait. Vector stores are never given up.",
    ),
    key(
        "cleanup_worker.call_timeout_secs",
        Kind::Integer(1, 300),
        "30",
        "Seconds that a provider may take to delete a file or a vector store.",
    ),
    key(
        "retention.purge_grace_days",
        Kind::Integer(0, 36_500),
        "0",
        "Days after its deletion from which the clean-up removes a chat from the database, with its messages, turns and attachments, once its files and its vector store are deleted at the provider. What its turns cost stays in the books. `0` keeps deleted chats for ever. Set it only when no process of a release without this key runs: such a process would not find what is left of a person whom it erases.",
    ),
    key(
        "job.report_file",
        Kind::Text,
        "",
        "File to which `watchdog` and `cleanup` write their counts, so that another program can add them to its metrics. If unset, `/dev/termination-log`, if that exists.",
    ),
    key(
        "job.lease",
        Kind::Text,
        "",
        "Name of the Lease that `watchdog` holds while it runs, in the namespace of its pod or of `KUBECONFIG`. It ensures that one process at a time works on the database. If unset, no Lease is used.",
    ),
];
