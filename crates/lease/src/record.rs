//! The Lease as the API server keeps it.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use minichat_core::Clock;

use crate::{Candidate, DURATION};

/// Reads and writes one Lease for one candidate.
pub(crate) struct Record {
    leases: Api<Lease>,
    candidate: Candidate,
    clock: Arc<dyn Clock>,
}

/// What was read.
pub(crate) struct Read {
    /// `resourceVersion`
    pub(crate) version: Option<String>,
    /// Held by this process.
    pub(crate) is_ours: bool,
    /// The other process that holds it, which may be gone.
    pub(crate) other_holder: Option<String>,
}

impl Record {
    pub(crate) fn new(candidate: Candidate, clock: Arc<dyn Clock>) -> Self {
        Self {
            leases: Api::namespaced(candidate.client.clone(), &candidate.namespace),
            candidate,
            clock,
        }
    }

    /// `None` if nobody has ever held it.
    pub(crate) async fn read(&self) -> kube::Result<Option<Read>> {
        let lease = self.leases.get_opt(&self.candidate.name).await?;
        Ok(lease.map(|lease| {
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.filter(|holder| !holder.is_empty());
            let is_ours = holder.as_ref() == Some(&self.candidate.identity);
            Read {
                version: lease.metadata.resource_version,
                is_ours,
                other_holder: holder.filter(|_| !is_ours),
            }
        }))
    }

    /// Creates it for this process; false if another one was first.
    pub(crate) async fn create(&self) -> kube::Result<bool> {
        let parameters = PostParams {
            field_manager: Some(self.candidate.manager.to_owned()),
            ..PostParams::default()
        };
        let created = self.leases.create(&parameters, &self.held(None)).await;
        written(created.map(drop))
    }

    /// Takes or renews it (`hold`), or frees it; false if it is not as `version` any more.
    pub(crate) async fn replace(&self, version: Option<String>, hold: bool) -> kube::Result<bool> {
        let mut lease = self.held(version);
        if let (false, Some(spec)) = (hold, &mut lease.spec) {
            spec.holder_identity = Some(String::new());
        }
        let parameters = PatchParams::apply(self.candidate.manager).force();
        let patch = Patch::Apply(&lease);
        let name = &self.candidate.name;
        let patched = self.leases.patch(name, &parameters, &patch).await;
        written(patched.map(drop))
    }

    fn held(&self, resource_version: Option<String>) -> Lease {
        let now = jiff::Timestamp::from_microsecond(self.clock.now().as_micros());
        Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.name.clone()),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.candidate.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                renew_time: now.ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// A conflict is another process's success.
fn written(result: kube::Result<()>) -> kube::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
