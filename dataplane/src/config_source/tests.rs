//! A directory that changes while its tenants run. The tests wait for changes
//! up to [`PATIENCE`]; nothing depends on how long they take.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minichat_config::process::TenantSource;
use minichat_core::{SystemClock, TenantId};
use minichat_crds::RenderSettings;
use minichat_store::{DatabaseSettings, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::{A, B, daily, opened_by, tenant};
use super::{ConfigSource, StoredPolicyVersions, TenantRuntime};

const PATIENCE: Duration = Duration::from_secs(20);
struct Scene {
    source: ConfigSource,
    store: Store,
    manifests: TempDir,
    _database: TempDir,
}

impl Scene {
    async fn start(files: &[(&str, String)]) -> Self {
        let (manifests, database) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for (name, text) in files {
            fs::write(manifests.path().join(name), text).unwrap();
        }
        let url = format!("sqlite://{}", database.path().join("minichat.db").display());
        let settings = DatabaseSettings::new(url);
        let store = Store::open(&settings, Arc::new(SystemClock)).await.unwrap();
        Self {
            source: source(&manifests, &store).await,
            store,
            manifests,
            _database: database,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.manifests.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.manifests.path().join(name)).unwrap();
    }

    fn running(&self, id: &str) -> Option<Arc<TenantRuntime>> {
        self.source.tenants().get(id.parse::<TenantId>().unwrap())
    }

    fn configz(&self, id: &str) -> Value {
        let all = serde_json::to_value(&*self.source.status().configz()).unwrap();
        let found = all
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["tenant_id"] == id);
        found.cloned().unwrap_or_default()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "never: {what}; {:?}",
                self.source.status().configz()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn rejected(&self, id: &str) -> Value {
        self.until("rejected", |scene| scene.configz(id)["state"] == "rejected")
            .await;
        self.configz(id)
    }
}

async fn source(manifests: &TempDir, store: &Store) -> ConfigSource {
    let versions = StoredPolicyVersions::new(store.clone());
    let directory = manifests.path().to_owned();
    ConfigSource::start(
        &TenantSource::Manifests(directory),
        RenderSettings::default(),
        versions,
    )
    .await
    .unwrap()
}

/// QUOTA-28, D34
#[tokio::test]
async fn a_tenant_runs_numbered_and_a_change_is_the_next_version() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "key"))]).await;
    let first = scene.running(A).unwrap();
    assert_eq!((first.policy_version(), daily(&first)), (1, 7));
    let entry = json!({"tenant_id": A, "source": "default/t01", "revision": first.revision, "state": "active", "suspended": false});
    assert_eq!(scene.configz(A), entry);
    assert!(
        first.revision.starts_with("1-") && first.revision.len() == 14,
        "{}",
        first.revision
    );

    scene.write("a.yaml", &tenant(A, 8, "key"));
    scene
        .until("version 2", |scene| {
            scene.running(A).unwrap().policy_version() == 2
        })
        .await;
    assert_eq!(daily(&scene.running(A).unwrap()), 8);
    assert_eq!(daily(&first), 7, "who pinned the older one keeps it");
}

/// QUOTA-28: after a restart, the version comes from the database.
#[tokio::test]
async fn a_restart_keeps_the_version_of_an_unchanged_document() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "key"))]).await;
    scene.write("a.yaml", &tenant(A, 8, "key"));
    scene
        .until("version 2", |scene| {
            scene.running(A).unwrap().policy_version() == 2
        })
        .await;
    let again = source(&scene.manifests, &scene.store).await;
    assert_eq!(
        again
            .tenants()
            .get(A.parse().unwrap())
            .unwrap()
            .policy_version(),
        2
    );
}

/// K8S-22, QUOTA-31
#[tokio::test]
async fn a_refused_change_leaves_the_tenant_and_every_other_as_they_were() {
    let scene = Scene::start(&[
        ("a.yaml", tenant(A, 7, "key")),
        ("b.yaml", tenant(B, 7, "key")),
    ])
    .await;
    let (a, b) = (scene.running(A).unwrap(), scene.running(B).unwrap());
    scene.write(
        "a.yaml",
        &tenant(A, 8, "key").replace("tier: Standard", "tier: Gold"),
    );
    let entry = scene.rejected(A).await;
    assert_eq!(entry["revision"], a.revision);
    assert!(
        entry["rejected_revision"]
            .as_str()
            .unwrap()
            .starts_with("refused-"),
        "{entry}"
    );
    let error = entry["error"].as_str().unwrap();
    assert!(
        error.starts_with("a.yaml, document 1, spec.models[0].tier: "),
        "{error}"
    );
    assert!(Arc::ptr_eq(&scene.running(A).unwrap(), &a));
    assert!(Arc::ptr_eq(&scene.running(B).unwrap(), &b));

    scene.write("a.yaml", &tenant(A, 8, "key"));
    scene
        .until("repaired", |scene| scene.configz(A)["state"] == "active")
        .await;
    assert_eq!(daily(&scene.running(A).unwrap()), 8);
}

