//! An application with two tenants, and requests to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use minichat_config::AllowPrivate;
use minichat_config::outbound::Outbound;
use minichat_config::{Credentials, ProcessConfig, Secret, TenantConfig};
use minichat_core::{Clock, TenantId, Timestamp, UserId};
use minichat_metrics::{Metrics, NoopMetrics};
use minichat_provider::{ClientSettings, ProviderClient};
use minichat_store::{DatabaseSettings, Store};
use minichat_telemetry::{PeerAddr, Signal, Tracer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::app::App;
use crate::config_source::{TenantRuntime, Tenants};
use crate::database::Probe;
use crate::open_turns::OpenTurns;
use crate::outbox::Outbox;
use crate::thumbnailer::Thumbnailer;
use crate::upload_permits::UploadPermits;

/// `url_prefix` at its default.
pub(super) const BASE: &str = "/mini-chat/v1";

pub(super) const TENANT: &str = "11111111-1111-4111-8111-111111111111";
pub(super) const OTHER_TENANT: &str = "22222222-2222-4222-8222-222222222222";
pub(super) const UNLICENSED_TENANT: &str = "33333333-3333-4333-8333-333333333333";
pub(super) const SUSPENDED_TENANT: &str = "44444444-4444-4444-8444-444444444444";
pub(super) const UNKNOWN_TENANT: &str = "55555555-5555-4555-8555-555555555555";

pub(super) const ALICE: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
pub(super) const BOB: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

/// A clock that tests set.
pub(super) struct HandClock(AtomicI64);

impl HandClock {
    pub(super) fn advance_seconds(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

pub(super) struct Harness {
    pub(super) app: Arc<App>,
    pub(super) clock: Arc<HandClock>,
    pub(super) router: Router,
    _directory: TempDir,
}

impl Harness {
    pub(super) async fn new() -> Self {
        Self::with("").await
    }

    /// Adds `yaml` to a configuration with trusted headers.
    pub(super) async fn with(yaml: &str) -> Self {
        Self::build(yaml, Arc::new(NoopMetrics), &Provider::default()).await
    }

    /// The same with a provider and metrics of the test.
    pub(super) async fn build(yaml: &str, metrics: Arc<dyn Metrics>, provider: &Provider) -> Self {
        let directory = TempDir::new().unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(1_900_000_000_000_000)));
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let store = Store::open(&DatabaseSettings::new(url), Arc::clone(&clock) as _)
            .await
            .unwrap();
        let yaml = format!("auth:\n  mode: trusted_headers\n  trusted_peers: [127.0.0.1]\n{yaml}");
        let config = ProcessConfig::from_yaml(&yaml, []).unwrap();
        let app = Arc::new(App {
            tenants: Arc::new(tenants(provider)),
            probe: Probe::of(store.clone()),
            store,
            provider: ProviderClient::new(&ClientSettings {
                outbound: Outbound {
                    allow_private: AllowPrivate::everything(),
                    ..Outbound::default()
                },
                ..ClientSettings::default()
            }),
            metrics,
            outbox: Arc::new(Outbox::without_dispatcher(config.outbox.clone())),
            survey: Arc::default(),
            uploads: UploadPermits::new(config.uploads.max_concurrent),
            thumbnails: Thumbnailer::new(&config.thumbnails),
            config,
            clock: Arc::clone(&clock) as _,
            process: None,
            refusing: Signal::default(),
            turns: OpenTurns::default(),
        });
        Self {
            router: crate::http::router(Arc::clone(&app), Tracer::without_export()),
            app,
            clock,
            _directory: directory,
        }
    }

    /// Sends `call` and reads the whole answer.
    pub(super) async fn send(&self, call: Call) -> Answer {
        let response = self.router.clone().oneshot(call.0).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    /// The id of a new chat of `user`.
    pub(super) async fn create_chat(&self, user: &str) -> String {
        let answer = self.send(Call::post("/chats", &json!({})).user(user)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.body["id"].as_str().unwrap().to_owned()
    }
}

/// A request from a trusted peer, by default of [`ALICE`] in [`TENANT`].
pub(super) struct Call(Request<Body>);

impl Call {
    pub(super) fn new(method: Method, path: &str, body: impl Into<Body>) -> Self {
        let path = format!("{BASE}{path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(PeerAddr("127.0.0.1:4711".parse().unwrap()))
            .body(body.into())
            .unwrap();
        Self(request)
            .header("host", "minichat")
            .header("x-tenant-id", TENANT)
            .user(ALICE)
    }

    pub(super) fn get(path: &str) -> Self {
        Self::new(Method::GET, path, Body::empty())
    }

    pub(super) fn post(path: &str, body: &Value) -> Self {
        Self::new(Method::POST, path, body.to_string()).header("content-type", "application/json")
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.0.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.headers_mut().remove(name);
        self
    }

    pub(super) fn tenant(self, tenant: &str) -> Self {
        self.header("x-tenant-id", tenant)
    }

    pub(super) fn user(self, user: &str) -> Self {
        self.header("x-user-id", user)
    }

    pub(super) fn peer(mut self, peer: &str) -> Self {
        self.0
            .extensions_mut()
            .insert(PeerAddr(peer.parse().unwrap()));
        self
    }

    /// The same request to a path outside the base path.
    pub(super) fn absolute(mut self, path: &str) -> Self {
        *self.0.uri_mut() = path.parse().unwrap();
        self
    }
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Null if the body is not JSON.
    pub(super) body: Value,
    pub(super) text: String,
}

impl Answer {
    /// Checks that this is the problem document of `code` (API-30), and returns
    /// it.
    #[track_caller]
    pub(super) fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status.as_u16(), self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["title"], code);
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["type"], "about:blank");
        for member in ["detail", "instance"] {
            assert!(self.body[member].is_string(), "{member}: {}", self.text);
        }
        assert!(self.headers.contains_key("x-request-id"));
        self
    }

    #[track_caller]
    pub(super) fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        self
    }
}

