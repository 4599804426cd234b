//! Sinks that are accepted, and every bound.

use serde_json::{Value, json};

use super::*;
use crate::TenantConfig;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn document(field: &str, sink: Value) -> Value {
    let mut document = json!({
        "schema": 1,
        "tenant_id": "5f0c0000-0000-4000-8000-000000000000",
        "max_output_tokens": 100,
        "providers": {"main": {"kind": "openai_responses", "host": "api.example"}},
        "model_catalog": [{
            "id": "small", "provider_model_id": "small", "display_name": "small",
            "provider_id": "main", "tier": "standard", "enabled": true,
            "context_window": 128_000, "max_output_tokens": 4096, "max_input_tokens": 64_000,
            "input_tokens_credit_multiplier_micro": 1,
            "output_tokens_credit_multiplier_micro": 1,
        }],
        "user_limits": {"default": {}},
    });
    document[field] = sink;
    document
}

fn config(field: &str, sink: Value) -> Result<TenantConfig, Faults> {
    TenantConfig::from_json(&document(field, sink).to_string())
}

fn webhook_with(members: &Value) -> Value {
    let mut webhook = json!({"url": "https://billing.example/minichat?v=1"});
    let target = webhook.as_object_mut().unwrap();
    target.extend(members.as_object().unwrap().clone());
    json!({"type": "webhook", "webhook": webhook})
}

fn credentials(pairs: &[(&str, &str)]) -> Credentials {
    let mut credentials = Credentials::default();
    for (name, value) in pairs {
        credentials.insert(*name, Secret::new(*value));
    }
    credentials
}

fn usage(members: &Value, secrets: &[(&str, &str)]) -> Webhook {
    let config = config("usage_sink", webhook_with(members)).unwrap();
    let sinks = config.sinks(&credentials(secrets)).unwrap();
    Webhook::clone(sinks.usage.webhook().unwrap())
}

/// D31
#[test]
fn both_sinks_are_off_by_default() {
    let config = config("usage_sink", Value::Null).unwrap();
    assert_eq!(config.sinks(&Credentials::default()), Ok(Sinks::default()));
    let json = config.document.to_json().unwrap();
    assert!(!json.contains("sink"), "{json}");
}

/// QUOTA-23, QUOTA-97
#[test]
fn a_sink_is_none_a_log_or_a_webhook() {
    for (kind, expected) in [("none", Sink::None), ("log", Sink::Log)] {
        let config = config("usage_sink", json!({"type": kind})).unwrap();
        let sinks = config.sinks(&Credentials::default()).unwrap();
        assert_eq!(sinks.usage, expected);
    }
    let webhook = usage(&json!({}), &[]);
    assert_eq!(webhook.url.authority(), "billing.example");
    assert_eq!(webhook.url.path_and_query, "/minichat?v=1");
    assert_eq!(webhook.format, Format::Json);
    assert_eq!(webhook.auth, WebhookAuth::None);
    assert_eq!(webhook.timeout, Duration::from_secs(30));
    assert_eq!(webhook.batch, None);
    let webhook = usage(
        &json!({"format": "cloud_events", "timeout_seconds": 55,
                "batch": {"max_events": 100, "max_seconds": 60}}),
        &[],
    );
    assert_eq!(webhook.format, Format::CloudEvents);
    assert_eq!(webhook.timeout, Duration::from_secs(55));
    let batch = webhook.batch.unwrap();
    assert_eq!(
        (batch.max_events, batch.max_wait),
        (100, Duration::from_mins(1))
    );
}

/// PLAT-85
#[test]
fn only_the_audit_sink_may_include_content() {
    let sink = json!({"type": "log", "include_content": true});
    let config_of = |field| config(field, sink.clone());
    let sinks = config_of("audit_sink").unwrap();
    let sinks = sinks.sinks(&Credentials::default()).unwrap();
    assert!(sinks.include_content);
    assert_eq!((sinks.usage, sinks.audit), (Sink::None, Sink::Log));
    let fault = config_of("usage_sink").unwrap_err().to_string();
    assert!(fault.contains("unknown field `include_content`"), "{fault}");
}

