//! `ChatTenant`: one customer, with providers, models and switches.

#![expect(
    clippy::duplicated_attributes,
    reason = "several printer columns are of one type"
)]

mod model;
mod provider;
mod reference;
mod sink;
mod status;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use model::{
    ApiParams, EstimationBudgets, Model, Preference, SearchContextSize, Tier, ToolSupport,
};
pub use provider::{Auth, Provider, ProviderKind, SecretKeyRef, Storage, StorageKind, Timeouts};
pub use reference::{CredentialRef, CredentialUse};
pub use sink::{AuditSink, Batch, SinkType, UsageSink, Webhook, WebhookFormat};
pub use status::{ChatTenantStatus, Contender, DataPlane, SinkFailure, SinkFailures};

/// One customer of the chat service: which models it may use, where they are
/// served, and what is switched off.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "minichat.dev",
    version = "v1alpha1",
    kind = "ChatTenant",
    plural = "chattenants",
    singular = "chattenant",
    shortname = "ctn",
    category = "minichat",
    namespaced,
    status = "ChatTenantStatus",
    derive = "PartialEq",
    doc = "One customer of the chat service: which models it may use, where they are served, and what is switched off.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Models", type_ = "integer", json_path = ".status.models"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "TenantID",
        type_ = "string",
        json_path = ".status.tenantId",
        priority = 1
    ),
    printcolumn(
        name = "Pods",
        type_ = "string",
        json_path = ".status.dataPlane.pods",
        priority = 1
    ),
    printcolumn(
        name = "Pool",
        type_ = "string",
        json_path = ".spec.pool",
        priority = 1
    ),
    selectable = ".spec.pool"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.tenantId) == has(oldSelf.tenantId) && (!has(self.tenantId) || self.tenantId == oldSelf.tenantId)",
        "message": "tenantId is set when the ChatTenant is created or never, and cannot be added, changed or removed later; create another ChatTenant instead",
        "fieldPath": ".tenantId"
    },
    {
        "rule": "self.models.all(m, self.providers.exists(p, p.name == m.providerRef))",
        "message": "every models[].providerRef must be the name of an entry of providers; correct it or add the provider",
        "messageExpression": "'model %s has providerRef %s, which must be the name of an entry of providers; correct it or add the provider'.format([self.models.filter(m, !self.providers.exists(p, p.name == m.providerRef))[0].id, self.models.filter(m, !self.providers.exists(p, p.name == m.providerRef))[0].providerRef])",
        "fieldPath": ".models"
    },
    {
        "rule": "self.models.all(m, m.maxOutputTokens < m.contextWindow || self.streaming.maxOutputTokens < m.contextWindow)",
        "message": "every models[].contextWindow must be greater than the smaller one of the model's maxOutputTokens and streaming.maxOutputTokens; lower one of these",
        "messageExpression": "'model %s has contextWindow %d, which must be greater than its maxOutputTokens or streaming.maxOutputTokens; raise it, or lower one of these'.format([self.models.filter(m, m.maxOutputTokens >= m.contextWindow && self.streaming.maxOutputTokens >= m.contextWindow)[0].id, self.models.filter(m, m.maxOutputTokens >= m.contextWindow && self.streaming.maxOutputTokens >= m.contextWindow)[0].contextWindow])",
        "fieldPath": ".models"
    }
]))]
pub struct ChatTenantSpec {
    /// Id of the tenant in the API, the database and the metrics: a UUID of any
    /// version but 5. Without it, a UUID derived from `namespace/name`, shown in
    /// the status. It can be set only when the object is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = UUID), extend("x-kubernetes-validations" = [{
        "rule": "!self.matches('^[0-9a-f]{8}-[0-9a-f]{4}-5|^[0-]+$|^[f-]+$')",
        "message": "must be a UUID of another version than 5, and neither nil nor max: version 5 is for ids that are derived from namespace and name; write what uuidgen prints, or leave tenantId out"
    }]))]
    pub tenant_id: Option<String>,

    /// The pool that serves the tenant: `pool.name` of a release of the chart. It
    /// cannot be changed. Without a cluster, one process serves the tenants of all
    /// pools.
    #[serde(default = "default_pool")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL), extend(
        "x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "pool cannot be changed; create another ChatTenant in the other pool instead"
        }]
    ))]
    pub pool: String,

    /// Name for people.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub display_name: String,

    /// If true, new requests get 403. Running streams end normally.
    #[serde(default)]
    pub suspended: bool,

    /// Licensed features.
    #[serde(default)]
    pub features: Features,

    /// Whose tokens give access to the tenant.
    #[serde(default)]
    pub auth: TenantAuth,

    /// Endpoints that serve models, by name.
    #[schemars(length(min = 1, max = 16), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]
    ))]
    pub providers: Vec<Provider>,

    /// The model catalog in the order in which users see it, by id.
    #[schemars(length(min = 1, max = 64), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["id"],
        "x-kubernetes-validations" = [
            {
                "rule": "self.exists(m, m.enabled)",
                "message": "at least one model must be enabled; set enabled: true on one of them"
            },
            {
                "rule": "self.filter(m, m.tier == 'Standard' && has(m.preference) && m.preference.isDefault).size() <= 1",
                "message": "at most one Standard model may have preference.isDefault: true",
                "messageExpression": "'at most one Standard model may have preference.isDefault: true, not both %s and %s'.format([self.filter(m, m.tier == 'Standard' && has(m.preference) && m.preference.isDefault)[0].id, self.filter(m, m.tier == 'Standard' && has(m.preference) && m.preference.isDefault)[1].id])"
            },
            {
                "rule": "self.filter(m, m.tier == 'Premium' && has(m.preference) && m.preference.isDefault).size() <= 1",
                "message": "at most one Premium model may have preference.isDefault: true",
                "messageExpression": "'at most one Premium model may have preference.isDefault: true, not both %s and %s'.format([self.filter(m, m.tier == 'Premium' && has(m.preference) && m.preference.isDefault)[0].id, self.filter(m, m.tier == 'Premium' && has(m.preference) && m.preference.isDefault)[1].id])"
            }
        ]
    ))]
    pub models: Vec<Model>,

    /// Switches that take effect with the next message.
    #[serde(default)]
    pub kill_switches: KillSwitches,

    /// Streamed answers.
    #[serde(default)]
    pub streaming: Streaming,

    /// What a request to the provider contains besides the new message.
    #[serde(default)]
    pub context: Context,

    /// Images in messages.
    #[serde(default)]
    pub images: Images,

    /// Own limits of uploads, besides those of the process.
    #[serde(default)]
    pub uploads: Uploads,

    /// Summaries of long chats.
    #[serde(default)]
    pub thread_summary: ThreadSummary,

    /// Where usage events go.
    #[serde(default)]
    pub usage_sink: UsageSink,

    /// Where audit events go.
    #[serde(default)]
    pub audit_sink: AuditSink,
}

