//! Custom resources as tests write them, as JSON, which is valid YAML.

use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use minichat_core::Timestamp;
use minichat_crds::manifests::Files;
use minichat_crds::{Manifests, RenderSettings, RenderedTenant};
use serde_json::{Value, json};
use uuid::Uuid;

/// The provider's key in tests.
pub const PROVIDER_KEY: &str = "sk-test-0123456789abcdef";

/// A `ChatTenant` with the Secret of its provider. A test can change it before
/// writing it.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub id: Uuid,
    pub name: String,
    /// The `ChatTenant`.
    pub resource: Value,
    /// `ChatQuota` objects and the Secret.
    pub others: Vec<Value>,
}

impl Tenant {
    /// The fixture of chapter 03: models `prem` (premium, default) and `std`
    /// (standard, default), both with the provider at `provider`.
    pub fn new(name: &str, provider: SocketAddr) -> Self {
        let id = Uuid::new_v4();
        let models = [
            model("prem", "Premium", 3_000_000, 15_000_000),
            model("std", "Standard", 1_000_000, 3_000_000),
        ];
        let resource = json!({
            "apiVersion": "minichat.dev/v1alpha1",
            "kind": "ChatTenant",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "tenantId": id.to_string(),
                "providers": [{
                    "name": "main",
                    "kind": "OpenAIResponses",
                    "baseUrl": format!("http://{provider}"),
                    "auth": {
                        "header": "Authorization",
                        "prefix": "Bearer ",
                        "secretKeyRef": {"name": format!("{name}-provider"), "key": "api-key"},
                    },
                }],
                "models": models,
            },
        });
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": format!("{name}-provider"),
                "namespace": "default",
                "labels": {"minichat.dev/credentials": "true"},
            },
            "stringData": {"api-key": PROVIDER_KEY},
        });
        Self {
            id,
            name: name.to_owned(),
            resource,
            others: vec![secret],
        }
    }

    /// The `spec` of the `ChatTenant`.
    pub fn spec(&mut self) -> &mut Value {
        &mut self.resource["spec"]
    }

    /// The entry of the model called `id`.
    pub fn model(&mut self, id: &str) -> &mut Value {
        let models = self.spec()["models"].as_array_mut();
        models
            .into_iter()
            .flatten()
            .find(|model| model["id"] == id)
            .unwrap_or_else(|| unreachable!("the fixture has no model {id}"))
    }

    /// Adds the tenant's default `ChatQuota`; limits in micro-credits.
    #[must_use]
    pub fn with_limits(mut self, standard: (i64, i64), premium: (i64, i64)) -> Self {
        let limits = |(daily, monthly): (i64, i64)| json!({"daily": format!("{daily}u"), "monthly": format!("{monthly}u")});
        self.others.push(json!({
            "apiVersion": "minichat.dev/v1alpha1",
            "kind": "ChatQuota",
            "metadata": {"name": format!("{}-default", self.name), "namespace": "default"},
            "spec": {
                "tenantRef": {"name": self.name},
                "limits": {"standard": limits(standard), "premium": limits(premium)},
            },
        }));
        self
    }

    /// Sends the events of `sink`, `usageSink` or `auditSink`, to `webhook`.
    #[must_use]
    pub fn with_webhook(mut self, sink: &str, webhook: &Value) -> Self {
        self.spec()[sink] = json!({"type": "Webhook", "webhook": webhook});
        self
    }

    /// Adds or replaces the Secret `name` with `value` under the key `value`.
    #[must_use]
    pub fn with_secret(mut self, name: &str, value: &str) -> Self {
        self.others
            .retain(|object| object["metadata"]["name"] != name);
        self.others.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"minichat.dev/credentials": "true"},
            },
            "stringData": {"value": value},
        }));
        self
    }

    /// The multi-document text of a manifest file.
    pub fn manifest(&self) -> String {
        let documents: Vec<String> = std::iter::once(&self.resource)
            .chain(&self.others)
            .map(Value::to_string)
            .collect();
        documents.join("\n---\n")
    }
}

impl Tenant {
    /// Moves every object into `namespace`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        let objects = std::iter::once(&mut self.resource).chain(&mut self.others);
        for object in objects {
            object["metadata"]["namespace"] = json!(namespace);
        }
        self
    }

    /// The rendered Secret of the tenant with policy `version`, as JSON.
    pub fn rendered(&self, version: u64) -> anyhow::Result<String> {
        let mut files = Files::default();
        files.insert("tenant.yaml", self.manifest());
        let manifests = Manifests::parse(&files, &RenderSettings::LENIENT);
        if let Some(problem) = manifests.problems.first() {
            return Err(anyhow!("{problem}"));
        }
        let mut tenants = manifests.tenants.into_values();
        let manifest = tenants.next().context("no tenant")?;
        let rendered = RenderedTenant {
            source: manifest.name.clone(),
            config: manifest.rendered.config.clone().numbered(version),
            credentials: manifest.rendered.credentials.clone(),
            revision: format!("{version}-0123456789ab"),
        };
        let secret = rendered.to_pool_secret("default", Timestamp::from_micros(0));
        Ok(serde_json::to_string(
            &secret.map_err(|faults| anyhow!("{faults}"))?,
        )?)
    }
}

fn model(id: &str, tier: &str, input_multiplier: u64, output_multiplier: u64) -> Value {
    json!({
        "id": id,
        "providerModelId": format!("{id}-at-provider"),
        "displayName": id.to_uppercase(),
        "providerRef": "main",
        "tier": tier,
        "contextWindow": 128_000,
        "maxOutputTokens": 1000,
        "maxInputTokens": 120_000,
        "inputTokensCreditMultiplierMicro": input_multiplier,
        "outputTokensCreditMultiplierMicro": output_multiplier,
        "preference": {"isDefault": true},
    })
}
