//! Reads file and environment, and returns validated settings.

mod cors;
mod outbound;
mod outbox;
mod settings;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::settings::Settings;
use super::types::{
    Auth, CleanupConfig, CleanupWorker, Database, DatabaseUrl, Dev, Drain, Job, JobConfig,
    LogFormat, Logging, Metrics, OrphanWatchdog, ProcessConfig, ProviderHttp, RateLimit, Retention,
    Server, SharedSecret, Streaming, TenantSource, ThreadSummaryWorker, Thumbnails, Tracing,
    TrustedHeaders, Uploads,
};
use crate::fault::Faults;
use crate::issuer::Issuer;
use crate::postgres_url::{PostgresUrl, is_postgres};
use crate::secret::Secret;

/// The settings and all errors. An invalid value is replaced by its default. `Err` if
/// the file cannot be parsed at all.
pub(super) fn examine(
    yaml: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(ProcessConfig, Faults), Faults> {
    let mut settings = Settings::read(yaml, env)?;
    let config = process(&mut settings);
    Ok((config, settings.faults))
}

fn process(settings: &mut Settings) -> ProcessConfig {
    let server = server(settings);
    let provider_http = ProviderHttp {
        allow_http: settings.boolean("provider_http.allow_http"),
        max_event_bytes: settings.size("provider_http.max_event_bytes"),
        max_answer_bytes: settings.size("provider_http.max_answer_bytes"),
    };
    let auth = auth(settings, provider_http.allow_http);
    let source = source(settings);
    let config = ProcessConfig {
        url_prefix: settings.prefix("url_prefix"),
        metrics: metrics(settings, server.bind_addr),
        server,
        database: database(settings),
        streaming: Streaming {
            sse_channel_capacity: settings.size("streaming.sse_channel_capacity"),
            sse_ping_interval: settings.seconds("streaming.sse_ping_interval_seconds"),
        },
        outbound: outbound::outbound(settings, &auth, source.as_ref()),
        auth,
        source,
        provider_http,
        logging: logging(settings),
        tracing: tracing(settings),
        drain: Drain {
            min: settings.seconds("drain.min_secs"),
            max: settings.seconds("drain.max_secs"),
        },
        orphan_watchdog: orphan_watchdog(settings),
        outbox: outbox::outbox(settings),
        thread_summary_worker: thread_summary_worker(settings),
        cleanup_worker: cleanup_worker(settings),
        retention: retention(settings),
        uploads: uploads(settings),
        thumbnails: thumbnails(settings),
    };
    require_patience(settings, &config);
    config
}

pub(super) fn load_job(
    yaml: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<JobConfig, Faults> {
    let mut settings = Settings::read(yaml, env)?;
    let config = JobConfig {
        database: database(&mut settings),
        logging: logging(&mut settings),
        orphan_watchdog: orphan_watchdog(&mut settings),
        outbox: outbox::outbox(&mut settings),
        job: job(&mut settings),
    };
    settings.faults.into_result(config)
}

pub(super) fn load_cleanup(
    yaml: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<CleanupConfig, Faults> {
    let mut settings = Settings::read(yaml, env)?;
    let config = CleanupConfig {
        process: process(&mut settings),
        job: job(&mut settings),
    };
    let is_of_callers = |path: &str| path.starts_with("auth.");
    settings
        .faults
        .0
        .retain(|fault| !is_of_callers(&fault.path));
    settings.faults.into_result(config)
}

fn job(settings: &mut Settings) -> Job {
    let mut text = |key| Some(settings.text(key)).filter(|text| !text.is_empty());
    Job {
        report_file: text("job.report_file").map(PathBuf::from),
        lease: text("job.lease"),
    }
}

fn logging(settings: &mut Settings) -> Logging {
    Logging {
        level: settings.text("logging.level"),
        format: if settings.text("logging.format") == "text" {
            LogFormat::Text
        } else {
            LogFormat::Json
        },
    }
}

fn uploads(settings: &mut Settings) -> Uploads {
    let kib = |settings: &mut Settings, key| u64::from(settings.small(key)) << 10;
    Uploads {
        max_document_bytes: kib(settings, "rag.uploaded_file_max_size_kb"),
        max_image_bytes: kib(settings, "rag.uploaded_image_max_size_kb"),
        max_documents_per_chat: settings.small("rag.max_documents_per_chat"),
        max_total_bytes_per_chat: kib(settings, "rag.max_total_upload_mb_per_chat") << 10,
        max_concurrent: settings.size("rag.max_concurrent_uploads"),
        allow_csv: settings.boolean("rag.allow_csv_upload"),
        check_content: settings.boolean("rag.verify_magic"),
    }
}

fn thumbnails(settings: &mut Settings) -> Thumbnails {
    Thumbnails {
        width: settings.small("thumbnail.width"),
        height: settings.small("thumbnail.height"),
        max_bytes: settings.size("thumbnail.max_bytes"),
        max_pixels: settings.integer("thumbnail.max_pixels"),
        max_decode_bytes: settings.integer("thumbnail.max_decode_bytes"),
    }
}

fn orphan_watchdog(settings: &mut Settings) -> OrphanWatchdog {
    OrphanWatchdog {
        enabled: settings.boolean("orphan_watchdog.enabled"),
        scan_interval: settings.seconds("orphan_watchdog.scan_interval_secs"),
        timeout: settings.seconds("orphan_watchdog.timeout_secs"),
        process_timeout: settings.seconds("orphan_watchdog.process_timeout_secs"),
    }
}

fn thread_summary_worker(settings: &mut Settings) -> ThreadSummaryWorker {
    ThreadSummaryWorker {
        enabled: settings.boolean("thread_summary_worker.enabled"),
        compression_threshold_pct: settings
            .small("thread_summary_worker.compression_threshold_pct"),
        system_prompt: settings.text("thread_summary_worker.summary_system_prompt"),
        message_content_limit: settings.size("thread_summary_worker.message_content_limit"),
    }
}

fn cleanup_worker(settings: &mut Settings) -> CleanupWorker {
    CleanupWorker {
        enabled: settings.boolean("cleanup_worker.enabled"),
        poll_interval: settings.seconds("cleanup_worker.poll_interval_secs"),
        stale_timeout: settings.seconds("cleanup_worker.stale_in_progress_timeout_secs"),
        batch_size: settings.small("cleanup_worker.batch_size"),
        max_attempts: settings.small("cleanup_worker.max_attempts"),
        call_timeout: settings.seconds("cleanup_worker.call_timeout_secs"),
    }
}

fn retention(settings: &mut Settings) -> Retention {
    let days = settings.integer("retention.purge_grace_days");
    Retention {
        purge_grace: (days > 0).then(|| Duration::from_hours(24 * days)),
    }
}

/// TURN-1: what may pass before a turn shows that it lives, if its commit was not
/// acknowledged: the transaction, a minute of looking for it, and the last look.
fn require_patience(settings: &mut Settings, config: &ProcessConfig) {
    let least = Duration::from_mins(1) + 2 * config.database.job_timeout;
    settings.require(
        config.orphan_watchdog.timeout >= least,
        "orphan_watchdog.timeout_secs",
        &format!(
            "must be at least {}: 60 more than twice database.job_timeout_secs",
            least.as_secs()
        ),
    );
}

fn server(settings: &mut Settings) -> Server {
    Server {
        bind_addr: settings.address("server.bind_addr"),
        tls: tls::tls(settings),
        root_prefix: settings.prefix("server.root_prefix"),
        docs_enabled: docs_enabled(settings),
        body_limit_bytes: settings.size("server.body_limit_bytes"),
        request_deadline: settings.seconds("server.request_deadline_secs"),
        rate_limit: RateLimit {
            per_second: settings.small("server.rate_limit.per_second"),
            burst: settings.small("server.rate_limit.burst"),
            in_flight: settings.small("server.rate_limit.in_flight"),
        },
        cors: cors::cors(settings),
    }
}

/// Without the key, documents are served only in mode `dev` (D21).
fn docs_enabled(settings: &mut Settings) -> bool {
    if settings.given.contains_key("server.docs_enabled") {
        return settings.boolean("server.docs_enabled");
    }
    let mode = settings.given.get("auth.mode");
    mode.is_some_and(|mode| mode == "dev")
}

fn metrics(settings: &mut Settings, server: SocketAddr) -> Metrics {
    let bind_addr = settings.address("metrics.bind_addr");
    // With port 0 the system chooses a free port, so two of them never conflict.
    let meets = bind_addr.port() != 0 && bind_addr == server;
    settings.require(
        !meets,
        "metrics.bind_addr",
        "must differ from server.bind_addr",
    );
    let mut prefix = settings.text("metrics.prefix");
    if prefix.is_empty() {
        prefix.push_str("mini_chat");
    }
    let named = prefix.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && prefix
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    settings.require(
        named,
        "metrics.prefix",
        "must be letters, digits and `_`, not beginning with a digit",
    );
    Metrics {
        bind_addr,
        prefix,
        max_label_values: settings.size("metrics.max_label_values"),
    }
}

fn database(settings: &mut Settings) -> Database {
    let url = settings.secret("database.url");
    let parsed = if let Some(path) = url
        .strip_prefix("sqlite://")
        .filter(|path| !path.is_empty())
    {
        DatabaseUrl::Sqlite(PathBuf::from(path))
    } else {
        if is_postgres(&url) {
            check_postgres(settings, "database.url", &url);
        } else {
            let text = "must be `sqlite://PATH` or `postgres://…`";
            settings.require(false, "database.url", text);
        }
        DatabaseUrl::Postgres(Secret::new(url))
    };
    let database = Database {
        listen_url: listen_url(settings, &parsed),
        url: parsed,
        max_conns: settings.size("database.max_conns"),
        acquire_timeout: settings.seconds("database.acquire_timeout_secs"),
        connect_timeout: settings.seconds("database.connect_timeout_secs"),
        statement_timeout: settings.seconds("database.statement_timeout_secs"),
        lock_timeout: settings.seconds("database.lock_timeout_secs"),
        job_timeout: settings.seconds("database.job_timeout_secs"),
        auto_migrate: settings.boolean("database.auto_migrate"),
    };
    settings.require(
        matches!(database.url, DatabaseUrl::Sqlite(_))
            || database.statement_timeout < database.job_timeout,
        "database.job_timeout_secs",
        "must be more than database.statement_timeout_secs, so that the server gives up first",
    );
    database
}

fn listen_url(settings: &mut Settings, url: &DatabaseUrl) -> Option<Secret> {
    let listen = settings.secret("database.listen_url");
    if listen.is_empty() {
        return None;
    }
    settings.require(
        matches!(url, DatabaseUrl::Postgres(_)) && is_postgres(&listen),
        "database.listen_url",
        "must be `postgres://…`, and goes with a database.url of that kind",
    );
    if is_postgres(&listen) {
        check_postgres(settings, "database.listen_url", &listen);
    }
    Some(Secret::new(listen))
}

fn check_postgres(settings: &mut Settings, key: &'static str, url: &str) {
    if let Err(fault) = PostgresUrl::parse(url) {
        settings.require(false, key, fault.0);
    }
}

fn auth(settings: &mut Settings, allow_http: bool) -> Auth {
    let dev = Dev {
        tenant_id: settings.uuid("auth.dev_tenant_id").map(Into::into),
        user_id: settings.uuid("auth.dev_user_id").unwrap_or_default().into(),
    };
    let allow_dev = settings.boolean("auth.allow_dev");
    let trusted = trusted_headers(settings);
    let issuer = issuer(settings, allow_http);
    match settings.text("auth.mode").as_str() {
        "dev" => {
            settings.require(
                allow_dev,
                "auth.allow_dev",
                "must be true for auth.mode `dev`, in which every caller is the same user",
            );
            Auth::Dev(dev)
        }
        "oidc" => {
            settings.require(
                issuer.is_some() || settings.given.contains_key("auth.mode"),
                "auth.issuer",
                "is required for auth.mode `oidc`, the default; or write another mode, `trusted_headers` or `dev`",
            );
            Auth::Oidc(issuer)
        }
        // The invalid mode is already reported.
        "" => Auth::Oidc(None),
        _ => {
            let provable = !trusted.trusted_peers.is_empty() || trusted.shared_secret.is_some();
            settings.require(
                provable,
                "auth.trusted_peers",
                "auth.mode `trusted_headers` needs trusted peers or a shared secret header",
            );
            Auth::TrustedHeaders(trusted)
        }
    }
}

fn issuer(settings: &mut Settings, allow_http: bool) -> Option<Issuer> {
    let issuer = Issuer {
        issuer: settings.text("auth.issuer"),
        audience: settings.text("auth.audience"),
        jwks_uri: Some(settings.text("auth.jwks_uri")).filter(|uri| !uri.is_empty()),
        tenant_claim: Some(settings.text("auth.tenant_claim")),
        user_claim: settings.text("auth.user_claim"),
        scopes_claim: settings.text("auth.scopes_claim"),
    };
    if issuer.issuer.is_empty() {
        let needs = "needs auth.issuer, whose tokens it concerns";
        settings.require(issuer.audience.is_empty(), "auth.audience", needs);
        settings.require(issuer.jwks_uri.is_none(), "auth.jwks_uri", needs);
        issuer.check_claims(|key| format!("auth.{key}"), &mut settings.faults);
        return None;
    }
    issuer.check(|key| format!("auth.{key}"), &mut settings.faults);
    settings.require(
        allow_http || !issuer.is_plain_http(),
        "auth.issuer",
        "plain http is not allowed; write https://, or set provider_http.allow_http",
    );
    Some(issuer)
}

fn trusted_headers(settings: &mut Settings) -> TrustedHeaders {
    let header = settings
        .text("auth.shared_secret_header")
        .to_ascii_lowercase();
    let value = settings.secret("auth.shared_secret");
    let header_is_token = header
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    settings.require(
        header_is_token,
        "auth.shared_secret_header",
        "must be a header name",
    );
    settings.require(
        header.is_empty() == value.is_empty(),
        "auth.shared_secret",
        "auth.shared_secret_header and auth.shared_secret belong together",
    );
    TrustedHeaders {
        trusted_peers: settings.networks("auth.trusted_peers"),
        shared_secret: (!header.is_empty() && !value.is_empty()).then(|| SharedSecret {
            header,
            value: Secret::new(value),
        }),
    }
}

fn source(settings: &mut Settings) -> Option<TenantSource> {
    let mut given = |name: &str| Some(settings.text(name)).filter(|text| !text.is_empty());
    let manifests = given("source.manifests");
    let directory = given("source.directory");
    let pool = given("source.pool");
    let namespace = given("source.namespace");
    let kubeconfig = given("source.kubeconfig");
    let sources = [&manifests, &directory, &pool];
    settings.require(
        sources.iter().filter(|source| source.is_some()).count() <= 1,
        "source",
        "only one of source.manifests, source.directory and source.pool may be given",
    );
    settings.require(
        pool.as_deref().is_none_or(is_label_value),
        "source.pool",
        "must be at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    );
    for (name, value) in [
        ("source.namespace", &namespace),
        ("source.kubeconfig", &kubeconfig),
    ] {
        settings.require(
            value.is_none() || pool.is_some(),
            name,
            "belongs to source.pool, which is not given",
        );
    }
    let manifests = manifests.map(|path| TenantSource::Manifests(path.into()));
    let directory = directory.map(|path| TenantSource::Directory(path.into()));
    let kubernetes = pool.map(|pool| TenantSource::Kubernetes {
        pool,
        namespace,
        kubeconfig: kubeconfig.map(PathBuf::from),
    });
    manifests.or(directory).or(kubernetes)
}

/// Whether a Kubernetes label may have the value.
fn is_label_value(value: &str) -> bool {
    let ends = [value.bytes().next(), value.bytes().last()];
    value.len() <= 63
        && ends
            .iter()
            .all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn tracing(settings: &mut Settings) -> Tracing {
    let enabled = settings.boolean("tracing.enabled");
    let endpoint = Some(settings.text("tracing.otlp_endpoint")).filter(|text| !text.is_empty());
    let is_url = endpoint
        .as_deref()
        .is_none_or(|url| url.starts_with("http://") || url.starts_with("https://"));
    settings.require(
        is_url,
        "tracing.otlp_endpoint",
        "must begin with `http://` or `https://`",
    );
    settings.require(
        !enabled || endpoint.is_some(),
        "tracing.otlp_endpoint",
        "is required when tracing.enabled is true",
    );
    Tracing {
        enabled,
        otlp_endpoint: endpoint,
        sample_ratio: settings.number("tracing.sample_ratio"),
    }
}
