//! One tenant's configuration (QUOTA-26). A [`TenantDocument`] is the raw form,
//! which is rendered, stored and hashed. A [`TenantConfig`] is the validated form,
//! which the program works with.

pub mod document;
mod http_url;
mod issuers;
pub mod provider;
mod quota;
pub mod request_line;
pub mod sink;
mod storage;
mod uploads;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use minichat_core::quota::{PolicyModel, Pricing, ToolSupport};
use minichat_core::{TenantId, UserId};
use serde_json::Value;

use crate::fault::Faults;
use crate::issuer::Issuer;
use crate::secret::Credentials;

pub use document::{SearchContextSize, TenantDocument};
pub use http_url::HttpUrl;
pub use issuers::{IssuerConflict, issuer_conflicts};
pub use minichat_core::quota::{EstimationBudgets, KillSwitches, Tier, TierLimits};
pub use provider::{Provider, ProviderAuth, ProviderKind, ProviderTimeouts, Scheme};
pub use quota::{CODE_INTERPRETER_CALLS, UserLimits, WEB_SEARCHES};
pub use sink::{Sink, Sinks};
pub use storage::{Storage, StorageApi, StorageKind};
pub use uploads::UploadLimits;

/// One tenant's validated configuration. It is immutable: a turn keeps the `Arc` with
/// which it began (K8S-22).
#[derive(Debug, Clone, PartialEq)]
pub struct TenantConfig {
    /// The tenant that the document configures.
    pub tenant_id: TenantId,
    /// Version of the tenant's policy, from 1 (QUOTA-27). `None` if the document was
    /// rendered without the operator and the data plane has not assigned a version
    /// yet (QUOTA-28).
    pub policy_version: Option<u64>,
    /// `sha256:` and 64 hex digits over the canonical document (QUOTA-26).
    pub content_hash: String,
    /// Name for people, at most 253 characters.
    pub display_name: String,
    /// A suspended tenant's requests are refused; running streams end normally.
    pub suspended: bool,
    /// The licence gate of the chat feature (PLAT-135).
    pub features: Features,
    /// Issuers whose tokens are accepted; empty: the process's `auth.mode` decides.
    pub issuers: Vec<Arc<Issuer>>,
    /// The tenant's cap on output tokens of one answer (QUOTA-42).
    pub max_output_tokens: u32,
    /// Models in catalog order, 1 to 64, at least one enabled (QUOTA-16, QUOTA-17).
    pub models: Vec<Model>,
    /// Switches that take effect with the next preflight (QUOTA-18).
    pub kill_switches: KillSwitches,
    /// Spending limits by user (QUOTA-25).
    pub user_limits: UserLimitTable,
    /// Providers by id; every model names one of them.
    pub providers: BTreeMap<String, Provider>,
    /// Settings of context assembly.
    pub context: ContextSettings,
    /// Images in messages.
    pub images: ImageSettings,
    /// Own limits of uploads.
    pub uploads: UploadLimits,
    /// The document from which this was validated. It never contains a secret.
    pub document: Arc<TenantDocument>,
}

/// What a tenant is licensed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Whether the chat API answers at all.
    pub ai_chat: bool,
}

/// Settings of context assembly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextSettings {
    /// Newest messages of the chat that a request carries, 0 to 100 (CONT-5).
    pub recent_messages_limit: u32,
    /// Instructions of requests with web search; empty = none (CONT-3).
    pub web_search_guard: String,
    /// Instructions of requests with file search; empty = none (CONT-3).
    pub file_search_guard: String,
}

/// Images in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSettings {
    /// Images of one message, 1 to 20 (CONT-71).
    pub max_per_message: u32,
}

/// Spending limits of a tenant's users: a default, and exceptions for single users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserLimitTable {
    /// Limits of every user not listed.
    pub default: Arc<UserLimits>,
    /// Limits of users that a quota lists. They replace the default entirely.
    pub by_user: HashMap<UserId, Arc<UserLimits>>,
}

/// One entry of the model catalog (QUOTA-16).
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Public id, stored in chats and used as the metric label `model`.
    pub id: String,
    /// The name sent to the provider.
    pub provider_model_id: String,
    /// Name for people.
    pub display_name: String,
    /// Text for people, may be empty.
    pub description: String,
    /// Key into [`TenantConfig::providers`].
    pub provider_id: String,
    /// Premium turns count towards the premium limits as well as the total ones.
    pub tier: Tier,
    /// Disabled entries are neither listed nor chosen.
    pub enabled: bool,
    /// Capabilities such as `VISION_INPUT`; unknown values pass through.
    pub multimodal_capabilities: Vec<String>,
    /// Tokens the model can hold, input and output together.
    pub context_window: u32,
    /// The model's own output cap in tokens.
    pub max_output_tokens: u32,
    /// Longest user message in estimated tokens (QUOTA-40).
    pub max_input_tokens: u32,
    /// Micro-credits per 1,000,000 tokens; 0 is free (D25).
    pub pricing: Pricing,
    /// Price hint for people such as `2x`, may be empty.
    pub multiplier_display: String,
    /// Parameters of the token estimate (QUOTA-35).
    pub estimation_budgets: EstimationBudgets,
    /// Tool-call cap sent to the provider.
    pub max_tool_calls: u32,
    /// Tools that the model can use (CONT-100). Uploads ask for the code interpreter
    /// (CONT-56).
    pub tool_support: ToolSupport,
    /// Results of one file search, at least 1.
    pub max_num_results: u32,
    /// How much of what a web search finds the model reads.
    pub web_search_context_size: SearchContextSize,
    /// Sampling parameters; absent ones are not sent (PLAT-108).
    pub api_params: ApiParams,
    /// UI hints and the default flag (QUOTA-19).
    pub preference: Option<Preference>,
    /// Instructions of every request on this model; empty = none.
    pub system_prompt: String,
    /// Largest file in MiB for chats of this model, at least 1; `None` = no limit of its
    /// own.
    pub max_file_size_mb: Option<u32>,
}

