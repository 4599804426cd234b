//! Status that both kinds share (K8S-7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `observedGeneration` of an object that no operator has seen (D46).
pub const UNOBSERVED: i64 = -1;

/// One condition of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Name of the condition, such as `Accepted`.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The reason for the status, as one word.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The reason for the status, as text for people.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// Generation of the object that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known.
    Unknown,
}
