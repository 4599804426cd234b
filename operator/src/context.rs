//! What a reconcile has at hand: the caches, the state, the writer, the pods, the settings.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use minichat_core::{Clock, TenantId};
use minichat_crds::{RenderSettings, Revisions};
use minichat_lease::Leadership;

use crate::caches::{Caches, Key};
use crate::managed::Managed;
use crate::manifests::Manifests;
use crate::pool::PodPool;
use crate::secret_lookup::SecretLookup;
use crate::settings::Settings;
use crate::state::State;
use crate::status::JobsHealth;
use crate::work::Request;
use crate::writer::Writer;

pub(crate) struct Context {
    pub(crate) caches: Arc<Caches>,
    pub(crate) state: Arc<State>,
    pub(crate) writer: Writer,
    pub(crate) pool: Arc<PodPool>,
    /// Owner of the rendered Secrets and of what the operator makes.
    pub(crate) managed: Managed,
    /// Name of that owner.
    pub(crate) managed_config_map: Option<String>,
    /// What the operator makes.
    pub(crate) manifests: Manifests,
    pub(crate) jobs_health: JobsHealth,
    pub(crate) pool_name: String,
    pub(crate) pool_namespace: String,
    pub(crate) identity: String,
    pub(crate) settings: RenderSettings,
    pub(crate) revisions: Revisions,
    pub(crate) secret_lookup: SecretLookup,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Context {
    /// Of an operator whose pool is in `namespace`.
    pub(crate) fn new(
        (settings, manifests): (&Settings, Manifests),
        namespace: String,
        client: &Client,
        leadership: Leadership,
        caches: Arc<Caches>,
        clock: Arc<dyn Clock>,
        state: Arc<State>,
    ) -> Self {
        let missed = Duration::from_secs(settings.watchdog_missed_after_secs.into());
        Self {
            writer: Writer::new(client.clone(), leadership, &namespace, &settings.pool),
            pool: PodPool::start(Arc::clone(&caches), settings.pod_admin_port),
            jobs_health: JobsHealth::new(manifests.watchdog(settings.watchdog), missed),
            managed: Managed::new(caches.managed.clone()),
            managed_config_map: settings.managed_config_map.clone(),
            manifests,
            caches,
            state,
            pool_name: settings.pool.clone(),
            pool_namespace: namespace,
            identity: settings.identity(),
            settings: settings.render(),
            revisions: Revisions::new(),
            secret_lookup: SecretLookup::new(client.clone()),
            clock,
        }
    }

    /// Enqueues every tenant that asks for the id for the render loop.
    pub(crate) fn enqueue_all_of(&self, id: TenantId) {
        for tenant in self.caches.tenants_having(&Key::TenantId(id)) {
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            self.state.queues.render.send(Request::Changed(tenant));
        }
    }
}
