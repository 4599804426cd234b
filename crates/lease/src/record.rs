//! Reads and writes the Lease object on the API server.

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

/// The Lease as it was read.
pub(crate) struct Read {
    /// `None`: nobody holds it.
    pub(crate) holder: Option<String>,
    /// `resourceVersion`
    pub(crate) version: Option<String>,
}

/// The result of a write.
pub(crate) enum Written {
    Done,
    /// Nothing was written, because the Lease has changed since it was read.
    Changed,
}

impl Record {
    pub(crate) fn new(candidate: Candidate, clock: Arc<dyn Clock>) -> Self {
        Self {
            leases: Api::namespaced(candidate.client.clone(), &candidate.namespace),
            candidate,
            clock,
        }
    }

    pub(crate) fn is_of_this(&self, holder: &str) -> bool {
        holder == self.candidate.identity
    }

    /// `None` if there is no such Lease yet.
    pub(crate) async fn read(&self) -> kube::Result<Option<Read>> {
        let lease = self.leases.get_opt(&self.candidate.name).await?;
        Ok(lease.map(|lease| {
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            Read {
                holder: holder.filter(|holder| !holder.is_empty()),
                version: lease.metadata.resource_version,
            }
        }))
    }

    /// Creates it for this process.
    pub(crate) async fn create(&self) -> kube::Result<Written> {
        let parameters = PostParams {
            field_manager: Some(self.candidate.manager.to_owned()),
            ..PostParams::default()
        };
        let lease = self.lease(None, &self.candidate.identity);
        written(self.leases.create(&parameters, &lease).await)
    }

    /// Takes or renews it, if its version is still `version`.
    pub(crate) async fn hold(&self, version: Option<String>) -> kube::Result<Written> {
        self.replace(version, &self.candidate.identity).await
    }

    /// Releases it, if its version is still `version`.
    pub(crate) async fn free(&self, version: Option<String>) -> kube::Result<Written> {
        self.replace(version, "").await
    }

    async fn replace(&self, version: Option<String>, holder: &str) -> kube::Result<Written> {
        let lease = self.lease(version, holder);
        let parameters = PatchParams::apply(self.candidate.manager).force();
        let patch = Patch::Apply(&lease);
        let name = &self.candidate.name;
        written(self.leases.patch(name, &parameters, &patch).await)
    }

    fn lease(&self, resource_version: Option<String>, holder: &str) -> Lease {
        let now = jiff::Timestamp::from_microsecond(self.clock.now().as_micros());
        Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.name.clone()),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                renew_time: now.ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn written(result: kube::Result<Lease>) -> kube::Result<Written> {
    match result {
        Ok(_) => Ok(Written::Done),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Written::Changed),
        Err(error) => Err(error),
    }
}
