//! For every CEL rule, a manifest that it accepts and one that it refuses (K8S-6). Tests run them
//! here without a cluster, and against an API server, which also limits the cost of a rule.

mod sink;

use serde_json::{Value, json};

/// One rule with both manifests.
#[derive(Debug, Clone)]
pub struct Case {
    /// The `message` of the rule, by which it is known.
    pub rule: &'static str,
    /// What it says of the refused manifest: the same, unless it has an
    /// expression that makes a message of the value.
    pub message: &'static str,
    /// Path of the field that the refusal names.
    pub path: &'static str,
    /// What is stored before, when the rule compares with it.
    pub old: Option<Value>,
    /// A manifest that the rule accepts.
    pub accepted: Value,
    /// One that this rule refuses, and no other.
    pub refused: Value,
}

/// A small valid `ChatTenant`.
pub fn tenant() -> Value {
    json!({
        "apiVersion": "minichat.dev/v1alpha1",
        "kind": "ChatTenant",
        "metadata": {"name": "acme", "namespace": "default"},
        "spec": {
            "providers": [{"name": "main", "kind": "OpenAIResponses", "baseUrl": "https://api.openai.com"}],
            "models": [model("small", "Standard"), model("large", "Premium")]
        }
    })
}

/// A small valid `ChatQuota` of [`tenant`].
pub fn quota() -> Value {
    json!({
        "apiVersion": "minichat.dev/v1alpha1",
        "kind": "ChatQuota",
        "metadata": {"name": "acme-default", "namespace": "default"},
        "spec": {"tenantRef": {"name": "acme"}}
    })
}

fn model(id: &str, tier: &str) -> Value {
    json!({
        "id": id, "providerModelId": id, "displayName": id, "providerRef": "main", "tier": tier,
        "contextWindow": 128_000, "maxOutputTokens": 4096, "maxInputTokens": 64_000,
        "inputTokensCreditMultiplierMicro": 1_000_000, "outputTokensCreditMultiplierMicro": 2_000_000
    })
}

/// `object` with `value` at `pointer`, whose parents exist.
pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    if let Some((parent, key)) = pointer.rsplit_once('/')
        && let Some(parent) = object.pointer_mut(parent)
    {
        match (parent, key.parse::<usize>()) {
            (Value::Array(items), Ok(i)) if i < items.len() => items[i] = value,
            (Value::Object(map), _) => {
                map.insert(key.to_owned(), value);
            }
            _ => {}
        }
    }
    object
}

fn on_tenant(
    message: &'static str,
    path: &'static str,
    pointer: &str,
    accepted: Value,
    refused: Value,
) -> Case {
    Case {
        rule: message,
        message,
        path,
        old: None,
        accepted: with(tenant(), pointer, accepted),
        refused: with(tenant(), pointer, refused),
    }
}

impl Case {
    /// With the message that the rule's expression makes of the refused manifest.
    fn told(self, message: &'static str) -> Self {
        Self { message, ..self }
    }
}

/// Every case, in the order of the schema.
pub fn cases() -> Vec<Case> {
    let mut cases = tenant_cases();
    cases.extend(issuer_cases());
    cases.extend(provider_cases());
    cases.extend(model_cases());
    cases.extend(sink::sink_cases());
    cases.extend(quota_cases());
    cases
}

