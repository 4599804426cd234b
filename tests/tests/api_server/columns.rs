//! What people see in kubectl: columns, short names and explanations.

use std::time::Instant;

use kube::CustomResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use minichat_crds::cases::{quota, tenant};
use minichat_crds::{ChatQuota, ChatTenant, generate};
use serde_json::{Value, json};

use super::fixture::{Fixture, object};

/// The titles of a table.
fn titles(table: &str) -> Vec<&str> {
    let line = table.lines().next().unwrap_or_default();
    line.split_whitespace().collect()
}

/// K8S-5
#[tokio::test]
async fn kubectl_get_shows_the_columns_and_the_short_names_work() {
    let fixture = Fixture::new().await;
    for (manifest, kind) in [(tenant(), "ChatTenant"), (quota(), "ChatQuota")] {
        let object = object(&manifest, fixture.namespace.name(), "acme");
        let api = fixture.api(kind);
        api.create(&PostParams::default(), &object).await.unwrap();
        let condition = json!({
            "type": "Ready", "status": "False", "reason": "InvalidReference", "message": "none",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let patch = json!({"status": {"conditions": [condition]}});
        api.patch_status("acme", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
    // As the operator would count them.
    let patch = json!({"status": {"models": 2}});
    let tenants = fixture.api("ChatTenant");
    tenants
        .patch_status("acme", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let table = fixture.kubectl(&["get", "ctn"]).unwrap();
    let expected = [
        "NAME",
        "READY",
        "PLACEMENT",
        "MODELS",
        "REVISION",
        "REASON",
        "AGE",
    ];
    let shown = titles(&table);
    // Columns that are not built yet may be missing; the others must be in
    // order.
    let expected: Vec<_> = expected
        .into_iter()
        .filter(|title| *title != "PLACEMENT" || shown.contains(title))
        .collect();
    assert_eq!(shown, expected, "{table}");
    assert!(table.contains("False"), "{table}");
    assert!(table.contains("InvalidReference"), "{table}");
    let models = titles(&table).iter().position(|title| *title == "MODELS");
    let row: Vec<_> = table
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(row[models.unwrap()], "2", "{table}");
    let table = fixture.kubectl(&["get", "ctn", "--output=wide"]).unwrap();
    for title in ["TENANTID", "PODS", "POOL"] {
        assert!(titles(&table).contains(&title), "{table}");
    }

    let table = fixture.kubectl(&["get", "cq"]).unwrap();
    let expected = [
        "NAME",
        "TENANT",
        "DAILY",
        "MONTHLY",
        "PREMIUM-DAILY",
        "SUBJECTS",
        "READY",
        "REASON",
        "AGE",
    ];
    assert_eq!(titles(&table), expected, "{table}");
    assert!(table.contains("acme"), "{table}");

    let both = fixture
        .kubectl(&["get", "minichat", "--output=name"])
        .unwrap();
    assert_eq!(both.lines().count(), 2, "{both}");
    fixture.end().await;
}

/// K8S-5
#[tokio::test]
async fn kubectl_explain_says_something_of_every_field_of_a_spec() {
    let fixture = Fixture::new().await;
    for crd in [
        generate::definition::<ChatTenant>().unwrap(),
        generate::definition::<ChatQuota>().unwrap(),
    ] {
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let mut without = Vec::new();
        undescribed(crd.pointer(spec).unwrap(), "spec", &mut without);
        assert!(without.is_empty(), "without a description: {without:?}");
    }
    // The server publishes the schema of a new kind some time after it starts
    // to serve the kind.
    let explain = ["explain", "chattenant.spec.models.providerModelId"];
    let started = Instant::now();
    let text = loop {
        match fixture.kubectl(&explain) {
            Ok(text) => break text,
            Err(error) if started.elapsed() > Fixture::PATIENCE => panic!("{error}"),
            Err(_) => {}
        }
    };
    assert!(text.contains("FIELD: providerModelId <string>"), "{text}");
    assert!(!text.contains("<empty>"), "{text}");
    assert_eq!(ChatTenant::crd_name(), "chattenants.minichat.dev");
    fixture.end().await;
}

/// Collects the paths of fields below `schema` that have no description.
fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(items) = schema.get("items") {
        undescribed(items, path, found);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(str::is_empty) {
            found.push(path.clone());
        }
        undescribed(property, &path, found);
    }
}