#[test]
fn a_credential_is_sent_in_its_header() {
    let secrets = [("billing/token", "Bearer abc")];
    for (members, header) in [
        (json!({"secret_ref": "billing/token"}), "Authorization"),
        (
            json!({"secret_ref": "billing/token", "auth_header": "X-Api-Key"}),
            "X-Api-Key",
        ),
    ] {
        let WebhookAuth::Header { name, value } = usage(&members, &secrets).auth else {
            panic!("no header");
        };
        assert_eq!((name.as_str(), value.expose()), (header, "Bearer abc"));
    }
}

/// Several keys sign while receivers change from one to the next.
#[test]
fn signing_secrets_are_read_as_standard_webhooks_writes_them() {
    let unpadded = OTHER_KEY.trim_end_matches('=');
    for (text, lengths) in [
        (KEY.to_owned(), vec![24]),
        (format!("{KEY}\n"), vec![24]),
        (format!(" {OTHER_KEY}\n{KEY} "), vec![32, 24]),
        (unpadded.to_owned(), vec![32]),
    ] {
        let webhook = usage(&json!({"signing_secret_ref": "s/k"}), &[("s/k", &text)]);
        let WebhookAuth::Signature(keys) = &webhook.auth else {
            panic!("no signature");
        };
        let found: Vec<_> = keys.iter().map(|key| key.expose().len()).collect();
        assert_eq!(found, lengths, "{text}");
        let shown = format!("{webhook:?}");
        assert!(shown.contains("SigningKey(redacted)"), "{shown}");
    }
    let keys = SigningKey::read_all(OTHER_KEY).unwrap();
    assert_eq!(keys[0].expose(), (0..32).collect::<Vec<u8>>());
}

/// PLAT-102: a value is never repeated.
#[test]
fn a_signing_secret_that_cannot_be_used_says_why_and_is_not_shown() {
    let long = format!("whsec_{}", "visi".repeat(22));
    let many = [KEY; 5].join(" ");
    for (text, why) in [
        ("", "is empty"),
        (" \n", "is empty"),
        ("visible", "does not begin with whsec_"),
        ("whsec_visible!", "is not base64 after whsec_"),
        ("whsec_visible-visible_visible-visible_vis", "is not base64"),
        ("whsec_dmlzaWJsZQ==", "fewer than 24 bytes"),
        (long.as_str(), "more than 64 bytes"),
        (many.as_str(), "more than 4 signing secrets"),
        (&format!("{KEY} visible"), "does not begin with whsec_"),
    ] {
        let config = config(
            "audit_sink",
            webhook_with(&json!({"signing_secret_ref": "s/k"})),
        );
        let found = config.unwrap().sinks(&credentials(&[("s/k", text)]));
        let fault = &found.unwrap_err().0[0];
        assert_eq!(fault.path, "audit_sink.webhook.signing_secret_ref");
        let message = &fault.message;
        assert!(message.contains("the value of s/k"), "{message}");
        assert!(message.contains(why), "{text}: {message}");
        assert!(message.contains("whsec_$(openssl"), "{message}");
        let shown = ["visi", "dmlz", "MfKQ"].map(|part| message.contains(part));
        assert_eq!(shown, [false; 3], "{message}");
    }
}

#[test]
fn a_credential_that_is_missing_or_unusable_names_the_field() {
    for (members, secrets, path) in [
        (
            json!({"secret_ref": "a/b"}),
            &[][..],
            "usage_sink.webhook.secret_ref",
        ),
        (
            json!({"secret_ref": "a/b"}),
            &[("a/b", "line\nbreak")],
            "usage_sink.webhook.secret_ref",
        ),
        (
            json!({"signing_secret_ref": "a/b"}),
            &[("a/c", KEY)],
            "usage_sink.webhook.signing_secret_ref",
        ),
    ] {
        let config = config("usage_sink", webhook_with(&members)).unwrap();
        let faults = config.sinks(&credentials(secrets)).unwrap_err();
        assert_eq!(faults.0[0].path, path);
        assert!(!faults.to_string().contains("break"), "{faults}");
    }
}

