//! The credentials that a tenant refers to, of providers and of sinks.

use super::{ChatTenantSpec, SecretKeyRef};

/// One reference to a key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRef<'a> {
    /// Where it is written, such as `spec.providers[0].auth.secretKeyRef`.
    pub path: String,
    /// The Secret and its key.
    pub to: &'a SecretKeyRef,
    /// What it is used for.
    pub used_as: CredentialUse,
}

/// What a credential is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialUse {
    /// It is sent in a header.
    Header,
    /// It signs requests.
    Signature,
}

impl ChatTenantSpec {
    /// All references to Secrets, in the order of the fields.
    pub fn credential_refs(&self) -> Vec<CredentialRef<'_>> {
        let providers = self.providers.iter().enumerate().filter_map(|(i, one)| {
            Some(CredentialRef {
                path: format!("spec.providers[{i}].auth.secretKeyRef"),
                to: &one.auth.as_ref()?.secret_key_ref,
                used_as: CredentialUse::Header,
            })
        });
        let webhooks = [
            ("usageSink", self.usage_sink.webhook.as_ref()),
            ("auditSink", self.audit_sink.webhook.as_ref()),
        ];
        let sinks = webhooks.into_iter().flat_map(|(sink, webhook)| {
            let reference = |field: &str, to, used_as| CredentialRef {
                path: format!("spec.{sink}.webhook.{field}"),
                to,
                used_as,
            };
            let signing = webhook.and_then(|webhook| webhook.signing_secret_ref.as_ref());
            let sent = webhook.and_then(|webhook| webhook.secret_ref.as_ref());
            let signing =
                signing.map(|to| reference("signingSecretRef", to, CredentialUse::Signature));
            let sent = sent.map(|to| reference("secretRef", to, CredentialUse::Header));
            signing.into_iter().chain(sent)
        });
        providers.chain(sinks).collect()
    }
}
