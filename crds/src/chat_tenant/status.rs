//! The status of a `ChatTenant`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::Condition;

/// State of the tenant, as the operator sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatTenantStatus {
    /// Generation of the object that the status describes; -1 until an operator has seen the
    /// object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Namespace of the operator that serves the tenant: the first operator of the pool that
    /// saw it. Other operators of the pool leave the tenant alone. Clear this field if that
    /// operator no longer exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub operator_namespace: Option<String>,
    /// Another operator of the same pool, which leaves the tenant alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contender: Option<Contender>,
    /// Id of the tenant: `spec.tenantId`, or derived from namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Version of the policy: models and quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<i64>,
    /// Hash of the configuration without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_hash: Option<String>,
    /// Revision of the configuration that the pods should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many pods run the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    /// Number of enabled models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<i64>,
    /// Number of `ChatQuota` objects that name the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<i64>,
    /// Sinks whose events cannot be delivered. Absent while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<SinkFailures>,
    /// Conditions: `Accepted`, `ResolvedRefs`, `Programmed`, `Ready` and others.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
}

/// An operator that leaves the tenant to another one of the same pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Contender {
    /// Namespace of the operator.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// When the operator last confirmed that it still runs. After fifteen minutes it counts as
    /// gone.
    #[schemars(extend("format" = "date-time"))]
    pub renew_time: String,
}

/// Sinks whose events cannot be delivered. The condition `SinksHealthy` says why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkFailures {
    /// Of `spec.usageSink`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<SinkFailure>,
    /// Of `spec.auditSink`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<SinkFailure>,
}

/// A sink whose events cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkFailure {
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// Whether the event `SinkFailing` was published, which happens after an hour.
    #[serde(default)]
    pub reported: bool,
}

/// Numbers of pods that are ready and not draining.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    /// Ready pods.
    pub ready: i64,
    /// Ready pods that run the revision.
    pub programmed: i64,
    /// Pods that refused the revision.
    pub rejected: i64,
    /// Ready pods that run the revision, of all ready pods, such as `3/3`.
    #[serde(default)]
    pub pods: String,
}
