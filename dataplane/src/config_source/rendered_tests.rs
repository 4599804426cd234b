//! Deliveries that are applied or refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use minichat_core::TenantId;
use serde_json::Value;
use tempfile::TempDir;

use super::fixtures::{A, B, C, daily, id, opened_by, rendered, rendered_from, store};
use super::rendered::{Delivery, Intake};
use super::{StoredPolicyVersions, TenantRuntime};

struct Scene {
    intake: Intake,
    _database: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let database = TempDir::new().unwrap();
        let versions = StoredPolicyVersions::new(store(&database).await);
        Self {
            intake: Intake::new(versions),
            _database: database,
        }
    }

    async fn take(&mut self, deliveries: impl IntoIterator<Item = (TenantId, Delivery)>) {
        self.intake
            .take(deliveries.into_iter().collect::<BTreeMap<_, _>>())
            .await;
    }

    fn running(&self, tenant: &str) -> Option<Arc<TenantRuntime>> {
        self.intake.states.tenants().get(id(tenant))
    }

    fn configz(&self, tenant: &str) -> Value {
        let all = serde_json::to_value(&*self.intake.states.status().configz()).unwrap();
        let mut entries = all.as_array().unwrap().iter();
        let found = entries.find(|entry| entry["tenant_id"] == tenant);
        found.cloned().unwrap_or_default()
    }
}

fn delivered(tenant: &str, version: u64, daily: u32, key: &str) -> (TenantId, Delivery) {
    let rendered = rendered(tenant, version, daily, key);
    (id(tenant), Delivery::Rendered(Box::new(rendered)))
}

fn opened(tenant: &str, version: u64, issuers: &[&str]) -> (TenantId, Delivery) {
    let text = opened_by(tenant, issuers);
    let rendered = rendered_from(text, tenant, version, format!("{version}-issuers"));
    (id(tenant), Delivery::Rendered(Box::new(rendered)))
}

/// K8S-20, K8S-22: version and revision come from the operator.
#[tokio::test]
async fn a_delivery_runs_under_the_operators_version_and_revision() {
    let mut scene = Scene::start().await;
    scene.take([delivered(A, 41, 7, "key")]).await;
    let first = scene.running(A).unwrap();
    assert_eq!((first.policy_version(), daily(&first)), (41, 7));
    assert_eq!(scene.configz(A)["revision"], "41-7key");
    scene.take([delivered(A, 42, 8, "key")]).await;
    assert_eq!(daily(&scene.running(A).unwrap()), 8);
    assert_eq!(daily(&first), 7, "who pinned the older one keeps it");
    // New credentials are a new revision of the same version.
    scene.take([delivered(A, 42, 8, "new")]).await;
    let after = scene.running(A).unwrap();
    assert_eq!(
        (after.policy_version(), after.revision.as_str()),
        (42, "42-8new")
    );
    let (_, key) = after.credentials.iter().next().unwrap();
    assert_eq!(key.expose(), "new");
}

/// K8S-22
#[tokio::test]
async fn what_is_delivered_again_changes_nothing() {
    let mut scene = Scene::start().await;
    scene.take([delivered(A, 1, 7, "key")]).await;
    let before = scene.running(A).unwrap();
    scene.take([delivered(A, 1, 7, "key")]).await;
    assert!(Arc::ptr_eq(&before, &scene.running(A).unwrap()));
}

/// K8S-22, D34
#[tokio::test]
async fn a_refused_delivery_leaves_what_runs_and_shows_both() {
    let mut scene = Scene::start().await;
    scene
        .take([delivered(A, 1, 7, "key"), delivered(B, 1, 7, "key")])
        .await;
    let (a, b) = (scene.running(A).unwrap(), scene.running(B).unwrap());
    let refused = Delivery::Refused {
        revision: "2-bad".to_owned(),
        error: "tenant.json.schema: must be 1".to_owned(),
    };
    scene.take([(id(A), refused)]).await;
    assert!(Arc::ptr_eq(&a, &scene.running(A).unwrap()));
    assert!(Arc::ptr_eq(&b, &scene.running(B).unwrap()));
    let shown = scene.configz(A);
    assert_eq!(
        (&shown["state"], &shown["revision"]),
        (&"rejected".into(), &"1-7key".into())
    );
    assert_eq!(shown["rejected_revision"], "2-bad");
    assert_eq!(shown["error"], "tenant.json.schema: must be 1");
    scene.take([delivered(A, 2, 8, "key")]).await;
    assert_eq!(scene.configz(A)["state"], "active");
    assert_eq!(scene.configz(A)["error"], Value::Null);
}