/// Lower-case hyphenated UUID.
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

/// What Kubernetes takes as a name without dots, and as the value of a label.
const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// Licensed features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Features {
    /// The chat API. If false, every request gets 403.
    pub ai_chat: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { ai_chat: true }
    }
}

/// Whose tokens give access to the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantAuth {
    /// Issuers of `OpenID` Connect. Only their tokens give access to the tenant.
    /// Without any, `auth.mode` of the process decides who has access.
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["issuer"]
    ))]
    pub issuers: Vec<Issuer>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The claim `iss` of its tokens, exactly as they have it. Its discovery
    /// document says where the keys are. Plain `http://` and private addresses
    /// work only if the process allows them.
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://[A-Za-z0-9._\\[\\]-][!$-;=A-Z\\[\\]_a-z~]*$') && !self.contains('@')",
        "message": "must be the claim iss of the tokens, a URL without query such as https://login.example.com"
    }]))]
    pub issuer: String,

    /// What the claim `aud` of its tokens must contain.
    #[schemars(length(min = 1, max = 512))]
    pub audience: String,

    /// Address of the keys, instead of the one in the discovery document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://[A-Za-z0-9._\\[\\]-][!$-;=A-Z\\[\\]_a-z~]*$') && !self.contains('@')",
        "message": "must be a URL without query such as https://login.example.com/keys"
    }]))]
    pub jwks_uri: Option<String>,

    /// The claim with the tenant's id, for an issuer that several tenants list.
    /// Without it, every token of the issuer gives access to this tenant, and no
    /// other tenant may list the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant_claim: Option<String>,

    /// The claim that identifies the user. From a value that is no UUID, a UUID is
    /// derived, always the same one.
    #[serde(default = "sub")]
    #[schemars(length(min = 1, max = 128))]
    pub user_claim: String,

    /// The claim with the scopes: a list, or separated by spaces. If this is `scope`
    /// and a token lacks it, `scp` is read. Tokens without the claim are not
    /// restricted.
    #[serde(default = "scope")]
    #[schemars(length(min = 1, max = 128))]
    pub scopes_claim: String,
}

