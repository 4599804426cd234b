//! The rendered document: the raw form of a tenant's configuration, as it is
//! written, hashed and stored (QUOTA-26, K8S-20). Unknown fields are refused at
//! every level. Values are unchecked: see [`super::TenantConfig::new`].

use std::collections::BTreeMap;

use minichat_core::quota::{EstimationBudgets, KillSwitches, Tier};
use minichat_core::{NamespacedName, TenantId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::provider::ProviderKind;
use super::quota::UserLimits;
use super::sink::{Format, SinkKind};
use super::storage::StorageKind;
use super::uploads::UploadLimits;
use crate::issuer;

/// The only version of the document's schema.
pub const SCHEMA: u32 = 1;

/// One tenant's rendered document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantDocument {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The tenant that the document configures.
    pub tenant_id: TenantId,
    /// Version of the tenant's policy; absent without the operator (QUOTA-28).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<u64>,
    /// When the operator rendered it, as RFC 3339, for information only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_at: Option<String>,
    /// The `ChatTenant` from which the operator rendered the document. The tenant's id
    /// belongs to it (D36).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NamespacedName>,
    /// If present, it must equal the computed hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// Name for people.
    #[serde(default)]
    pub display_name: String,
    /// Whether requests are refused.
    #[serde(default)]
    pub suspended: bool,
    /// Licence gates.
    #[serde(default)]
    pub features: FeaturesDocument,
    /// Issuers whose tokens are accepted; empty = the process's `auth.mode` decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerDocument>,
    /// The tenant's output-token cap.
    pub max_output_tokens: u32,
    /// Providers by id.
    pub providers: BTreeMap<String, ProviderDocument>,
    /// Catalog entries in their order.
    pub model_catalog: Vec<ModelDocument>,
    /// Switches.
    #[serde(default)]
    pub kill_switches: KillSwitches,
    /// Context assembly.
    #[serde(default)]
    pub context: ContextDocument,
    /// Images in messages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub images: ImagesDocument,
    /// Own limits of uploads.
    #[serde(default, skip_serializing_if = "UploadLimits::is_empty")]
    pub uploads: UploadLimits,
    /// Summaries of long chats.
    #[serde(default, skip_serializing_if = "is_default")]
    pub thread_summary: ThreadSummaryDocument,
    /// Where usage events go; absent = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_sink: Option<SinkDocument>,
    /// Where audit events go; absent = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_sink: Option<AuditSinkDocument>,
    /// Spending limits.
    pub user_limits: UserLimitsDocument,
}

/// `thread_summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThreadSummaryDocument {
    /// Whether older messages are summarized.
    pub enabled: bool,
    /// The model that summarizes; absent = the chat's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Per cent of the input budget, 1 to 99; absent = the process's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_threshold_pct: Option<u32>,
    /// Instructions for the model; absent = the process's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
}

impl Default for ThreadSummaryDocument {
    fn default() -> Self {
        Self {
            enabled: true,
            model_id: None,
            compression_threshold_pct: None,
            system_prompt: None,
        }
    }
}

/// `usage_sink`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkDocument {
    /// `none`, `log` or `webhook`.
    #[serde(rename = "type")]
    pub kind: SinkKind,
    /// Present if and only if `type` is `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookDocument>,
}

/// `audit_sink`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSinkDocument {
    /// `none`, `log` or `webhook`.
    #[serde(rename = "type")]
    pub kind: SinkKind,
    /// Present if and only if `type` is `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookDocument>,
    /// Whether events contain prompts and answers (PLAT-85).
    #[serde(default)]
    pub include_content: bool,
}

/// `webhook` of a sink. At most one of `signing_secret_ref` and `secret_ref` is
/// present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookDocument {
    /// `http` or `https` URL.
    pub url: String,
    /// `json` or `cloud_events`.
    #[serde(default)]
    pub format: Format,
    /// Name of the credential with the signing secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret_ref: Option<String>,
    /// Header of the credential `secret_ref`; absent = `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_header: Option<String>,
    /// Name of the credential that is sent in `auth_header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<String>,
    /// Whole seconds, 1 to 55; absent = 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Absent = one request per event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchDocument>,
}

/// `batch` of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchDocument {
    /// 1 to 100.
    pub max_events: u32,
    /// 0 to 60.
    pub max_seconds: u32,
}

/// `features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeaturesDocument {
    /// Default true.
    pub ai_chat: bool,
}

impl Default for FeaturesDocument {
    fn default() -> Self {
        Self { ai_chat: true }
    }
}

/// One entry of `issuers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerDocument {
    /// The claim `iss`.
    pub issuer: String,
    /// The value that `aud` must contain.
    pub audience: String,
    /// Absent = from the discovery document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// Absent = only this tenant uses the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// Default `sub`.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// Default `scope`.
    #[serde(default = "scopes_claim")]
    pub scopes_claim: String,
}

fn user_claim() -> String {
    issuer::USER_CLAIM.to_owned()
}

fn scopes_claim() -> String {
    issuer::SCOPES_CLAIM.to_owned()
}

/// `context`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContextDocument {
    /// Default 10.
    pub recent_messages_limit: u32,
    /// Absent = the built-in text; empty = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search_guard: Option<String>,
    /// Absent = the built-in text; empty = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_search_guard: Option<String>,
}

impl Default for ContextDocument {
    fn default() -> Self {
        Self {
            recent_messages_limit: 10,
            web_search_guard: None,
            file_search_guard: None,
        }
    }
}

/// `images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagesDocument {
    /// 1 to 20, default 4.
    pub max_per_message: u32,
}

impl Default for ImagesDocument {
    fn default() -> Self {
        Self { max_per_message: 4 }
    }
}

