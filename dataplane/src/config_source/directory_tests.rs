//! A directory of rendered tenants as the kubelet maintains it: it updates a
//! mounted Secret by renaming one symbolic link. The tests wait for changes up
//! to [`PATIENCE`].

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minichat_config::process::TenantSource;
use minichat_core::TenantId;
use minichat_crds::RenderSettings;
use minichat_crds::rendered_secret::{CREDENTIALS_KEY, TENANT_KEY};
use serde_json::Value;
use tempfile::TempDir;

use super::fixtures::{A, B, daily, secret, store};
use super::{ConfigSource, StoredPolicyVersions, TenantRuntime};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    source: ConfigSource,
    directory: PathBuf,
    _files: TempDir,
}

impl Scene {
    /// Serves the tenants that `write` puts into an empty directory.
    async fn start(write: impl FnOnce(&Path)) -> Self {
        let files = TempDir::new().unwrap();
        let directory = files.path().join("tenants");
        fs::create_dir(&directory).unwrap();
        write(&directory);
        let versions = StoredPolicyVersions::new(store(&files).await);
        let source = TenantSource::Directory(directory.clone());
        let source = ConfigSource::start(&source, RenderSettings::default(), versions);
        Self {
            source: source.await.unwrap(),
            directory,
            _files: files,
        }
    }

    fn running(&self, id: &str) -> Option<Arc<TenantRuntime>> {
        self.source.tenants().get(id.parse::<TenantId>().unwrap())
    }

    fn daily(&self, id: &str) -> Option<i64> {
        self.running(id).map(|runtime| daily(&runtime))
    }

    fn configz(&self, id: &str) -> Value {
        let all = serde_json::to_value(&*self.source.status().configz()).unwrap();
        let all = all.as_array().unwrap();
        let found = all.iter().find(|entry| entry["tenant_id"] == id);
        found.cloned().unwrap_or_default()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let shown = self.source.status().configz();
            assert!(Instant::now() < deadline, "never: {what}; {shown:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The keys of a tenant's rendered Secret.
fn keys(id: &str, version: u64, limit: u32, key: &str) -> [(&'static str, Vec<u8>); 2] {
    let mut data = secret(id, version, limit, key).data.unwrap();
    [TENANT_KEY, CREDENTIALS_KEY].map(|key| (key, data.remove(key).unwrap().0))
}

/// Writes `keys` into `mount` as the kubelet does: into a new subdirectory,
/// followed by the exchange of the link to the previous one.
fn mount(mount: &Path, keys: &[(&str, Vec<u8>)]) {
    fs::create_dir_all(mount).unwrap();
    let before = fs::read_link(mount.join("..data")).ok();
    let folder = TempDir::with_prefix_in("..2026_", mount).unwrap().keep();
    for (key, text) in keys {
        fs::write(folder.join(key), text).unwrap();
        let visible = mount.join(key);
        if !visible.is_symlink() {
            symlink(Path::new("..data").join(key), visible).unwrap();
        }
    }
    let next = mount.join("..data_tmp");
    symlink(folder.file_name().unwrap(), &next).unwrap();
    fs::rename(next, mount.join("..data")).unwrap();
    if let Some(before) = before {
        fs::remove_dir_all(mount.join(before)).unwrap();
    }
}

/// K8S-21, K8S-22
#[tokio::test]
async fn a_swap_of_the_links_of_a_mounted_secret_is_taken_over_whole() {
    let scene = Scene::start(|directory| mount(directory, &keys(A, 1, 7, "key"))).await;
    let first = scene.running(A).unwrap();
    assert_eq!((first.policy_version(), daily(&first)), (1, 7));
    for version in 2..=20 {
        let limit = u32::try_from(version).unwrap() * 10;
        let key = format!("key-{version}");
        mount(&scene.directory, &keys(A, version, limit, &key));
        let is_next = |scene: &Scene| scene.daily(A) == Some(i64::from(limit));
        scene.until("the next version", is_next).await;
        let running = scene.running(A).unwrap();
        assert_eq!(running.policy_version(), version);
        let credentials: Vec<_> = running.credentials.iter().collect();
        assert_eq!(
            credentials[0].1.expose(),
            key,
            "document and credentials belong together"
        );
    }
    assert_eq!(daily(&first), 7, "who pinned the first one keeps it");
}

/// K8S-22: the revision of a mounted Secret covers its credentials.
#[tokio::test]
async fn new_credentials_alone_are_a_new_revision() {
    let scene = Scene::start(|directory| mount(directory, &keys(A, 1, 7, "old"))).await;
    let before = scene.configz(A)["revision"].clone();
    mount(&scene.directory, &keys(A, 1, 7, "new"));
    let is_new = |scene: &Scene| scene.configz(A)["revision"] != before;
    scene.until("another revision", is_new).await;
    let running = scene.running(A).unwrap();
    assert_eq!(running.credentials.iter().next().unwrap().1.expose(), "new");
    assert_eq!(running.policy_version(), 1);
}

/// K8S-21: file notifications of a directory end when it is replaced; the poll
/// finds the new one.
#[tokio::test]
async fn a_directory_that_was_exchanged_is_found_by_the_poll() {
    let scene = Scene::start(|directory| mount(directory, &keys(A, 1, 7, "key"))).await;
    let elsewhere = scene.directory.with_file_name("old");
    fs::rename(&scene.directory, &elsewhere).unwrap();
    mount(&scene.directory, &keys(A, 2, 8, "key"));
    scene
        .until("the new directory", |scene| scene.daily(A) == Some(8))
        .await;
    mount(&elsewhere, &keys(A, 3, 9, "key"));
    mount(&scene.directory, &keys(A, 4, 10, "key"));
    scene
        .until("the new directory again", |scene| {
            scene.daily(A) == Some(10)
        })
        .await;
}

/// K8S-21, K8S-22, D34
#[tokio::test]
async fn of_several_tenants_a_broken_one_keeps_its_last_and_leaves_the_others() {
    let file = |limit| serde_json::to_string(&secret(B, 1, limit, "key")).unwrap();
    let scene = Scene::start(|directory| {
        mount(&directory.join("a"), &keys(A, 1, 7, "key"));
        fs::write(directory.join("b.json"), file(70)).unwrap();
        fs::write(directory.join("notes.txt"), "not a tenant").unwrap();
    })
    .await;
    assert_eq!((scene.daily(A), scene.daily(B)), (Some(7), Some(70)));
    let revision = scene.configz(A)["revision"].clone();

    let [document, _] = keys(A, 2, 8, "key");
    mount(
        &scene.directory.join("a"),
        &[document, (CREDENTIALS_KEY, b"{}".to_vec())],
    );
    scene
        .until("refused", |scene| scene.configz(A)["state"] == "rejected")
        .await;
    let shown = scene.configz(A);
    assert_eq!(shown["revision"], revision);
    let error = shown["error"].as_str().unwrap();
    assert!(
        error.contains("tenant.json.providers.p.auth.secret_ref"),
        "{error}"
    );
    assert_eq!((scene.daily(A), scene.daily(B)), (Some(7), Some(70)));

    mount(&scene.directory.join("a"), &keys(A, 2, 8, "key"));
    scene
        .until("repaired", |scene| scene.configz(A)["state"] == "active")
        .await;
    assert_eq!(scene.daily(A), Some(8));
    fs::remove_file(scene.directory.join("b.json")).unwrap();
    scene
        .until("gone", |scene| scene.running(B).is_none())
        .await;
    assert_eq!(scene.configz(B), Value::Null);
}