/// QUOTA-23, D48
#[test]
fn every_bound_names_the_field() {
    let key = |members: Value| webhook_with(&members);
    for (sink, path) in [
        (json!({"type": "webhook"}), "webhook"),
        (
            json!({"type": "log", "webhook": {"url": "https://a.example"}}),
            "webhook",
        ),
        (
            json!({"type": "none", "webhook": {"url": "https://a.example"}}),
            "webhook",
        ),
        (key(json!({"url": "https://u@a.example"})), "webhook.url"),
        (key(json!({"url": "a.example"})), "webhook.url"),
        (
            key(json!({"secret_ref": "a/b", "signing_secret_ref": "a/c"})),
            "webhook.signing_secret_ref",
        ),
        (key(json!({"secret_ref": ""})), "webhook.secret_ref"),
        (
            key(json!({"signing_secret_ref": ""})),
            "webhook.signing_secret_ref",
        ),
        (
            key(json!({"auth_header": "X-Api-Key"})),
            "webhook.auth_header",
        ),
        (
            key(json!({"secret_ref": "a/b", "auth_header": "a b"})),
            "webhook.auth_header",
        ),
        (
            key(json!({"secret_ref": "a/b", "auth_header": "Host"})),
            "webhook.auth_header",
        ),
        (
            key(json!({"secret_ref": "a/b", "auth_header": "Webhook-Signature"})),
            "webhook.auth_header",
        ),
        (
            key(json!({"secret_ref": "a/b", "auth_header": "Idempotency-Key"})),
            "webhook.auth_header",
        ),
        (
            key(json!({"timeout_seconds": 0})),
            "webhook.timeout_seconds",
        ),
        (
            key(json!({"timeout_seconds": 56})),
            "webhook.timeout_seconds",
        ),
        (
            key(json!({"batch": {"max_events": 0, "max_seconds": 0}})),
            "webhook.batch.max_events",
        ),
        (
            key(json!({"batch": {"max_events": 101, "max_seconds": 0}})),
            "webhook.batch.max_events",
        ),
        (
            key(json!({"batch": {"max_events": 1, "max_seconds": 61}})),
            "webhook.batch.max_seconds",
        ),
    ] {
        for field in ["usage_sink", "audit_sink"] {
            let faults = config(field, sink.clone()).unwrap_err();
            let expected = format!("{field}.{path}");
            let found = faults.0.iter().any(|fault| fault.path == expected);
            assert!(found, "{sink}: {faults}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_at_every_level() {
    let sink = webhook_with(&json!({"batch": {"max_events": 1, "max_seconds": 0}}));
    for field in ["usage_sink", "audit_sink"] {
        config(field, sink.clone()).unwrap();
        for pointer in ["", "/webhook", "/webhook/batch"] {
            let mut sink = sink.clone();
            sink.pointer_mut(pointer).unwrap()["misspelt"] = json!(1);
            let message = config(field, sink).unwrap_err().to_string();
            assert!(message.contains("unknown field `misspelt`"), "{message}");
        }
    }
}

/// QUOTA-26: sinks are part of what is rendered, hashed and read back.
#[test]
fn a_sink_is_part_of_the_content() {
    let plain = config("usage_sink", Value::Null).unwrap();
    let sink = config("audit_sink", webhook_with(&json!({}))).unwrap();
    assert_ne!(sink.content_hash, plain.content_hash);
    let stored = sink.document.to_json().unwrap();
    assert_eq!(TenantConfig::from_json(&stored).unwrap(), sink);
}
