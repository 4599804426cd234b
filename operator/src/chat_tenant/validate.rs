//! Says what is wrong with a tenant, or what it renders to. Pure.

use minichat_config::tenant::document::{
    AuthDocument, ProviderDocument, TenantDocument, WebhookDocument,
};
use minichat_config::{Credentials, TenantConfig};
use minichat_crds::RenderSettings;
use minichat_crds::render::{self, Rendered, Secrets, Unresolved};

use super::dereference::Dereferenced;
use crate::status::{Reason, Type, Verdict};
use crate::tenant::Subject;

pub(super) struct Validated {
    pub(super) accepted: Verdict,
    pub(super) unresolved: Vec<Unresolved>,
    /// Whether an edit would send an old credential elsewhere than before (D49).
    pub(super) is_redirected: bool,
    /// Present while credentials are used that cannot be read any more.
    pub(super) degraded: Option<Verdict>,
    /// What to deliver; `None` leaves what was delivered before.
    pub(super) rendered: Option<Rendered>,
}

pub(super) fn validate(
    subject: &Subject<'_>,
    seen: &Dereferenced,
    settings: &RenderSettings,
) -> Validated {
    let tenant = subject.tenant;
    let mut secrets = seen.secrets.clone();
    let (_, unresolved) = render::resolve(tenant, &secrets);
    let old = seen.carried.as_ref().map(|carried| &carried.credentials);
    let is_missing = keep_old(&mut secrets, &unresolved, old);
    let quotas: Vec<_> = seen.quotas.iter().map(AsRef::as_ref).collect();
    let rendered = render::render(tenant, &quotas, &secrets, settings);
    let is_redirected = match (&rendered, &seen.carried) {
        (Ok(rendered), Some(carried)) => {
            is_redirected(&unresolved, &rendered.config, &carried.config)
        }
        _ => false,
    };
    let lost = is_missing || is_redirected;
    let accepted = match (&seen.holder, &rendered, &seen.contested) {
        _ if seen.is_at_operator => Verdict::no(
            Type::Accepted,
            Reason::NamespaceNotAllowed,
            "metadata.namespace: is the operator's own, where the credentials of all tenants are; create the ChatTenant, its quotas and its Secret in another namespace",
        ),
        (Some(holder), ..) => Verdict::no(
            Type::Accepted,
            Reason::Conflict,
            format!(
                "spec.tenantId: is the id of {}; delete this ChatTenant and create it with another tenantId, such as uuidgen prints, or without one",
                subject.words_for(holder)
            ),
        ),
        (None, Err(faults), _) => Verdict::no(Type::Accepted, Reason::Invalid, faults.to_string()),
        (None, Ok(_), Some(contested)) => Verdict::no(Type::Accepted, Reason::Conflict, contested),
        (None, Ok(rendered), None) => {
            Verdict::yes(Type::Accepted, Reason::Valid, rendered.warnings.join("; "))
        }
    };
    let uses_old = !unresolved.is_empty() && !lost && old.is_some();
    let usable = accepted.holds() && !lost;
    Validated {
        unresolved,
        is_redirected,
        degraded: uses_old.then(|| {
            Verdict::yes(
                Type::Degraded,
                Reason::OldCredentials,
                "providers and sinks are called with the last credentials that could be read",
            )
        }),
        rendered: rendered.ok().filter(|_| usable),
        accepted,
    }
}

/// Stands for a credential that was never read. It is valid wherever one may be.
const ABSENT: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Credentials that cannot be read keep their last value (K8S-8). Whether there
/// is none for some; such a tenant is checked with another text in its place.
fn keep_old(secrets: &mut Secrets, unresolved: &[Unresolved], old: Option<&Credentials>) -> bool {
    let mut is_lost = false;
    for Unresolved {
        secret,
        key,
        reference,
        ..
    } in unresolved
    {
        let last = old.and_then(|old| old.get(reference)).cloned();
        is_lost |= last.is_none();
        let value = last.unwrap_or_else(|| minichat_config::Secret::new(ABSENT));
        secrets
            .entry(secret.clone())
            .or_default()
            .insert(key.clone(), value.into());
    }
    is_lost
}

/// Whether a provider or a webhook of `new` would be sent one of the `unresolved` credentials in
/// a way in which none of `old` was sent it. The last value of a Secret that was taken away from
/// a tenant must not go elsewhere (D49), and neither must signatures that were made with it.
fn is_redirected(unresolved: &[Unresolved], new: &TenantConfig, old: &TenantConfig) -> bool {
    let is_old = |name: &str| unresolved.iter().any(|one| one.reference == name);
    let uses_old = |auth: &AuthDocument| is_old(&auth.secret_ref);
    let mut providers = new.document.providers.values();
    let is_provider_redirected = providers.any(|provider| {
        let mut known = old.document.providers.values();
        provider.auth.as_ref().is_some_and(uses_old)
            && !known.any(|old| is_sent_alike(provider, old))
    });
    let mut webhooks = webhooks(&new.document);
    let is_webhook_redirected = webhooks.any(|webhook| {
        let mut used = [&webhook.secret_ref, &webhook.signing_secret_ref]
            .into_iter()
            .flatten();
        used.any(|name| is_old(name))
            && !self::webhooks(&old.document).any(|old| is_authenticated_alike(webhook, old))
    });
    is_provider_redirected || is_webhook_redirected
}