/// Sampling parameters of a model (PLAT-108). What is `None` is not sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiParams {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// -2 to 2; 0 = not sent.
    pub frequency_penalty: f64,
    /// -2 to 2; 0 = not sent.
    pub presence_penalty: f64,
    /// At most 4 sequences; empty = not sent.
    pub stop: Vec<String>,
    /// Opaque JSON object sent under the key `extra_body`.
    pub extra_body: Option<Value>,
    /// Sent as `reasoning.effort` or `reasoning_effort`, as the kind demands.
    pub reasoning_effort: Option<String>,
}

/// UI hints of a catalog entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// Whether new chats begin with this model; at most one per tier.
    pub is_default: bool,
    /// Hint for user interfaces; the API keeps catalog order.
    pub sort_order: i32,
}

impl TenantConfig {
    /// Checks `document` and computes its content hash. Every fault is
    /// reported with its path within the document.
    pub fn new(document: TenantDocument) -> Result<Self, Faults> {
        validate::tenant(document)
    }

    /// Reads and checks a JSON document.
    pub fn from_json(json: &str) -> Result<Self, Faults> {
        let document = serde_json::from_str(json).map_err(|e| {
            Faults::from(crate::Fault {
                path: String::new(),
                message: e.to_string(),
            })
        })?;
        Self::new(document)
    }

    /// The same configuration with the policy version `version` (QUOTA-28).
    #[must_use]
    pub fn numbered(mut self, version: u64) -> Self {
        self.policy_version = Some(version);
        Arc::make_mut(&mut self.document).policy_version = Some(version);
        self
    }

    /// The catalog entry called `id`, enabled or not.
    pub fn model(&self, id: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.id == id)
    }

    /// Enabled entries in catalog order (QUOTA-20).
    pub fn models_enabled(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().filter(|model| model.enabled)
    }

    /// The model of a chat created without one: the first enabled default in
    /// catalog order, else the first enabled entry (QUOTA-19).
    pub fn default_model(&self) -> Option<&Model> {
        self.models_enabled()
            .find(|model| model.is_default())
            .or_else(|| self.models_enabled().next())
    }

    /// The limits that apply to `user` (QUOTA-25).
    pub fn limits_for(&self, user: UserId) -> &Arc<UserLimits> {
        self.user_limits
            .by_user
            .get(&user)
            .unwrap_or(&self.user_limits.default)
    }

    /// Where the tenant's events go, with the credentials to get there. A fault names
    /// a credential that is missing or unusable, and never shows a value. Whoever
    /// renders or reads a configuration asks once, so that a running tenant has none.
    pub fn sinks(&self, credentials: &Credentials) -> Result<Sinks, Faults> {
        sink::resolve(&self.document, credentials)
    }

    /// The provider that serves `model`; `None` only for a model of another
    /// configuration (PLAT-104).
    pub fn provider_of(&self, model: &Model) -> Option<&Provider> {
        self.providers.get(&model.provider_id)
    }

    /// The provider that stores the files whose rows carry the label `backend`:
    /// the one whose storage has this label, else the one with this id
    /// (CONT-167). It has a storage.
    pub fn provider_of_storage(&self, backend: &str) -> Option<&Provider> {
        storage::provider_of(&self.providers, backend)
    }
}

impl Model {
    /// Whether new chats begin with this model.
    pub fn is_default(&self) -> bool {
        self.preference
            .is_some_and(|preference| preference.is_default)
    }

    /// Whether the model sees images (CONT-71).
    pub fn takes_images(&self) -> bool {
        let mut capabilities = self.multimodal_capabilities.iter();
        capabilities.any(|capability| capability == "VISION_INPUT")
    }

    /// The entry as quota decisions see it, if requests may offer it `tools`.
    pub fn policy(&self, tools: ToolSupport) -> PolicyModel<'_> {
        PolicyModel {
            id: &self.id,
            tier: self.tier,
            enabled: self.enabled,
            is_default: self.is_default(),
            context_window: self.context_window,
            max_input_tokens: self.max_input_tokens,
            max_output_tokens: self.max_output_tokens,
            pricing: self.pricing,
            budgets: &self.estimation_budgets,
            system_prompt: &self.system_prompt,
            tools,
        }
    }
}
