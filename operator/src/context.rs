//! What every reconcile may use.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use minichat_core::{Clock, TenantId};
use minichat_crds::{ChatTenant, RenderSettings, Revisions};
use minichat_lease::Leadership;
use minichat_metrics::OperatorMetrics;

use crate::caches::{Caches, Key};
use crate::event_handlers::EventHandlers;
use crate::failures::AllFailures;
use crate::managed::Managed;
use crate::pool::{PodPool, Propagation};
use crate::tenant::{PolicyVersions, RecordedOwners};

use crate::issuers::DeliveredIssuers;
use crate::secret_lookup::SecretLookup;
use crate::settings::Settings;
use crate::status::JobsHealth;
use crate::work::{Queues, Request};
use crate::writer::Writer;

pub(crate) struct Context {
    pub(crate) caches: Arc<Caches>,
    pub(crate) writer: Writer,
    pub(crate) pool: Arc<PodPool>,
    /// Owner of the rendered Secrets.
    pub(crate) managed: Managed,
    pub(crate) jobs_health: JobsHealth,
    pub(crate) pool_name: String,
    pub(crate) pool_namespace: String,
    pub(crate) identity: String,
    pub(crate) settings: RenderSettings,
    pub(crate) revisions: Revisions,
    pub(crate) policy_versions: Arc<PolicyVersions>,
    pub(crate) owners: RecordedOwners,
    /// What the rendered Secrets list.
    pub(crate) issuers: Arc<DeliveredIssuers>,
    pub(crate) secret_lookup: SecretLookup,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) propagation: Arc<Propagation>,
    pub(crate) metrics: Arc<dyn OperatorMetrics>,
    pub(crate) failures: Arc<AllFailures>,
}

impl Context {
    /// Of an operator whose pool is in `namespace`.
    pub(crate) fn new(
        settings: &Settings,
        namespace: String,
        client: &Client,
        leadership: Leadership,
        caches: Arc<Caches>,
        clock: Arc<dyn Clock>,
        handlers: &EventHandlers,
    ) -> Self {
        let missed = Duration::from_secs(settings.watchdog_missed_after_secs.into());
        Self {
            writer: Writer::new(client.clone(), leadership, &namespace, &settings.pool),
            pool: PodPool::start(Arc::clone(&caches), settings.pod_admin_port),
            jobs_health: JobsHealth::new(settings.watchdog, missed),
            managed: Managed::new(caches.managed.clone()),
            caches,
            pool_name: settings.pool.clone(),
            pool_namespace: namespace,
            identity: settings.identity(),
            settings: settings.render(),
            revisions: Revisions::new(),
            policy_versions: Arc::clone(&handlers.policy_versions),
            owners: RecordedOwners::default(),
            issuers: Arc::clone(&handlers.issuers),
            secret_lookup: SecretLookup::new(client.clone()),
            clock,
            queues: Arc::clone(&handlers.queues),
            propagation: Arc::clone(&handlers.propagation),
            metrics: Arc::clone(&handlers.metrics),
            failures: Arc::clone(&handlers.failures),
        }
    }

    /// Enqueues `tenant` for the render loop.
    pub(crate) fn enqueue_render(&self, tenant: &ChatTenant) {
        let tenant = ObjectRef::from_obj(tenant);
        self.queues.render.send(Request::Changed(tenant));
    }

    /// Enqueues every tenant that asks for the id, for both loops.
    pub(crate) fn enqueue_all_of(&self, id: TenantId) {
        for tenant in self.caches.tenants_having(&Key::TenantId(id)) {
            self.enqueue_render(&tenant);
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            self.queues.objects.send(Request::Changed(tenant));
        }
    }
}