/// Those of both sinks.
fn webhooks(document: &TenantDocument) -> impl Iterator<Item = &WebhookDocument> {
    let usage = document.usage_sink.as_ref();
    let audit = document.audit_sink.as_ref();
    let usage = usage.and_then(|sink| sink.webhook.as_ref());
    let audit = audit.and_then(|sink| sink.webhook.as_ref());
    usage.into_iter().chain(audit)
}

/// Whether both webhooks are at the same address and get the same credential or signature.
fn is_authenticated_alike(one: &WebhookDocument, other: &WebhookDocument) -> bool {
    one.url == other.url
        && one.signing_secret_ref == other.signing_secret_ref
        && (&one.auth_header, &one.secret_ref) == (&other.auth_header, &other.secret_ref)
}

/// Whether both providers' credentials are the same one, sent to the same place, in the
/// same header.
fn is_sent_alike(one: &ProviderDocument, other: &ProviderDocument) -> bool {
    let is_same_place =
        (one.use_http, &one.host, one.port) == (other.use_http, &other.host, other.port);
    is_same_place
        && (&one.kind, &one.api_path, &one.auth) == (&other.kind, &other.api_path, &other.auth)
        && one.storage == other.storage
}

#[cfg(test)]
mod tests {
    use minichat_config::Secret;
    use minichat_crds::{ChatTenant, cases, validation};
    use serde_json::{Value, json};

    use super::*;

    fn tenant(field: &str, value: Value) -> ChatTenant {
        let object = cases::with(cases::tenant(), &format!("/spec/{field}"), value);
        validation::chat_tenant(&object, None).unwrap()
    }

    /// The Secret of all tenants here. It is valid as header and as signing secret.
    fn secrets() -> Secrets {
        let value = Secret::new(ABSENT).into();
        Secrets::from([("keys".to_owned(), [("key".to_owned(), value)].into())])
    }

    fn config(tenant: &ChatTenant) -> TenantConfig {
        let rendered = render::render(tenant, &[], &secrets(), &RenderSettings::LENIENT);
        rendered.unwrap().config
    }

    fn webhook(url: &str, members: &Value) -> Value {
        let mut webhook = members.clone();
        webhook["url"] = json!(url);
        json!({"type": "Webhook", "webhook": webhook})
    }

    /// D49: what a Secret held goes nowhere else, whoever may write the tenant.
    #[test]
    fn the_last_credential_of_a_sink_stays_where_it_was_sent() {
        const URL: &str = "https://billing.example.com/minichat";
        let key = json!({"name": "keys", "key": "key"});
        let signed = json!({"signingSecretRef": key});
        let sent = json!({"secretRef": key});
        let old = tenant("usageSink", webhook(URL, &signed));
        let redirected = |new: &ChatTenant| {
            let (_, unresolved) = render::resolve(new, &Secrets::new());
            is_redirected(&unresolved, &config(new), &config(&old))
        };
        assert!(!redirected(&old));
        let mut other = signed.clone();
        other["format"] = json!("CloudEvents");
        other["timeoutSeconds"] = json!(5);
        assert!(!redirected(&tenant("usageSink", webhook(URL, &other))));
        assert!(!redirected(&tenant("auditSink", webhook(URL, &signed))));
        assert!(!redirected(&tenant("usageSink", json!({"type": "Log"}))));
        for (what, new) in [
            ("elsewhere", webhook("https://evil.example.com/", &signed)),
            (
                "another path",
                webhook("https://billing.example.com/x", &signed),
            ),
            ("not as a signature", webhook(URL, &sent)),
        ] {
            assert!(redirected(&tenant("usageSink", new.clone())), "{what}");
            assert!(redirected(&tenant("auditSink", new)), "{what}");
        }
        let auth = json!({"secretKeyRef": key});
        let provider = json!([{
            "name": "main", "kind": "OpenAIResponses", "baseUrl": "https://billing.example.com", "auth": auth,
        }]);
        assert!(redirected(&tenant("providers", provider)));

        let old = tenant("usageSink", webhook(URL, &sent));
        let mut header = sent;
        header["authHeader"] = json!("X-Another");
        let new = tenant("usageSink", webhook(URL, &header));
        let (_, unresolved) = render::resolve(&new, &Secrets::new());
        assert!(is_redirected(&unresolved, &config(&new), &config(&old)));
    }

    /// A reference that was never read is told as such, and nothing else is.
    #[test]
    fn what_stands_for_an_absent_credential_is_valid_everywhere() {
        let key = json!({"name": "keys", "key": "key"});
        for field in ["secretRef", "signingSecretRef"] {
            let sink = webhook("https://a.example.com", &json!({field: key}));
            let tenant = tenant("usageSink", sink);
            let mut secrets = Secrets::new();
            let (_, unresolved) = render::resolve(&tenant, &secrets);
            assert!(keep_old(&mut secrets, &unresolved, None), "{field}");
            render::render(&tenant, &[], &secrets, &RenderSettings::STRICT).unwrap();
        }
    }
}
