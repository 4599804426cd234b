//! Tenants for the tests of the sources.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use minichat_core::{SystemClock, TenantId};
use minichat_crds::manifests::Files;
use minichat_crds::{Manifests, RenderSettings, RenderedTenant};
use minichat_store::{DatabaseSettings, Store};
use tempfile::TempDir;

use super::TenantRuntime;

pub(super) const A: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";
pub(super) const B: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a02";
pub(super) const C: &str = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a03";

/// A tenant with its quota and Secret, in one text.
pub(super) fn tenant(id: &str, daily: u32, key: &str) -> String {
    let name = format!("t{}", &id[id.len() - 2..]);
    format!(
        r#"
apiVersion: minichat.dev/v1alpha1
kind: ChatTenant
metadata: {{name: {name}}}
spec:
  tenantId: {id}
  providers:
  - {{name: p, kind: OpenAIResponses, baseUrl: "https://models.example.com", auth: {{secretKeyRef: {{name: {name}, key: k}}}}}}
  models:
  - {{id: m, providerModelId: m, displayName: M, providerRef: p, tier: Standard, contextWindow: 1000,
     maxOutputTokens: 100, maxInputTokens: 500, inputTokensCreditMultiplierMicro: 1, outputTokensCreditMultiplierMicro: 1}}
---
apiVersion: minichat.dev/v1alpha1
kind: ChatQuota
metadata: {{name: {name}}}
spec: {{tenantRef: {{name: {name}}}, limits: {{standard: {{daily: {daily}}}}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{k: {key}}}
"#
    )
}

/// The same with issuers, each written as `<issuer>` or `<issuer> <tenant
/// claim>`.
pub(super) fn opened_by(id: &str, issuers: &[&str]) -> String {
    let issuers: Vec<_> = issuers
        .iter()
        .map(|issuer| match issuer.split_once(' ') {
            Some((issuer, claim)) => {
                format!("{{issuer: \"{issuer}\", audience: minichat, tenantClaim: {claim}}}")
            }
            None => format!("{{issuer: \"{issuer}\", audience: minichat}}"),
        })
        .collect();
    let auth = format!("spec:\n  auth: {{issuers: [{}]}}\n", issuers.join(", "));
    tenant(id, 7, "key").replacen("spec:\n", &auth, 1)
}

/// The same, rendered by the operator as `version`.
pub(super) fn rendered(id: &str, version: u64, daily: u32, key: &str) -> RenderedTenant {
    let revision = format!("{version}-{daily}{key}");
    rendered_from(tenant(id, daily, key), id, version, revision)
}

/// `text` as the operator renders it.
pub(super) fn rendered_from(
    text: String,
    id: &str,
    version: u64,
    revision: String,
) -> RenderedTenant {
    let mut files = Files::default();
    files.insert("a.yaml", text);
    let manifests = Manifests::parse(&files, &RenderSettings::default());
    let mut tenants = manifests.tenants.into_values();
    let manifest = tenants.next().unwrap();
    assert_eq!(manifest.rendered.config.tenant_id, self::id(id));
    RenderedTenant {
        source: manifest.name.clone(),
        config: manifest.rendered.config.clone().numbered(version),
        credentials: manifest.rendered.credentials.clone(),
        revision,
    }
}

/// The rendered Secret of that tenant.
pub(super) fn secret(id: &str, version: u64, daily: u32, key: &str) -> Secret {
    let at = "2026-02-28T15:30:00Z".parse().unwrap();
    rendered(id, version, daily, key)
        .to_pool_secret("main", at)
        .unwrap()
}

pub(super) fn id(id: &str) -> TenantId {
    id.parse().unwrap()
}

/// The default user's daily limit in credits.
pub(super) fn daily(runtime: &TenantRuntime) -> i64 {
    runtime.config.user_limits.default.standard.daily / 1_000_000
}

/// An empty database. It exists as long as the directory.
pub(super) async fn store(directory: &TempDir) -> Store {
    let url = format!(
        "sqlite://{}",
        directory.path().join("minichat.db").display()
    );
    let settings = DatabaseSettings::new(url);
    Store::open(&settings, Arc::new(SystemClock)).await.unwrap()
}
