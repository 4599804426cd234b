//! What the operator has made of a tenant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::Condition;

/// What the operator has made of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatTenantStatus {
    /// Generation of the object that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Namespace of the operator that serves the tenant: the first of the pool that
    /// saw it. Another one of the pool leaves it alone until this is cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub operator_namespace: Option<String>,
    /// Another operator that is told to serve the pool too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contender: Option<Contender>,
    /// Id of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Version of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<i64>,
    /// Hash of the rendered document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_hash: Option<String>,
    /// Revision of the rendered configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How the ready pods stand to the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    /// How many models users may choose: the enabled ones of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<i64>,
    /// How many `ChatQuota` objects name the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<i64>,
    /// What holds and what does not.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
}

/// An operator that leaves a tenant of its pool to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Contender {
    /// Namespace of the operator.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// When it last said so; it is believed for fifteen minutes.
    #[schemars(extend("format" = "date-time"))]
    pub renew_time: String,
}

/// Counts of pods that are ready and do not drain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    /// All of them.
    pub ready: i64,
    /// Those that run the revision.
    pub programmed: i64,
    /// Those that have refused it.
    pub rejected: i64,
    /// Those that run it, of all, as people read it: `3/3`.
    #[serde(default)]
    pub pods: String,
}
