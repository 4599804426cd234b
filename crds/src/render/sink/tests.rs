//! Sinks of whole tenants.

use std::time::Duration;

use minichat_config::tenant::sink::{Sink, Sinks, WebhookAuth};
use minichat_config::{Faults, Secret};
use serde_json::{Value, json};

use super::*;
use crate::cases::{tenant, with};
use crate::render::{Rendered, Secrets, UnresolvedKind, render, resolve};
use crate::{ChatTenant, validation};

const KEYS: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

fn secrets() -> Secrets {
    let keys = [
        ("token", "Bearer sk-visible"),
        ("signing", KEYS),
        ("short", "abc"),
    ];
    let keys = keys.map(|(key, value)| (key.to_owned(), Secret::new(value).into()));
    Secrets::from([("billing".to_owned(), keys.into())])
}

fn of(sink: &str, value: Value) -> ChatTenant {
    let object = with(tenant(), &format!("/spec/{sink}"), value);
    validation::chat_tenant(&object, None).unwrap()
}

fn rendered(sink: &str, value: Value) -> Result<Rendered, Faults> {
    render(&of(sink, value), &[], &secrets(), &RenderSettings::STRICT)
}

fn sinks(rendered: &Rendered) -> Sinks {
    rendered.config.sinks(&rendered.credentials).unwrap()
}

fn webhook(members: &Value) -> Value {
    let mut webhook = json!({"url": "https://billing.example.com/minichat?v=1"});
    let target = webhook.as_object_mut().unwrap();
    target.extend(members.as_object().unwrap().clone());
    json!({"type": "Webhook", "webhook": webhook})
}

/// D31: a sink that is off renders as one that is not written.
#[test]
fn sinks_are_off_by_default_and_leave_no_trace() {
    let rendered_of = |sink| rendered("usageSink", sink).unwrap();
    let (plain, off) = (rendered_of(json!({})), rendered_of(json!({"type": "None"})));
    assert_eq!(sinks(&plain), Sinks::default());
    assert_eq!(plain.config.content_hash, off.config.content_hash);
    assert!(!plain.config.document.to_json().unwrap().contains("sink"));
}

/// QUOTA-23, PLAT-80: every field of a webhook reaches the configuration.
#[test]
fn every_field_of_a_webhook_is_rendered() {
    let members = json!({
        "format": "CloudEvents", "authHeader": "X-Token", "timeoutSeconds": 7,
        "secretRef": {"name": "billing", "key": "token"},
        "batch": {"maxEvents": 50, "maxSeconds": 9},
    });
    for sink in ["usageSink", "auditSink"] {
        let rendered = rendered(sink, webhook(&members)).unwrap();
        let sinks = sinks(&rendered);
        let (one, other) = match sink {
            "usageSink" => (&sinks.usage, &sinks.audit),
            _ => (&sinks.audit, &sinks.usage),
        };
        assert_eq!(*other, Sink::None);
        let webhook = one.webhook().unwrap();
        assert_eq!(
            webhook.url,
            HttpUrl::parse("https://billing.example.com/minichat?v=1").unwrap()
        );
        assert_eq!(webhook.format, Format::CloudEvents);
        assert_eq!(webhook.timeout, Duration::from_secs(7));
        let batch = webhook.batch.unwrap();
        assert_eq!(
            (batch.max_events, batch.max_wait),
            (50, Duration::from_secs(9))
        );
        let WebhookAuth::Header { name, value } = &webhook.auth else {
            panic!("{webhook:?}");
        };
        assert_eq!(
            (name.as_str(), value.expose()),
            ("X-Token", "Bearer sk-visible")
        );
    }
}

#[test]
fn a_webhook_has_defaults() {
    let sinks = sinks(&rendered("usageSink", webhook(&json!({"batch": {}}))).unwrap());
    let webhook = sinks.usage.webhook().unwrap();
    assert_eq!(
        (webhook.format, &webhook.auth),
        (Format::Json, &WebhookAuth::None)
    );
    assert_eq!(webhook.timeout, Duration::from_secs(30));
    let batch = webhook.batch.unwrap();
    assert_eq!(
        (batch.max_events, batch.max_wait),
        (100, Duration::from_secs(1))
    );
}

/// K8S-20: the document names credentials and holds none.
#[test]
fn signing_secrets_are_credentials() {
    let reference = json!({"signingSecretRef": {"name": "billing", "key": "signing"}});
    let rendered = rendered("auditSink", webhook(&reference)).unwrap();
    let sinks = sinks(&rendered);
    let WebhookAuth::Signature(keys) = &sinks.audit.webhook().unwrap().auth else {
        panic!("no signature");
    };
    assert_eq!(keys.len(), 2);
    let document = rendered.config.document.to_json().unwrap();
    assert!(document.contains(r#""signing_secret_ref":"billing/signing""#));
    assert!(!document.contains("whsec_"), "{document}");
    let names: Vec<_> = rendered.credentials.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["billing/signing"]);
}

/// D49
#[test]
fn a_reference_that_leads_nowhere_names_the_field() {
    use UnresolvedKind::{KeyMissing, SecretInvalid, SecretNotFound};
    for (field, name, key, kind, path) in [
        (
            "secretRef",
            "other",
            "token",
            SecretNotFound,
            "secretRef.name",
        ),
        ("secretRef", "billing", "none", KeyMissing, "secretRef.key"),
        (
            "secretRef",
            "billing",
            "signing",
            SecretInvalid,
            "secretRef.key",
        ),
        (
            "signingSecretRef",
            "billing",
            "token",
            SecretInvalid,
            "signingSecretRef.key",
        ),
    ] {
        let tenant = of(
            "usageSink",
            webhook(&json!({field: {"name": name, "key": key}})),
        );
        let (_, unresolved) = resolve(&tenant, &secrets());
        assert_eq!(unresolved.len(), 1);
        let fault = &unresolved[0].fault;
        assert_eq!(unresolved[0].kind, kind, "{fault}");
        assert_eq!(fault.path, format!("spec.usageSink.webhook.{path}"));
        assert!(!fault.message.contains("sk-visible"), "{fault}");
        let faults = render(&tenant, &[], &secrets(), &RenderSettings::STRICT).unwrap_err();
        assert_eq!(faults.0[0], *fault);
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let short = json!({"secretRef": {"name": "billing", "key": "short"}});
    let warnings = rendered("usageSink", webhook(&short)).unwrap().warnings;
    assert!(
        warnings[0].starts_with("the credential of usageSink has fewer than 8 bytes"),
        "{warnings:?}"
    );
    let log = json!({"type": "Log", "includeContent": true});
    let warnings = rendered("auditSink", log).unwrap().warnings;
    assert!(
        warnings[0].starts_with("auditSink.includeContent has no effect"),
        "{warnings:?}"
    );
}
