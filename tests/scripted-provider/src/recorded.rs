//! Recorded requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request as it arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// The method in capitals.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers by lower-case name. If a name repeats, the last value counts.
    pub headers: BTreeMap<String, String>,
    /// The JSON body; null if there was none or it was not JSON.
    pub body: Value,
}
