//! Errors of reconciles, and how often each object failed in a row (K8S-10).

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use minichat_crds::{ChatQuota, ChatTenant};
use minichat_metrics::ReconcileErrorLabel;

use crate::work::Backoff;
use crate::writer::WriteError;

/// One reconcile takes no longer (K8S-10).
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Of the reconciles of one kind.
pub(crate) type Failures<K> = Backoff<ObjectRef<K>, ReconcileError>;

/// Of every controller.
#[derive(Debug, Default)]
pub(crate) struct AllFailures {
    pub(crate) render: Failures<ChatTenant>,
    pub(crate) objects: Failures<ChatTenant>,
    pub(crate) quotas: Failures<ChatQuota>,
    pub(crate) rendered: Failures<Secret>,
}

impl AllFailures {
    /// A tenant that is created again under its name begins anew.
    pub(crate) fn forget_tenant(&self, tenant: &ObjectRef<ChatTenant>) {
        self.render.succeeded(tenant);
        self.objects.succeeded(tenant);
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
            Self::Write(
                WriteError::Changed | WriteError::OfAnotherPool { .. } | WriteError::NameTaken(_),
            ) => Conflict,
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
