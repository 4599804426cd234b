//! The model catalog.

use minichat_config::tenant::document::MAX_NUM_RESULTS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::yes;

/// One entry of the model catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.estimationBudgets.minimalGenerationFloor <= self.maxOutputTokens",
    "message": "estimationBudgets.minimalGenerationFloor must not exceed maxOutputTokens; lower it",
    "messageExpression": "'model %s has estimationBudgets.minimalGenerationFloor %d, which must not exceed its maxOutputTokens %d; lower it'.format([self.id, self.estimationBudgets.minimalGenerationFloor, self.maxOutputTokens])",
    "fieldPath": ".estimationBudgets.minimalGenerationFloor"
}]))]
pub struct Model {
    /// Id in the API and in metrics.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^[^\\x00-\\x1f\\x7f]+$')",
        "message": "must have no control characters"
    }]))]
    pub id: String,
    /// Name of the model at the provider.
    #[schemars(length(min = 1, max = 256))]
    pub provider_model_id: String,
    /// Name for people.
    #[schemars(length(min = 1, max = 253))]
    pub display_name: String,
    /// Text for people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub description: String,
    /// Name of the provider that serves the model.
    #[schemars(length(min = 1, max = 63))]
    pub provider_ref: String,
    /// Price class: premium use also draws from the premium allowance.
    pub tier: Tier,
    /// Disabled models are neither listed nor used.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Capabilities, such as `VISION_INPUT`, without which a model takes no images.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub multimodal_capabilities: Vec<String>,
    /// Tokens the model can hold, input and output together.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub context_window: u32,
    /// Longest answer in tokens.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_output_tokens: u32,
    /// Longest user message in estimated tokens.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_input_tokens: u32,
    /// Price of 1,000,000 input tokens in micro-credits; 0 is free.
    #[schemars(range(min = 0, max = 10_000_000_000_i64))]
    pub input_tokens_credit_multiplier_micro: u64,
    /// Price of 1,000,000 output tokens in micro-credits; 0 is free.
    #[schemars(range(min = 0, max = 10_000_000_000_i64))]
    pub output_tokens_credit_multiplier_micro: u64,
    /// Price hint for people, such as `2x`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub multiplier_display: String,
    /// How the tokens of a request are estimated before it is sent.
    #[serde(default)]
    pub estimation_budgets: EstimationBudgets,
    /// What the model can use besides text and images.
    #[serde(default)]
    pub tool_support: ToolSupport,
    /// Calls of tools that the provider runs for one answer.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_tool_calls: u32,
    /// Results of one search in documents.
    #[serde(default = "max_num_results")]
    #[schemars(range(min = 1, max = 50))]
    pub max_num_results: u32,
    /// How much of what a web search finds the model reads.
    #[serde(default)]
    pub web_search_context_size: SearchContextSize,
    /// Sampling parameters. Those that are left out are not sent.
    #[serde(default)]
    pub api_params: ApiParams,
    /// The default model, and hints for user interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<Preference>,
    /// Instructions in every request; empty means none.
    #[serde(default)]
    #[schemars(length(max = 65536))]
    pub system_prompt: String,
    /// Largest file in MiB that can be uploaded to a chat of this model, besides the
    /// limits of the process and of `uploads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_file_size_mb: Option<u32>,
}

/// Price class of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Draws from the total allowance.
    Standard,
    /// Draws from the total and from the premium allowance.
    Premium,
}

/// Parameters of the token estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EstimationBudgets {
    /// Bytes of text that make one token.
    #[schemars(range(min = 1, max = 1000))]
    pub bytes_per_token_conservative: u32,
    /// Tokens of every request besides its text.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub fixed_overhead_tokens: u32,
    /// Per cent added to the estimate.
    #[schemars(range(min = 0, max = 1000))]
    pub safety_margin_pct: u32,
    /// Tokens of one image.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub image_token_budget: u32,
    /// Tokens that file search adds to a request.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub tool_surcharge_tokens: u32,
    /// Tokens that web search adds to a request.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub web_search_surcharge_tokens: u32,
    /// Tokens that the code interpreter adds to a request.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub code_interpreter_surcharge_tokens: u32,
    /// Smallest number of output tokens that a stopped turn is charged for.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub minimal_generation_floor: u32,
}

impl Default for EstimationBudgets {
    fn default() -> Self {
        Self {
            bytes_per_token_conservative: 4,
            fixed_overhead_tokens: 100,
            safety_margin_pct: 10,
            image_token_budget: 1000,
            tool_surcharge_tokens: 500,
            web_search_surcharge_tokens: 500,
            code_interpreter_surcharge_tokens: 1000,
            minimal_generation_floor: 50,
        }
    }
}

/// What a model can use besides text and images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolSupport {
    /// Searches the web, for messages that ask for it.
    pub web_search: bool,
    /// Searches in the documents of the chat.
    pub file_search: bool,
    /// Runs code on files. Without it, chats of the model refuse spreadsheets.
    pub code_interpreter: bool,
}

/// How much of what a web search finds the model reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SearchContextSize {
    /// The least, and the cheapest.
    #[default]
    Low,
    /// Something between.
    Medium,
    /// The most.
    High,
}

const fn two() -> u32 {
    2
}

const fn max_num_results() -> u32 {
    MAX_NUM_RESULTS
}

/// Sampling parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiParams {
    /// Sampling temperature; higher is more random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    /// Nucleus sampling: share of probability that is considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// 0 is not sent.
    #[serde(default)]
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: f64,
    /// 0 is not sent.
    #[serde(default)]
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: f64,
    /// Sequences that end the answer.
    #[serde(default)]
    #[schemars(length(max = 4), inner(length(min = 1, max = 256)))]
    pub stop: Vec<String>,
    /// Effort of a reasoning model, such as `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub reasoning_effort: Option<String>,
    /// Further parameters, sent unchanged under the key `extra_body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub extra_body: Option<Map<String, Value>>,
}

/// Hints for user interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Preference {
    /// New chats begin with this model; at most one per tier.
    pub is_default: bool,
    /// Order for user interfaces; the API keeps the order of the list.
    pub sort_order: i32,
}

/// An object with any content, the one place where unknown fields are kept.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "description": "Further parameters, passed as they are under the key `extra_body`.",
        "x-kubernetes-preserve-unknown-fields": true
    })
}
