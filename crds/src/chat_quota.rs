//! `ChatQuota`: what the users of a tenant may spend.

#![expect(
    clippy::duplicated_attributes,
    reason = "several printer columns are of one type"
)]

use kube::CustomResource;
use minichat_config::tenant::{CODE_INTERPRETER_CALLS, WEB_SEARCHES};
use minichat_core::quota::ToolQuotas;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Credits;
use crate::status::Condition;

/// Spending limits of a tenant's users: of the listed users, or of all others.
/// Exactly one quota applies to a user: a quota that lists the user, else one
/// without subjects, else built-in defaults. Among several, the one with the
/// highest priority applies, then the one whose name sorts first.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "minichat.dev",
    version = "v1alpha1",
    kind = "ChatQuota",
    plural = "chatquotas",
    singular = "chatquota",
    shortname = "cq",
    category = "minichat",
    namespaced,
    status = "ChatQuotaStatus",
    derive = "PartialEq",
    doc = "Spending limits of a tenant's users: of the listed users, or of all others.",
    printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenantRef.name"),
    printcolumn(
        name = "Daily",
        type_ = "string",
        json_path = ".spec.limits.standard.daily"
    ),
    printcolumn(
        name = "Monthly",
        type_ = "string",
        json_path = ".spec.limits.standard.monthly"
    ),
    printcolumn(
        name = "Premium-Daily",
        type_ = "string",
        json_path = ".spec.limits.premium.daily"
    ),
    printcolumn(name = "Subjects", type_ = "integer", json_path = ".status.subjects"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ChatQuotaSpec {
    /// The `ChatTenant` in the same namespace. It cannot be changed.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "tenantRef cannot be changed; create another ChatQuota instead"
    }]))]
    pub tenant_ref: TenantRef,

    /// Users to whom the quota applies. Empty: all users that no other quota of
    /// the tenant lists.
    #[serde(default)]
    #[schemars(length(max = 256), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["kind", "name"]
    ))]
    pub subjects: Vec<Subject>,

    /// Credits per UTC day and month.
    #[serde(default)]
    pub limits: Limits,

    /// Per cent by which the actual cost of a turn may exceed its reservation.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 50))]
    pub overshoot_tolerance_pct: u32,

    /// Per cent of a limit at which the user is warned.
    #[serde(default = "eighty")]
    #[schemars(range(min = 1, max = 99))]
    pub warning_threshold_pct: u32,

    /// Calls of the web search.
    #[serde(default)]
    pub web_search: WebSearchCalls,

    /// Calls of the code interpreter.
    #[serde(default)]
    pub code_interpreter: CodeInterpreterCalls,

    /// If several quotas would apply, the one with the highest priority applies.
    #[serde(default)]
    pub priority: i32,
}

/// How often a user's messages may search the web.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSearchCalls {
    /// Searches that one message may begin. The turn of one that begins more fails.
    #[schemars(range(min = 1, max = 1000))]
    pub max_calls_per_turn: u32,
    /// Searches per UTC day. After them, messages that ask for web search are refused.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub daily_calls: u32,
}

impl Default for WebSearchCalls {
    fn default() -> Self {
        Self {
            max_calls_per_turn: WEB_SEARCHES,
            daily_calls: ToolQuotas::default().web_search_daily,
        }
    }
}

/// How often a user's messages may run code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CodeInterpreterCalls {
    /// Calls that one message may begin. The turn of one that begins more fails.
    #[schemars(range(min = 1, max = 1000))]
    pub max_calls_per_turn: u32,
    /// Calls per UTC day. After them, messages in chats with files for the code
    /// interpreter are refused.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub daily_calls: u32,
}

impl Default for CodeInterpreterCalls {
    fn default() -> Self {
        Self {
            max_calls_per_turn: CODE_INTERPRETER_CALLS,
            daily_calls: ToolQuotas::default().code_interpreter_daily,
        }
    }
}

/// A `ChatTenant` in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantRef {
    /// Name of the `ChatTenant`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A user to whom a quota applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Always `User`.
    pub kind: SubjectKind,
    /// The user: the value of the claim `userClaim` in tokens of the tenant's
    /// issuers, or the user's UUID in the API.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
}

/// Kind of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubjectKind {
    /// One user.
    User,
}

/// Credits per tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Limits of all spending.
    pub standard: StandardLimits,
    /// Limits of spending on premium models. It counts towards `standard` as well.
    pub premium: PremiumLimits,
}

/// Limits of all spending, in credits; 0 = none allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StandardLimits {
    /// Credits per UTC day. Write a fraction in quotes, such as `"1.5"`.
    pub daily: Credits,
    /// Credits per UTC month. Write a fraction in quotes, such as `"1.5"`.
    pub monthly: Credits,
}

impl Default for StandardLimits {
    fn default() -> Self {
        Self {
            daily: Credits::whole(100),
            monthly: Credits::whole(1000),
        }
    }
}

/// Limits of spending on premium models, in credits; 0 = none allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PremiumLimits {
    /// Credits per UTC day. Write a fraction in quotes, such as `"1.5"`.
    pub daily: Credits,
    /// Credits per UTC month. Write a fraction in quotes, such as `"1.5"`.
    pub monthly: Credits,
}

impl Default for PremiumLimits {
    fn default() -> Self {
        Self {
            daily: Credits::whole(50),
            monthly: Credits::whole(500),
        }
    }
}

/// The state of a quota, written by the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatQuotaStatus {
    /// Generation of the object that the status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revision of the tenant's configuration that contains the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<String>,
    /// Number of users that the quota lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<i64>,
    /// Conditions of the quota, such as `Ready`.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
}

const fn ten() -> u32 {
    10
}

const fn eighty() -> u32 {
    80
}