/// QUOTA-29
#[tokio::test]
async fn a_version_never_goes_down_nor_changes_what_it_means() {
    let mut scene = Scene::start().await;
    scene.take([delivered(A, 5, 7, "key")]).await;
    for (version, limit, expected) in [
        (4, 8, "policy version 4 is lower than 5, which runs"),
        (5, 8, "policy version 5 is stored with other content"),
    ] {
        scene.take([delivered(A, version, limit, "key")]).await;
        let shown = scene.configz(A);
        assert_eq!(shown["revision"], "5-7key");
        assert!(
            shown["error"].as_str().unwrap().starts_with(expected),
            "{shown}"
        );
        assert_eq!(shown["stored_version"], 5, "what the next must exceed");
        assert!(!scene.intake.is_incomplete(), "it is not tried again");
    }
    assert_eq!(daily(&scene.running(A).unwrap()), 7);
}

/// QUOTA-29: a tenant that is deleted and created again starts with version 1,
/// but the database has a policy of that version.
#[tokio::test]
async fn a_tenant_that_comes_back_is_told_which_numbers_are_taken() {
    let mut scene = Scene::start().await;
    for (version, limit) in [(1, 11), (2, 12), (3, 13), (4, 14)] {
        scene.take([delivered(A, version, limit, "key")]).await;
    }
    scene.take([(id(A), Delivery::Gone)]).await;
    scene.take([delivered(A, 1, 99, "key")]).await;
    let shown = scene.configz(A);
    assert_eq!(
        (&shown["revision"], &shown["stored_version"]),
        (&Value::Null, &4.into())
    );
    scene.take([delivered(A, 5, 99, "key")]).await;
    assert_eq!(daily(&scene.running(A).unwrap()), 99);
    assert_eq!(scene.configz(A)["stored_version"], Value::Null);
}

#[tokio::test]
async fn a_tenant_that_is_gone_is_neither_served_nor_shown() {
    let mut scene = Scene::start().await;
    scene
        .take([delivered(A, 1, 7, "key"), delivered(B, 1, 7, "key")])
        .await;
    scene.take([(id(A), Delivery::Gone)]).await;
    assert!(scene.running(A).is_none());
    assert_eq!(scene.configz(A), Value::Null);
    assert!(scene.running(B).is_some());
}

/// K8S, section 2, `auth.issuers`: a running tenant takes precedence, whichever
/// is delivered first.
#[tokio::test]
async fn an_issuer_of_another_tenant_is_refused_until_that_one_gives_it_up() {
    let mut scene = Scene::start().await;
    scene
        .take([opened(B, 1, &["https://login.example.com"])])
        .await;
    scene
        .take([opened(A, 1, &["https://login.example.com"])])
        .await;
    assert!(scene.running(A).is_none());
    let shown = scene.configz(A);
    let error = shown["error"].as_str().unwrap();
    assert!(
        error.starts_with("spec.auth.issuers[0].issuer: ") && error.contains(B),
        "{error}"
    );
    assert_eq!(scene.configz(B)["state"], "active");
    assert!(!scene.intake.is_incomplete());

    scene.take([delivered(B, 2, 7, "key")]).await;
    assert_eq!(scene.running(A).unwrap().config.issuers.len(), 1);
    assert_eq!(scene.configz(A)["state"], "active");
}

/// K8S, section 2, `auth.issuers`
#[tokio::test]
async fn an_issuer_is_shared_only_by_tenants_that_all_name_a_claim() {
    for (a, b, runs) in [
        (
            "https://login.example.com tenant",
            "https://login.example.com org",
            true,
        ),
        (
            "https://login.example.com tenant",
            "https://login.example.com",
            false,
        ),
        (
            "https://login.example.com",
            "https://login.example.com tenant",
            false,
        ),
        (
            "https://login.example.com",
            "https://login.example.com/b",
            true,
        ),
    ] {
        let mut scene = Scene::start().await;
        scene.take([opened(A, 1, &[a]), opened(B, 1, &[b])]).await;
        assert!(scene.running(A).is_some(), "{a}, {b}");
        assert_eq!(scene.running(B).is_some(), runs, "{a}, {b}");
    }
}

/// K8S, section 2, `auth.issuers`: a refused tenant keeps its running issuers.
#[tokio::test]
async fn a_tenant_that_wants_another_ones_issuer_keeps_its_own() {
    let mut scene = Scene::start().await;
    scene
        .take([
            opened(A, 1, &["https://login.example.com/a"]),
            opened(B, 1, &["https://login.example.com/b"]),
        ])
        .await;
    scene
        .take([opened(A, 2, &["https://login.example.com/b"])])
        .await;
    let running = scene.running(A).unwrap();
    assert_eq!(
        running.config.issuers[0].issuer,
        "https://login.example.com/a"
    );
    assert_eq!(scene.configz(A)["state"], "rejected");
    // No other tenant gets the kept issuers.
    scene
        .take([opened(C, 1, &["https://login.example.com/a"])])
        .await;
    assert!(scene.running(C).is_none());
    scene
        .take([opened(B, 2, &["https://login.example.com/c"])])
        .await;
    let running = scene.running(A).unwrap();
    assert_eq!(
        running.config.issuers[0].issuer,
        "https://login.example.com/b"
    );
    assert!(scene.running(C).is_some());
}