/// The provider of all tenants; by default one that cannot be reached.
pub(super) struct Provider {
    pub(super) port: u16,
    /// Sent as `Authorization`.
    pub(super) key: Option<&'static str>,
}

impl Default for Provider {
    fn default() -> Self {
        Self { port: 1, key: None }
    }
}

fn tenants(provider: &Provider) -> Tenants {
    let mut served = HashMap::new();
    for id in [TENANT, OTHER_TENANT, UNLICENSED_TENANT, SUSPENDED_TENANT] {
        let document = json!({
            "schema": 1,
            "tenant_id": id,
            "suspended": id == SUSPENDED_TENANT,
            "features": {"ai_chat": id != UNLICENSED_TENANT},
            "max_output_tokens": 4096,
            "providers": {"llm": {
                "kind": "openai_responses", "host": "127.0.0.1", "port": provider.port,
                "use_http": true,
                "auth": provider.key.map(|_| json!({
                    "header": "Authorization", "prefix": "", "secret_ref": "key",
                })),
            }},
            "model_catalog": [
                model("standard", "standard", true),
                model("premium", "premium", true),
                model("retired", "standard", false),
            ],
            "user_limits": {"default": {}},
        });
        let config = TenantConfig::from_json(&document.to_string()).unwrap();
        let mut credentials = Credentials::default();
        if let Some(key) = provider.key {
            credentials.insert("key".to_owned(), Secret::new(key));
        }
        let runtime = TenantRuntime::new("default/acme".parse().unwrap(), config, 1, credentials);
        served.insert(id.parse().unwrap(), Arc::new(runtime));
    }
    let tenants = Tenants::default();
    let default = served.keys().min().copied();
    tenants.replace(served, default);
    tenants
}

fn model(id: &str, tier: &str, enabled: bool) -> Value {
    json!({
        "id": id,
        "provider_model_id": format!("secret-name-of-{id}"),
        "display_name": format!("The {id} model"),
        "description": if id == "premium" { "Thinks longer." } else { "" },
        "provider_id": "llm",
        "tier": tier,
        "enabled": enabled,
        "multimodal_capabilities": ["VISION_INPUT"],
        "context_window": 128_000,
        "max_output_tokens": 4096,
        "max_input_tokens": 64_000,
        "input_tokens_credit_multiplier_micro": 1_000_000,
        "output_tokens_credit_multiplier_micro": 2_000_000,
        "multiplier_display": "2x",
        "preference": {"is_default": id == "premium", "sort_order": 0},
    })
}

pub(super) fn alice() -> (TenantId, UserId) {
    (TENANT.parse().unwrap(), ALICE.parse().unwrap())
}
