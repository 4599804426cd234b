//! The tenant source of a process (K8S-21).

use std::path::PathBuf;
use std::sync::Arc;

use minichat_config::process::TenantSource;
use minichat_crds::RenderSettings;
use minichat_telemetry::Signal;

use super::directory::DirectoryReader;
use super::folder::Followed;
use super::kubernetes::{PoolSecrets, Watching};
use super::loader::Loader;
use super::manifests::ManifestReader;
use super::rendered::Intake;
use super::tenant_states::TenantStates;
use super::{Status, StoredPolicyVersions, Tenants};

/// The tenants of a source. They are kept up to date until this is dropped.
pub struct ConfigSource {
    public: Public,
    _follower: Follower,
}

/// What the rest of the process sees of a source.
#[derive(Clone)]
struct Public {
    tenants: Arc<Tenants>,
    status: Status,
    /// Fires after the source was read once as a whole.
    loaded: Signal,
    /// Whether the source may have no tenants: a pool may wait for its first
    /// one, but a directory is filled before the start.
    may_be_empty: bool,
}

/// Keeps the tenants up to date until dropped.
enum Follower {
    Directory { _followed: Followed },
    Cluster { _watching: Watching },
}

impl ConfigSource {
    /// Loads the tenants of `source` and follows it. Faults of single tenants
    /// do not stop the start. A directory that cannot be read does, and so does
    /// a missing cluster configuration. If the API server does not answer, the
    /// start does not wait for it.
    pub async fn start(
        source: &TenantSource,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> anyhow::Result<Self> {
        match source {
            TenantSource::Manifests(path) => {
                Self::manifests(path.clone(), settings, versions).await
            }
            TenantSource::Directory(path) => {
                Self::directory(path.clone(), settings, versions).await
            }
            TenantSource::Kubernetes {
                pool,
                namespace,
                kubeconfig,
            } => {
                let pool =
                    PoolSecrets::connect(pool, namespace.as_deref(), kubeconfig.as_deref()).await?;
                Ok(Self::kubernetes(pool, settings, versions))
            }
        }
    }

    async fn manifests(
        directory: PathBuf,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> anyhow::Result<Self> {
        let loader = Loader::new(versions);
        let public = Public::of(&loader.states, false);
        let reader = ManifestReader::new(settings, loader);
        public.followed(directory, reader).await
    }

    async fn directory(
        directory: PathBuf,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> anyhow::Result<Self> {
        let intake = Intake::new(versions);
        let public = Public::of(&intake.states, false);
        let reader = DirectoryReader::new(settings, intake);
        public.followed(directory, reader).await
    }

    /// Follows `pool`. Returns before the API server has answered.
    fn kubernetes(
        pool: PoolSecrets,
        settings: RenderSettings,
        versions: StoredPolicyVersions,
    ) -> Self {
        let intake = Intake::new(versions);
        let public = Public::of(&intake.states, true);
        let watching = Watching::start(pool, settings, intake, public.loaded.clone());
        Self {
            public,
            _follower: Follower::Cluster {
                _watching: watching,
            },
        }
    }

    /// The tenants of this source.
    pub fn tenants(&self) -> Arc<Tenants> {
        Arc::clone(&self.public.tenants)
    }

    /// The running and the refused configurations.
    pub fn status(&self) -> Status {
        self.public.status.clone()
    }

    /// Returns a function that says why the tenants are not ready; `None` if
    /// they are (K8S-21, QUOTA-31).
    pub fn readiness(&self) -> impl Fn() -> Option<&'static str> + Clone + Send + Sync + 'static {
        let public = self.public.clone();
        move || public.not_ready()
    }
}

impl Public {
    fn of(states: &TenantStates, may_be_empty: bool) -> Self {
        Self {
            tenants: states.tenants(),
            status: states.status(),
            loaded: Signal::new(),
            may_be_empty,
        }
    }

    async fn followed(
        self,
        directory: PathBuf,
        reader: impl super::folder::Reader,
    ) -> anyhow::Result<ConfigSource> {
        let followed = Followed::start(directory, reader).await?;
        self.loaded.fire();
        Ok(ConfigSource {
            public: self,
            _follower: Follower::Directory {
                _followed: followed,
            },
        })
    }

    fn not_ready(&self) -> Option<&'static str> {
        if !self.loaded.is_fired() {
            return Some("the tenants have not been loaded yet");
        }
        if self.tenants.is_empty() && self.tenants.has_pending() {
            return Some("the database has not taken the tenants' policies yet");
        }
        let is_empty_on_purpose = self.may_be_empty && self.status.configz().is_empty();
        (self.tenants.is_empty() && !is_empty_on_purpose)
            .then_some("no tenant has a valid configuration")
    }
}