fn tenant_cases() -> Vec<Case> {
    const A: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";
    const KEPT: &str = "tenantId is set when the ChatTenant is created or never, and cannot be added, changed or removed later; create another ChatTenant instead";
    const POOL: &str =
        "pool cannot be changed; create another ChatTenant in the other pool instead";
    const B: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a02";
    let with_id = |id: &str| with(tenant(), "/spec/tenantId", json!(id));
    let window = |tokens: u32| with(tenant(), "/spec/models/0/contextWindow", json!(tokens));
    let kept = |old: Value, refused: Value| Case {
        rule: KEPT,
        message: KEPT,
        path: "spec.tenantId",
        accepted: old.clone(),
        old: Some(old),
        refused,
    };
    let version = |accepted: &str, refused: &str| {
        on_tenant(
            "must be a UUID of another version than 5, and neither nil nor max: version 5 is for ids that are derived from namespace and name; write what uuidgen prints, or leave tenantId out",
            "spec.tenantId",
            "/spec/tenantId",
            json!(accepted),
            json!(refused),
        )
    };
    vec![
        kept(with_id(A), with_id(B)),
        kept(tenant(), with_id(A)),
        kept(with_id(A), tenant()),
        version(A, "5f0c2f4e-8f0d-5c6b-9a43-0d7b8f6f1a01"),
        version(
            "0197f5f2-0000-7000-8000-000000000005",
            "00000000-0000-0000-0000-000000000000",
        ),
        version(
            "5fffffff-5555-8555-8555-555555555555",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ),
        Case {
            rule: POOL,
            message: POOL,
            path: "spec.pool",
            old: Some(tenant()),
            accepted: with(tenant(), "/spec/pool", json!("default")),
            refused: with(tenant(), "/spec/pool", json!("gold")),
        },
        on_tenant(
            "every models[].providerRef must be the name of an entry of providers; correct it or add the provider",
            "spec.models",
            "/spec/models/1/providerRef",
            json!("main"),
            json!("mian"),
        )
        .told("model large has providerRef mian, which must be the name of an entry of providers; correct it or add the provider"),
        Case {
            rule: "every models[].contextWindow must be greater than the smaller one of the model's maxOutputTokens and streaming.maxOutputTokens; lower one of these",
            message: "model small has contextWindow 4096, which must be greater than its maxOutputTokens or streaming.maxOutputTokens; raise it, or lower one of these",
            path: "spec.models",
            old: None,
            accepted: with(
                window(4096),
                "/spec/streaming",
                json!({"maxOutputTokens": 4095}),
            ),
            refused: window(4096),
        },
    ]
}

fn issuer_cases() -> Vec<Case> {
    let issuer = |issuer: &str, jwks_uri: &str| json!({"issuers": [{"issuer": issuer, "audience": "minichat", "jwksUri": jwks_uri}]});
    let (name, keys) = (
        "https://login.example.com/realms/acme",
        "https://login.example.com/keys",
    );
    vec![
        on_tenant(
            "must be the claim iss of the tokens, a URL without query such as https://login.example.com",
            "spec.auth.issuers[0].issuer",
            "/spec/auth",
            issuer(name, keys),
            issuer("login.example.com", keys),
        ),
        on_tenant(
            "must be a URL without query such as https://login.example.com/keys",
            "spec.auth.issuers[0].jwksUri",
            "/spec/auth",
            issuer(name, "http://[::1]:8080/keys"),
            issuer(name, "https://user@login.example.com/keys"),
        ),
    ]
}

fn provider_cases() -> Vec<Case> {
    let auth = |key: &str, value: &str| {
        let mut auth = json!({"secretKeyRef": {"name": "main", "key": "key"}});
        auth[key] = json!(value);
        auth
    };
    vec![
        on_tenant(
            "must be http:// or https:// with a host and no path, such as https://api.openai.com; write the path into apiPath",
            "spec.providers[0].baseUrl",
            "/spec/providers/0/baseUrl",
            json!("http://[::1]:8000/"),
            json!("https://api.openai.com/v1"),
        ),
        on_tenant(
            "must begin with one / and be the path and query of a URL, such as /v1/responses; write other characters as %20",
            "spec.providers[0].apiPath",
            "/spec/providers/0/apiPath",
            json!("/openai/deployments/{model}/responses?api-version=2026-01-01"),
            json!("//models.example.com/v1/responses"),
        ),
        on_tenant(
            "must be a header name such as Authorization or api-key",
            "spec.providers[0].auth.header",
            "/spec/providers/0/auth",
            auth("header", "api-key"),
            auth("header", "api key"),
        ),
        on_tenant(
            "is a header of the connection, of framing or of routing, which carries no credential; write one such as Authorization or api-key",
            "spec.providers[0].auth.header",
            "/spec/providers/0/auth",
            auth("header", "X-Api-Key"),
            auth("header", "Transfer-Encoding"),
        ),
        on_tenant(
            "must be printable ASCII such as 'Bearer ', or empty",
            "spec.providers[0].auth.prefix",
            "/spec/providers/0/auth",
            auth("prefix", ""),
            auth("prefix", "Bearer\n"),
        ),
        on_tenant(
            "firstByteSeconds must not exceed idleSeconds; lower it or raise idleSeconds",
            "spec.providers[0].timeouts.firstByteSeconds",
            "/spec/providers/0/timeouts",
            json!({"idleSeconds": 60}),
            json!({"idleSeconds": 59}),
        ),
        on_tenant(
            "apiVersion is required if kind is Azure, and belongs to no other kind",
            "spec.providers[0].storage.apiVersion",
            "/spec/providers/0/storage",
            json!({"kind": "Azure", "apiVersion": "2025-04-01-preview"}),
            json!({"kind": "Azure"}),
        ),
    ]
}

