//! Reads file and environment, and returns validated settings.

mod cors;
mod outbound;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::key::{self, KEYS, Key, Kind};
use super::prefix;
use super::types::{
    Auth, Database, DatabaseUrl, Dev, Drain, IpNetwork, Job, JobConfig, LogFormat, Logging,
    Metrics, OrphanWatchdog, ProcessConfig, ProviderHttp, RateLimit, Server, SharedSecret,
    Streaming, TenantSource, Tracing, TrustedHeaders,
};
use crate::fault::Faults;
use crate::issuer::Issuer;
use crate::postgres_url::{PostgresUrl, is_postgres};
use crate::secret::Secret;
use crate::yaml;

/// The settings and all errors. An invalid value is replaced by its default. `Err` if
/// the file cannot be parsed at all.
pub(super) fn examine(
    yaml: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(ProcessConfig, Faults), Faults> {
    let mut settings = Settings::read(yaml, env)?;
    let server = server(&mut settings);
    let provider_http = ProviderHttp {
        allow_http: settings.boolean("provider_http.allow_http"),
        max_event_bytes: settings.size("provider_http.max_event_bytes"),
        max_answer_bytes: settings.size("provider_http.max_answer_bytes"),
    };
    let auth = auth(&mut settings, provider_http.allow_http);
    let source = source(&mut settings);
    let config = ProcessConfig {
        url_prefix: settings.prefix("url_prefix"),
        metrics: metrics(&mut settings, server.bind_addr),
        server,
        database: database(&mut settings),
        streaming: Streaming {
            sse_channel_capacity: settings.size("streaming.sse_channel_capacity"),
            sse_ping_interval: settings.seconds("streaming.sse_ping_interval_seconds"),
        },
        outbound: outbound::outbound(&mut settings, &auth, source.as_ref()),
        auth,
        source,
        provider_http,
        logging: logging(&mut settings),
        tracing: tracing(&mut settings),
        drain: Drain {
            min: settings.seconds("drain.min_secs"),
            max: settings.seconds("drain.max_secs"),
        },
        orphan_watchdog: orphan_watchdog(&mut settings),
    };
    Ok((config, settings.faults))
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
        job: job(&mut settings),
    };
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

fn orphan_watchdog(settings: &mut Settings) -> OrphanWatchdog {
    OrphanWatchdog {
        enabled: settings.boolean("orphan_watchdog.enabled"),
        scan_interval: settings.seconds("orphan_watchdog.scan_interval_secs"),
        timeout: settings.seconds("orphan_watchdog.timeout_secs"),
    }
}

fn server(settings: &mut Settings) -> Server {
    Server {
        bind_addr: settings.address("server.bind_addr"),
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

/// Values by key as text, and the errors found so far. Reading an invalid value
/// returns the default, so that further errors are found too.
struct Settings {
    given: BTreeMap<String, String>,
    env: HashMap<String, String>,
    faults: Faults,
}

impl Settings {
    fn read(yaml: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Faults> {
        let mut settings = Self {
            given: BTreeMap::new(),
            env: env.into_iter().collect(),
            faults: Faults::default(),
        };
        settings.read_file(yaml)?;
        settings.read_environment();
        Ok(settings)
    }

    fn read_file(&mut self, text: &str) -> Result<(), Faults> {
        match yaml::document(text)? {
            Value::Null => {}
            Value::Object(map) => {
                for (name, value) in map {
                    self.read_value(&name, value);
                }
            }
            _ => self.faults.add("", "the file must be a mapping of keys"),
        }
        Ok(())
    }

    fn read_value(&mut self, name: &str, value: Value) {
        let list = matches!(
            key::find(name),
            Some(Key {
                kind: Kind::Networks | Kind::Texts,
                ..
            })
        );
        match value {
            Value::Object(map) if key::find(name).is_none() => {
                let section = format!("{name}.");
                if !KEYS.iter().any(|key| key.name.starts_with(&section)) {
                    self.faults.add(name, "there is no such section");
                    return;
                }
                for (child, value) in map {
                    self.read_value(&format!("{section}{child}"), value);
                }
            }
            _ if key::find(name).is_none() => self.faults.add(name, "there is no such key"),
            Value::Array(items) if list => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                self.given.insert(name.to_owned(), items.join(","));
            }
            Value::Object(_) | Value::Array(_) => self.faults.add(name, "must be a single value"),
            Value::Null => {}
            Value::String(text) => {
                self.given.insert(name.to_owned(), text);
            }
            scalar => {
                self.given.insert(name.to_owned(), scalar.to_string());
            }
        }
    }

    /// Variables take precedence over the file. Unknown variables with the prefix are
    /// ignored, because Kubernetes creates some for every Service.
    fn read_environment(&mut self) {
        for key in KEYS {
            if let Some(value) = self.env.get(&key.variable()) {
                self.given.insert(key.name.to_owned(), value.clone());
            }
        }
    }

    fn require(&mut self, holds: bool, key: &str, message: &str) {
        self.faults.require(holds, key, message);
    }

    fn default(name: &str) -> &'static str {
        key::find(name).map_or("", |key| key.default)
    }

    fn text(&mut self, name: &str) -> String {
        let value = self
            .given
            .get(name)
            .map_or(Self::default(name), String::as_str)
            .to_owned();
        if let Some(Key {
            kind: Kind::Choice(words),
            ..
        }) = key::find(name)
            && !value.is_empty()
            && !words.contains(&value.as_str())
        {
            self.faults
                .add(name, format!("must be one of `{}`", words.join("`, `")));
            // Checks that compare several keys would only repeat the error.
            return String::new();
        }
        value
    }

    /// The parsed value. If `parse` fails, adds an error and parses the default.
    fn parsed<T>(
        &mut self,
        name: &str,
        message: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        if let Some(text) = self.given.get(name) {
            match parse(text.trim()) {
                Some(value) => return Some(value),
                None => self.faults.add(name, message),
            }
        }
        parse(Self::default(name))
    }

    fn parse_or_default<T: FromStr + Default>(&mut self, name: &str, message: &str) -> T {
        self.parsed(name, message, |text| text.parse().ok())
            .unwrap_or_default()
    }

    fn boolean(&mut self, name: &str) -> bool {
        self.parse_or_default(name, "must be `true` or `false`")
    }

    fn address(&mut self, name: &str) -> SocketAddr {
        self.parsed(
            name,
            "must be an IP address and a port such as `127.0.0.1:8087`",
            |text| text.parse().ok(),
        )
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    fn integer(&mut self, name: &str) -> u64 {
        let (low, high) = match key::find(name) {
            Some(Key {
                kind: Kind::Integer(low, high),
                ..
            }) => (*low, *high),
            _ => (0, u64::MAX),
        };
        self.parsed(
            name,
            &format!("must be a whole number from {low} to {high}"),
            |text| text.parse().ok().filter(|n| (low..=high).contains(n)),
        )
        .unwrap_or_default()
    }

    fn small(&mut self, name: &str) -> u32 {
        u32::try_from(self.integer(name)).unwrap_or(u32::MAX)
    }

    fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(usize::MAX)
    }

    fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.integer(name))
    }

    fn number(&mut self, name: &str) -> f64 {
        let (low, high) = match key::find(name) {
            Some(Key {
                kind: Kind::Number(low, high),
                ..
            }) => (*low, *high),
            _ => (f64::MIN, f64::MAX),
        };
        self.parsed(
            name,
            &format!("must be a number from {low} to {high}"),
            |text| text.parse().ok().filter(|n| (low..=high).contains(n)),
        )
        .unwrap_or_default()
    }

    fn uuid(&mut self, name: &str) -> Option<Uuid> {
        if self
            .given
            .get(name)
            .is_some_and(|text| text.trim().is_empty())
        {
            return None;
        }
        self.parsed(name, "must be a UUID", |text| text.parse().ok())
    }

    fn networks(&mut self, name: &str) -> Vec<IpNetwork> {
        self.parsed(
            name,
            "must be networks such as `10.0.0.0/8`, separated by commas",
            |text| {
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| part.parse().ok())
                    .collect()
            },
        )
        .unwrap_or_default()
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn prefix(&mut self, name: &str) -> String {
        match prefix::normalise(&self.text(name)) {
            Ok(path) => path,
            Err(message) => {
                self.faults.add(name, message);
                String::new()
            }
        }
    }

    /// The text with `${VAR}` replaced (PLAT-150).
    fn secret(&mut self, name: &str) -> String {
        let text = self.text(name);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((variable, after)) = after.split_once('}') else {
                self.faults.add(name, "has `${` without `}`");
                return out;
            };
            match self.env.get(variable) {
                Some(value) => out.push_str(value),
                None => self
                    .faults
                    .add(name, format!("the variable `{variable}` is not set")),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }
}
