//! What every reconcile may use.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use minichat_core::Clock;
use minichat_crds::{ChatQuota, ChatTenant, RenderSettings, Revisions};

use crate::backoff::Backoff;
use crate::cache::Caches;
use crate::numbers::Numbers;
use crate::pool::Pool;
use crate::write::{WriteError, Writer};

/// One reconcile takes no longer (K8S-10).
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Context {
    pub(crate) caches: Arc<Caches>,
    pub(crate) writer: Writer,
    pub(crate) pool: Arc<Pool>,
    pub(crate) pool_name: String,
    pub(crate) pool_namespace: String,
    pub(crate) identity: String,
    pub(crate) settings: RenderSettings,
    pub(crate) revisions: Revisions,
    pub(crate) numbers: Numbers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) render_failures: Backoff<ObjectRef<ChatTenant>>,
    pub(crate) object_failures: Backoff<ObjectRef<ChatTenant>>,
    pub(crate) quota_failures: Backoff<ObjectRef<ChatQuota>>,
}

/// Why a reconcile is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    Deadline,
}