fn model_cases() -> Vec<Case> {
    let both_default = |tier: &str| {
        let default = json!({"isDefault": true});
        let first = with(model("small", tier), "/preference", default.clone());
        json!([
            first,
            with(model("large", "Standard"), "/preference", default)
        ])
    };
    let both_premium = |second: bool| {
        let first = with(
            model("small", "Premium"),
            "/preference",
            json!({"isDefault": true}),
        );
        json!([
            first,
            with(
                model("large", "Premium"),
                "/preference",
                json!({"isDefault": second})
            )
        ])
    };
    let only =
        |enabled: bool| json!([with(model("small", "Standard"), "/enabled", json!(enabled))]);
    vec![
        on_tenant(
            "at least one model must be enabled; set enabled: true on one of them",
            "spec.models",
            "/spec/models",
            only(true),
            only(false),
        ),
        on_tenant(
            "at most one Standard model may have preference.isDefault: true",
            "spec.models",
            "/spec/models",
            both_default("Premium"),
            both_default("Standard"),
        )
        .told("at most one Standard model may have preference.isDefault: true, not both small and large"),
        on_tenant(
            "at most one Premium model may have preference.isDefault: true",
            "spec.models",
            "/spec/models",
            both_premium(false),
            both_premium(true),
        )
        .told("at most one Premium model may have preference.isDefault: true, not both small and large"),
        on_tenant(
            "estimationBudgets.minimalGenerationFloor must not exceed maxOutputTokens; lower it",
            "spec.models[0].estimationBudgets.minimalGenerationFloor",
            "/spec/models/0/estimationBudgets",
            json!({"minimalGenerationFloor": 4096}),
            json!({"minimalGenerationFloor": 4097}),
        )
        .told("model small has estimationBudgets.minimalGenerationFloor 4097, which must not exceed its maxOutputTokens 4096; lower it"),
        on_tenant(
            "must have no control characters",
            "spec.models[0].id",
            "/spec/models/0/id",
            json!("klein, größer: 2"),
            json!("small\n"),
        ),
    ]
}

fn quota_cases() -> Vec<Case> {
    let daily = |value: Value| {
        with(
            quota(),
            "/spec/limits",
            json!({"standard": {"daily": value}}),
        )
    };
    vec![
        Case {
            rule: "tenantRef cannot be changed; create another ChatQuota instead",
            message: "tenantRef cannot be changed; create another ChatQuota instead",
            path: "spec.tenantRef",
            old: Some(quota()),
            accepted: quota(),
            refused: with(quota(), "/spec/tenantRef/name", json!("other")),
        },
        Case {
            rule: "must be 0 to 1T credits; write a quantity such as \"100\", \"2500m\" or \"750u\"",
            message: "must be 0 to 1T credits; write a quantity such as \"100\", \"2500m\" or \"750u\"",
            path: "spec.limits.standard.daily",
            old: None,
            accepted: daily(json!("0")),
            refused: daily(json!("-1m")),
        },
        Case {
            rule: "must not be finer than a micro-credit; write at most six decimals, three with the suffix m and none with u",
            message: "must not be finer than a micro-credit; write at most six decimals, three with the suffix m and none with u",
            path: "spec.limits.standard.daily",
            old: None,
            accepted: daily(json!("0.000001")),
            refused: daily(json!("1n")),
        },
    ]
}