/// D34: a tenant that never ran.
#[tokio::test]
async fn a_tenant_that_never_ran_is_shown_without_a_revision() {
    let broken = tenant(A, 7, "key").replace("https:", "http:");
    let scene = Scene::start(&[("a.yaml", broken), ("b.yaml", tenant(B, 7, "key"))]).await;
    assert!(scene.running(A).is_none() && scene.running(B).is_some());
    let entry = scene.configz(A);
    assert_eq!(
        (&entry["revision"], &entry["state"]),
        (&Value::Null, &json!("rejected"))
    );
}

/// Without its quota, the tenant's users would have other limits.
#[tokio::test]
async fn an_unreadable_document_beside_a_running_tenant_refuses_the_change() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "key"))]).await;
    scene.write(
        "a.yaml",
        &tenant(A, 9, "key").replace("kind: ChatQuota", "kind: ChatQouta"),
    );
    let error = scene.rejected(A).await["error"].to_string();
    assert!(error.contains("a.yaml, document 2, kind: "), "{error}");
    assert_eq!(daily(&scene.running(A).unwrap()), 7);
    scene.write("a.yaml", "a: [");
    scene
        .until("no YAML", |scene| {
            scene.configz(A)["error"]
                .to_string()
                .contains("not valid YAML")
        })
        .await;
    assert_eq!(daily(&scene.running(A).unwrap()), 7);
}

/// PLAT-102: a new key is used at once. It is a new revision but not a new
/// policy.
#[tokio::test]
async fn a_changed_secret_is_a_new_revision_of_the_same_version() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "sk-old"))]).await;
    let before = scene.running(A).unwrap();
    scene.write("a.yaml", &tenant(A, 7, "sk-new"));
    scene
        .until("revision", |scene| {
            scene.running(A).unwrap().revision != before.revision
        })
        .await;
    let after = scene.running(A).unwrap();
    assert_eq!(after.policy_version(), before.policy_version());
    let (_, key) = after.credentials.iter().next().unwrap();
    assert_eq!(key.expose(), "sk-new");
    assert!(!scene.configz(A).to_string().contains("sk-"));
}

#[tokio::test]
async fn a_deleted_tenant_disappears_and_a_new_one_appears() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "key"))]).await;
    scene.write("b.yaml", &tenant(B, 7, "key"));
    scene.until("new", |scene| scene.running(B).is_some()).await;
    scene.remove("a.yaml");
    scene
        .until("gone", |scene| scene.running(A).is_none())
        .await;
    assert_eq!(scene.configz(A), Value::Null);
    assert!(scene.running(B).is_some());
}

/// K8S, section 2, `auth.issuers`
#[tokio::test]
async fn an_issuer_of_a_running_tenant_is_refused_in_another_ones_manifest() {
    let scene = Scene::start(&[("b.yaml", opened_by(B, &["https://login.example.com"]))]).await;
    scene.write("a.yaml", &opened_by(A, &["https://login.example.com"]));
    let error = scene.rejected(A).await["error"].to_string();
    assert!(
        error.contains("spec.auth.issuers[0].issuer: ") && error.contains(B),
        "{error}"
    );
    scene.write("b.yaml", &tenant(B, 7, "key"));
    scene
        .until("given up", |scene| scene.running(A).is_some())
        .await;
}

#[tokio::test]
async fn a_directory_that_vanishes_stops_nobody() {
    let scene = Scene::start(&[("a.yaml", tenant(A, 7, "key"))]).await;
    let running = scene.running(A).unwrap();
    let path = scene.manifests.path();
    let aside = path.with_extension("aside");
    fs::rename(path, &aside).unwrap();
    assert!(Arc::ptr_eq(&scene.running(A).unwrap(), &running));
    fs::rename(&aside, path).unwrap();
    scene.write("a.yaml", &tenant(A, 8, "key"));
    scene
        .until("back", |scene| daily(&scene.running(A).unwrap()) == 8)
        .await;
}

#[tokio::test]
async fn a_missing_directory_stops_the_start() {
    let scene = Scene::start(&[]).await;
    let versions = StoredPolicyVersions::new(scene.store.clone());
    let missing = scene.manifests.path().join("missing");
    let started = ConfigSource::start(
        &TenantSource::Manifests(missing),
        RenderSettings::default(),
        versions,
    )
    .await;
    assert!(started.is_err_and(|error| error.to_string().contains("missing")));
}
