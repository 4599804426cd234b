//! `ChatTenant`: one customer, with providers, models and switches.

#![expect(
    clippy::duplicated_attributes,
    reason = "several printer columns are of one type"
)]

use kube::CustomResource;
use minichat_config::tenant::request_line::REFUSED_HEADERS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::status::Condition;

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
    /// the status. It is set when the object is created or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = UUID), extend("x-kubernetes-validations" = [{
        "rule": "!self.matches('^[0-9a-f]{8}-[0-9a-f]{4}-5|^[0-]+$|^[f-]+$')",
        "message": "must be a UUID of another version than 5, and neither nil nor max: version 5 is for ids that are derived from namespace and name; write what uuidgen prints, or leave tenantId out"
    }]))]
    pub tenant_id: Option<String>,

    /// The pool that serves the tenant: `pool.name` of a release of the chart. It
    /// cannot be changed. On a laptop one process serves the tenants of every pool.
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

    /// Refuses requests with 403 while running streams end normally.
    #[serde(default)]
    pub suspended: bool,

    /// What the tenant is licensed for.
    #[serde(default)]
    pub features: Features,

    /// Who may open the tenant.
    #[serde(default)]
    pub auth: TenantAuth,

    /// Where models are served, by name.
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

    /// What a request carries besides the new message.
    #[serde(default)]
    pub context: Context,
}

/// Lower-case hyphenated UUID.
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

/// What Kubernetes takes as a name without dots, and as the value of a label.
const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// What a tenant is licensed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Features {
    /// The chat API. Without it every request gets 403.
    pub ai_chat: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { ai_chat: true }
    }
}

/// Who may open the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantAuth {
    /// Issuers of `OpenID` Connect whose tokens open the tenant, and nothing else
    /// does. Without one the tenant is opened as the process says (`auth.mode`).
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
    /// document tells where the keys are. Plain `http://` and private addresses
    /// only where the process allows them.
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://[A-Za-z0-9._\\[\\]-][!$-;=A-Z\\[\\]_a-z~]*$') && !self.contains('@')",
        "message": "must be the claim iss of the tokens, a URL without query such as https://login.example.com"
    }]))]
    pub issuer: String,

    /// What the claim `aud` of its tokens must hold.
    #[schemars(length(min = 1, max = 512))]
    pub audience: String,

    /// Where the keys are, instead of where the discovery document says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://[A-Za-z0-9._\\[\\]-][!$-;=A-Z\\[\\]_a-z~]*$') && !self.contains('@')",
        "message": "must be a URL without query such as https://login.example.com/keys"
    }]))]
    pub jwks_uri: Option<String>,

    /// The claim with the tenant's id, for an issuer that several tenants list.
    /// Without it every token of the issuer opens this tenant, and no other
    /// tenant may list the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant_claim: Option<String>,

    /// The claim with the user. What is no UUID becomes one, the same each time.
    #[serde(default = "sub")]
    #[schemars(length(min = 1, max = 128))]
    pub user_claim: String,

    /// The claim with the scopes, separated by spaces or a list; where it is
    /// `scope`, `scp` stands in for it. Without the claim nothing is restricted.
    #[serde(default = "scope")]
    #[schemars(length(min = 1, max = 128))]
    pub scopes_claim: String,
}

/// One endpoint that serves models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// Name that models refer to.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Which protocol the endpoint speaks.
    pub kind: ProviderKind,

    /// Scheme, host and port, such as `https://api.openai.com`. Plain `http://`
    /// and addresses of the cluster or of a private network only where the process
    /// allows them (`outbound.allow_private`).
    #[schemars(length(max = 300), extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^https?://(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$')",
        "message": "must be http:// or https:// with a host and no path, such as https://api.openai.com; write the path into apiPath"
    }]))]
    pub base_url: String,

    /// Path and query of the generation call; `{model}` stands for the model's
    /// name. Without it the kind's usual path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^/(?:(?:[A-Za-z0-9._~!$&()*+,;=:@%?-]|[{]model[}])(?:[A-Za-z0-9._~!$&()*+,;=:@%?/-]|[{]model[}])*)?$')",
        "message": "must begin with one / and be the path and query of a URL, such as /v1/responses; write other characters as %20"
    }]))]
    pub api_path: Option<String>,

    /// The header with the credential; without it none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// When a call is given up.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// Whether penalties and stop sequences are sent. Without it only to
    /// `OpenAIChatCompletions` and `VllmResponses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_penalties: Option<bool>,

    /// Whether metadata (opaque ids of tenant, user and chat) is sent.
    #[serde(default = "yes")]
    pub send_metadata: bool,
}

/// Protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProviderKind {
    /// The Responses API of `OpenAI` and of Azure.
    #[serde(rename = "OpenAIResponses")]
    OpenAiResponses,
    /// The chat completions API.
    #[serde(rename = "OpenAIChatCompletions")]
    OpenAiChatCompletions,
    /// The Responses API as vLLM serves it.
    VllmResponses,
}

/// A header that carries a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Name of the header.
    #[serde(default = "authorization")]
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = [
        {
            "rule": r#"self.matches("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")"#,
            "message": "must be a header name such as Authorization or api-key"
        },
        {
            "rule": carries_a_credential(),
            "message": "is a header of the connection, of framing or of routing, which carries no credential; write one such as Authorization or api-key"
        }
    ]))]
    pub header: String,
    /// What precedes the credential.
    #[serde(default = "bearer")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[ -~]*$')",
        "message": "must be printable ASCII such as 'Bearer ', or empty"
    }]))]
    pub prefix: String,
    /// The Secret, in the same namespace and with the label
    /// `minichat.dev/credentials: "true"`, and its key.
    pub secret_key_ref: SecretKeyRef,
}

/// The rule that keeps credentials out of headers which decide where a request
/// goes and where it ends.
fn carries_a_credential() -> String {
    let refused = REFUSED_HEADERS.join("|").replace('*', ".*");
    format!("!self.matches('(?i)^({refused})$')")
}

/// One key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Limits of one call in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.firstByteSeconds <= self.idleSeconds",
    "message": "firstByteSeconds must not exceed idleSeconds; lower it or raise idleSeconds",
    "fieldPath": ".firstByteSeconds"
}]))]
pub struct Timeouts {
    /// Until the connection stands.
    #[schemars(range(min = 1, max = 60))]
    pub connect_seconds: u32,
    /// Until the status line of the answer.
    #[schemars(range(min = 1, max = 240))]
    pub first_byte_seconds: u32,
    /// Between two events of the answer.
    #[schemars(range(min = 1, max = 240))]
    pub idle_seconds: u32,
    /// The whole call.
    #[schemars(range(min = 1, max = 86400))]
    pub total_seconds: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_seconds: 10,
            first_byte_seconds: 60,
            idle_seconds: 240,
            total_seconds: 600,
        }
    }
}

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
    /// Name at the provider.
    #[schemars(length(min = 1, max = 256))]
    pub provider_model_id: String,
    /// Name for people.
    #[schemars(length(min = 1, max = 253))]
    pub display_name: String,
    /// Text for people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub description: String,
    /// Name of the provider that serves it.
    #[schemars(length(min = 1, max = 63))]
    pub provider_ref: String,
    /// Price class: premium use also draws from the premium allowance.
    pub tier: Tier,
    /// Disabled models are neither listed nor used.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Such as `VISION_INPUT`.
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
    /// Sampling parameters; what is left out is not sent.
    #[serde(default)]
    pub api_params: ApiParams,
    /// Hints for user interfaces and the default flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<Preference>,
    /// Instructions of every request; empty means none.
    #[serde(default)]
    #[schemars(length(max = 65536))]
    pub system_prompt: String,
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
    /// Output tokens that a stopped turn is charged at least.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub minimal_generation_floor: u32,
}

impl Default for EstimationBudgets {
    fn default() -> Self {
        Self {
            bytes_per_token_conservative: 4,
            fixed_overhead_tokens: 100,
            safety_margin_pct: 10,
            minimal_generation_floor: 50,
        }
    }
}

/// Sampling parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiParams {
    /// Randomness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    /// Share of probability that is considered.
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
    /// How much a reasoning model thinks, such as `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub reasoning_effort: Option<String>,
    /// Further parameters, passed as they are under the key `extra_body`.
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

/// Switches that take effect with the next message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KillSwitches {
    /// Premium models are skipped.
    pub disable_premium_tier: bool,
    /// The same; named as the reason when both are set.
    pub force_standard_tier: bool,
    /// Messages that ask for web search are refused.
    pub disable_web_search: bool,
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

/// What a request carries besides the new message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Context {
    /// Newest messages of the chat that are sent along.
    #[schemars(range(min = 0, max = 100))]
    pub recent_messages_limit: u32,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            recent_messages_limit: 10,
        }
    }
}

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

fn authorization() -> String {
    "Authorization".to_owned()
}

fn bearer() -> String {
    "Bearer ".to_owned()
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
