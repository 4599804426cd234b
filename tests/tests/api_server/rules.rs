//! Rules, defaults and unknown fields.

use std::time::Instant;

use kube::api::{DynamicObject, PostParams};
use minichat_crds::cases::{Case, cases, quota, tenant, with};
use minichat_crds::validation;
use serde_json::{Value, json};

use super::fixture::{Fixture, object};

/// Stores `manifest`, replacing `old` if it is given.
async fn store(
    fixture: &Fixture,
    manifest: &Value,
    old: Option<&Value>,
    name: &str,
) -> kube::Result<DynamicObject> {
    let api = fixture.api(manifest["kind"].as_str().unwrap());
    let mut new = object(manifest, fixture.namespace.name(), name);
    let params = PostParams::default();
    let Some(old) = old else {
        return api.create(&params, &new).await;
    };
    let old = object(old, fixture.namespace.name(), name);
    let stored = api.create(&params, &old).await.unwrap();
    new.metadata.resource_version = stored.metadata.resource_version;
    api.replace(name, &params, &new).await
}

/// K8S-5, K8S-6
#[tokio::test]
async fn every_case_is_accepted_and_refused_with_the_message_of_the_local_rules() {
    let fixture = Fixture::new().await;
    for (i, case) in cases().iter().enumerate() {
        let Case {
            rule: _,
            message,
            path,
            old,
            accepted,
            refused,
        } = case;
        let old = old.as_ref();
        store(&fixture, accepted, old, &format!("accepted-{i}"))
            .await
            .unwrap_or_else(|error| panic!("{message}: {error}"));
        let error = store(&fixture, refused, old, &format!("refused-{i}"))
            .await
            .expect_err(message);
        let kube::Error::Api(status) = error else {
            panic!("{message}: {error}");
        };
        assert_eq!(status.code, 422, "{status:?}");
        let causes = status.details.as_ref().unwrap().causes.iter();
        let causes: Vec<_> = causes
            .map(|cause| (cause.field.as_str(), cause.message.ends_with(message)))
            .collect();
        assert_eq!(causes, [(*path, true)], "{status:?}");
    }
    fixture.end().await;
}

/// K8S-4, K8S-5
#[tokio::test]
async fn the_stored_object_has_the_defaults_of_the_local_rules() {
    let fixture = Fixture::new().await;
    let stored = store(&fixture, &tenant(), None, "acme").await.unwrap();
    let local = validation::chat_tenant(&tenant(), None).unwrap();
    assert_eq!(stored.data["spec"], present(json!(local.spec)));
    let stored = store(&fixture, &quota(), None, "acme").await.unwrap();
    let local = validation::chat_quota(&quota(), None).unwrap();
    assert_eq!(stored.data["spec"], present(json!(local.spec)));
    fixture.end().await;
}

/// As the API server writes it: without empty fields and without `.0`.
fn present(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, present(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(present).collect(),
        Value::Number(number) if number.as_f64() == Some(0.0) => json!(0),
        other => other,
    }
}

/// K8S-5
#[tokio::test]
async fn a_misspelt_field_is_refused_by_name() {
    let fixture = Fixture::new().await;
    let mut manifest = with(tenant(), "/spec/streamin", json!({}));
    manifest["metadata"]["namespace"] = json!(fixture.namespace.name());
    let apply = ["apply", "--filename=-"];
    let kubectl = fixture.tier.kubectl();
    let error = kubectl
        .run_with_input(&apply, &manifest.to_string())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unknown field \"spec.streamin\""),
        "{error}"
    );
    fixture.end().await;
}

/// D18: a number that YAML reads as a float is not a quantity. The message is the API server's own; the field's
/// description says what to write.
#[tokio::test]
async fn a_fraction_without_quotes_is_refused_with_the_types_that_are_allowed() {
    let fixture = Fixture::new().await;
    let daily = |value: Value| {
        with(
            quota(),
            "/spec/limits",
            json!({"standard": {"daily": value}}),
        )
    };
    let error = store(&fixture, &daily(json!(1.5)), None, "fraction")
        .await
        .unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}");
    };
    let message = &status.message;
    for part in [
        "spec.limits.standard.daily",
        "must be of type integer,string",
    ] {
        assert!(message.contains(part), "{message}");
    }
    store(&fixture, &daily(json!("1.5")), None, "quoted")
        .await
        .unwrap();
    let explain = ["explain", "chatquota.spec.limits.standard.daily"];
    let started = Instant::now();
    let text = loop {
        match fixture.kubectl(&explain) {
            Ok(text) => break text,
            Err(error) if started.elapsed() > Fixture::PATIENCE => panic!("{error}"),
            Err(_) => {}
        }
    };
    assert!(text.contains("in quotes"), "{text}");
    fixture.end().await;
}