/// `user_limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLimitsDocument {
    /// Limits of every user not listed.
    pub default: UserLimits,
    /// Limits by user id.
    #[serde(default)]
    pub by_user: BTreeMap<UserId, UserLimits>,
}

/// One value of `providers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderDocument {
    /// Protocol.
    pub kind: ProviderKind,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    #[serde(default = "https_port")]
    pub port: u16,
    /// Plain HTTP instead of TLS.
    #[serde(default)]
    pub use_http: bool,
    /// Absent = the kind's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_path: Option<String>,
    /// Absent = no header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthDocument>,
    /// Seconds; absent ones have their defaults.
    #[serde(default)]
    pub timeouts: TimeoutsDocument,
    /// Absent = the kind's default (PLAT-108).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_penalties: Option<bool>,
    /// Default true.
    #[serde(default = "yes")]
    pub send_metadata: bool,
    /// Absent = the kind's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageDocument>,
}

/// `storage` of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageDocument {
    /// Absent = the default of the provider's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<StorageKind>,
    /// Present if and only if the kind is `azure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Absent = the provider's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Absent = only if the kind is `openai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supports_file_search_filters: Option<bool>,
}

/// `auth` of a provider: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthDocument {
    /// Header name.
    pub header: String,
    /// Text before the credential, may be empty.
    pub prefix: String,
    /// Name of the credential.
    pub secret_ref: String,
}

/// `timeouts` of a provider, whole seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutsDocument {
    /// 1 to 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<u32>,
    /// 1 to `idle_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_seconds: Option<u32>,
    /// 1 to 240.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u32>,
    /// 1 to 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<u32>,
}

/// Results of one file search, unless a model says otherwise.
pub const MAX_NUM_RESULTS: u32 = 5;

/// One entry of `model_catalog`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDocument {
    /// Public id.
    pub id: String,
    /// Name at the provider.
    pub provider_model_id: String,
    /// Name for people.
    pub display_name: String,
    /// Text for people.
    #[serde(default)]
    pub description: String,
    /// Key of `providers`.
    pub provider_id: String,
    /// `standard` or `premium`.
    pub tier: Tier,
    /// Absent = the entry is disabled (QUOTA-16).
    #[serde(default)]
    pub enabled: bool,
    /// Such as `VISION_INPUT`.
    #[serde(default)]
    pub multimodal_capabilities: Vec<String>,
    /// Tokens.
    pub context_window: u32,
    /// Tokens.
    pub max_output_tokens: u32,
    /// Tokens.
    pub max_input_tokens: u32,
    /// Micro-credits per 1,000,000 tokens.
    pub input_tokens_credit_multiplier_micro: u64,
    /// Micro-credits per 1,000,000 tokens.
    pub output_tokens_credit_multiplier_micro: u64,
    /// Price hint.
    #[serde(default)]
    pub multiplier_display: String,
    /// Parameters of the estimate.
    #[serde(default)]
    pub estimation_budgets: EstimationBudgets,
    /// Tool-call cap, default 2.
    #[serde(default = "two")]
    pub max_tool_calls: u32,
    /// Results of one file search; absent = [`MAX_NUM_RESULTS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_results: Option<u32>,
    /// How much of what a web search finds the model reads; absent = `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_search_context_size: Option<SearchContextSize>,
    /// Parameters for the provider.
    #[serde(default)]
    pub general_config: GeneralConfigDocument,
    /// UI hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceDocument>,
    /// Instructions.
    #[serde(default)]
    pub system_prompt: String,
    /// MiB; absent = no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_size_mb: Option<u32>,
}

/// `general_config` of a catalog entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneralConfigDocument {
    /// Sampling parameters.
    pub api_params: ApiParamsDocument,
    /// Tools that the model can use.
    #[serde(skip_serializing_if = "is_default")]
    pub tool_support: ToolSupportDocument,
}

/// `tool_support` of a catalog entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolSupportDocument {
    /// Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub web_search: bool,
    /// Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub file_search: bool,
    /// Default false.
    pub code_interpreter: bool,
}

/// How much of what a web search finds the model reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchContextSize {
    /// The least, and the cheapest.
    #[default]
    Low,
    /// Something between.
    Medium,
    /// The most.
    High,
}

/// `api_params` of a catalog entry; absent ones are not sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiParamsDocument {
    /// 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: f64,
    /// -2 to 2.
    pub presence_penalty: f64,
    /// At most 4.
    pub stop: Vec<String>,
    /// Opaque object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_body: Option<Value>,
    /// Such as `low`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
}

/// `preference` of a catalog entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceDocument {
    /// At most one per tier.
    pub is_default: bool,
    /// UI hint.
    pub sort_order: i32,
}

/// Whether a part says nothing that its absence does not say. It is left out, so that
/// a document has the hash that an earlier release computed for it.
fn is_default<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

const fn https_port() -> u16 {
    443
}

const fn yes() -> bool {
    true
}

const fn two() -> u32 {
    2
}

impl TenantDocument {
    /// The bytes the content hash covers: everything but `policy_version`,
    /// `generated_at`, `source` and `content_hash` (QUOTA-26).
    fn hashed_content(&self) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(map) = &mut value {
            for key in ["policy_version", "generated_at", "source", "content_hash"] {
                map.remove(key);
            }
        }
        Ok(value)
    }

    /// `sha256:` and 64 hex digits (QUOTA-26).
    pub fn computed_hash(&self) -> Result<String, serde_json::Error> {
        Ok(crate::canonical::hash(&self.hashed_content()?))
    }

    /// The document as canonical JSON. It is stored, and its size is limited.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(crate::canonical::to_string(&serde_json::to_value(self)?))
    }
}
