//! What every reconcile may use.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use minichat_core::{Clock, TenantId};
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, Revisions};
use minichat_metrics::{OperatorMetrics, ReconcileErrorLabel};

use crate::backoff::Backoff;
use crate::cache::Caches;
use crate::index::Key;
use crate::jobs::Health;
use crate::managed::Managed;
use crate::numbers::Numbers;
use crate::ownership::RecordedOwners;
use crate::pool::Pool;
use crate::propagation::Propagation;
use crate::queue::{Look, Queues};
use crate::secret_lookup::SecretLookup;
use crate::write::{WriteError, Writer};

/// One reconcile takes no longer (K8S-10).
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Context {
    pub(crate) caches: Arc<Caches>,
    pub(crate) writer: Writer,
    pub(crate) pool: Arc<Pool>,
    /// Owner of the rendered Secrets.
    pub(crate) managed: Managed,
    /// Of the pool's jobs.
    pub(crate) health: Health,
    pub(crate) pool_name: String,
    pub(crate) pool_namespace: String,
    pub(crate) identity: String,
    pub(crate) settings: RenderSettings,
    pub(crate) revisions: Revisions,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) owners: RecordedOwners,
    pub(crate) secret_lookup: SecretLookup,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) propagation: Arc<Propagation>,
    pub(crate) metrics: Arc<dyn OperatorMetrics>,
    pub(crate) render_failures: Backoff<ObjectRef<ChatTenant>>,
    pub(crate) object_failures: Backoff<ObjectRef<ChatTenant>>,
    pub(crate) quota_failures: Backoff<ObjectRef<ChatQuota>>,
    pub(crate) rendered_failures: Backoff<ObjectRef<Secret>>,
}

impl Context {
    /// Sends `tenant` through the render loop once more.
    pub(crate) fn look_again(&self, tenant: &ChatTenant) {
        let tenant = ObjectRef::from_obj(tenant);
        self.queues.render.send(Look::Changed(tenant));
    }

    /// Sends everybody who asks for the id through both loops once more.
    pub(crate) fn look_again_at(&self, id: TenantId) {
        for tenant in self.caches.tenants_having(&Key::TenantId(id)) {
            self.look_again(&tenant);
            let tenant = ObjectRef::from_obj(tenant.as_ref());
            self.queues.objects.send(Look::Changed(tenant));
        }
    }
}

/// Why a reconcile is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    Deadline,
}

impl ReconcileError {
    /// The label that counts it.
    pub(crate) fn label(&self) -> ReconcileErrorLabel {
        use ReconcileErrorLabel::{Conflict, Forbidden, Invalid, Other, Unavailable};
        match self {
            Self::Deadline => ReconcileErrorLabel::Deadline,
            Self::Write(WriteError::NotLeading) => ReconcileErrorLabel::NotLeading,
            Self::Write(WriteError::Changed) => Conflict,
            Self::Write(WriteError::Api(kube::Error::Api(status))) => match status.code {
                401 | 403 => Forbidden,
                400 | 422 => Invalid,
                408 | 429 | 500..=599 => Unavailable,
                _ => Other,
            },
            Self::Write(WriteError::Api(kube::Error::Service(_) | kube::Error::HyperError(_))) => {
                Unavailable
            }
            Self::Write(WriteError::Api(_)) => Other,
        }
    }
}
