//! A Secret that replaces another one: to which tenant it belongs (D36).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use minichat_crds::RenderSettings;
use minichat_telemetry::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::super::StoredPolicyVersions;
use super::super::fixtures::{A, id, rendered, store};
use super::super::rendered::Intake;
use super::{SecretChange, Taking};

const OWNER: &str = "team-a/acme";

struct Scene {
    taking: Taking,
    _database: TempDir,
}

impl Scene {
    /// A pool with the owner's tenant only, from a Secret with the uid `first`.
    async fn start() -> Self {
        let database = TempDir::new().unwrap();
        let versions = StoredPolicyVersions::new(store(&database).await);
        let mut scene = Self {
            taking: Taking {
                settings: RenderSettings::default(),
                intake: Intake::new(versions),
                loaded: Signal::default(),
                uids: BTreeMap::new(),
            },
            _database: database,
        };
        scene.take([set(secret(OWNER, 7, "first"))]).await;
        assert_eq!(scene.runs(), Some(OWNER.to_owned()));
        scene
    }

    async fn take(&mut self, batch: impl IntoIterator<Item = SecretChange>) {
        self.taking.take(batch.into_iter().collect()).await;
    }

    /// The source of the running configuration.
    fn runs(&self) -> Option<String> {
        let running = self.taking.intake.states.running(id(A))?;
        Some(running.source.as_str().to_owned())
    }

    /// The owner that `/configz` reports for a refused document.
    fn stored_owner(&self) -> Value {
        let all = serde_json::to_value(&*self.taking.intake.states.status().configz()).unwrap();
        all[0]["stored_owner"].clone()
    }
}

fn set(secret: Secret) -> SecretChange {
    SecretChange::Set(Box::new(secret))
}

/// The Secret with this uid, rendered from `source` as version 1.
fn secret(source: &str, daily: u32, uid: &str) -> Secret {
    let at = "2026-02-28T15:30:00Z".parse().unwrap();
    let mut rendered = rendered(A, 1, daily, "key");
    rendered.source = source.parse().unwrap();
    let mut secret = rendered.to_pool_secret("main", at).unwrap();
    secret.metadata.uid = Some(uid.to_owned());
    secret
}

/// Whether the watch reports the deletion together with the new Secret, or never.
#[tokio::test]
async fn another_tenants_secret_in_the_place_of_a_deleted_one_ends_that_tenant() {
    let gone = || SecretChange::Gone(Box::new(secret(OWNER, 7, "first")));
    let other = || secret("team-b/acme", 7, "second");
    for batch in [
        vec![set(other())],
        vec![gone(), set(other())],
        vec![SecretChange::Whole(vec![other()])],
    ] {
        let mut scene = Scene::start().await;
        scene.take(batch).await;
        assert_eq!(
            scene.runs(),
            None,
            "its Secret is gone, and the other one's tenant has not its id"
        );
        assert_eq!(scene.stored_owner(), OWNER);
    }
}

/// The chats belong to the name, so a tenant that is created again keeps running.
#[tokio::test]
async fn a_secret_of_the_same_tenant_in_the_place_of_a_deleted_one_goes_on() {
    let mut scene = Scene::start().await;
    scene.take([set(secret(OWNER, 7, "second"))]).await;
    assert_eq!(scene.runs(), Some(OWNER.to_owned()));
    assert_eq!(scene.stored_owner(), Value::Null);
}

/// The Secret still exists, but another tenant's document was written into it.
#[tokio::test]
async fn another_tenants_document_in_a_secret_is_refused_and_ends_nothing() {
    let mut scene = Scene::start().await;
    // Also if its content is the same, so that no policy needs to be stored.
    for daily in [9, 7] {
        scene
            .take([set(secret("team-b/acme", daily, "first"))])
            .await;
        assert_eq!(scene.runs(), Some(OWNER.to_owned()));
        assert_eq!(scene.stored_owner(), OWNER);
    }
}
