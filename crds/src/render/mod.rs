//! From custom resources and Secrets to one tenant's configuration: pure, so
//! that the operator and a laptop render the same (K8S-2).

mod document;
mod quota;
mod warning;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minichat_config::{Credentials, Faults, Secret, TenantConfig};
use minichat_core::TenantId;
use uuid::Uuid;

use crate::{ChatQuota, ChatTenant};

/// What one process or pool decides for all tenants.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderSettings {
    /// Whether providers without TLS are allowed (`provider_http.allow_http`).
    pub allow_http: bool,
}

/// Secrets of the tenant's namespace: name, then key, then value.
pub type Secrets = BTreeMap<String, BTreeMap<String, Secret>>;

/// One tenant, ready to be served.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Without a policy version: whoever delivers the document numbers it
    /// (QUOTA-27, QUOTA-28).
    pub config: TenantConfig,
    /// By reference name, `<secret>/<key>`.
    pub credentials: Credentials,
    /// What works but is probably not meant (QUOTA-17).
    pub warnings: Vec<String>,
}

/// Renders `tenant` with those of `quotas` that refer to it. Both have been
/// admitted. Faults carry paths of the `ChatTenant`, or of a quota with its name
/// before it.
pub fn render(
    tenant: &ChatTenant,
    quotas: &[&ChatQuota],
    secrets: &Secrets,
    settings: RenderSettings,
) -> Result<Rendered, Faults> {
    let mut faults = Faults::default();
    let credentials = credentials(tenant, secrets, &mut faults);
    let (user_limits, mut warnings) = quota::user_limits(quotas);
    let document = document::document(
        tenant,
        tenant_id(tenant),
        user_limits,
        settings,
        &mut faults,
    );
    let document = faults.into_result(document)?;
    let config = TenantConfig::new(document).map_err(document::in_words_of_the_manifest)?;
    warnings.extend(warning::warnings(&config));
    Ok(Rendered {
        config,
        credentials,
        warnings,
    })
}

/// The id the tenant asks for, else a version 5 UUID of `namespace/name`.
pub fn tenant_id(tenant: &ChatTenant) -> TenantId {
    let asked = tenant
        .spec
        .tenant_id
        .as_deref()
        .and_then(|id| id.parse().ok());
    asked.unwrap_or_else(|| {
        let namespace = tenant.metadata.namespace.as_deref().unwrap_or("default");
        let name = tenant.metadata.name.as_deref().unwrap_or_default();
        derived_id(namespace, name)
    })
}

/// The id of the tenant `namespace/name` that asks for none.
pub(crate) fn derived_id(namespace: &str, name: &str) -> TenantId {
    let space = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"chattenants.minichat.dev");
    Uuid::new_v5(&space, format!("{namespace}/{name}").as_bytes()).into()
}

fn credentials(tenant: &ChatTenant, secrets: &Secrets, faults: &mut Faults) -> Credentials {
    let mut credentials = Credentials::default();
    for (i, provider) in tenant.spec.providers.iter().enumerate() {
        let Some(auth) = &provider.auth else { continue };
        let reference = &auth.secret_key_ref;
        let path = format!("spec.providers[{i}].auth.secretKeyRef");
        let Some(secret) = secrets.get(&reference.name) else {
            let message = format!(
                "there is no Secret {} in the namespace; create it or write the name of one that exists",
                reference.name
            );
            faults.add(format!("{path}.name"), message);
            continue;
        };
        match secret.get(&reference.key) {
            None => {
                let keys: Vec<_> = secret.keys().map(String::as_str).collect();
                let message = format!("the Secret {} has no key {}; its keys are: {}", reference.name, reference.key, keys.join(", "));
                faults.add(format!("{path}.key"), message);
            }
            Some(value) if !is_header_value(value.expose()) => faults.add(
                format!("{path}.key"),
                format!("the value of {} in the Secret {} is empty or has characters that no header may have, such as a line break; correct the Secret", reference.key, reference.name),
            ),
            Some(value) => {
                credentials.insert(document::secret_ref(reference), value.clone());
            }
        }
    }
    credentials
}

/// Whether a header may carry `value` (PLAT-102).
pub(crate) fn is_header_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}
