//! What the provider was asked.

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
    /// Headers by lower-case name; the last one of a name wins.
    pub headers: BTreeMap<String, String>,
    /// The JSON body; null when there was none or it was not JSON.
    pub body: Value,
}