/// Switches that take effect with the next message.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each switch is independent of the others"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KillSwitches {
    /// Premium models are skipped.
    pub disable_premium_tier: bool,
    /// Premium models are skipped. If both switches are set, users are shown this
    /// one as the reason.
    pub force_standard_tier: bool,
    /// Messages that ask for web search are refused.
    pub disable_web_search: bool,
    /// Documents are still stored, but answers do not search in them.
    pub disable_file_search: bool,
    /// Messages with images and uploads of images are refused.
    pub disable_images: bool,
    /// Answers run no code, and uploads that only the code interpreter could use are
    /// refused.
    pub disable_code_interpreter: bool,
}

/// Streamed answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Streaming {
    /// Longest answer in tokens, for all models.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_output_tokens: u32,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            max_output_tokens: 32_768,
        }
    }
}

/// What a request to the provider contains besides the new message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Context {
    /// Number of the chat's newest messages that are sent along.
    #[schemars(range(min = 0, max = 100))]
    pub recent_messages_limit: u32,
    /// Instructions of requests with web search, instead of the built-in ones. Empty:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub web_search_guard: Option<String>,
    /// Instructions of requests with file search, instead of the built-in ones. Empty:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub file_search_guard: Option<String>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            recent_messages_limit: 10,
            web_search_guard: None,
            file_search_guard: None,
        }
    }
}

/// Summaries that take the place of older messages in the prompts of long chats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ThreadSummary {
    /// Whether summaries are made. Those that exist stay in use.
    pub enabled: bool,
    /// The `id` of the model that summarizes. Left out: the chat's model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub model_id: Option<String>,
    /// Per cent of a model's input budget from which a chat gets its first summary. Left
    /// out: as the process is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub compression_threshold_pct: Option<u32>,
    /// Instructions for the model that summarizes, instead of the built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub system_prompt: Option<String>,
}

impl Default for ThreadSummary {
    fn default() -> Self {
        Self {
            enabled: true,
            model_id: None,
            compression_threshold_pct: None,
            system_prompt: None,
        }
    }
}

/// Images in messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    /// Number of images that one message may have.
    #[schemars(range(min = 1, max = 20))]
    pub max_per_message: u32,
}

impl Default for Images {
    fn default() -> Self {
        Self { max_per_message: 4 }
    }
}

/// Own limits of uploads. A limit that is left out is the process's alone, and a larger
/// one has no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Uploads {
    /// Largest document in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_file_size_kb: Option<u32>,
    /// Largest image in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_image_size_kb: Option<u32>,
    /// Documents that a chat may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_documents_per_chat: Option<u32>,
    /// MiB of all files that a chat may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_total_upload_mb_per_chat: Option<u32>,
    /// Uploads of all users at a time, in each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrent_uploads: Option<u32>,
    /// Uploads of one user at a time, in each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrent_uploads_per_user: Option<u32>,
}

const fn yes() -> bool {
    true
}

fn sub() -> String {
    minichat_config::issuer::USER_CLAIM.to_owned()
}

fn scope() -> String {
    minichat_config::issuer::SCOPES_CLAIM.to_owned()
}

/// The pool of a tenant that names none, and of a release that is not told another.
pub const DEFAULT_POOL: &str = "default";

fn default_pool() -> String {
    DEFAULT_POOL.to_owned()
}
